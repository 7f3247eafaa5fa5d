"""detectron2's R-CNN for inference: the same steps, fewer copies."""

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import ImageList, Instances

from ...modeling.postprocessing.paste import finish_instances

__all__ = ["InferenceRCNN"]


class InferenceRCNN(GeneralizedRCNN):
    """An R-CNN of the parts of another one, in evaluation for good."""

    # see deepfuse_d2.modeling.postprocessing.unpasted.UnpastedMasks
    inference_without_pasting = True

    @classmethod
    def of(cls, model: GeneralizedRCNN) -> "InferenceRCNN":
        """Take over backbone, heads and image statistics of `model`."""
        own = cls(
            backbone=model.backbone,
            proposal_generator=model.proposal_generator,
            roi_heads=model.roi_heads,
            pixel_mean=model.pixel_mean.flatten().tolist(),
            pixel_std=model.pixel_std.flatten().tolist(),
            input_format=model.input_format,
        )
        return own.to(model.device).eval()

    @staticmethod
    def fits(model: torch.nn.Module) -> bool:
        """Whether the model is detectron2's, unchanged."""
        return type(model) is GeneralizedRCNN

    def train(self, mode: bool = True) -> "InferenceRCNN":
        if mode:
            raise RuntimeError(
                "This model was made by optimize_for_inference and cannot be trained; train the "
                "one that it was made from."
            )
        return super().train(mode)

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalised and padded, channels innermost."""
        images = super().preprocess_image(batched_inputs)
        images.tensor = images.tensor.contiguous(memory_format=torch.channels_last)
        return images

    @staticmethod
    def _postprocess(
        instances: list[Instances], batched_inputs: list[dict], image_sizes: list[tuple[int, int]]
    ) -> list[dict[str, Instances]]:
        return [
            {"instances": finish_instances(x, e.get("height", size[0]), e.get("width", size[1]))}
            for x, e, size in zip(instances, batched_inputs, image_sizes, strict=True)
        ]

    @torch.no_grad()
    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list:
        """See :meth:`GeneralizedRCNN.inference`."""
        # its own post-processing is the base class's by name
        found = super().inference(batched_inputs, detected_instances, do_postprocess=False)
        if not do_postprocess:
            return found
        sizes = [tuple(entry["image"].shape[-2:]) for entry in batched_inputs]
        return self._postprocess(found, batched_inputs, sizes)
