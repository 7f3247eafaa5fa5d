"""Keys of data sets, of their augmentation and of loading."""

from detectron2.config import CfgNode as CN

__all__ = ["add"]


def add(cfg: CN) -> None:
    own = cfg.DEEPFUSE_D2

    # Instances whose mask has fewer pixels, in the original image, are left out of training; 0
    # keeps all. The Cityscapes evaluation asks for instances of 100 pixels and more.
    own.INPUT.MIN_INSTANCE_AREA = 0
    # Make training samples of instances by our mapper where it does all that is asked: the same
    # samples as detectron2's, for a third of the time. False takes detectron2's.
    own.INPUT.FAST_MAPPER = True
    # Large-scale jitter, of instances and of labels of pixels: in place of MIN_SIZE_TRAIN and CROP,
    # an image is resized to fit SIZE (height, width) times a factor drawn from SCALE, and a part of
    # at most SIZE is cut out. Batches are padded by the model.
    own.INPUT.LARGE_SCALE_JITTER = CN()
    own.INPUT.LARGE_SCALE_JITTER.ENABLED = False
    own.INPUT.LARGE_SCALE_JITTER.SCALE = [0.1, 2.0]
    own.INPUT.LARGE_SCALE_JITTER.SIZE = [1024, 1024]
    # Augmentation of instances, with masks as bitmaps: degrees by which an image is turned to
    # either side, 0 to 180, ...
    own.INPUT.ROTATION = 0.0
    # ... the probability, 0 to 1, that some objects of another image are laid over one, ...
    own.INPUT.COPY_PASTE = 0.0
    # ... that an image is made of parts of four, which meet in a point and keep their scale, ...
    own.INPUT.MOSAIC = 0.0
    # ... and that a rectangle of 2 to 10 % of its area is blotted out, in the masks too.
    own.INPUT.CUTOUT = 0.0
    # Augmentation of images with labels of their pixels (FusionSemanticSegmentor). In this order:
    # resize, scale jitter, crop, INPUT.RANDOM_FLIP, colour jitter. INPUT.MIN_SIZE_TRAIN may be 0
    # here: the original size.
    # Range of the factor, drawn uniformly, by which the resized image is scaled, e.g. [0.5, 2.0].
    own.INPUT.SCALE_JITTER = [1.0, 1.0]
    # Largest share of one class among the labelled pixels of a crop, in (0, 1]; crops are drawn up
    # to ten times to find one. 1 is no limit.
    own.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # Share of the crops, in [0, 1], that are laid over a pixel of a class drawn from those in the
    # image, each with the same probability, however few pixels it has.
    own.INPUT.CROP.CLASS_BALANCED = 0.0
    # Brightness, contrast and saturation change by factors in 1 +- this number; in [0, 1). Of
    # images with instances too.
    own.INPUT.COLOR_JITTER = 0.0
    # Files of a data set that may turn out unreadable in a training, 0 or more. Each is named, and
    # another image takes its place; one more stops the training.
    own.DATALOADER.MAX_DAMAGED = 10
    # As often does a training, 0 or more, start new data-loader workers for some that died.
    own.DATALOADER.MAX_WORKER_DEATHS = 3

    # Own data sets by path, registered when the config is loaded: a list of mappings, by default
    # none. Keys NAME (for DATASETS.TRAIN and TEST), FORMAT and those of the format:
    #   coco                  JSON (file), IMAGES (folder); CLASSES, CROWDS_ARE_OBJECTS
    #   yolo                  DATA (data.yaml or its folder), SPLIT; CLASSES
    #   labelme               ROOT; CLASSES
    #   cvat                  XML, IMAGES; CLASSES
    #   voc_instances         ROOT, SPLIT; CLASSES
    #   roboflow_masks        ROOT
    #   part                  OF, PART ("train", "val"); RATIO, SEED, GROUP_BY
    #   cityscapes_instances  ROOT (folder of leftImg8bit and gtFine), SPLIT; HAS_LABELS (default:
    #   cityscapes_semantic     all but SPLIT "test"; False gives images only)
    #   label_images          IMAGES, LABELS (folders), CLASSES (names of ids 0, 1, ...);
    #                         IGNORE_LABEL (default 255), LABEL_SUFFIX (default ".png", ".tif")
    #   instance_label_images IMAGES, LABELS (one id an object); CLASSES (one name), LABEL_SUFFIX
    #   raster                IMAGE, SERIES (GeoTIFFs), LABELS, CLASSES, ...: a scene in windows;
    #                         docs/remote_sensing.md
    #   subset                OF (a registered data set), COUNT (images, spread evenly over it)
    # Relative paths start from the working directory. See datasets/README.md.
    cfg.DATASETS.EXTRA = []

    # What is kept because it takes long to make, and may be deleted at any time.
    cfg.CACHE = CN()
    # Its folder; "dataset" keeps what belongs to a data set in the folder of that data set; ""
    # takes the environment variable DEEPFUSE_CACHE, else deepfuse_d2 in $XDG_CACHE_HOME (~/.cache).
    cfg.CACHE.FOLDER = ""
