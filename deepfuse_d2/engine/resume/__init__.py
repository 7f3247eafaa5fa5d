"""A training that goes on, after an interruption, as if there had been none."""
