"""Bottom-up networks: image -> {"res2": ..., "res5": ...}, in detectron2's BACKBONE_REGISTRY."""

__all__ = []
