"""Keys of a training: weights, faults, speed, optimizer, averages, several processes."""

from detectron2.config import CfgNode as CN

__all__ = ["add"]


def add(cfg: CN) -> None:
    own = cfg.DEEPFUSE_D2

    # Part of the tensors of the bottom-up network, 0..1, that the file of MODEL.WEIGHTS must fill;
    # a file that fills less is refused, instead of training a backbone that is half random.
    # DeepFuse operations built into it do not count. 0 loads whatever fits and checks no shapes.
    own.MODEL.WEIGHTS_MIN_MATCH = 0.9
    # Write the weights of a finished training as model_final.safetensors too: a format that cannot
    # hold code, for handing them on.
    own.SOLVER.FINAL_SAFETENSORS = True

    # Time of a training, such as "90s", "30m" or "1h30m": the schedule is fitted to the speed that
    # is measured, and SOLVER.MAX_ITER is the most. "" trains SOLVER.MAX_ITER iterations.
    own.SOLVER.TIME_BUDGET = ""

    # When things go wrong; docs/training.md.
    own.SOLVER.SAFETY = CN()
    # Exit code, 1..255, of a training that a cluster tells to make room (SIGTERM, SIGUSR1) and that
    # has written a checkpoint; to be queued again on it. 75 is EX_TEMPFAIL of sysexits.h.
    own.SOLVER.SAFETY.EXIT_CODE = 75
    # Before the first iteration a few images of each data set go all the way: mapper, losses,
    # model, evaluation, which must give 100 for predictions made from the ground truth.
    own.SOLVER.SAFETY.CHECK_FIRST = True
    # Write model_latest before an evaluation within training, so that nothing that happens in it
    # costs more than itself.
    own.SOLVER.SAFETY.CHECKPOINT_BEFORE_EVALUATION = True
    # So many of the periodic checkpoints stay, the newest; 0 keeps all.
    own.SOLVER.SAFETY.KEPT_CHECKPOINTS = 0
    # As often in a row may a checkpoint not be written (the disk is full) before the training
    # stops, 0 or more.
    own.SOLVER.SAFETY.MAX_FAILED_WRITES = 3
    # On a loss that is not finite: "stop", or "skip" the iteration before anything is learned.
    own.SOLVER.SAFETY.NONFINITE = "stop"
    # Iterations in a row, 0 or more, that may be skipped before the training stops after all.
    own.SOLVER.SAFETY.MAX_SKIPPED = 10
    # So many batches that went wrong are kept in OUTPUT_DIR/faults, with the weights of then, for
    # deepfuse replay; 0 or more, of each process.
    own.SOLVER.SAFETY.KEPT_BATCHES = 3

    # Let our implementations of some of detectron2's modules compute the same in less time:
    # convolutions with frozen norms as one operation; on a CPU, 3x3 convolutions of float32 with a
    # quarter of the multiplications, and RoIAlign as sums of rows.
    own.MODEL.FAST_KERNELS = True
    # On a CPU, what is faster on one kind and slower on another is measured once and kept in the
    # cache. This decides instead: NAME=on or NAME=off, with commas between; see docs/training.md.
    own.MODEL.KERNELS = ""
    # Keep convolution maps and weights with channels innermost: faster on tensor cores, and on a
    # CPU where it is measured to be.
    own.MODEL.CHANNELS_LAST = False
    # Element type of the forward pass where SOLVER.AMP.ENABLED: "float16" (a GPU) or "bfloat16".
    own.SOLVER.AMP.DTYPE = "float16"
    # torch.compile of backbone, neck and dense heads; a minute or two at the start, with one
    # warning and no effect on a machine without a compiler.
    cfg.MODEL.COMPILE = CN()
    cfg.MODEL.COMPILE.ENABLED = False
    # "inductor", or another backend of torch.compile.
    cfg.MODEL.COMPILE.BACKEND = "inductor"
    # Parts in which a batch goes through the model one after the other, with the memory of one;
    # IMS_PER_BATCH stays the images of a step. 1 or more; must divide the images of each process.
    own.SOLVER.ACCUMULATE = 1
    # Threads of a training process on a CPU; 0 chooses by cores, processes and loader workers, or
    # leaves what OMP_NUM_THREADS says.
    own.SOLVER.CPU_THREADS = 0
    # On a CPU, keep the memory that a step has freed for the next one (with glibc). False gives it
    # back to the system at once, for machines that many share.
    own.SOLVER.CPU_KEEP_MEMORY = True

    # "SGD" (detectron2's, with SOLVER.MOMENTUM) or "AdamW".
    own.SOLVER.OPTIMIZER = "SGD"
    # Update all parameters in one operation (torch's fused optimizers); False takes several, each
    # over all of them. The numbers are the same to the rounding of floats.
    own.SOLVER.FUSED = True
    # Learning rate of the bottom-up network as a factor of BASE_LR, above 0; a neck has BASE_LR.
    own.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Each stage of the bottom-up network learns slower than the next by this factor, in (0, 1]: the
    # last with LAYER_DECAY * BASE_LR, the stem slowest. 1 is off; 0.7 to 0.9 for transformers.
    own.SOLVER.LAYER_DECAY = 1.0
    # No weight decay of parameters with less than two dimensions: norms, biases, scales.
    # Otherwise WEIGHT_DECAY_NORM and WEIGHT_DECAY_BIAS of detectron2 say what they get.
    own.SOLVER.NO_DECAY_OF_VECTORS = False
    # SOLVER.LR_SCHEDULER_NAME may also be "WarmupPolyLR": BASE_LR * (1 - iteration / MAX_ITER) to
    # this power, above 0, but at least BASE_LR_END.
    own.SOLVER.POLY_LR_POWER = 0.9

    # A moving average of the weights beside those that are trained. It is in every checkpoint, and
    # at the end by itself in model_ema.pth.
    cfg.MODEL_EMA = CN()
    cfg.MODEL_EMA.ENABLED = False
    # In [0, 1): about the last 1 / (1 - DECAY) iterations count.
    cfg.MODEL_EMA.DECAY = 0.999
    # Evaluate the average too, whenever the weights are evaluated, under names "ema/...".
    cfg.MODEL_EMA.EVALUATE = True

    # How the gradients of several processes become one; docs/scaling.md.
    cfg.DISTRIBUTED = CN()
    # The same parameters get gradients in every iteration, in the same order: less bookkeeping, and
    # what activation checkpointing needs in some models. Not for models that drop parts at random.
    cfg.DISTRIBUTED.STATIC_GRAPH = False
    # Look for parameters without gradient in every iteration: slower; for models that have some.
    cfg.DISTRIBUTED.FIND_UNUSED = False
    # MB of gradients sent at once, above 0: small ones start earlier, large ones cost less.
    cfg.DISTRIBUTED.BUCKET_CAP_MB = 25
    # How gradients are made smaller for the network: "" (not), "fp16", "bf16" (half the bytes),
    # "powersgd" (low rank, with error feedback; far fewer bytes, other numbers).
    cfg.DISTRIBUTED.COMPRESSION = ""
    # "powersgd": the rank, 1 or more, and the iterations before it starts, 2 or more.
    cfg.DISTRIBUTED.POWERSGD_RANK = 2
    cfg.DISTRIBUTED.POWERSGD_START = 1000
