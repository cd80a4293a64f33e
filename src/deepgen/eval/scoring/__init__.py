"""The arithmetic of the benchmarks: what a reply says, whether a picture is right, how items become a number.

Pure functions of plain values, so that recorded cases run through them (`make parity-bench`). Where a
benchmark's own scorer has a known fault, `protocol` "official" repeats it and "fixed" does what was meant.
"""

from typing import Literal

Protocol = Literal["official", "fixed"]


def mean(values: list[float]) -> float:
    """Plain mean; ValueError for nothing, since an empty mean would be read as a score."""
    if not values:
        raise ValueError("the mean of no values is no score")
    return sum(values) / len(values)
