"""detectron2's DefaultTrainer, on any device and any number of processes."""

import contextlib
import logging
import weakref
from collections import OrderedDict
from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ..checkpoint import DeepFuseCheckpointer
from ..config.building import build_model
from ..data.loader.records import load_train_records
from ..data.loader.test_loader import TestLoader, build_test_loader
from ..data.loader.train_loader import TrainLoader, build_train_loader
from ..data.mappers.build import build_mapper
from ..data.mappers.filtering import drop_small_instances
from ..evaluation.files import write_json
from ..modeling.meta_arch.assistants import supervise_assistants
from ..modeling.meta_arch.augmentation import build_augmented, check_augmentation
from ..modeling.meta_arch.protocol import mapper_name_of, meta_arch_of
from ..modeling.postprocessing.unpasted import for_evaluator
from .distributed.data_parallel import distribute, local_norms_on_cpu
from .evaluators import build_evaluator, check_evaluators
from .hooks import EvaluateAverage, TrainingStopped, build_monitor_hooks
from .hooks.first_steps import FirstSteps, frozen_though_random
from .hooks.time_budget import TimeBudget, seconds_of
from .preflight import check_classes, check_way
from .record_checks import check_annotated, check_keypoints, check_masks
from .resume.checkpoints import resumable_hooks
from .resume.trainer import ResumableTrainer
from .solver.ema import AverageWeights, build_average
from .solver.optimizer import build_optimizer
from .solver.schedule import build_lr_scheduler
from .speed.allocator import retain_freed_memory
from .speed.compile import compile_by_config
from .speed.fast_kernels import gains_by_channels_last, use_fast_kernels
from .speed.stage_checkpointing import checkpoint_stages
from .speed.threads import set_threads
from .steps import build_step_trainer
from .writers import build_writers

__all__ = ["Trainer"]


