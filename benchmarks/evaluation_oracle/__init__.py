"""The official Cityscapes script made to run, and cases to compare with it.

For tests and ``python -m benchmarks.evaluation``; the package itself never runs the script.
"""
