"""SMPDecoderHead: any decoder of segmentation_models_pytorch (smp, extra `smp`) on our features.

smp puts a model together from an encoder, a decoder and a segmentation head. Here it does so with
the channels of our features in place of an encoder's, and its decoder and its segmentation head
make the scores: the same modules, names of parameters and start.

Its decoders take a list of maps of strides 1, 2, 4, ... The first is the image, of which they read
the size alone; of stride 2 many backbones give none. Where there is no map, the list has one
without channels, as that of smp's own encoders of strides 4 to 32 (Mix Transformers, ConvNeXt).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ...config.look_up import keyword_arguments, look_up
from ...errors import ConfigError
from ..registration import register
from .features import chosen_features, from_fine_to_coarse

__all__ = ["DECODERS", "SMPDecoderHead"]


@dataclass(frozen=True)
class Decoder:
    """What one of smp's models reads of the list of maps.

    Attributes:
        reads: place of the coarsest map in the list -> places of those it cannot do without.
        doubles: enlarges by two from map to map, so that each needs twice the stride of the one
            before.
        strides: what the coarsest may have; () for any.
    """

    reads: Callable[[int], Sequence[int]]
    doubles: bool = False
    strides: tuple[int, ...] = ()


def _from_stride_4(last: int) -> range:
    return range(2, last + 1)


# MODEL.SMP.DECODER: smp's names. DPT, which smp has too, reads a Vision Transformer from inside.
DECODERS = {
    "Unet": Decoder(_from_stride_4),
    "UnetPlusPlus": Decoder(_from_stride_4, doubles=True),
    "MAnet": Decoder(_from_stride_4, doubles=True),
    "Linknet": Decoder(_from_stride_4, doubles=True),
    "FPN": Decoder(lambda last: range(max(last - 3, 1), last + 1), doubles=True),
    "PSPNet": Decoder(lambda last: [last]),
    "PAN": Decoder(_from_stride_4),
    "DeepLabV3": Decoder(lambda last: [last]),
    "DeepLabV3Plus": Decoder(lambda last: [2, last], strides=(8, 16)),
    "UPerNet": Decoder(_from_stride_4),
    "Segformer": Decoder(_from_stride_4),
}
# Of smp's constructors: set here, or no part of a head that gives scores.
_NOT_OPTIONS = ("self", "in_channels", "classes", "activation", "aux_params", "kwargs")


@register(SEM_SEG_HEADS_REGISTRY)
class SMPDecoderHead(nn.Module):
    """One of smp's decoders, and its segmentation head, which enlarges the scores to the image.

    Sides of the image must be multiples of all strides, which FusionSemanticSegmentor pads to.
    Models with a pooling to one value before a batch norm (PAN, DeepLabV3, DeepLabV3Plus, UPerNet)
    learn from two images or more at a time.

    Attributes:
        auxiliary_weights: weights of the auxiliary outputs; none here.

    Example:
        >>> shapes = {"res4": ShapeSpec(channels=64, stride=16), "res5": ShapeSpec(channels=128, stride=32)}
        >>> head = SMPDecoderHead(shapes, num_classes=19, decoder="PSPNet")
        >>> head({"res4": torch.rand(1, 64, 4, 8), "res5": torch.rand(1, 128, 2, 4)})["sem_seg"].shape
        torch.Size([1, 19, 64, 128])
    """  # noqa: E501

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        decoder: str = "Unet",
        arguments: Mapping[str, Any] | None = None,
    ):
        """
        Args:
            input_shape: of the features to read. Strides are powers of two from 2 on, each once;
                where the last stages are dilated, they have one stride.
            num_classes: C.
            decoder: a name in `DECODERS`.
            arguments: more arguments of smp's class of that name, such as ``decoder_channels``.
        """
        super().__init__()
        known = look_up(DECODERS, decoder, "MODEL.SMP.DECODER")
        shapes = from_fine_to_coarse(input_shape)
        places = _places(shapes)
        read = known.reads(len(places) - 1)
        _check_features(decoder, shapes, [2**i for i in read if not places[i]])
        coarsest = max(shape.stride for shape in shapes.values())
        model = _build(
            decoder,
            [shapes[name].channels if name else 0 for name in places],
            num_classes,
            {
                # of the encoder; DeepLabV3Plus enlarges by it, two others only check it
                "encoder_output_stride": 8 if coarsest == 8 else 16,
                "upsampling": min(shapes[places[i]].stride for i in read),
            },
            dict(arguments or {}),
        )
        self.places = tuple(places)
        self.in_features = tuple(shapes)
        self.finest_stride = shapes[self.in_features[0]].stride
        self.auxiliary_weights: dict[str, float] = {}
        self.decoder = model.decoder
        self.segmentation_head = model.segmentation_head

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        smp = cfg.MODEL.SMP
        return {
            "input_shape": chosen_features(cfg, input_shape),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "decoder": smp.DECODER,
            "arguments": keyword_arguments(
                smp.ARGS,
                "MODEL.SMP.ARGS",
                f"segmentation_models_pytorch.{smp.DECODER}",
                {"decoder_channels": [128, 64, 32, 16, 8]},
            ),
        }

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{name: (N, C_l, H/s, W/s)} -> {"sem_seg": (N, C, H, W)}"""
        finest = features[self.in_features[0]]
        batch, height, width = finest.shape[0], finest.shape[2], finest.shape[3]
        maps = []
        for place, name in enumerate(self.places):
            if name is None:
                rows, columns = (n * self.finest_stride // 2**place for n in (height, width))
                maps.append(finest.new_empty((batch, 0, rows, columns)))
            else:
                maps.append(features[name])
        return {"sem_seg": self.segmentation_head(self.decoder(maps))}


def _places(shapes: Mapping[str, ShapeSpec]) -> list[str | None]:
    """Names in the order of smp's list, whose place i has stride 2^i; None where there is none."""
    places: list[str | None] = []
    strides = [shape.stride for shape in shapes.values()]
    for name, stride in zip(shapes, strides, strict=True):
        # dilated stages have the stride of the one before, and the places behind it
        place = max(stride.bit_length() - 1, len(places))
        places += [None] * (place - len(places)) + [name]
        if stride < 2 or stride != min(2**place, strides[-1]):
            raise ConfigError(
                f"SMPDecoderHead reads {list(shapes)} of strides {strides}; they must be powers of "
                "two from 2 on, each once, but for dilated stages at the end. Choose others with "
                "MODEL.SEM_SEG_HEAD.IN_FEATURES."
            )
    return places


def _check_features(decoder: str, shapes: Mapping[str, ShapeSpec], lacking: list[int]) -> None:
    """Raise unless the decoder's maps are there, and have the strides that it takes."""
    strides = [shape.stride for shape in shapes.values()]
    given = f"MODEL.SEM_SEG_HEAD.IN_FEATURES {list(shapes)} has the strides {strides}"
    if lacking:
        raise ConfigError(
            f'MODEL.SMP.DECODER = "{decoder}" also reads features of the strides {lacking}; '
            f"{given}. Add those that the network gives."
        )
    if DECODERS[decoder].doubles and len(set(strides)) < len(strides):
        raise ConfigError(
            f'MODEL.SMP.DECODER = "{decoder}" doubles maps from one feature to the next; {given}. '
            "Leave the dilation out (MODEL.RESNETS.RES5_DILATION 1), or the last of them."
        )
    allowed = DECODERS[decoder].strides
    if allowed and strides[-1] not in allowed:
        raise ConfigError(
            f'MODEL.SMP.DECODER = "{decoder}" reads a coarsest feature of one of the strides '
            f"{list(allowed)}; {given}. Leave out the last, or dilate the network "
            "(MODEL.RESNETS.RES5_DILATION 2, from ResNet-50 on)."
        )


class _Encoder(nn.Module):
    """What smp takes for its encoder while it builds a model: channels, and nothing to compute."""

    def __init__(self, out_channels: list[int], depth: int, output_stride: int):
        super().__init__()
        self.out_channels = out_channels

    def set_in_channels(self, in_channels: int, pretrained: bool) -> None:
        """There is no first convolution to change."""

    def make_dilated(self, output_stride: int) -> None:
        """There is no stage to dilate."""


def _build(
    decoder: str,
    channels: list[int],
    num_classes: int,
    defaults: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> nn.Module:
    """smp's model of that name for an encoder of `channels`, the first that of the image.

    Args:
        defaults: arguments that take the place of smp's defaults, where it has them.
        arguments: those that the user gave.
    """
    smp = _import_smp()
    parameters = signature(getattr(smp, decoder).__init__).parameters
    options = [n for n in parameters if n not in _NOT_OPTIONS and not n.startswith("encoder_")]
    # smp takes others without a word
    unknown = [name for name in arguments if name not in options]
    if unknown:
        raise ConfigError(
            f"MODEL.SMP.ARGS has {unknown}; {decoder} of segmentation_models_pytorch "
            f"{smp.__version__} takes {options}."
        )
    depth = len(channels) - 1
    chosen = {name: value for name, value in defaults.items() if name in parameters}
    widths = getattr(parameters.get("decoder_channels"), "default", None)
    if isinstance(widths, Sequence):
        # of five levels; fewer end earlier
        chosen["decoder_channels"] = widths[:depth]
    chosen |= arguments
    # smp's documented way to bring an encoder along is an entry in its table
    name = "deepfuse_d2"
    smp.encoders.encoders[name] = {
        "encoder": _Encoder,
        "pretrained_settings": {},
        "params": {"out_channels": channels},
    }
    try:
        return getattr(smp, decoder)(
            name, encoder_weights=None, encoder_depth=depth, classes=num_classes, **chosen
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"segmentation_models_pytorch {smp.__version__} refuses to build its {decoder} with "
            f"{chosen} for {depth} levels (MODEL.SMP.ARGS): {error}"
        ) from error
    finally:
        del smp.encoders.encoders[name]


def _import_smp() -> Any:
    try:
        import segmentation_models_pytorch
    except ImportError as error:
        raise ConfigError(
            "SMPDecoderHead needs the package segmentation-models-pytorch, which is not installed: "
            "pip install 'deepfuse-d2[smp]'."
        ) from error
    return segmentation_models_pytorch
