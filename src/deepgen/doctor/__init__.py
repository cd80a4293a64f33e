"""`deepgen doctor`: what this machine is, whether its numbers are right, and what to report if they are not.

Nothing here imports PyTorch before a worker process asks for it: a PyTorch that is missing, broken or killed
by a driver is a finding, and the report about it is still printed.
"""
