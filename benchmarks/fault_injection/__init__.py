"""Trainings that are made to go wrong, for benchmarks/fault_injection_trials.py."""
