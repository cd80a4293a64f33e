"""Reinforcement learning on pictures: sample, score, improve. Its mathematics knows tensors, never a model."""
