"""Bulk work on a Ray cluster: a file of prompts drawn, or a data cache filled, by many workers.

    pip install 'deepgen-image' 'ray[data]'
    python examples/ray_data.py draw prompts.jsonl pictures --model MODEL --workers 16 --gpus-per-worker 1
    python examples/ray_data.py cache mixture.yaml cache --model MODEL --workers 16 --gpus-per-worker 1

Files are read and written under the same paths on every machine, so both lie on a file system that all of
them share. The same command goes on where one was stopped: a picture that is there, whole and made as its
row says, is not drawn again, and a shard of a cache that is there is kept. A picture depends on its row, not
on the worker that draws it. The exit code is 1 where a row could not be drawn; its reason is printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import ray  # pyright: ignore[reportMissingImports]  # an extra
import ray.data  # pyright: ignore[reportMissingImports]


class Drawer:
    """A worker: holds the model, and draws the rows it is handed by their numbers in the file."""

    def __init__(self, prompts: str, folder: str, model: str, device: str) -> None:
        from deepgen.cli.loading import load_pipeline
        from deepgen.cli.options import ImageOptions
        from deepgen.cli.prompt_file import read_rows

        options: dict[str, Any] = {"model": model, "device": device}
        self.options, self.prompts, self.folder = ImageOptions(**options), Path(prompts), Path(folder)
        self.rows, _ = read_rows(self.prompts)
        self.pipe = load_pipeline(self.options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """What could not be drawn of the rows of these numbers."""
        from deepgen.cli.prompt_file import draw_rows

        rows = [self.rows[number] for number in batch["id"]]
        return {"problem": draw_rows(self.options, rows, self.folder, self.prompts, self.pipe)}


def draw(given: argparse.Namespace) -> list[str]:
    """Draw every picture of the file; what could not be drawn."""
    from deepgen.cli.prompt_file import read_rows

    rows, problems = read_rows(Path(given.source))  # the same on every worker
    given.folder.mkdir(parents=True, exist_ok=True)
    numbers = ray.data.range(len(rows), override_num_blocks=max(1, min(len(rows), 4 * given.workers)))
    drawn = numbers.map_batches(
        Drawer,
        fn_constructor_args=(given.source, str(given.folder), given.model, given.device),
        batch_size=given.rows_per_task,
        batch_format="numpy",
        **resources(given),
    )
    return [*problems, *(row["problem"] for row in drawn.iter_rows())]


class Encoder:
    """A worker: makes the missing ones among every so many-th shard of the cache."""

    def __init__(self, given: dict[str, Any]) -> None:
        names = ("model", "device", "shard_size")
        self.options = {"data": given["source"], "output": given["folder"], **{n: given[n] for n in names}}
        self.num_processes = given["workers"]

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Nothing: an error ends the run."""
        from deepgen.cli.data import CacheData

        for process in batch["id"]:
            share: dict[str, Any] = {"process": int(process), "num_processes": self.num_processes}
            CacheData(**self.options, **share, num_workers=0).run()
        return {"problem": []}


def fill(given: argparse.Namespace) -> list[str]:
    """Fill the cache."""
    shares = ray.data.range(given.workers, override_num_blocks=given.workers)
    made = shares.map_batches(
        Encoder,
        fn_constructor_args=(vars(given),),
        batch_size=1,
        batch_format="numpy",
        **resources(given),
    )
    return [row["problem"] for row in made.iter_rows()]


def resources(given: argparse.Namespace) -> dict[str, Any]:
    """What each worker is given, and how many there are."""
    return {
        "compute": ray.data.ActorPoolStrategy(size=given.workers),
        "num_gpus": given.gpus_per_worker,
        "num_cpus": 1,
    }


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("work", choices=["draw", "cache"])
    parser.add_argument("source", help="a prompt file, as of `deepgen generate --file`; or a mixture or data")
    parser.add_argument("folder", type=Path, help="where pictures or shards go")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1, help="models that are loaded")
    parser.add_argument("--gpus-per-worker", type=float, default=0)
    parser.add_argument("--rows-per-task", type=int, default=8, help="pictures a worker is handed at a time")
    parser.add_argument("--shard-size", type=int, default=256, help="rows of a file of the cache")
    given = parser.parse_args()
    if given.workers < 1 or given.rows_per_task < 1:
        parser.error("--workers and --rows-per-task must be at least 1")
    given.folder = given.folder.resolve()
    if Path(given.source).exists():  # otherwise a source by name, such as `storybook`
        given.source = str(Path(given.source).resolve())
    problems = draw(given) if given.work == "draw" else fill(given)
    for problem in problems:
        print(f"deepgen: not drawn: {problem}", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
