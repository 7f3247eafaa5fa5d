"""Keys of M3FusionSegmentor: a time series and an image."""

from detectron2.config import CfgNode as CN

__all__ = ["add"]


def add(cfg: CN) -> None:
    own = cfg.DEEPFUSE_D2

    # META_ARCHITECTURE M3FusionSegmentor: a time series and one very sharp image. Losses, classes
    # and the label that is ignored are those of MODEL.SEM_SEG_HEAD; docs/remote_sensing.md.
    cfg.MODEL.M3FUSION = CN()
    # Each source can be left out; the other's own head then decides.
    cfg.MODEL.M3FUSION.USE_TIME_SERIES = True
    cfg.MODEL.M3FUSION.USE_IMAGE = True
    # Pixels of the image along a side of a pixel of the series, 1 or more.
    cfg.MODEL.M3FUSION.RATIO = 5
    # Where classes are decided: "series" (the paper) or "image".
    cfg.MODEL.M3FUSION.OUTPUT_GRID = "series"
    # "attentive_gru" (the paper) or "temporal_attention" (L-TAE).
    cfg.MODEL.M3FUSION.SERIES_ENCODER = "attentive_gru"
    # Bands of a date; their mean and deviation, one number each, or [] to take them as they are.
    cfg.MODEL.M3FUSION.SERIES_CHANNELS = 10
    cfg.MODEL.M3FUSION.SERIES_MEAN = []
    cfg.MODEL.M3FUSION.SERIES_STD = []
    # Channels of the feature of a series; 1024 in the paper.
    cfg.MODEL.M3FUSION.SERIES_DIM = 1024
    # What "attentive_gru" knows of dates beside their order: "none" (the paper), "doy_sincos" (the
    # time of the year) or "delta" (months since the date before).
    cfg.MODEL.M3FUSION.DATE_ENCODING = "none"
    # "temporal_attention": heads; SERIES_DIM is a multiple of twice as many.
    cfg.MODEL.M3FUSION.ATTENTION_HEADS = 16
    # "patch" (the paper: 25 x 25 pixels around a place), or "backbone": MODEL.BACKBONE with the
    # head of MODEL.SEM_SEG_HEAD.NAME.
    cfg.MODEL.M3FUSION.IMAGE_ENCODER = "patch"
    # Channels of the feature of an image, even; 512 in the paper.
    cfg.MODEL.M3FUSION.IMAGE_DIM = 512
    # Norms of "patch": "BN", or "affine" (batch norms whose statistics stay 0 and 1, as in the
    # public code).
    cfg.MODEL.M3FUSION.NORM = "BN"
    # Third convolution of "patch" at the border of a patch: "exact" (the paper) or "valid" (without
    # padding: two thirds of the work where all of an image is computed).
    cfg.MODEL.M3FUSION.PATCH_BORDER = "exact"
    # How both become classes: "linear" (the paper), "mlp" (a hidden layer), "deepfuse" (the block
    # of MODEL.DEEPFUSE); FUSION_DIM channels in the last two.
    cfg.MODEL.M3FUSION.FUSION = "linear"
    cfg.MODEL.M3FUSION.FUSION_DIM = 512
    # Weights of the losses of the series head and of the image head; 0 trains that head on nothing.
    cfg.MODEL.M3FUSION.AUXILIARY_WEIGHTS = [0.3, 0.3]
    # Probability, in [0, 1), to drop a value of the two features.
    cfg.MODEL.M3FUSION.DROPOUT = 0.4
    # Probability, in [0, 1], that a training sample lacks one source in front of the fusion.
    cfg.MODEL.M3FUSION.SOURCE_DROPOUT = 0.0
    # Labelled pixels of a batch that are learned from, drawn anew each time; 0 takes all. For
    # "patch" on the grid of the series, with "linear" or "mlp".
    cfg.MODEL.M3FUSION.TRAIN_PIXELS = 0

    # Samples of M3FusionSegmentor in training.
    own.INPUT.SERIES = CN()
    # Height and width of a crop in pixels of the series; [0, 0] takes scenes whole.
    own.INPUT.SERIES.CROP = [0, 0]
    # Turn and mirror crops at random, in eight ways.
    own.INPUT.SERIES.DIHEDRAL = True
    # Probability, in [0, 1), to leave out a date; one is always left.
    own.INPUT.SERIES.DROP_DATES = 0.0
