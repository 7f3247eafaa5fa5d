"""Learning-rate schedules by config: detectron2's, and the polynomial one of semantic recipes."""

from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as build_detectron2_scheduler
from fvcore.common.param_scheduler import ParamScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...errors import ConfigError

__all__ = ["Clamped", "PolyParamScheduler", "build_lr_scheduler"]


class Clamped(ParamScheduler):
    """Another schedule, which stays where it ends: past the end, a cosine would rise again.

    At the end itself, a schedule of steps looks for one more than it has; it keeps the last.

    Args:
        schedule: of a fraction of the training, 0 to 1.
    """

    def __init__(self, schedule: ParamScheduler):
        self.schedule = schedule

    def __call__(self, where: float) -> float:
        where = min(max(where, 0.0), 1.0)
        try:
            return self.schedule(where)
        except IndexError:
            return self.schedule(where - 2 * self.WHERE_EPSILON)


class PolyParamScheduler(ParamScheduler):
    """``max((1 - where)^power, end)``, where `where` goes from 0 to 1 over a training.

    The schedule of DeepLab (arXiv 1606.00915, section 4.1). It stays at `end` from 1 on, where the
    bare formula turns into a complex number: a training that is resumed past its end, or longer
    than it was planned, goes on.

    Args:
        power: above 0.
        end: the least value, in [0, 1].
    """

    def __init__(self, power: float = 0.9, end: float = 0.0):
        self.power = power
        self.end = end

    def __call__(self, where: float) -> float:
        return max(max(1.0 - where, 0.0) ** self.power, self.end)


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """SOLVER.LR_SCHEDULER_NAME: "WarmupPolyLR", or a name of detectron2's.

    "WarmupPolyLR" goes by DEEPFUSE_D2.SOLVER.POLY_LR_POWER down to SOLVER.BASE_LR_END, after the
    same warm-up as the others.
    """
    solver = cfg.SOLVER
    name = solver.LR_SCHEDULER_NAME
    if name != "WarmupPolyLR":
        try:
            schedule = build_detectron2_scheduler(cfg, optimizer)
            schedule._multiplier = Clamped(schedule._multiplier)
            return schedule
        except ValueError as error:
            raise ConfigError(
                f'SOLVER.LR_SCHEDULER_NAME = "{name}": {error}. Choose "WarmupPolyLR", or one of '
                'detectron2\'s "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR".'
            ) from error
    power = cfg.DEEPFUSE_D2.SOLVER.POLY_LR_POWER
    if power <= 0 or not 0 <= solver.BASE_LR_END <= solver.BASE_LR:
        raise ConfigError(
            f"WarmupPolyLR got DEEPFUSE_D2.SOLVER.POLY_LR_POWER {power} (allowed: "
            f"above 0) and SOLVER.BASE_LR_END {solver.BASE_LR_END} (allowed: 0 to SOLVER.BASE_LR, "
            f"which is {solver.BASE_LR})."
        )
    schedule = WarmupParamScheduler(
        PolyParamScheduler(power, solver.BASE_LR_END / solver.BASE_LR),
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)
