"""Stock detectron2's trainer beside ours, for tools/benchmark_training.py."""
