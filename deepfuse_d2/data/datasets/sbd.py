"""Label files of the Semantic Boundaries Dataset (SBD), which come as MATLAB's .mat.

Hariharan, Arbelaez, Bourdev, Maji, Malik: "Semantic Contours from Inverse Detectors", ICCV 2011.
"""

import numpy as np

from ...errors import DatasetError

__all__ = ["read_sbd"]


def read_sbd(path: str) -> np.ndarray:
    """Read the (H, W) uint8 class ids 0..20 of a file of SBD's `cls` folder.

    SciPy's reader executes nothing of such a file.

    Raises:
        DatasetError: SciPy is not installed; the file is missing, damaged, or another .mat file.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DatasetError(
            f"{path} needs SciPy to be read; install it by `pip install 'deepfuse-d2[voc]'`, or "
            "`pip install scipy`."
        ) from error
    try:
        labels = loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0]
        if labels.ndim != 2 or labels.dtype != np.uint8:
            raise TypeError(f"Segmentation is {labels.dtype} of shape {labels.shape}")
    except FileNotFoundError as error:
        raise DatasetError(f"Label file {path} is missing.") from error
    except Exception as error:  # a damaged file gets SciPy to raise almost anything
        raise DatasetError(
            f"{path} is damaged, or no label file of SBD's folder cls ({error!r}). Unpack "
            "benchmark.tgz again."
        ) from error
    return labels
