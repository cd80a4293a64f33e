"""One file per command: what it is asked (a dataclass), and what it then does (`run`).

Libraries that take seconds to import are imported inside `run`, so that `deepgen --help` stays quick.
"""
