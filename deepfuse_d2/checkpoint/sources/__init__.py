"""Public weights, one source a file: how they are recognised and renamed."""
