"""A folder with a trained model for other runtimes, where all that was written is verified.

It gets model.ts (TorchScript), model.pt2 (torch.export) and model.onnx, sample.npz (an image as the
network takes it, and what the model gives), config.yaml, and a README.md of inputs, outputs and
measured differences. Every file is loaded again and compared with the model, on the sample and on
images of other sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge
from torch import Tensor
from tqdm import tqdm

from ...checkpoint import DeepFuseCheckpointer
from ...config.building import build_model
from ...config.checking import check_config
from ...data.minicity.render import render_frame
from ...errors import ConfigError, WeightsError
from ...files import written_whole
from ...version import __version__
from .formats import difference, export_graph, load_exported
from .graphs import ExportGraph, build_graph

__all__ = ["ENDINGS", "export_folder"]

ENDINGS = {"torchscript": ".ts", "torch_export": ".pt2", "onnx": ".onnx"}
# Other runtimes add numbers in another order.
MAX_DIFFERENCE = 1e-3
MAX_UNMATCHED = 0.02

LOADING = {
    "model.ts": """import torch, torchvision
model = torch.jit.load("model.ts")
with torch.no_grad():
    outputs = model(torch.from_numpy(image))""",
    "model.pt2": """import torch, torchvision
model = torch.export.load("model.pt2").module()
with torch.no_grad():
    outputs = model(torch.from_numpy(image))""",
    "model.onnx": """import onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
outputs = session.run(None, {"image": image})""",
}


def export_folder(
    cfg: CfgNode,
    output: Path,
    part: str = "",
    formats: Sequence[str] = (),
    image_file: str | None = None,
) -> tuple[dict[Path, str], bool]:
    """Write the folder; return what is to be said of each file, and whether all are as the model.

    Args:
        cfg: of the model, with MODEL.WEIGHTS, on the CPU.
        output: the folder.
        part: of :data:`.graphs.PARTS`; all there is by default.
        formats: of :data:`ENDINGS`; by default all that can hold the part.
        image_file: for the sample; by default a drawn street.
    """
    graph = build_graph(load_model(cfg), part)
    formats = formats or [
        name for name in ENDINGS if not (name == "torch_export" and graph.counted)
    ]
    image = sample_image(cfg, image_file)
    inputs = as_inputs(image, graph)
    with torch.no_grad():
        expected = [graph(x) for x in inputs]

    apart = {}
    for name in tqdm(formats, desc="Formats"):
        file = output / f"model{ENDINGS[name]}"
        export_graph(graph, file)
        run = load_exported(file)
        apart[file.name] = [
            difference(run(x), y, graph.part) for x, y in zip(inputs, expected, strict=True)
        ]
    write_sample(output / "sample.npz", inputs[0], expected[0], graph)
    sizes = [tuple(x.shape[-2:]) for x in inputs]
    write_text(output / "README.md", readme(cfg, graph, inputs[0], expected[0], apart, sizes))
    write_text(output / "config.yaml", cfg.dump())
    wrong = [name for name, values in apart.items() if not all(map(agrees, values))]
    verdicts = {}
    for name, values in apart.items():
        verdict = "DIFFERS FROM THE MODEL" if name in wrong else "verified"
        verdicts[output / name] = f"{verdict}; {describe(values)}"
    return verdicts, not wrong


def load_model(cfg: CfgNode) -> torch.nn.Module:
    check_config(cfg, data_sets=False)
    if not cfg.MODEL.WEIGHTS:
        raise WeightsError(
            "There are no weights to export: give a file with --weights, or MODEL.WEIGHTS."
        )
    model = build_model(cfg).eval()
    DeepFuseCheckpointer(model, min_match=cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH).load(
        cfg.MODEL.WEIGHTS
    )
    return model


def sample_image(cfg: CfgNode, file: str | None) -> np.ndarray:
    """(H, W, 3), resized and in the order of channels that the network takes."""
    if file is None:
        image = np.asarray(render_frame(0, "val", 0, 512, 256).image)[:, :, ::-1]
    else:
        image = cv2.imread(file)
        if image is None:
            raise ConfigError(f"--image {file} does not exist or is no image that OpenCV can read.")
    if cfg.INPUT.FORMAT == "RGB":
        image = image[:, :, ::-1]
    resize = ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    return resize.get_transform(image).apply_image(np.ascontiguousarray(image))


def as_inputs(image: np.ndarray, graph: ExportGraph) -> list[Tensor]:
    """The sample, and parts of it: of odd sides, and of sides that need no padding."""
    whole = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
    height, width = whole.shape[-2:]
    least = 2 * graph.largest_stride
    if min(height, width) < least:
        raise ConfigError(
            f"The sample image has {height} x {width} pixels, but this network's exported form "
            f"takes sides from {least} pixels on. Give a larger --image, or a larger "
            "INPUT.MIN_SIZE_TEST."
        )
    odd = (max(3 * height // 4, least) - 1 | 1, max(2 * width // 3, least) - 1 | 1)
    even = tuple(n // graph.divisor * graph.divisor for n in (height, width))
    inputs = [whole, whole[:, : odd[0], : odd[1]], whole[:, : even[0], : even[1]]]
    return [
        x.contiguous() if "batch" not in graph.dynamic else x[None].contiguous() for x in inputs
    ]


def agrees(apart: Mapping[str, float]) -> bool:
    return apart["difference"] <= MAX_DIFFERENCE and apart.get("unmatched", 0) <= MAX_UNMATCHED


def describe(values: list[dict[str, float]]) -> str:
    text = f"largest difference {max(x['difference'] for x in values):.1e} of the largest value"
    if "unmatched" in values[0]:
        text += f", detections without a partner {max(x['unmatched'] for x in values):.1%}"
    return text


def write_sample(
    file: Path, image: Tensor, outputs: tuple[Tensor, ...], graph: ExportGraph
) -> None:
    arrays = {name: x.numpy() for name, x in zip(graph.outputs, outputs, strict=True)}
    with written_whole(file) as temporary, temporary.open("wb") as opened:
        np.savez_compressed(opened, image=image.numpy(), **arrays)


def write_text(file: Path, text: str) -> None:
    with written_whole(file) as temporary:
        temporary.write_text(text)


def readme(
    cfg: CfgNode,
    graph: ExportGraph,
    image: Tensor,
    outputs: tuple[Tensor, ...],
    apart: dict[str, list[dict[str, float]]],
    sizes: list[tuple[int, int]],
) -> str:
    """What one needs who has the folder alone."""
    several = "batch" in graph.dynamic
    letters = "N, C, H, W" if several else "C, H, W"
    rows = [
        f"| `{name}` | {str(x.dtype).removeprefix('torch.')} | {list(x.shape)} | {meaning} |"
        for (name, meaning), x in zip(graph.outputs.items(), outputs, strict=True)
    ]
    checks = [f"| `{name}` | {describe(values)} |" for name, values in apart.items()]
    code = "\n\n".join(f"```python\n{LOADING[name]}\n```" for name in apart)
    listed = ", ".join("{} x {}".format(*size) for size in sizes)
    return f"""# {cfg.MODEL.META_ARCHITECTURE}, part "{graph.part}"

