"""Stock detectron2's trainer beside ours, for benchmarks/training.py."""
