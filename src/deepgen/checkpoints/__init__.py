"""Weights on disk: formats, reading, conversion, checks, base models, LoRA files, memory plans."""
