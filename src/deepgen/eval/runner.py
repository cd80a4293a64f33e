"""A benchmark from prompts to a table: draw what is missing, score what is not scored, add up.

Items are cut into fixed chunks; process r of n takes every n-th, so a picture is drawn in the same chunk
with its own seed however many processes there are. Every picture and every verdict is recorded as it comes,
so a run that was killed goes on where it was.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from tqdm import tqdm

from deepgen._version import __version__
from deepgen.data.png import save_png
from deepgen.eval.benchmark import Benchmark, DataFile, Item, ItemScore, Settings, file_hash
from deepgen.eval.models import CannotDraw, ImageFolder, Model
from deepgen.eval.scorers import Scorers
from deepgen.eval.seeds import Mode, seed_of
from deepgen.eval.store import Lines, Pictures, Scores, write_json

_MOST_FAILURES = 8  # items in a row that cannot be drawn before the run stops
_PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow", "rapidocr")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How benchmarks are run.

    Attributes:
        output_dir: one folder for each benchmark is made in it.
        data_dir: official files, one folder for each benchmark.
        batch_size: items in a call of the model.
        seeds: see `deepgen.eval.seeds`.
        limit: items, spread over the categories; None is all.
        min_coverage: share of pictures with a verdict, instead of the benchmark's own.
        allow_partial: give scores below that, marked as partial.
        allow_altered: read official files that are not the official ones.
        has_scoring: score as well as draw.
    """

    output_dir: Path
    data_dir: Path
    batch_size: int = 4
    seeds: Mode = "each"
    limit: int | None = None
    min_coverage: float | None = None
    allow_partial: bool = False
    allow_altered: bool = False
    has_scoring: bool = True

    def __post_init__(self) -> None:
        """Refuse runs of nothing."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")
        if self.seeds not in ("each", "sequential"):
            raise ValueError(f"unknown seeds {self.seeds!r}; known: each, sequential")


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many processes there are, which one this is, and what waits for all of them."""

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None

    def share(self, chunks: Sequence[T]) -> list[T]:
        """The chunks of this process."""
        return list(chunks[self.rank :: self.count])


def workers() -> Workers:
    """Those that `accelerate launch` or `torchrun` started; one otherwise."""
    from accelerate import PartialState

    state = PartialState(timeout=timedelta(days=2))  # scoring of one share may take much longer than another
    return Workers(rank=state.process_index, count=state.num_processes, wait=state.wait_for_everyone)


