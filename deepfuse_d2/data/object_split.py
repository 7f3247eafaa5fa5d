"""Train and test by object: all pixels of a field on one side.

Neighbouring pixels of one field are nearly the same. Split by pixel, a network is asked for what it
has learned by heart, and every score is too good.
"""

import numpy as np

__all__ = ["keep_objects", "train_objects"]


def train_objects(numbers: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """Which objects are for training.

    An object's side depends on its number and the seed alone, so windows and files that hold parts
    of one agree without knowing of each other.

    Args:
        numbers: of objects, integers of any shape.
        share: expected part of the objects, in (0, 1).

    Returns:
        bool, of the same shape.
    """
    # splitmix64: every bit of the number and the seed reaches every bit of the result
    with np.errstate(over="ignore"):
        x = numbers.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        x += np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return x.astype(np.float64) / 2.0**64 < share


def keep_objects(numbers: np.ndarray, split: str, share: float, seed: int = 0) -> np.ndarray:
    """Pixels of the objects of a split, "train" or "test"; those of no object (0) in neither."""
    is_train = train_objects(numbers, share, seed)
    return (numbers != 0) & (is_train if split == "train" else ~is_train)
