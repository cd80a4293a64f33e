"""Rewards: what a picture is worth, for reinforcement learning. They know pictures and words, no model."""
