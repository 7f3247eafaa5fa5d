"""For maintainers: timings, parity with official scripts, fault injection, baselines, model cards.

Each command runs from the root of a checkout, as ``python -m benchmarks.<name>``.
"""
