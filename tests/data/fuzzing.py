"""Data sets changed at random, and the way of a training that each of them is sent.

For tests/data/test_fuzz.py and ``python -m benchmarks.data_fuzz``.
"""

import contextlib
import copy
import functools
import json
import logging
import math
import resource
import signal
import tempfile
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import strategies as st

from deepfuse_d2.config.loading import load_config
from deepfuse_d2.config.recipes import base_config
from deepfuse_d2.data import register_extra
from deepfuse_d2.data.check import check_dataset
from deepfuse_d2.engine import Trainer
from deepfuse_d2.errors import TrainingError, UserError
from deepfuse_d2.evaluation import COCOInstanceEvaluator
from deepfuse_d2.evaluation.perfect import perfect_output

NAME = "my_fuzzed"
#: Seconds and bytes that a case may take.
SECONDS, MEMORY = 20, 2 << 30

# What wrong exporters and editors put in the place of a value.
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=4),
    st.sampled_from([-1, 0, 1, 1e308, "1", "", [], {}, [[]], [1, 2]]),
    st.sampled_from([{"counts": [1], "size": [1, 1]}, {"counts": "1", "size": [40, 60]}]),
    st.lists(st.floats(-1e3, 1e3), max_size=9),
    st.lists(st.lists(st.integers(-9, 99), max_size=9), max_size=3),
)  # fmt: skip
#: (where in the file, as numbers that choose among what is there; what to do; what to put there)
CHANGES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 10**6), min_size=1, max_size=5),
        st.sampled_from(["replace", "remove", "repeat"]),
        VALUES,
    ),
    min_size=1, max_size=4,
)  # fmt: skip
#: (which file, where in it as a share, what to put there, how many bytes to take out)
DAMAGE = st.tuples(
    st.integers(0, 10**6), st.floats(0, 1), st.binary(max_size=6), st.integers(0, 60)
)

_MODEL = [
    "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.RESNETS.WIDTH_PER_GROUP", 4,
    "MODEL.RESNETS.NORM", "BN", "MODEL.RESNETS.STEM_OUT_CHANNELS", 4,
    "MODEL.RESNETS.RES2_OUT_CHANNELS", 4, "MODEL.NECK.NAME", "FPN", "MODEL.NECK.OUT_CHANNELS", 8,
    "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8,
    "MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 20,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", 10, "MODEL.RPN.PRE_NMS_TOPK_TEST", 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST", 10, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8,
    "INPUT.MIN_SIZE_TRAIN", "[40]", "INPUT.MAX_SIZE_TRAIN", 64, "INPUT.MIN_SIZE_TEST", 40,
    "INPUT.MAX_SIZE_TEST", 64, "INPUT.CROP.ENABLED", True, "SOLVER.IMS_PER_BATCH", 2,
    "SOLVER.MAX_ITER", 2, "SOLVER.BASE_LR", 1e-4, "TEST.EVAL_PERIOD", 0, "MONITOR.WRITERS", "[]",
    "DATALOADER.NUM_WORKERS", 0, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", False, "SEED", 1,
    "DEEPFUSE_D2.SOLVER.FINAL_SAFETENSORS", False, "DEEPFUSE_D2.MODEL.FAST_KERNELS", False,
]  # fmt: skip


class TooLong(BaseException):
    """A case has taken more of the processor than it may; no handler of errors takes it for one."""


@contextlib.contextmanager
def limits():
    """Within it, so much memory and time of the processor may be taken.

    After it, the catalogs are as they were.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    former = signal.signal(signal.SIGPROF, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, before[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, former)
        resource.setrlimit(resource.RLIMIT_AS, before)
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(NAME, None)


def _too_long(*_):
    raise TooLong(f"more than {SECONDS} s of the processor")


@contextlib.contextmanager
def changed_copy(write):
    """A data set that `write`, a writer of forms.FORMS, writes: its folder and entry."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder), write(Path(folder))