class Trainer(ResumableTrainer):
    """A :class:`DefaultTrainer` that differs in what does not work off the shelf:

    - several processes also train on CPUs (gloo);
    - SOLVER.AMP also works on a CPU, in bfloat16, where the hardware has it;
    - DEEPFUSE_D2.SOLVER.OPTIMIZER chooses the optimizer; there is a polynomial schedule;
    - the same seed gives the same batches, whatever the number of data-loader workers;
    - images with labels of their pixels are augmented by INPUT's keys of their own;
    - checkpoints are read without executing them and written without losing the last;
    - a training that was interrupted goes on as if it had not been (resume.py);
    - the evaluator comes from the table in evaluators.py;
    - MONITOR says what is watched and written, and when a training ends early;
    - masks are not pasted into full images for an evaluator that takes them unpasted.

    Example:
        >>> trainer = Trainer(cfg)
        >>> trainer.resume_or_load(resume=False)
        >>> results = trainer.train()
    """

    def __init__(self, cfg: CfgNode):
        # DefaultTrainer's own constructor puts CPU models on CUDA devices and asserts CUDA for AMP;
        # this one takes the same steps in the same order.
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        check_evaluators(cfg)
        check_augmentation(cfg)
        set_threads(cfg)
        retain_freed_memory(cfg)
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        if len(cfg.DATASETS.TRAIN) > 1:  # before their records are mixed
            check_classes(cfg, model)
        # before a mapper asks for the names of keypoints
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if cfg.MODEL.KEYPOINT_ON else ():
            check_keypoints(cfg, DatasetCatalog.get(name), name)
        data_loader = self.build_train_loader(cfg)
        check_classes(cfg, model)
        check_masks(cfg, data_loader.records, ", ".join(cfg.DATASETS.TRAIN))
        model = distribute(cfg, compile_by_config(cfg, model))
        self._trainer = build_step_trainer(cfg, model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DeepFuseCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            min_match=cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH,
            final_safetensors=cfg.DEEPFUSE_D2.SOLVER.FINAL_SAFETENSORS,
            trainer=weakref.proxy(self),
        )
        metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
        self.checkpointer.thing_classes = list(metadata.get("thing_classes") or ())
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(resumable_hooks(cfg, self.build_hooks(), self.checkpointer))

    def train(self):
        """Train to SOLVER.MAX_ITER, or until MONITOR.PATIENCE ends; results.json in OUTPUT_DIR then
        holds what came of it.

        Returns:
            Results of the last evaluation, a nested dict; None off the main process.
        """
        if self.cfg.DEEPFUSE_D2.SOLVER.SAFETY.CHECK_FIRST and self.start_iter == 0:
            check_way(self)
        with contextlib.suppress(TrainingStopped):
            super().train()
        if not comm.is_main_process():
            return None
        results = getattr(self, "_last_eval_results", None)
        for name, scores in getattr(self, "_augmented_results", {}).items():
            results[name].update(scores) if name in results else results.update({name: scores})
        self._write_results(results or {})
        return results

    def build_hooks(self) -> list[HookBase]:
        hooks = super().build_hooks()
        # detectron2's writers come last, so that they also write what other hooks have put
        writers = [hooks.pop()] if comm.is_main_process() else []
        for writer in writers:
            writer._period = self.cfg.MONITOR.PERIOD
        hooks.append(FirstSteps(frozen_though_random(self.cfg, self.model)))
        budget = seconds_of(self.cfg.DEEPFUSE_D2.SOLVER.TIME_BUDGET)
        if budget:
            hooks.insert(0, TimeBudget(budget, self.cfg))
        average = build_average(self.cfg, self.model)
        if self.cfg.TEST.AUG.ENABLED:
            hooks.append(EvalHook(0, self._test_with_augmentation))
        hooks += build_monitor_hooks(self.cfg, self.model, self.checkpointer, average)
        if average is not None:
            hooks = self._with_average(hooks, average)
        return [*hooks, *writers]

    def _test_with_augmentation(self) -> dict:
        self._augmented_results = self.test_with_augmentation(self.cfg, self.model)
        return self._augmented_results

    def _with_average(self, hooks: list[HookBase], average: AverageWeights) -> list[HookBase]:
        """`hooks`, and those of MODEL_EMA: averaging before anything is written or evaluated."""
        place = next(i for i, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        evaluations = [hooks[place]]
        if self.cfg.MODEL_EMA.EVALUATE:
            cfg = self.cfg.clone()
            cfg.defrost()
            cfg.OUTPUT_DIR = f"{self.cfg.OUTPUT_DIR}/ema"
            period, evaluate = cfg.TEST.EVAL_PERIOD, lambda: self.test(cfg, self.model)
            evaluations.append(EvaluateAverage(period, self.model, evaluate, average.averaged))
        return [*hooks[:place], average, *evaluations, *hooks[place + 1 :]]

    def build_writers(self) -> list[EventWriter]:
        return build_writers(self.cfg)

    def _write_results(self, results: dict) -> None:
        names = self.cfg.DATASETS.TEST
        report = {
            "iterations": self.max_iter,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            # by data set, also where there is only one
            "results": _plain({names[0]: results} if len(names) == 1 else results),
        }
        write_json(report, f"{self.cfg.OUTPUT_DIR}/results.json")

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = local_norms_on_cpu(build_model(cfg), cfg.MODEL.DEVICE)
        model = checkpoint_stages(cfg, model)
        if any(cfg.MODEL.COMPOSITE.ASSISTANT_WEIGHTS):
            model = supervise_assistants(model, cfg.MODEL.COMPOSITE.ASSISTANT_WEIGHTS)
        if cfg.DEEPFUSE_D2.MODEL.FAST_KERNELS:
            model = use_fast_kernels(model)
        if cfg.DEEPFUSE_D2.MODEL.CHANNELS_LAST and gains_by_channels_last(cfg.MODEL.DEVICE):
            model = model.to(memory_format=torch.channels_last)
        parameters = sum(p.numel() for p in model.parameters())
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        logger = logging.getLogger(__name__)
        logger.debug("Model:\n%s", model)
        logger.info(
            "%s with %.2f M parameters, %.2f M of them trained, on %s",
            type(model).__name__, parameters / 1e6, trained / 1e6, cfg.MODEL.DEVICE,
        )  # fmt: skip
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        # pinned images go to a GPU while it computes
        pin_memory = torch.device(cfg.MODEL.DEVICE).type == "cuda"
        mapper = build_mapper(mapper_name_of(meta_arch_of(cfg)), cfg, "train")
        records = load_train_records(cfg)
        # before a sampler counts classes
        check_annotated(cfg, records, ", ".join(cfg.DATASETS.TRAIN))
        if cfg.DEEPFUSE_D2.INPUT.MIN_INSTANCE_AREA and "annotations" in records[0]:
            records = drop_small_instances(records, cfg.DEEPFUSE_D2.INPUT.MIN_INSTANCE_AREA)
        return build_train_loader(cfg, mapper=mapper, records=records, pin_memory=pin_memory)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> TestLoader:
        mapper = build_mapper(mapper_name_of(meta_arch_of(cfg)), cfg, "predict")
        return build_test_loader(cfg, dataset_name, mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return build_evaluator(
            dataset_name,
            f"{cfg.OUTPUT_DIR}/inference/{dataset_name}",
            detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        )

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | list[DatasetEvaluator] | None = None,
    ) -> dict:
        """Evaluate on each data set of DATASETS.TEST.

        Args: see :meth:`DefaultTrainer.test`.

        Returns:
            results by data set; of a single data set, its results alone.
        """
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        if not evaluators:
            check_evaluators(cfg)
            check_classes(cfg, model, training=False)
        results = OrderedDict()
        for index, name in enumerate(cfg.DATASETS.TEST):
            evaluator = evaluators[index] if evaluators else cls.build_evaluator(cfg, name)
            one = cfg.clone()
            one.defrost()
            one.DATASETS.TEST = (name,)
            one.freeze()
            results[name] = super().test(one, for_evaluator(model, evaluator), [evaluator])
        return results if len(results) != 1 else next(iter(results.values()))

    @classmethod
    def test_with_augmentation(cls, cfg: CfgNode, model: nn.Module) -> dict:
        """Evaluate with TEST.AUG; results as of :meth:`test`, with "_TTA" behind each task's name.

        What the evaluators write goes to OUTPUT_DIR/TTA.
        """
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        cfg = cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = f"{cfg.OUTPUT_DIR}/TTA"
        results = cls.test(cfg, build_augmented(cfg, model))
        if len(cfg.DATASETS.TEST) == 1:
            return _with_suffix(results)
        return {name: _with_suffix(found) for name, found in results.items()}

    @classmethod
    def evaluate(cls, cfg: CfgNode, model: nn.Module) -> dict:
        """All that a config says of an evaluation alone.

        That is :meth:`test`, TEST.AUG where it is enabled, and TEST.EXPECTED_RESULTS, which ends
        the program where the results are others.
        """
        check_augmentation(cfg)
        results = cls.test(cfg, model)
        if cfg.TEST.AUG.ENABLED:
            for name, scores in cls.test_with_augmentation(cfg, model).items():
                results[name] = {**results.get(name, {}), **scores}
        if comm.is_main_process() and cfg.TEST.EXPECTED_RESULTS:
            verify_results(cfg, results)
        return results


def _with_suffix(results: Mapping) -> dict:
    return {f"{task}_TTA": scores for task, scores in results.items()}


def _plain(results: Mapping) -> dict:
    """Nested results with python's floats, which JSON knows."""
    return {k: _plain(v) if isinstance(v, Mapping) else float(v) for k, v in results.items()}
