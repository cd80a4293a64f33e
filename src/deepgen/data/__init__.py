"""Images and examples: how files become tensors."""