Exported by deepfuse_d2 {__version__} with torch {torch.__version__.split("+")[0]}; `config.yaml`
has the network, from the weights `{cfg.MODEL.WEIGHTS}`.

## Input

`image`: float32 ({letters}), {cfg.INPUT.FORMAT}, values 0 to 255, not normalised. Mean
{list(cfg.MODEL.PIXEL_MEAN)} and deviation {list(cfg.MODEL.PIXEL_STD)} are inside, and so is padding
to multiples of {graph.divisor}.

{resizing(cfg)} Sides may differ from call to call, from {2 * graph.largest_stride} pixels on\
{"; so may the number of images, which have one size" if several else ""}.

## Output

| name | type | of the sample | what |
|---|---|---|---|
{chr(10).join(rows)}

{classes(cfg, graph)}
## Use

`sample.npz` has an `image` and these outputs. Files of torch can run code when they are loaded;
take none from strangers.

```python
import numpy as np
image = np.load("sample.npz")["image"]
```

{code}

## Verified

Loaded again and compared with the model, on the sample and parts of it ({listed} pixels):

| file | measured |
|---|---|
{chr(10).join(checks)}
"""


def resizing(cfg: CfgNode) -> str:
    if cfg.INPUT.MIN_SIZE_TEST == 0:
        return "The network was evaluated on images of their own size."
    return (
        f"The network was evaluated on images whose shorter side was resized to "
        f"{cfg.INPUT.MIN_SIZE_TEST} pixels, the longer one to {cfg.INPUT.MAX_SIZE_TEST} at most."
    )


def classes(cfg: CfgNode, graph: ExportGraph) -> str:
    """Names by index, where the data set of the config has them."""
    fields = {
        "semantic": {"Classes": "stuff_classes"},
        "detector": {"Classes": "thing_classes"},
        "panoptic": {"Classes": "thing_classes", "Classes of pixels": "stuff_classes"},
    }.get(graph.part, {})
    text = ""
    for title, field in fields.items():
        names = cfg.DATASETS.TEST and MetadataCatalog.get(cfg.DATASETS.TEST[0]).get(field)
        if names:
            listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
            text += f"{title}: {listed}.\n"
    return text
