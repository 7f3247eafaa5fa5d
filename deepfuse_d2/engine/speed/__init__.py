"""Threads, memory, precision, compilation and kernels of a training."""
