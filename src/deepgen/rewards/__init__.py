"""Rewards for reinforcement learning: scores of pictures and texts. They know no model."""
