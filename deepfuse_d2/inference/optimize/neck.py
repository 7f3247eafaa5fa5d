"""detectron2's FPN for inference: sums where the laterals are, no copies of coarser maps."""

from detectron2 import modeling
from torch import Tensor, nn

from ...kernels.packed_conv import InferenceConv2d
from ...modeling.neck.fpn import FPN, fuse_by_fpn

__all__ = ["InferenceFPN"]


class InferenceFPN(FPN):
    """An FPN of the modules of another one, see :meth:`take_over`."""

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether it is detectron2's, unchanged, with laterals that give tensors of their own."""
        return type(module) in (FPN, modeling.FPN) and all(
            isinstance(conv, InferenceConv2d) for conv in module.lateral_convs
        )

    @classmethod
    def take_over(cls, module: modeling.FPN) -> None:
        """Make `module` one, where it is."""
        module.__class__ = cls

    def fuse(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features of the bottom-up network -> {"p2": (N, C, H/4, W/4), ...}, high to low."""
        return fuse_by_fpn(self, features, _add_upsampled)


def _add_upsampled(fine: Tensor, coarse: Tensor) -> Tensor:
    """Add to `fine` (N, C, 2H, 2W), in place, `coarse` (N, C, H, W) with every cell four times."""
    count, channels, height, width = coarse.shape
    cells = fine.permute(0, 2, 3, 1).view(count, height, 2, width, 2, channels)
    cells += coarse.permute(0, 2, 3, 1)[:, :, None, :, None]
    return fine
