"""Reinforcement learning on pictures: sample, score, improve. The mathematics is independent of the model."""
