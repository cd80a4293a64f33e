"""The rewards there are: one file each, and the file's name is the reward's name.

Such a file defines `options`, a frozen dataclass of what may be set, and `reward`, a class that is made from
those options (rewards/reward.py says what it has to be).
"""
