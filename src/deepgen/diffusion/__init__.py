"""The mathematics of flow matching: schedules, guidance, losses. Knows tensors and callables, never a
model.
"""
