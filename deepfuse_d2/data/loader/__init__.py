"""Batches of samples: which, in what order, and by which processes."""
