"""One file a benchmark: its prompts, its questions, how replies are read and how scores add up.

The file's name is the benchmark's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepgen.registry import Registry

if TYPE_CHECKING:
    from deepgen.evaluation.benchmark import Benchmark, Protocol

BENCHMARKS = Registry("benchmark", __name__, __path__, {"storybook": "deepgen.tiny.evaluation.benchmark"})


def benchmark_names() -> list[str]:
    """The benchmarks there are."""
    return BENCHMARKS.names()


def load_benchmark(name: str, protocol: Protocol = "official") -> Benchmark:
    """A benchmark by `NAME` or `NAME:VARIANT`; ValueError for one there is not."""
    name, _, variant = name.partition(":")
    return BENCHMARKS.load(name).benchmark(variant=variant, protocol=protocol)
