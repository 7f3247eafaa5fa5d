"""Keys of what is watched in a training."""

from detectron2.config import CfgNode as CN

__all__ = ["add"]


def add(cfg: CN) -> None:
    # What is watched in a training, and where it is written.
    cfg.MONITOR = CN()
    # Any of "console" (log lines, and a progress bar where there is a terminal), "json"
    # (metrics.json), "tensorboard", "wandb", "mlflow" (the last two: extras of those names).
    cfg.MONITOR.WRITERS = ["console", "json", "tensorboard"]
    # Iterations between two lines of the writers, 1 or more.
    cfg.MONITOR.PERIOD = 20
    # Project (wandb) or experiment (mlflow), and the name of the run there; "" is OUTPUT_DIR's.
    cfg.MONITOR.PROJECT = "deepfuse_d2"
    cfg.MONITOR.RUN_NAME = ""
    # Iterations between two validation losses, of the images of DATASETS.TEST that have labels; 0
    # for none. BatchNorm statistics and random numbers of the training stay as they are.
    cfg.MONITOR.VALIDATION_LOSS_PERIOD = 0
    # Images for it, spread evenly over each data set; 0 takes all.
    cfg.MONITOR.VALIDATION_LOSS_IMAGES = 0
    # The score by which the best checkpoint is chosen and a training stopped early, by its name in
    # metrics.json: "segm/AP50", "sem_seg/mIoU", "validation/total_loss", ...; "" for none. With it,
    # the best model is kept as model_best.pth.
    cfg.MONITOR.METRIC = ""
    # Whether more of it is better ("max") or less ("min").
    cfg.MONITOR.MODE = "max"
    # Evaluations in a row without a new best before a training ends; 0 never ends it early.
    cfg.MONITOR.PATIENCE = 0
    # What a score must gain on the best, 0 or more, to count as better for PATIENCE.
    cfg.MONITOR.MIN_DELTA = 0.0
    # Iterations between pictures of predictions, in OUTPUT_DIR/pictures and TensorBoard; 0: none.
    cfg.MONITOR.PICTURES_PERIOD = 0
    # Pictures of each data set of DATASETS.TEST, spread evenly over it: 1 or more.
    cfg.MONITOR.PICTURES = 4
    # Instances in them have at least this score, in [0, 1].
    cfg.MONITOR.PICTURES_THRESHOLD = 0.5
