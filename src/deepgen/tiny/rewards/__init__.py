"""Rewards of the storybook world, read from pixels and exact."""
