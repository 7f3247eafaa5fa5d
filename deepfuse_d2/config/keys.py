"""Every config key that deepfuse_d2 adds to detectron2's, with meaning, unit and allowed values."""

from detectron2.config import CfgNode as CN

__all__ = ["add_deepfuse_config"]


def add_deepfuse_config(cfg: CN) -> None:
    """Add the keys of deepfuse_d2 to `cfg`, in place. Calling it again changes nothing.

    No default of detectron2 is changed.
    """
    if "NECK" in cfg.MODEL:
        return

    # A bottom-up network and a neck on top of it: MODEL.BACKBONE.NAME = "build_neck_backbone"
    cfg.MODEL.NECK = CN()
    # Any name in detectron2's BACKBONE_REGISTRY, detectron2's own or ours.
    cfg.MODEL.NECK.BOTTOM_UP = "build_resnet_backbone"
    # Any name in NECK_REGISTRY: "FPN", "DeepFuseFPN", "PAFPN", "BiFPN".
    cfg.MODEL.NECK.NAME = "DeepFuseFPN"
    # Bottom-up features to fuse, from high to low resolution; each stride twice the one before.
    cfg.MODEL.NECK.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    # Channels of every output feature.
    cfg.MODEL.NECK.OUT_CHANNELS = 256
    # Normalisation in the neck, a name for detectron2's get_norm; "" for none.
    cfg.MODEL.NECK.NORM = ""
    # Extra, coarser levels: "maxpool" (p6, for R-CNN), "p6p7" (for RetinaNet and FCOS), "none".
    cfg.MODEL.NECK.TOP_BLOCK = "maxpool"

    # build_two_scale_backbone: the network for the image and for half of it, any name in
    # detectron2's BACKBONE_REGISTRY; "" takes MODEL.NECK.BOTTOM_UP, where no neck uses that.
    cfg.MODEL.TWO_SCALE = CN()
    cfg.MODEL.TWO_SCALE.BOTTOM_UP = ""

    # The DeepFuse operation, wherever it is used; deepfuse_d2/layers/fuse.py defines it.
    cfg.MODEL.DEEPFUSE = CN()
    # How maps are merged: "sum", "weighted_sum" (a learned weight an input), "gated" (a learned
    # weight a position), "concat" (with a 1x1 convolution). docs/deepfuse.md has the measurements
    # behind this default and those of UNIT and DEPTH. With DEPTH 0, "sum" is FPN.
    cfg.MODEL.DEEPFUSE.MERGE = "gated"
    # What "deep" consists of: "residual" (two 3x3), "bottleneck" (1x1, 3x3, 1x1), "dense" (3x3s
    # that see all earlier maps), "separable" (7x7 depthwise, 1x1s), "multi_scale" (the chain of
    # 3x3s over groups of Res2Net).
    cfg.MODEL.DEEPFUSE.UNIT = "bottleneck"
    # Units after each fusion; 0 is simple fusion, as in FPN.
    cfg.MODEL.DEEPFUSE.DEPTH = 1
    # Normalisation inside the units; "" for none. With DEPTH 0 it must be "".
    cfg.MODEL.DEEPFUSE.NORM = ""
    # Normalisation of the convolutions that bring maps to one shape before they are merged, in
    # backbones and heads; "" for none. In a neck these are the laterals: MODEL.NECK.NORM.
    cfg.MODEL.DEEPFUSE.ALIGN_NORM = ""
    # How coarser maps are enlarged: "nearest" (as in FPN), "bilinear".
    cfg.MODEL.DEEPFUSE.UPSAMPLE = "nearest"
    # How finer maps are reduced: "max_pool", "avg_pool", "conv" (3x3 of stride 2 for each halving).
    cfg.MODEL.DEEPFUSE.DOWNSAMPLE = "max_pool"
    # Probability, in [0, 1), to drop the deep branch of a sample in training (stochastic depth).
    cfg.MODEL.DEEPFUSE.DROP_PATH = 0.0
    # Start as simple fusion, so that weights of an FPN or of a backbone keep their function.
    cfg.MODEL.DEEPFUSE.ZERO_INIT = True
    # Which way DeepFuseFPN fuses: "top_down", "bottom_up" (after FPN's plain sums down),
    # "bidirectional" (down, then up).
    cfg.MODEL.DEEPFUSE.DIRECTION = "top_down"
    # How often DeepFuseFPN goes through its direction, 1 or more.
    cfg.MODEL.DEEPFUSE.REPEATS = 1
    # Stages of "build_deepfuse_resnet_backbone" that other stages are fused into: any of "res2",
    # "res3", "res4", "res5".
    cfg.MODEL.DEEPFUSE.BACKBONE_STAGES = ["res3", "res4", "res5"]
    # From where: "low_to_high" (detail of all earlier stages into the map the next stage gets; not
    # into res2), "high_to_low" (meaning of all later stages into the map that is returned; not into
    # the last), "both".
    cfg.MODEL.DEEPFUSE.BACKBONE_DIRECTION = "low_to_high"
    # A stage of C channels is fused on C / BACKBONE_REDUCTION channels; must divide.
    cfg.MODEL.DEEPFUSE.BACKBONE_REDUCTION = 4

    # Stages of a backbone (ours, or detectron2's ResNet or RegNet) whose activations are computed
    # again in backward instead of being kept: less memory, a third more time. Any of its stage
    # names, e.g. ["res3", "res4"], or none.
    cfg.MODEL.BACKBONE.CHECKPOINT_STAGES = []

    # build_res2net_backbone; MODEL.RESNETS says the rest: DEPTH (26, 50, 101, 152), NUM_GROUPS,
    # NORM, STRIDE_IN_1X1 (False in the paper and in all published weights) and so on.
    cfg.MODEL.RES2NET = CN()
    # Splits of a block, s in the paper: 1 (a plain ResNet), 2, 4, 6, 8, ...
    cfg.MODEL.RES2NET.SCALE = 4
    # Channels of one split in res2, w in the paper: 26, 48, 14, ..., or 64 with scale 1; of each of
    # NUM_GROUPS groups. For a WIDTH_PER_GROUP of 64, in proportion for another.
    cfg.MODEL.RES2NET.BASE_WIDTH = 26
    # Three 3x3 convolutions in the stem instead of one 7x7. True in v1b.
    cfg.MODEL.RES2NET.DEEP_STEM = False
    # Shortcuts that change the size average first, then convolve with stride 1. True in v1b.
    cfg.MODEL.RES2NET.AVG_DOWN = False
    # The last split of the first block of res2, where the stride is 1, goes through a 3x3 average
    # pool: so in the authors' code, timm and their weights; False for weights of mmdetection.
    cfg.MODEL.RES2NET.POOL_STRIDE_1 = True
    # Start every block as its shortcut; helps training from random weights.
    cfg.MODEL.RES2NET.ZERO_INIT_RESIDUAL = False

    # build_dla_backbone: deep layer aggregation of Res2Net blocks, which MODEL.RES2NET.{SCALE,
    # BASE_WIDTH} and MODEL.RESNETS.{NUM_GROUPS, NORM, STRIDE_IN_1X1, OUT_FEATURES} describe.
    cfg.MODEL.DLA = CN()
    # Height of the tree of res2, res3, res4, res5: 1 or more; DLA-60 has these.
    cfg.MODEL.DLA.LEVELS = [1, 2, 3, 1]
    # Channels that res2, res3, res4, res5 give; even numbers.
    cfg.MODEL.DLA.CHANNELS = [128, 256, 512, 1024]

    # build_fishnet_backbone
    cfg.MODEL.FISHNET = CN()
    # 99, 150 or 201: the blocks of the published networks.
    cfg.MODEL.FISHNET.DEPTH = 150
    # Own numbers of blocks instead, at least 1 each: of the ten stages on the main path, and of the
    # last six on the path beside it. [] takes those of DEPTH.
    cfg.MODEL.FISHNET.NUM_BLOCKS = []
    cfg.MODEL.FISHNET.NUM_TRANSFER_BLOCKS = []
    # Channels of the stem, a multiple of 4; all other widths are proportional. 64 in all published
    # networks.
    cfg.MODEL.FISHNET.WIDTH = 64
    # Normalisation: "BN", "FrozenBN", "SyncBN", "GN" (groups of WIDTH / 4 channels), ...; not "".
    cfg.MODEL.FISHNET.NORM = "FrozenBN"
    # Which maps are res2..res5: "head" (320, 832, 1600, 2112 channels) or "body" (320, 512, 768,
    # 512; without the head, which is then not built).
    cfg.MODEL.FISHNET.TAPS = "head"
    # Features to give: any of "res2".."res5"; stages that none of them needs are not built.
    cfg.MODEL.FISHNET.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # A new norm, of this name, and a ReLU on every feature. Advised for training, because the raw
    # features are unbounded sums; "" gives the raw ones, as the published network makes them.
    cfg.MODEL.FISHNET.OUT_NORM_ACT = ""

    # Semantic segmentation, META_ARCHITECTURE FusionSemanticSegmentor: what is learned from each
    # map of logits, as pairs of a name and a weight above 0. Names: "cross_entropy", "ohem" (hard
    # pixels alone), "focal", "dice", "lovasz".
    cfg.MODEL.SEM_SEG_HEAD.LOSSES = [["cross_entropy", 1.0]]
    # Weight of a pixel by its class in "cross_entropy", "ohem" and "focal": NUM_CLASSES numbers, 0
    # or more; [] weights all the same.
    cfg.MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS = []
    # "ohem": a pixel is hard up to this probability of its true class, in (0, 1] ...
    cfg.MODEL.SEM_SEG_HEAD.OHEM_PROBABILITY = 0.7
    # ... or if it is among this fraction of all pixels with a label, in [0, 1].
    cfg.MODEL.SEM_SEG_HEAD.OHEM_MIN_KEPT = 0.0625
    # "focal": exponent of 1 - p, 0 or more; 0 is cross-entropy.
    cfg.MODEL.SEM_SEG_HEAD.FOCAL_GAMMA = 2.0

    # Inference of FusionSemanticSegmentor.
    cfg.TEST.SEM_SEG = CN()
    # "logits" (K, H, W), or "labels" (H, W): the best class; a label map needs far less memory.
    cfg.TEST.SEM_SEG.OUTPUT = "logits"
    # Height and width of a tile in pixels of the (scaled) image, rounded up to multiples of what
    # the network can divide; [0, 0] takes images as a whole.
    cfg.TEST.SEM_SEG.TILE = [0, 0]
    # Pixels that neighbouring tiles share at least. A network that sees no further than a quarter
    # of them around a pixel gives what it gives on the whole image.
    cfg.TEST.SEM_SEG.TILE_OVERLAP = 128
    # Tiles that go through the network at once.
    cfg.TEST.SEM_SEG.TILE_BATCH = 1
    # Factors by which an image is resized, after INPUT.MIN_SIZE_TEST; probabilities are averaged.
    cfg.TEST.SEM_SEG.SCALES = [1.0]
    # Add the mirrored image to each scale.
    cfg.TEST.SEM_SEG.FLIP = False

    # The neck BiFPN; MODEL.NECK has its width and the norm of the lateral convolutions. The paper's
    # IN_FEATURES are [res3, res4, res5] with TOP_BLOCK "p6p7"; all levels take part in the fusion.
    cfg.MODEL.BIFPN = CN()
    # Layers (each once down and up the levels): 1 or more; 3 to 8 in the paper.
    cfg.MODEL.BIFPN.REPEATS = 3
    # Normalisation behind the convolution of each fusion, "BN" in the paper; "" for none.
    cfg.MODEL.BIFPN.NORM = "BN"

    # build_timm_backbone: any timm model with feature maps of stride 4 (or 8) to 32, with the extra
    # "timm". Images are brought from PIXEL_MEAN, PIXEL_STD and INPUT.FORMAT, whatever these are, to
    # the statistics the model was trained with.
    cfg.MODEL.TIMM = CN()
    # One of timm.list_models(), with or without the tag of its weights ("resnet50.a1_in1k").
    cfg.MODEL.TIMM.NAME = "resnet50"
    # Start from weights that timm fetches, or has in its cache. Ignored with MODEL.WEIGHTS.
    cfg.MODEL.TIMM.PRETRAINED = False
    # A file of weights under timm's names instead (.safetensors, .pth, .bin); nothing is fetched.
    cfg.MODEL.TIMM.CHECKPOINT = ""
    # Features to give: some of "res2" (stride 4) .. "res5" (stride 32); [] = all the model has.
    cfg.MODEL.TIMM.OUT_FEATURES = []
    # Batch norms of the model: "" (as they are), "FrozenBN", "SyncBN". Other norms stay.
    cfg.MODEL.TIMM.NORM = ""
    # Probability, in [0, 1), of stochastic depth; 0 leaves the model's own default.
    cfg.MODEL.TIMM.DROP_PATH = 0.0
    # More keyword arguments of timm.create_model, as mappings in a list: for swin, which by itself
    # takes images of one size only, [{"strict_img_size": False}].
    cfg.MODEL.TIMM.ARGS = []

    # RefineNetHead and the light-weight form of it
    cfg.MODEL.REFINENET = CN()
    # Which features meet in one block: "single", "2_cascaded", "4_cascaded" (one block a feature);
    # "2_scale" (7 paths, the paper's figure) and "2_scale_paired" (8 paths, the authors' code) on
    # build_two_scale_backbone, whose half_res3.. then stand in IN_FEATURES too.
    cfg.MODEL.REFINENET.CASCADE = "4_cascaded"
    # Channels of the coarsest path, then of the others.
    cfg.MODEL.REFINENET.WIDTHS = [512, 256]
    # 1x1 convolutions and no residual units: Light-Weight RefineNet, whose published widths are
    # the same.
    cfg.MODEL.REFINENET.LIGHT_WEIGHT = False
    # Blocks of chained residual pooling, 0 or more: 2 in the text, 4 in all public weights.
    cfg.MODEL.REFINENET.POOL_BLOCKS = 4
    # "pool_conv" (the paper's figure) or "conv_pool" (the authors' later, "improved" order).
    cfg.MODEL.REFINENET.POOL_ORDER = "pool_conv"
    # What rectifies the input of a chain: "relu"; "relu6" in the light-weight net on MobileNet-v2.
    cfg.MODEL.REFINENET.ACTIVATION = "relu"
    # In the fusion of several paths, a convolution on the features' paths as well, not on the path
    # from the block before alone. False in the light-weight net on MobileNet-v2.
    cfg.MODEL.REFINENET.FUSE_CONV_ON_FEATURES = True
    # Bilinear resizing maps corner to corner; True in all public weights.
    cfg.MODEL.REFINENET.ALIGN_CORNERS = False
    # Probability, in [0, 1), to drop values of features wider than 512 channels, and, where not
    # light-weight, of the last map.
    cfg.MODEL.REFINENET.DROPOUT = 0.5
    # Start of the convolutions: "gaussian" (deviation 0.01, as in the authors' code, for the
    # published widths) or "identity" (for narrower ones, where 0.01 loses the signal: residual
    # units start as the identity, chains close to it).
    cfg.MODEL.REFINENET.INIT = "gaussian"

    # RefineNetHead: how the fusion of several paths merges maps of one size: "sum", or "deepfuse",
    # the block that MODEL.DEEPFUSE describes.
    cfg.MODEL.SEM_SEG_HEAD.FUSE = "sum"

    # GCNHead, and the frame of ExFuseHead
    cfg.MODEL.GCN = CN()
    # Kernel of the global convolutions, odd, in positions: [15] for maps up to 512 / 32, [25] for
    # Cityscapes' 800 / 32, [7] is cheap. One entry for all features, or one each from fine to
    # coarse.
    cfg.MODEL.GCN.KERNEL_SIZE = [15]
    # "deconv" (learned, 4x4, starts as bilinear) or "bilinear".
    cfg.MODEL.GCN.UPSAMPLING = "deconv"
    # Stride of the scores, a power of two up to the finest feature's; 1 in the paper. 4 saves most
    # of the cost; the scores are then resized bilinearly.
    cfg.MODEL.GCN.OUTPUT_STRIDE = 1
    # Boundary refinement also after the upsamplings below the finest feature, as in the paper.
    cfg.MODEL.GCN.OUTPUT_REFINEMENT = True

    # ExFuseHead: each switch alone, or together; all off, and DAP_SIZE 1, is GCNHead.
    cfg.MODEL.EXFUSE = CN()
    # SEB: multiply each feature by maps of all deeper ones.
    cfg.MODEL.EXFUSE.SEMANTIC_EMBEDDING = True
    # ECRE, first half: the first upsampling rearranges channels.
    cfg.MODEL.EXFUSE.SUB_PIXEL = True
    # ECRE, second half: the loss is also taken on what the first upsampling gives.
    cfg.MODEL.EXFUSE.SUPERVISE_FIRST = True
    # Weight of that loss, 0 or more; the paper does not tell.
    cfg.MODEL.EXFUSE.SUPERVISION_WEIGHT = 0.4
    # DAP: side of the neighbourhood that votes for a pixel, odd; 1 switches it off.
    cfg.MODEL.EXFUSE.DAP_SIZE = 3
    # Divide votes by the neighbours inside the image; False divides by all, as in the paper.
    cfg.MODEL.EXFUSE.DAP_DIVIDE_BY_VALID = False
    # Weight of an image-level loss in training: which classes are in the image, from each feature.
    # 0 switches it off; no part of the paper.
    cfg.MODEL.EXFUSE.MULTI_LABEL_WEIGHT = 0.0
    # build_rearranged_resnet_backbone: blocks of res2, res3, res4, res5; [8, 8, 9, 8] is the
    # paper's ResNeXt-101, otherwise [3, 4, 23, 3]. MODEL.RESNETS.DEPTH says which kind of block.
    cfg.MODEL.EXFUSE.STAGE_BLOCKS = [8, 8, 9, 8]

    # Part of the tensors of the bottom-up network, 0..1, that the file of MODEL.WEIGHTS must fill;
    # a file that fills less is refused, instead of training a backbone that is half random.
    # DeepFuse operations built into it do not count. 0 loads whatever fits and checks no shapes.
    cfg.MODEL.WEIGHTS_MIN_MATCH = 0.9
    # Write the weights of a finished training as model_final.safetensors too: a format that cannot
    # hold code, for handing them on.
    cfg.SOLVER.FINAL_SAFETENSORS = True

    # When things go wrong; docs/training.md.
    cfg.SOLVER.SAFETY = CN()
    # Exit code, 1..255, of a training that a cluster tells to make room (SIGTERM, SIGUSR1) and that
    # has written a checkpoint; to be queued again on it. 75 is EX_TEMPFAIL of sysexits.h.
    cfg.SOLVER.SAFETY.EXIT_CODE = 75
    # Write model_latest before an evaluation within training, so that nothing that happens in it
    # costs more than itself.
    cfg.SOLVER.SAFETY.CHECKPOINT_BEFORE_EVALUATION = True
    # So many of the periodic checkpoints stay, the newest; 0 keeps all.
    cfg.SOLVER.SAFETY.KEPT_CHECKPOINTS = 0
    # As often in a row may a checkpoint not be written (the disk is full) before the training
    # stops, 0 or more.
    cfg.SOLVER.SAFETY.MAX_FAILED_WRITES = 3
    # On a loss that is not finite: "stop", or "skip" the iteration before anything is learned.
    cfg.SOLVER.SAFETY.NONFINITE = "stop"
    # Iterations in a row, 0 or more, that may be skipped before the training stops after all.
    cfg.SOLVER.SAFETY.MAX_SKIPPED = 10
    # So many batches that went wrong are kept in OUTPUT_DIR/faults, with the weights of then, for
    # tools/replay_batch.py; 0 or more, of each process.
    cfg.SOLVER.SAFETY.KEPT_BATCHES = 3

    # Let our implementations of some of detectron2's modules compute the same in less time:
    # convolutions with frozen norms as one operation; on a CPU, 3x3 convolutions of float32 with a
    # quarter of the multiplications, and RoIAlign as sums of rows.
    cfg.MODEL.FAST_KERNELS = True
    # Keep convolution maps and weights with channels innermost: faster on CPUs and tensor cores.
    cfg.MODEL.CHANNELS_LAST = False
    # Element type of the forward pass where SOLVER.AMP.ENABLED: "float16" (a GPU) or "bfloat16".
    cfg.SOLVER.AMP.DTYPE = "float16"
    # torch.compile of backbone, neck and dense heads; a minute or two at the start, with one
    # warning and no effect on a machine without a compiler.
    cfg.MODEL.COMPILE = CN()
    cfg.MODEL.COMPILE.ENABLED = False
    # "inductor", or another backend of torch.compile.
    cfg.MODEL.COMPILE.BACKEND = "inductor"
    # Parts in which a batch goes through the model one after the other, with the memory of one;
    # IMS_PER_BATCH stays the images of a step. 1 or more; must divide the images of each process.
    cfg.SOLVER.ACCUMULATE = 1
    # Threads of a training process on a CPU; 0 chooses by cores, processes and loader workers, or
    # leaves what OMP_NUM_THREADS says.
    cfg.SOLVER.CPU_THREADS = 0
    # On a CPU, keep the memory that a step has freed for the next one (with glibc). False gives it
    # back to the system at once, for machines that many share.
    cfg.SOLVER.CPU_KEEP_MEMORY = True

    # A moving average of the weights beside those that are trained. It is in every checkpoint, and
    # at the end by itself in model_ema.pth.
    cfg.MODEL_EMA = CN()
    cfg.MODEL_EMA.ENABLED = False
    # In [0, 1): about the last 1 / (1 - DECAY) iterations count.
    cfg.MODEL_EMA.DECAY = 0.999
    # Evaluate the average too, whenever the weights are evaluated, under names "ema/...".
    cfg.MODEL_EMA.EVALUATE = True

    # "SGD" (detectron2's, with SOLVER.MOMENTUM) or "AdamW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Update all parameters in one operation (torch's fused optimizers); False takes several, each
    # over all of them. The numbers are the same to the rounding of floats.
    cfg.SOLVER.FUSED = True
    # Learning rate of the bottom-up network as a factor of BASE_LR, above 0; a neck has BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Each stage of the bottom-up network learns slower than the next by this factor, in (0, 1]: the
    # last with LAYER_DECAY * BASE_LR, the stem slowest. 1 is off; 0.7 to 0.9 for transformers.
    cfg.SOLVER.LAYER_DECAY = 1.0
    # No weight decay of parameters with less than two dimensions: norms, biases, scales.
    # Otherwise WEIGHT_DECAY_NORM and WEIGHT_DECAY_BIAS of detectron2 say what they get.
    cfg.SOLVER.NO_DECAY_OF_VECTORS = False
    # SOLVER.LR_SCHEDULER_NAME may also be "WarmupPolyLR": BASE_LR * (1 - iteration / MAX_ITER) to
    # this power, above 0, but at least BASE_LR_END.
    cfg.SOLVER.POLY_LR_POWER = 0.9

    # Instances whose mask has fewer pixels, in the original image, are left out of training; 0
    # keeps all. The Cityscapes evaluation asks for instances of 100 pixels and more.
    cfg.INPUT.MIN_INSTANCE_AREA = 0
    # Make training samples of instances by our mapper where it does all that is asked: the same
    # samples as detectron2's, for a third of the time. False takes detectron2's.
    cfg.INPUT.FAST_MAPPER = True
    # Augmentation of images with labels of their pixels (FusionSemanticSegmentor). In this order:
    # resize, scale jitter, crop, INPUT.RANDOM_FLIP, colour jitter. INPUT.MIN_SIZE_TRAIN may be 0
    # here: the original size.
    # Range of the factor, drawn uniformly, by which the resized image is scaled, e.g. [0.5, 2.0].
    cfg.INPUT.SCALE_JITTER = [1.0, 1.0]
    # Largest share of one class among the labelled pixels of a crop, in (0, 1]; crops are drawn up
    # to ten times to find one. 1 is no limit.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # Share of the crops, in [0, 1], that are laid over a pixel of a class drawn from those in the
    # image, each with the same probability, however few pixels it has.
    cfg.INPUT.CROP.CLASS_BALANCED = 0.0
    # Brightness, contrast and saturation change by factors in 1 +- this number; in [0, 1).
    cfg.INPUT.COLOR_JITTER = 0.0
    # Files of a data set that may turn out unreadable in a training, 0 or more. Each is named, and
    # another image takes its place; one more stops the training.
    cfg.DATALOADER.MAX_DAMAGED = 10
    # As often does a training, 0 or more, start new data-loader workers for some that died.
    cfg.DATALOADER.MAX_WORKER_DEATHS = 3
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

    # Own data sets by path, registered when the config is loaded: a list of mappings, by default
    # none. Keys NAME (for DATASETS.TRAIN and TEST), FORMAT and those of the format:
    #   coco                  JSON (file), IMAGES (folder)
    #   cityscapes_instances  ROOT (folder of leftImg8bit and gtFine), SPLIT; HAS_LABELS (default:
    #   cityscapes_semantic     all but SPLIT "test"; False gives images only)
    #   label_images          IMAGES, LABELS (folders), CLASSES (names of ids 0, 1, ...);
    #                         IGNORE_LABEL (default 255), LABEL_SUFFIX (default ".png", ".tif")
    #   instance_label_images IMAGES, LABELS (one id an object); CLASSES (one name), LABEL_SUFFIX
    #   subset                OF (a registered data set), COUNT (images, spread evenly over it)
    # Relative paths start from the working directory. See datasets/README.md.
    cfg.DATASETS.EXTRA = []

    # What is kept because it takes long to make, and may be deleted at any time.
    cfg.CACHE = CN()
    # Its folder; "dataset" keeps what belongs to a data set in the folder of that data set; ""
    # takes the environment variable DEEPFUSE_CACHE, else deepfuse_d2 in $XDG_CACHE_HOME (~/.cache).
    cfg.CACHE.FOLDER = ""
