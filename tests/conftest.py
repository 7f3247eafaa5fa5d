"""Shared by all tests: one thread, a fixed seed, and where real data may lie."""

import logging
import os
from pathlib import Path

import pytest

# Small tensors: more threads only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

KERNELS = (
    "winograd=on, winograd bfloat16=on, tiled training=on, channels last=on, "
    "linear as convolution=on"
)
REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_unconfigure(config):
    """End the output with the counts in plain words, for programs that read its last line."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not reporter.stats or hasattr(config, "workerinput"):
        return
    count = {kind: len(reporter.stats.get(kind, ())) for kind in ("passed", "skipped")}
    failed = len(reporter.stats.get("failed", ())) + len(reporter.stats.get("error", ()))
    skipped = f", {count['skipped']} skipped" if count["skipped"] else ""
    reporter.write_line(f"{count['passed']} passed, {failed} failed{skipped}")


def pytest_collection_modifyitems(items):
    """Begin with the longest file, so that no process waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_tutorial.py")


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _loggers_as_they_come():
    """Commands set up the loggers of their process, which the next test is to find as they were."""
    yield
    logging.disable(logging.NOTSET)
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("deepfuse_d2", "detectron2", "fvcore"):
            logging.getLogger(name).propagate = True


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_session(tmp_path_factory):
    """Whoever runs the tests keeps their own cache as it is, and it changes no test.

    Nor does a measurement: all kernels that a machine may choose are used.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user_cache")))
        patch.delenv("DEEPFUSE_CACHE", raising=False)
        patch.setenv("DEEPFUSE_KERNELS", KERNELS)
        yield


def _is_there(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:  # a folder of others, above it
        return False


def _listing(folder: Path) -> dict:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*")}


@pytest.fixture
def unchanged():
    """Hold that the tests write nothing into the folders that they give it."""
    before = {}

    def watch(folder: Path) -> None:
        before[folder] = _listing(folder)

    yield watch
    for folder, listing in before.items():
        assert _listing(folder) == listing, f"the test wrote into {folder}"


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def deepfuse():
    """``deepfuse("check-data", "pennfudan_val")`` runs that command; returns its exit code."""
    from deepfuse_d2.cli.main import main

    return lambda *words: main(list(map(str, words)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real photographs and weights; the test is skipped where there is none."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not _is_there(folder):
        pytest.skip(f"needs the real data in {folder}")
    return folder


# A network as small as detectron2's parts allow; images are padded to 64 x 128.
TINY = [
    "MODEL.DEVICE", "cpu",
    "MODEL.WEIGHTS", "",
    "MODEL.RESNETS.NORM", "FrozenBN",
    "MODEL.NECK.OUT_CHANNELS", "32",
    "MODEL.NECK.NORM", "",
    "MODEL.ROI_BOX_HEAD.FC_DIM", "32",
    "MODEL.ROI_MASK_HEAD.CONV_DIM", "32",
    "MODEL.ROI_MASK_HEAD.NUM_CONV", "1",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16",
    "DEEPFUSE_D2.MODEL.CHANNELS_LAST", "False",
    "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "INPUT.MIN_SIZE_TEST", "64",
    "DATALOADER.NUM_WORKERS", "0",
    "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.AMP.ENABLED", "False",
    "SOLVER.WARMUP_ITERS", "0",
    "SEED", "7",
]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_minicity(tmp_path_factory):
    """Folder for DETECTRON2_DATASETS with a MiniCity of 4 + 2 frames of 256 x 128."""
    from deepfuse_d2.data.minicity import generate_minicity

    root = tmp_path_factory.mktemp("datasets")
    generate_minicity(root / "minicity", num_train=4, num_val=2, width=256, height=128, workers=1)
    return root


@pytest.fixture(scope="session")
def tiny_opts():
    """Config overrides that make the quickstart's network tiny."""
    return list(TINY)


@pytest.fixture(scope="session")
def busy_folder(tmp_path_factory):
    """A packed model, narrow and with random weights, that finds some objects in every image."""
    from benchmarks.prediction_memory import busy_model
    from deepfuse_d2.inference.packing import pack

    folder = tmp_path_factory.mktemp("busy")
    model, cfg = busy_model()
    cfg.MODEL.WEIGHTS = str(folder / "weights.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    return pack(cfg, folder / "model")


@pytest.fixture(scope="session")
def labels_folder(tmp_path_factory):
    """A packed semantic model, narrow and with random weights."""
    from detectron2.modeling import build_model

    from deepfuse_d2 import get_config
    from deepfuse_d2.inference.packing import pack

    small = ["MODEL.NECK.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32"]
    cfg = get_config("MiniCity/sem_seg_R_18_SemSegFPN_quick", [*small, "MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("labels")
    cfg.MODEL.WEIGHTS = str(folder / "weights.pth")
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    return pack(cfg, folder / "model")
