"""Trainings that are made to go wrong, for tools/try_faults.py."""
