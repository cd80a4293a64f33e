"""One file a benchmark: its prompts, its questions, how replies are read and how scores add up.

The file's name is the benchmark's. Others come from packages, by the entry point group `deepgen.benchmarks`,
and from files of one's own, by their path.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from deepgen.registry import Registry
from deepgen.suggestions import suggestion_or_all

if TYPE_CHECKING:
    from deepgen.evaluation.benchmark import Benchmark, Protocol


def _adapted(name: str, found: Any, digest: str) -> SimpleNamespace:
    """The class an entry point names; ValueError for anything else."""
    from deepgen.evaluation.benchmark import Benchmark

    if not (isinstance(found, type) and issubclass(found, Benchmark)):
        raise ValueError(f"benchmark {name} is no subclass of deepgen.evaluation.benchmark.Benchmark")
    return SimpleNamespace(benchmark=found)


BENCHMARKS = Registry(
    "benchmark", __name__, __path__, {"storybook": "deepgen.tiny.evaluation.benchmark"}, adapt=_adapted
)


def benchmark_names() -> list[str]:
    """The benchmarks there are: of this package, and of others that are installed."""
    return BENCHMARKS.names()


def load_benchmark(name: str, protocol: Protocol = "official") -> Benchmark:
    """A benchmark by `NAME` or `NAME:VARIANT`, where NAME may be the path of a .py or .yaml file.

    Raises:
        FileNotFoundError, ValueError: there is none, or what is wrong with it.
    """
    from deepgen.evaluation.benchmark_file import load_benchmark_file, split_name

    if (place := split_name(name)) is not None:
        made = load_benchmark_file(*place, protocol)
        if problem := BENCHMARKS.clash(made.name, place[0]):
            raise ValueError(problem)
        return made
    name, _, variant = name.partition(":")
    if BENCHMARKS.problem(name):
        raise ValueError(
            f"unknown benchmark {name!r}{suggestion_or_all(name, benchmark_names())}; one of your own is "
            "named by its path, as my/signs.yaml"
        )
    return BENCHMARKS.load(name).benchmark(variant=variant, protocol=protocol)
