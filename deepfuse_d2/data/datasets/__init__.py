"""Data sets, one a file, and their registration with detectron2."""
