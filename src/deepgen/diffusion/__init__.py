"""The mathematics of flow matching: schedules, guidance, stochastic steps, losses. Knows tensors and
callables, never a model.
"""
