"""Sampling of latents: schedules, guidance, the guided velocity of the DiT, ODE and stochastic steps.

`velocity.py` is the one place that calls the DiT for drawing and `ode.py` the one that steps; the pipeline,
the server and the rollouts of reinforcement learning use both. The rest is mathematics that knows tensors and
callables and never a model.
"""
