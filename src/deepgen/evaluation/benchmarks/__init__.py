"""One file a benchmark: its prompts, its questions, how replies are read and how scores add up.

The file's name is the benchmark's.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepgen.evaluation.benchmark import Benchmark, Protocol


def benchmark_names() -> list[str]:
    """The benchmarks there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_benchmark(name: str, protocol: Protocol = "official") -> Benchmark:
    """A benchmark by `NAME` or `NAME:VARIANT`; ValueError for one there is not."""
    name, _, variant = name.partition(":")
    if name not in benchmark_names():
        raise ValueError(f"unknown benchmark {name!r}; known: {', '.join(benchmark_names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    return module.benchmark(variant=variant, protocol=protocol)
