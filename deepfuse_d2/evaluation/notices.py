"""Saying aloud what makes the figures of an evaluation meaningless or surprising."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from .instance_ap import MIN_AREA, Outcomes
from .instance_matching import ImageMatches

__all__ = ["warn_of_class_names", "warn_of_instances", "warn_of_left_out", "warn_of_pixels"]

logger = logging.getLogger(__name__)


def warn_of_class_names(dataset: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Warn of classes of a data set that the ground truth does not know, and the reverse."""
    unknown = [name for name in given if name not in known]
    if unknown:
        logger.warning(
            "Classes %s of %s are unknown to the ground truth of Cityscapes (it knows %s): "
            "their predictions do not count.",
            unknown,
            dataset,
            list(known),
        )
    absent = [name for name in known if name not in given]
    if absent:
        logger.warning(
            "Classes %s of Cityscapes are not among the classes of %s: where the ground "
            "truth holds them, they count as missed.",
            absent,
            dataset,
        )


def warn_of_left_out(dataset: str, left_out: Sequence[str], evaluated: int) -> None:
    """Warn of images that were predicted but have no ground truth."""
    if left_out:
        logger.warning(
            "%d of the %d images of this run have no ground truth in %s and were left out, such as "
            "%s: the figures are those of the other %d. A test split cannot be evaluated here; "
            "elsewhere, check that the run and the evaluator have the same data set.",
            len(left_out),
            len(left_out) + evaluated,
            dataset,
            left_out[0],
            evaluated,
        )
    if not evaluated:
        logger.warning("No image of %s was evaluated: all figures are nan.", dataset)


def warn_of_instances(
    dataset: str, records: Sequence[ImageMatches], at_50: Sequence[Outcomes], undefined_scores: int
) -> None:
    """Warn of an instance evaluation that says little.

    Args:
        dataset: its name.
        records: one for each image.
        at_50: outcomes at overlap 0.5 for each class.
        undefined_scores: number of predictions whose score is nan.
    """
    if undefined_scores:
        logger.warning(
            "%d predictions on %s have a score that is not a number and were left out; "
            "the model may have diverged.",
            undefined_scores,
            dataset,
        )
    if not records:
        return
    if not any(outcome.targets for outcome in at_50):
        logger.warning(
            "The ground truth of the %d evaluated images of %s holds no instance of at least "
            "%d pixels: all figures are nan.",
            len(records),
            dataset,
            MIN_AREA,
        )
    if not any(outcome.predictions for outcome in at_50):
        logger.warning(
            "There is no prediction at all of an evaluated class on the %d images of %s: AP is "
            "0 where there is ground truth. Check the score threshold and the weights.",
            len(records),
            dataset,
        )
    elif not any(len(outcome.scores) for outcome in at_50):
        logger.warning(
            "Every prediction on %s is ignored: all lie on void, groups or instances under "
            "%d pixels.",
            dataset,
            MIN_AREA,
        )
    without = [record.image for record in records if not record.has_distances]
    if 0 < len(without) < len(records):
        logger.warning(
            "%d of the %d images of %s have no disparity, such as %s: their instances count as of "
            "unknown distance in AP100m and AP50m.",
            len(without),
            len(records),
            dataset,
            without[0],
        )


def warn_of_pixels(
    dataset: str, images: int, pairs: np.ndarray, names: Sequence[str], undefined: int
) -> None:
    """Warn of a semantic evaluation that says little.

    Args:
        dataset: its name.
        images: how many were evaluated.
        pairs: (C, C + 1) pixels by class and predicted class; the last column is no class.
        names: of the C classes.
        undefined: number of pixels whose best logit is not a number.
    """
    if undefined:
        logger.warning(
            "%d pixels predicted on %s have logits that are not numbers; the model may have "
            "diverged.",
            undefined,
            dataset,
        )
    if not images:
        return
    if not pairs.any():
        logger.warning(
            "Every pixel of the ground truth of the %d evaluated images of %s is ignored: all "
            "figures are nan. Check ignore_label and the label images.",
            images,
            dataset,
        )
        return
    predicted = np.flatnonzero(pairs.sum(axis=0))
    if predicted.tolist() == [len(names)]:
        logger.warning(
            "There is no prediction at all on the %d images of %s: every pixel has the ignore "
            "label. Check the weights and how the label maps were made.",
            images,
            dataset,
        )
    elif len(predicted) == 1 and np.count_nonzero(pairs.sum(axis=1)) > 1:
        logger.warning(
            'Every pixel of the %d images of %s is predicted as "%s"; the model may be untrained, '
            "or have diverged.",
            images,
            dataset,
            names[int(predicted[0])],
        )
