"""Optimizers, schedules, averages of weights, and how to find a learning rate."""