def changed(content, changes):
    """JSON's content with :data:`CHANGES`."""
    content = copy.deepcopy(content)
    for path, action, value in copy.deepcopy(changes):
        place = content
        for number in path[:-1]:
            inner = _child(place, number)
            if not isinstance(inner, (dict, list)) or not inner:
                break
            place = inner
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            continue
        key = keys[path[-1] % len(keys)]
        if action == "replace":
            place[key] = copy.deepcopy(value)  # may be what an earlier change has changed
        elif action == "remove":
            del place[key]
        elif isinstance(place, list):
            place.append(copy.deepcopy(place[key]))
    return content


def _child(place, number):
    keys = list(place) if isinstance(place, dict) else range(len(place))
    return place[keys[number % len(keys)]] if len(keys) else None


def damage(folder, damages):
    """Change bytes of the files below `folder` by a list of :data:`DAMAGE`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for number, place, new, length in damages:
        file = files[number % len(files)]
        content = file.read_bytes()
        at = int(place * len(content))
        file.write_bytes(content[:at] + new + content[at + length :])


def load_and_evaluate(entry):
    """Load, check, and evaluate perfect predictions, within :func:`limits`.

    Returns: the message that it ended with; "" if perfect predictions score 100.
    """
    with limits(), _quiet():
        return _load_and_evaluate(entry)


def _load_and_evaluate(entry):
    register_extra([{"NAME": NAME, **entry}])
    try:
        records = DatasetCatalog.get(NAME)
    except UserError as error:
        return _short(error)
    check_dataset(NAME, workers=1)
    evaluator = COCOInstanceEvaluator(NAME)
    evaluator.reset()
    for record in records:
        if record["height"] * record["width"] < 10**7:
            evaluator.process([record], [perfect_output(record)])
    for task, scores in evaluator.evaluate().items():
        assert math.isnan(scores["AP"]) or scores["AP"] > 99.9, (task, scores)
    return ""


def walk(entry, *, masks=True):
    """:func:`load_and_evaluate`, then a training of two steps and its evaluation.

    Returns: the message that it ended with; "" for a whole training.
    """
    with limits(), _quiet(), tempfile.TemporaryDirectory() as output:
        message = _load_and_evaluate(entry)
        if message:
            return message
        cfg = _config()
        cfg.MODEL.MASK_ON, cfg.OUTPUT_DIR = masks, output
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (NAME,)
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(MetadataCatalog.get(NAME).thing_classes)
        try:
            message, results = "", _Cached(cfg).train()
        except TrainingError as error:
            raise AssertionError("data that was taken makes the losses infinite") from error
        except UserError as error:
            message = _short(error)
    # what was taken must be evaluated right
    assert "Predictions made from the ground truth" not in message, message
    if message:
        return message
    assert all(math.isnan(one["AP"]) or 0 <= one["AP"] <= 100 for one in results.values())
    return ""


class _Cached(Trainer):
    """Builds a model of a kind once: of what a case needs, that is the longest part."""

    @classmethod
    def build_model(cls, cfg):
        model, state = _model(cfg.MODEL.MASK_ON, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
        model.load_state_dict(state)
        for module in model.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        for parameter in model.parameters():
            parameter._post_accumulate_grad_hooks = None
        return model.train()


@functools.lru_cache(maxsize=8)
def _model(masks, num_classes):
    cfg = _config()
    cfg.MODEL.MASK_ON, cfg.MODEL.ROI_HEADS.NUM_CLASSES = masks, num_classes
    model = Trainer.build_model(cfg)
    return model, copy.deepcopy(model.state_dict())


def _config():
    return _base_config().clone()


@functools.cache
def _base_config():
    return load_config(str(base_config("Base-MaskRCNN")), _MODEL)


@contextlib.contextmanager
def _quiet():
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)


def _short(error):
    message = str(error)
    assert 0 < len(message) < 2000, message
    return message


def write_json(folder, content):
    (folder / "x.json").write_text(json.dumps(content))
