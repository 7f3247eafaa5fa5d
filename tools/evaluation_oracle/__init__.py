"""The official Cityscapes script made to run, and cases to compare with it.

For tests and ``tools/benchmark_evaluation.py``; the package itself never runs the script.
"""
