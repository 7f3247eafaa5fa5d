"""Proposals in the form of predicted instances."""

from detectron2.structures import Instances

__all__ = ["instances_of_proposals"]


def instances_of_proposals(proposals: Instances) -> Instances:
    """What a ProposalNetwork finds as instances of one class, 0, with scores in 0..1.

    Args:
        proposals: with "proposal_boxes" and "objectness_logits", best first.
    """
    logits = proposals.objectness_logits
    return Instances(
        proposals.image_size,
        pred_boxes=proposals.proposal_boxes,
        scores=logits.sigmoid(),
        pred_classes=logits.new_zeros(len(proposals)).long(),
    )
