"""The storybook world: scenes of emoji-like things and short words, and everything that is said about them.

What the embedded model is trained on and judged by. Nothing else in the package imports it.
"""
