"""One file a benchmark: its prompts, its questions, how replies are read and how scores add up.

The file's name is the benchmark's. Others come from packages, by the entry point group `deepgen_benchmarks`,
and from files of one's own, by their path.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from deepgen.registry import Registry
from deepgen.suggestions import suggestion_or_all

if TYPE_CHECKING:
    from deepgen.evaluation.benchmark import Benchmark, Protocol

logger = logging.getLogger(__name__)
BENCHMARKS = Registry("benchmark", __name__, __path__, {"storybook": "deepgen.tiny.evaluation.benchmark"})
ENTRY_POINTS = "deepgen_benchmarks"


def benchmark_names() -> list[str]:
    """The benchmarks there are: of this package, and of others that are installed."""
    return sorted([*BENCHMARKS.names(), *_of_packages()])


def load_benchmark(name: str, protocol: Protocol = "official") -> Benchmark:
    """A benchmark by `NAME` or `NAME:VARIANT`, where NAME may be the path of a .py or .yaml file.

    Raises:
        FileNotFoundError, ValueError: there is none, or what is wrong with it.
    """
    from deepgen.evaluation.benchmark_file import load_benchmark_file, split_name

    if (place := split_name(name)) is not None:
        return load_benchmark_file(*place, protocol)
    name, _, variant = name.partition(":")
    if name in BENCHMARKS.names():
        return BENCHMARKS.load(name).benchmark(variant=variant, protocol=protocol)
    packaged = _of_packages()
    if name not in packaged:
        raise ValueError(
            f"unknown benchmark {name!r}{suggestion_or_all(name, benchmark_names())}; one of your own is "
            "named by its path, as my/signs.yaml"
        )
    return _load_entry_point(packaged[name])(variant=variant, protocol=protocol)


@lru_cache(maxsize=1)
def _of_packages() -> dict[str, metadata.EntryPoint]:
    """Entry points of installed packages by name; one that is named as ours is left out, and that is said."""
    found = {}
    for point in metadata.entry_points(group=ENTRY_POINTS):
        if point.name in BENCHMARKS.names():
            logger.warning("%s offers a benchmark %s, which deepgen has itself", point.value, point.name)
        else:
            found[point.name] = point
    return found


def _load_entry_point(point: metadata.EntryPoint) -> Any:
    """The class an entry point names; ValueError for anything else."""
    from deepgen.evaluation.benchmark import Benchmark

    try:
        made = point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"benchmark {point.name} of {point.value} cannot be loaded: {error}") from error
    if not (isinstance(made, type) and issubclass(made, Benchmark)):
        raise ValueError(f"benchmark {point.name}: {point.value} is no subclass of Benchmark")
    return made
