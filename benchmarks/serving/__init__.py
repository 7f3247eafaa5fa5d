"""The server under load, beside detectron2's predictor in an app of a few lines."""
