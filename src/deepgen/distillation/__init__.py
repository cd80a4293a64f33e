"""Distillation of guidance and steps into a few: `stage.py` is the algorithm, beside it its mathematics."""