def select(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` items in their order: of every category its share, at least one where there is room.

    Within a category those whose hashed names come first are taken, so a slice does not follow the file's
    order.
    """
    if limit is None or limit >= len(items):
        return list(items)
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.category].append(item)
    quotas = {name: limit * len(group) / len(items) for name, group in groups.items()}
    taken = {name: int(quota) for name, quota in quotas.items()}
    if limit >= len(groups):
        taken = {name: max(1, number) for name, number in taken.items()}
    while sum(taken.values()) < limit:
        name = max(groups, key=lambda each: (quotas[each] - taken[each], each))
        taken[name] += 1
    while sum(taken.values()) > limit:
        name = max(groups, key=lambda each: (taken[each] > 1, taken[each] - quotas[each], each))
        taken[name] -= 1
    chosen = {
        item.id
        for name, group in groups.items()
        for item in sorted(group, key=lambda each: hashlib.sha256(each.id.encode()).digest())[: taken[name]]
    }
    return [item for item in items if item.id in chosen]


def run(
    benchmark: Benchmark,
    model: Model,
    settings: Settings,
    config: RunConfig,
    scorers: Scorers,
    team: Workers | None = None,
) -> dict[str, Any] | None:
    """Draw, score and add up one benchmark; see `deepgen.eval.report` for what is written.

    Returns:
        What `result.json` holds, on the first process; None on the others, and where nothing was to be
        scored.

    Raises:
        FileNotFoundError, ValueError: official files are missing or altered, the folder holds a run of other
            settings, or too few pictures have a verdict.
    """
    team = team or Workers()
    items = benchmark.items(config.data_dir, allow_altered=config.allow_altered)
    chosen = select(items, config.limit)
    if config.has_scoring and (lacking := benchmark.check_scoring(chosen)):
        raise ValueError("; ".join(lacking))
    folder = config.output_dir / benchmark.label
    manifest = make_manifest(benchmark, model, settings, config, team, len(items))
    if team.rank == 0:
        _open_folder(folder, manifest)
    team.wait()
    failures = _draw(benchmark, model, settings, config, team, folder, chosen)
    team.wait()
    if not config.has_scoring:
        return None
    version = benchmark.scorer_version(scorers)
    for path, digest in _hashes_of(benchmark, benchmark.scoring_files(), config.data_dir).items():
        version += f" {path} {digest[:12]}"
    _score(benchmark, settings, config, scorers, team, folder, chosen, failures, version)
    team.wait()
    if team.rank != 0:
        return None
    return _add_up(benchmark, {**manifest, "scorer": version}, settings, config, folder, chosen, scorers)


# --- the folder ---------------------------------------------------------------------------------------------


def make_manifest(
    benchmark: Benchmark,
    model: Model,
    settings: Settings,
    config: RunConfig,
    team: Workers,
    num_items: int,
) -> dict[str, Any]:
    """How the numbers were made. `drawing` decides the pictures, and a folder has one of it."""
    drawing: dict[str, Any] = {
        "benchmark": benchmark.label,
        "version": benchmark.version,
        "model": model.name,
        "fingerprint": model.fingerprint,
        "settings": asdict(settings),
        "seeds": config.seeds if model.is_seeded else "not ours",
        "data": data_hashes(benchmark, config.data_dir),
    }
    if config.seeds == "sequential":
        drawing["set_up"] = {
            "batch_size": config.batch_size,
            "processes": team.count,
            "limit": config.limit,
        }
    published = asdict(benchmark.settings)
    changed = {key: value for key, value in asdict(settings).items() if value != published[key]}
    return {
        "drawing": drawing,
        "published_settings": not changed or sorted(changed),
        "protocol": benchmark.protocol,
        "protocol_note": benchmark.notes.get(benchmark.protocol, "no difference between protocols is known"),
        "limit": config.limit,
        "num_items": num_items,
        "processes": team.count,
        "versions": versions(),
    }


def data_hashes(benchmark: Benchmark, data_dir: Path) -> dict[str, str]:
    """SHA-256 of the official files that are there."""
    return _hashes_of(benchmark, benchmark.files(), data_dir)


def _hashes_of(benchmark: Benchmark, files: Sequence[DataFile], data_dir: Path) -> dict[str, str]:
    found = {}
    for file in files:
        path = benchmark.locate(data_dir, file.path, *file.aliases)
        if path.is_file():
            found[file.path] = file_hash(path)
    return found


def versions() -> dict[str, str]:
    """Of this package, Python and what numbers depend on."""
    found = {"deepgen": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _open_folder(folder: Path, manifest: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.json"
    wanted = json.loads(json.dumps(manifest["drawing"]))
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))["drawing"]
        different = [key for key in {**before, **wanted} if before.get(key) != wanted.get(key)]
        if different:
            key = different[0]
            raise ValueError(
                f"{folder} holds pictures of another run: {', '.join(different)} differ "
                f"({key}: {before.get(key)} there, {wanted.get(key)} now); choose another --output"
            )
    for part in folder.rglob(".*.part"):
        part.unlink()  # what a kill left half-written
    write_json(path, manifest)


# --- drawing ------------------------------------------------------------------------------------------------


def _draw(
    benchmark: Benchmark,
    model: Model,
    settings: Settings,
    config: RunConfig,
    team: Workers,
    folder: Path,
    chosen: Sequence[Item],
) -> dict[str, str]:
    """Draw what this process has to; returns reasons by item where there is no picture."""
    pictures = Pictures(folder, team.rank)
    for problem in pictures.problems:
        tqdm.write(f"deepgen: {benchmark.label}: {problem}; drawn again")
    finished = Lines(folder, "finished", team.rank)
    done = {row["item"] for row in finished}
    size = config.batch_size if model.is_batched else 1
    chunks = team.share(chunked(chosen, size))
    sequence = _Sequence(folder, team.rank, settings.seed) if config.seeds == "sequential" else None
    failures: dict[str, str] = {}
    in_a_row = 0
    mine = [item for chunk in chunks for item in chunk]
    total = len(mine) * settings.num_samples
    there = sum((item.id, n) in pictures for item in mine for n in range(settings.num_samples))
    bar = tqdm(
        total=total, initial=there, desc=f"{benchmark.label}: draw", unit="picture", disable=_hidden(team)
    )
    for index, chunk in enumerate(chunks):
        jobs = [(item, n) for n in range(settings.num_samples) for item in chunk]
        missing = [job for job in jobs if (job[0].id, job[1]) not in pictures]
        if sequence is not None:
            if index < sequence.next and missing:
                raise ValueError(
                    f"{folder}: {missing[0][0].id} is missing from the middle of a sequence, and only the "
                    "whole sequence can be drawn again; choose another --output"
                )
            missing = jobs if index >= sequence.next else []
        if not missing:
            continue
        seeds = [seed_of(settings.seed, benchmark.label, item.id, n) for item, n in missing]
        try:
            images = _pictures_of(benchmark, model, missing, seeds, settings, sequence)
        except CannotDraw as error:
            failures.update({item.id: str(error) for item, _ in missing})
            in_a_row += 1
            if in_a_row == _MOST_FAILURES and not isinstance(model, ImageFolder):
                raise ValueError(
                    f"{_MOST_FAILURES} items in a row could not be drawn, the last because: {error}; start "
                    "the same command again to go on"
                ) from error
            bar.update(len(missing))
            continue
        in_a_row = 0
        for (item, sample), image, seed in zip(missing, images, seeds, strict=True):
            path = benchmark.picture_path(item, sample)
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            save_png(image, folder / path)
            pictures.add(item.id, sample, path, seed=seed if sequence is None else None, size=image.size)
        if sequence is not None:
            sequence.advance(index + 1)
        bar.update(len(missing))
    bar.close()
    for item in mine:
        records = [pictures.get(item.id, n) for n in range(settings.num_samples)]
        if item.id not in done and all(records):
            benchmark.finish(folder, item, [folder / record["path"] for record in records if record])
            finished.append({"item": item.id})
    if isinstance(model, ImageFolder) and failures:
        tqdm.write(f"deepgen: {benchmark.label}: {len(failures)} items have gaps, such as {min(failures)}")
    for name, reason in failures.items():
        Lines(folder, "failures", team.rank).append({"item": name, "reason": reason})
    return failures


def _pictures_of(
    benchmark: Benchmark,
    model: Model,
    jobs: Sequence[tuple[Item, int]],
    seeds: Sequence[int],
    settings: Settings,
    sequence: _Sequence | None,
) -> list[Image.Image]:
    if isinstance(model, ImageFolder):
        return [model.take(benchmark.label, benchmark.picture_path(item, n)) for item, n in jobs]
    generator = None if sequence is None else sequence.generator
    images = model.draw([item for item, _ in jobs], seeds, settings, generator)
    if len(images) != len(jobs):
        raise ValueError(f"{model.name} drew {len(images)} pictures where {len(jobs)} were asked for")
    return images


class _Sequence:
    """One generator for all pictures of a process, and where it stood after the last whole chunk."""

    def __init__(self, folder: Path, rank: int, seed: int) -> None:
        import torch

        self._path = folder / f"sequence-{rank}.json"
        self.generator = torch.Generator().manual_seed(seed)
        self.next = 0
        if self._path.is_file():
            saved = json.loads(self._path.read_text())
            self.next = saved["next"]
            state = bytearray(base64.b64decode(saved["state"]))
            self.generator.set_state(torch.frombuffer(state, dtype=torch.uint8))

    def advance(self, index: int) -> None:
        """All chunks before `index` are recorded."""
        self.next = index
        state = base64.b64encode(self.generator.get_state().numpy().tobytes()).decode()
        write_json(self._path, {"next": index, "state": state})


# --- scoring ------------------------------------------------------------------------------------------------


def _score(
    benchmark: Benchmark,
    settings: Settings,
    config: RunConfig,
    scorers: Scorers,
    team: Workers,
    folder: Path,
    chosen: Sequence[Item],
    failures: Mapping[str, str],
    version: str,
) -> None:
    """Score this process's share."""
    pictures, scores = Pictures(folder, team.rank), Scores(folder, team.rank)
    mine = [item for chunk in team.share(chunked(chosen, config.batch_size)) for item in chunk]

    def one(item: Item) -> tuple[ItemScore, list[str]] | None:
        records = [pictures.get(item.id, n) for n in range(settings.num_samples)]
        hashes = ["" if record is None else str(record["sha256"]) for record in records]
        kept = scores.get(item.id, hashes, version)
        if kept is not None and kept.num_scored == kept.num_expected:
            return None
        reason = failures.get(item.id, "no picture")
        gaps = tuple(f"sample {sample}: {reason}" for sample, record in enumerate(records) if record is None)
        images = [_open(folder / record["path"]) for record in records if record is not None]
        empty = ItemScore(item=item.id, category=item.category, value=None, num_scored=0)
        score = benchmark.score(item, images, scorers) if images else empty
        score = replace(score, num_expected=len(records), problems=(*gaps, *score.problems))
        return score, hashes

    width = scorers.judge.config.concurrency if "judge" in benchmark.needs and scorers.judge else 1
    bar = tqdm(total=len(mine), desc=f"{benchmark.label}: score", unit="item", disable=_hidden(team))
    with ThreadPoolExecutor(width) as pool:
        try:
            for made in pool.map(one, mine):
                if made is not None:
                    scores.add(*made, version)
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what is not begun is not asked for
            raise
    bar.close()


def _add_up(
    benchmark: Benchmark,
    manifest: Mapping[str, Any],
    settings: Settings,
    config: RunConfig,
    folder: Path,
    chosen: Sequence[Item],
    scorers: Scorers,
) -> dict[str, Any]:
    """The table, or the reason there is none; written either way."""
    pictures, stored = Pictures(folder, 0), Scores(folder, 0)
    scores = []
    for item in chosen:
        records = [pictures.get(item.id, n) for n in range(settings.num_samples)]
        hashes = ["" if record is None else str(record["sha256"]) for record in records]
        score = stored.get(item.id, hashes, manifest["scorer"])
        if score is None:
            score = ItemScore(
                item=item.id,
                category=item.category,
                value=None,
                problems=("no verdict on these pictures",),
                num_expected=settings.num_samples,
                num_scored=0,
            )
        scores.append(score)
    expected = sum(score.num_expected for score in scores)
    judged = sum(score.num_scored for score in scores)
    least = benchmark.min_coverage if config.min_coverage is None else config.min_coverage
    coverage = judged / expected
    problems = [f"{score.item}: {problem}" for score in scores for problem in score.problems]
    is_refused = (coverage < least and not config.allow_partial) or not judged
    result: dict[str, Any] = {
        "manifest": dict(manifest),
        "benchmark": benchmark.label,
        "headline": benchmark.headline,
        "coverage": coverage,
        "num_expected": expected,
        "num_judged": judged,
        "is_partial": coverage < 1 or len(chosen) < manifest["num_items"],
        "table": {} if is_refused else benchmark.aggregate(scores, benchmark.protocol),
        "problems": problems,
        "strangers": pictures.strangers() if not _writes_more(benchmark) else [],
        "same_pictures": doubles(pictures, chosen, settings),
        "items": [
            {
                **asdict(score),
                "prompt": item.prompt,
                "pictures": [
                    record["path"]
                    for n in range(settings.num_samples)
                    if (record := pictures.get(item.id, n)) is not None
                ],
            }
            for item, score in zip(chosen, scores, strict=True)
        ],
    }
    if scorers.judge is not None:
        result["judge"] = {**asdict(scorers.judge.usage), "cost": scorers.judge.cost()}
    write_json(folder / "result.json", result)
    if is_refused:
        raise ValueError(
            f"{benchmark.label}: {judged} of {expected} pictures have a verdict ({coverage:.1%}, at "
            f"least {least:.1%} needed), so there is no score; first: {'; '.join(problems[:3])}; all are in "
            f"{folder / 'result.json'}; start again to try those once more, or --allow-partial"
        )
    return result


def doubles(pictures: Pictures, chosen: Sequence[Item], settings: Settings) -> list[list[str]]:
    """Groups of pictures of different items or samples that are the same file."""
    groups: dict[str, list[str]] = defaultdict(list)
    for item in chosen:
        for sample in range(settings.num_samples):
            record = pictures.get(item.id, sample)
            if record is not None:
                groups[record["sha256"]].append(record["path"])
    return [paths for paths in groups.values() if len(paths) > 1]


def chunked(items: Sequence[T], size: int) -> list[list[T]]:
    """Consecutive runs of at most `size`."""
    return [list(items[first : first + size]) for first in range(0, len(items), size)]


def _writes_more(benchmark: Benchmark) -> bool:
    return type(benchmark).finish is not Benchmark.finish


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _hidden(team: Workers) -> bool | None:
    """Bars belong to the first process, and to a terminal."""
    return None if team.rank == 0 else True


def category_counts(items: Iterable[Item]) -> Counter[str]:
    """How many items each category has."""
    return Counter(item.category for item in items)
