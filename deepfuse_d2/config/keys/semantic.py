"""Keys of semantic segmentation: losses, heads, inference."""

from detectron2.config import CfgNode as CN

__all__ = ["add"]


def add(cfg: CN) -> None:
    own = cfg.DEEPFUSE_D2

    # Semantic segmentation, META_ARCHITECTURE FusionSemanticSegmentor: what is learned from each
    # map of logits, as pairs of a name and a weight above 0. Names: "cross_entropy", "ohem" (hard
    # pixels alone), "focal", "dice", "lovasz".
    own.MODEL.SEM_SEG_HEAD.LOSSES = [["cross_entropy", 1.0]]
    # Weight of a pixel by its class in "cross_entropy", "ohem" and "focal": NUM_CLASSES numbers, 0
    # or more; [] weights all the same.
    own.MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS = []
    # "ohem": a pixel is hard up to this probability of its true class, in (0, 1] ...
    own.MODEL.SEM_SEG_HEAD.OHEM_PROBABILITY = 0.7
    # ... or if it is among this fraction of all pixels with a label, in [0, 1].
    own.MODEL.SEM_SEG_HEAD.OHEM_MIN_KEPT = 0.0625
    # "focal": exponent of 1 - p, 0 or more; 0 is cross-entropy.
    own.MODEL.SEM_SEG_HEAD.FOCAL_GAMMA = 2.0

    # RefineNetHead: how the fusion of several paths merges maps of one size: "sum", or "deepfuse",
    # the block that MODEL.DEEPFUSE describes.
    own.MODEL.SEM_SEG_HEAD.FUSE = "sum"

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

    # SMPDecoderHead: a decoder of segmentation_models_pytorch (extra `smp`)
    cfg.MODEL.SMP = CN()
    # "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3",
    # "DeepLabV3Plus", "UPerNet" or "Segformer".
    cfg.MODEL.SMP.DECODER = "Unet"
    # More arguments of smp's class of that name, as mappings in a list: [{"decoder_channels": [128,
    # 64, 32, 16, 8], "decoder_attention_type": "scse"}].
    cfg.MODEL.SMP.ARGS = []

    # Inference of FusionSemanticSegmentor.
    own.TEST.SEM_SEG = CN()
    # "logits" (K, H, W), or "labels" (H, W): the best class; a label map needs far less memory.
    own.TEST.SEM_SEG.OUTPUT = "logits"
    # Height and width of a tile in pixels of the (scaled) image, rounded up to multiples of what
    # the network can divide; [0, 0] takes images as a whole.
    own.TEST.SEM_SEG.TILE = [0, 0]
    # Pixels that neighbouring tiles share at least. A network that sees no further than a quarter
    # of them around a pixel gives what it gives on the whole image.
    own.TEST.SEM_SEG.TILE_OVERLAP = 128
    # Tiles that go through the network at once.
    own.TEST.SEM_SEG.TILE_BATCH = 1
    # Factors by which an image is resized, after INPUT.MIN_SIZE_TEST; probabilities are averaged.
    own.TEST.SEM_SEG.SCALES = [1.0]
    # Add the mirrored image to each scale.
    own.TEST.SEM_SEG.FLIP = False
