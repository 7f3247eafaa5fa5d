"""One reading of annotations: every record normalised once, what is left out counted by reason."""
