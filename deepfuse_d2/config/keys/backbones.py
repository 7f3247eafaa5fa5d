"""Keys of bottom-up networks."""

from detectron2.config import CfgNode as CN

__all__ = ["add"]


def add(cfg: CN) -> None:
    own = cfg.DEEPFUSE_D2

    # Stages of a backbone (ours, or detectron2's ResNet or RegNet) whose activations are computed
    # again in backward instead of being kept: less memory, a third more time. Any of its stage
    # names, e.g. ["res3", "res4"], or none.
    own.MODEL.BACKBONE.CHECKPOINT_STAGES = []

    # build_res2net_backbone; MODEL.RESNETS says the rest: DEPTH (26, 50, 101, 152), NUM_GROUPS,
    # NORM, STRIDE_IN_1X1 (False in the paper and in all published weights) and so on.
    cfg.MODEL.RES2NET = CN()
    # A published network by timm's name: "res2net50_26w_4s", "res2net50_14w_8s", "res2next50",
    # "res2net101d" (v1b), ...; it decides MODEL.RESNETS.{DEPTH, NUM_GROUPS, WIDTH_PER_GROUP,
    # STRIDE_IN_1X1} and SCALE, BASE_WIDTH, DEEP_STEM, AVG_DOWN below. "": these keys do.
    cfg.MODEL.RES2NET.NAME = ""
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
    # A published network by timm's name: "dla60", "dla60x", "dla60_res2net", "dla60_res2next"; it
    # decides these keys but NORM and OUT_FEATURES, and the two below. "": the keys do.
    cfg.MODEL.DLA.NAME = ""
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

    # build_two_scale_backbone: the network for the image and for half of it, any name in
    # detectron2's BACKBONE_REGISTRY; "" takes MODEL.NECK.BOTTOM_UP, where no neck uses that.
    cfg.MODEL.TWO_SCALE = CN()
    cfg.MODEL.TWO_SCALE.BOTTOM_UP = ""

    # build_spinenet_backbone: p3 to p7 without a neck. Images are padded to multiples of 128.
    cfg.MODEL.SPINENET = CN()
    # "SpineNet-49S", "-49", "-96", "-143", "-143L", "-190"; "MBConv-49", "-49S", "-49XS"; "m0" to
    # "m2", "d0" to "d4" (of these, no published result is reproduced).
    cfg.MODEL.SPINENET.NAME = "SpineNet-49"
    # Features to give: any of "p3" to "p7", and "p2" of those named SpineNet; blocks that none of
    # them needs are not built.
    cfg.MODEL.SPINENET.OUT_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Normalisation, a name for detectron2's get_norm, and of batch norms the epsilon and the
    # momentum (torch's: 1 - TensorFlow's). The authors train Mask R-CNN with "SyncBN" and these.
    cfg.MODEL.SPINENET.NORM = "BN"
    cfg.MODEL.SPINENET.NORM_EPS = 1e-3
    cfg.MODEL.SPINENET.NORM_MOMENTUM = 0.01
    # "relu", "swish", "hard_swish"; "" takes that of the published network.
    cfg.MODEL.SPINENET.ACTIVATION = ""
    # Probability, in [0, 1), to drop the last block of a sample in training (stochastic depth); the
    # others in proportion to their place. 0.2 in the authors' long schedules.
    cfg.MODEL.SPINENET.DROP_PATH = 0.0
    # DropBlock after each convolution of the blocks: probability in [0, 1), side in positions.
    cfg.MODEL.SPINENET.DROP_BLOCK = 0.0
    cfg.MODEL.SPINENET.DROP_BLOCK_SIZE = 7
    # Channels of each feature; 0 takes the published number (128 for 49S, 256, 512 for 190).
    cfg.MODEL.SPINENET.ENDPOINT_CHANNELS = 0
    # An activation on each feature, as in the authors' code; False for the PyTorch ports' weights.
    cfg.MODEL.SPINENET.ENDPOINT_ACTIVATION = True
    # Pad max pools as TensorFlow does, for the authors' own weights.
    cfg.MODEL.SPINENET.SAME_POOLING = False
    # Pad images to squares of this side, as the authors do, a multiple of 128; 0: to multiples.
    cfg.MODEL.SPINENET.SQUARE_SIZE = 0
    # A table of one's own behind the stem of NAME, a list of mappings, block 2 first:
    #   LEVEL (maps have stride 2^level), KIND ("residual", "bottleneck", "mbconv"), INPUTS (blocks
    #   before it; 0 and 1 are the stem's), WIDTH (default: NAME's at that level), REPEATS (1), ADD
    #   (blocks of the same shape, not resampled; []), OUTPUT (False), UNUSED (False; not built)
    cfg.MODEL.SPINENET.BLOCKS = []

    # build_swin_backbone: detectron2's Swin Transformer, res2 to res5. Of no other project's name:
    # Mask2Former and others have a MODEL.SWIN.
    own.MODEL.SWIN = CN()
    # "swin_tiny", "swin_small", "swin_base", "swin_large", which decide the next four; "": they do.
    own.MODEL.SWIN.NAME = ""
    # Channels of res2; those after it have twice, four and eight times as many.
    own.MODEL.SWIN.EMBED_DIM = 96
    # Blocks of each stage, and heads of their attention, which divide its channels.
    own.MODEL.SWIN.DEPTHS = [2, 2, 6, 2]
    own.MODEL.SWIN.NUM_HEADS = [3, 6, 12, 24]
    # Side of the windows of attention, in positions.
    own.MODEL.SWIN.WINDOW_SIZE = 7
    # Probability, in [0, 1), of stochastic depth of the last block; the others in proportion.
    own.MODEL.SWIN.DROP_PATH = 0.2
    # Features to give; stages behind the last of them are not built.
    own.MODEL.SWIN.OUT_FEATURES = ["res2", "res3", "res4", "res5"]

    # build_composite_backbone: CBNet (arXiv 1909.03625), CBNetV2 (arXiv 2107.00420). These are the
    # defaults of the latter, but for its losses on assistants; docs/backbones.md.
    cfg.MODEL.COMPOSITE = CN()
    # The networks, any name in detectron2's BACKBONE_REGISTRY whose stages follow one another; ""
    # takes MODEL.NECK.BOTTOM_UP, where no neck uses that.
    cfg.MODEL.COMPOSITE.BOTTOM_UP = ""
    # How many, 2 or more; the last is the lead, the others are its assistants.
    cfg.MODEL.COMPOSITE.NUM_BACKBONES = 2
    # What flows into a stage of the next network: "slc" (the same level), "ahlc" (the level above,
    # as in CBNet), "allc" (the level below), "dhlc" (all levels above, as in CBNetV2).
    cfg.MODEL.COMPOSITE.STYLE = "dhlc"
    # So many stages of the lead, from 0 to all, are left out; it goes on from the assistant's.
    cfg.MODEL.COMPOSITE.PRUNE = 1
    # Connections start as 0: weights of one network in all of them are the network they come from.
    cfg.MODEL.COMPOSITE.ZERO_INIT = True
    # The lead starts from the result of the assistant's stem; with PRUNE above 0 it does anyway.
    cfg.MODEL.COMPOSITE.SHARE_STEM = True
    # One network's weights in place of NUM_BACKBONES, of which each run has another input.
    cfg.MODEL.COMPOSITE.SHARE_WEIGHTS = False
    # What connections lead to: the input of a "stage", or of its "blocks", behind the merging of
    # patches: the form of the authors' Swin, with NORM "" and PRUNE 0. "ahlc" and "dhlc" alone.
    cfg.MODEL.COMPOSITE.CONNECT_TO = "stage"
    # Norm of the connections: "FixedBN" (a scale and a shift that learn, statistics that stay as
    # they are, as in both papers' code), or a name for detectron2's get_norm; "" for none.
    cfg.MODEL.COMPOSITE.NORM = "FixedBN"
    # Training also applies neck and heads to each assistant, with losses of these weights, 0 or
    # more, one for each; [] or 0: none. CBNetV2 has [0.5], with three networks [0.5, 1.0].
    cfg.MODEL.COMPOSITE.ASSISTANT_WEIGHTS = []
