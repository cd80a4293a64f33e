"""Reinforcement learning on pictures: sample, score, improve. Its mathematics knows no model."""
