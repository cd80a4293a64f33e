"""Running a benchmark: draw missing pictures, score what is not scored, aggregate.

Every picture and every verdict is recorded as it comes, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from deepgen._version import __version__
from deepgen.checkpoints.file_hash import hash_file
from deepgen.evaluation.benchmark import Benchmark, DataFile, Item, Settings, with_standard_names
from deepgen.evaluation.drawing import draw
from deepgen.evaluation.image_folder import ImageFolder
from deepgen.evaluation.models import Model
from deepgen.evaluation.published import differences, reference_of
from deepgen.evaluation.run_config import EvaluationJob, RunConfig, Workers, workers
from deepgen.evaluation.scorers import Scorers
from deepgen.evaluation.scoring import add_up, score
from deepgen.evaluation.store import Lines, write_json
from deepgen.processes import require_one
from deepgen.progress import write_line

__all__ = ["RunConfig", "Workers", "make_manifest", "run", "select", "workers"]

_PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow", "rapidocr")


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
    """Draw, score and add up one benchmark; see `deepgen.evaluation.report` for what is written.

    Returns:
        What `result.json` holds, on the first process; None on the others, and where nothing was to be
        scored.

    Raises:
        FileNotFoundError, ValueError: official files are missing or altered, the folder holds a run of other
            settings, or too few pictures have a verdict.
    """
    if team is None:
        require_one("a benchmark run without a team", "pass team=workers(), which divides it")
        team = Workers()
    items = benchmark.items(config.data_dir, allow_altered=config.allow_altered)
    chosen = select(items, config.limit)
    if config.has_scoring and (lacking := benchmark.check_scoring(chosen)):
        raise ValueError("; ".join(lacking))
    folder = config.output_dir / benchmark.label
    # Whatever can be refused is refused before the folder belongs to this run.
    version = _scorer_version(benchmark, scorers, config) if config.has_scoring else ""
    taken = None
    if isinstance(model, ImageFolder):
        readable = [item for item in items if not item.fault]
        taken = model.match(benchmark, readable, settings.num_samples)
        if team.rank == 0:
            write_line(f"deepgen: {benchmark.label}: {taken.summary(chosen)}", to_stderr=True)
    manifest = make_manifest(benchmark, model, settings, config, team, len(items))
    if benchmark.source_file is not None:  # its prompts may change without a version of it
        manifest["source"] = f"{benchmark.source_file}:{benchmark.variant}"
        manifest["drawing"]["items"] = _items_hash(items)
    if team.rank == 0:
        _open_folder(folder, manifest)
    team.wait()
    job = EvaluationJob(
        benchmark=benchmark,
        settings=settings,
        config=config,
        team=team,
        folder=folder,
        chosen=chosen,
        taken=taken,
    )
    try:
        failures = draw(job, model)
    except BaseException:  # Ctrl-C as well: a folder without pictures belongs to no run
        if team.rank == 0 and not _has_pictures(folder):
            _leave_folder(folder)
        raise
    team.wait()
    if not config.has_scoring:
        return None
    score(job, scorers, failures, version)
    team.wait()
    if team.rank != 0:
        return None
    return add_up(job, _with_scoring(manifest, benchmark, scorers, version), scorers)


def _with_scoring(
    manifest: Mapping[str, Any], benchmark: Benchmark, scorers: Scorers, version: str
) -> dict[str, Any]:
    """The manifest with what scored the pictures, and what is known of published numbers beside it."""
    scored_by = {need: scorers.version(need) for need in benchmark.needs}
    whole = {**manifest, "scorer": version, "scored_by": scored_by}
    if scorers.judge is not None and "judge" in benchmark.needs:
        whole["prompts"] = scorers.judge.prompt_source(benchmark.name)
    if (reference := reference_of(benchmark.label)) is not None:
        whole["published"] = {
            "source": reference.source,
            "judge": reference.judge_in_words,
            "prompts": reference.prompts,
            "rewriting": {name: reference.rewriting(name) for name in reference.rows},
            "made_differently": differences(whole, reference),
        }
    return whole


def _scorer_version(benchmark: Benchmark, scorers: Scorers, config: RunConfig) -> str:
    """What verdicts are made with, and the files that only scoring reads."""
    version = benchmark.scorer_version(scorers)
    for path, digest in _hashes_of(benchmark, benchmark.scoring_files(), config.data_dir).items():
        version += f" {path} {digest[:12]}"
    if benchmark.source_file is not None:
        version += f" {benchmark.source_file.name} {hash_file(benchmark.source_file)[:12]}"
    return version


def _items_hash(items: Sequence[Item]) -> str:
    """SHA-256 of what is drawn, in hex."""
    return hashlib.sha256(json.dumps([[item.id, item.prompt] for item in items]).encode()).hexdigest()


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
        "settings": settings.recorded(),
        "seeds": config.seeds if model.is_seeded else "not ours",
        "data": data_hashes(benchmark, config.data_dir),
    }
    if config.seeds == "sequential":
        drawing["set_up"] = {
            "batch_size": config.batch_size,
            "processes": team.count,
            "limit": config.limit,
        }
    published = benchmark.settings.recorded()
    changed = {key: value for key, value in settings.recorded().items() if value != published[key]}
    return {
        "drawing": drawing,
        "published_settings": not changed or sorted(changed),
        "protocol": benchmark.protocol,
        "protocol_note": benchmark.notes.get(benchmark.protocol, "no difference between protocols is known"),
        "limit": config.limit,
        "drawn_prompts": _drawn_prompts(benchmark, drawing["data"]),
        "rewriting": getattr(model, "rewriting", "none: prompts are drawn as the benchmark has them"),
        "num_items": num_items,
        "processes": team.count,
        "versions": versions(),
    }


def _drawn_prompts(benchmark: Benchmark, hashes: Mapping[str, str]) -> str:
    """Whether the files that prompts are from are the official ones."""
    files = [file for file in benchmark.files() if file.path in hashes]
    altered = [file.path for file in files if file.sha256 not in (None, hashes[file.path])]
    if altered:
        return f"files that are not the official ones ({', '.join(altered)})"
    if not files or any(file.sha256 is None for file in files):
        return "files of which no official hash is known"
    return "official files"


def data_hashes(benchmark: Benchmark, data_dir: Path) -> dict[str, str]:
    """SHA-256 of the official files that are there."""
    return _hashes_of(benchmark, benchmark.files(), data_dir)


def _hashes_of(benchmark: Benchmark, files: Sequence[DataFile], data_dir: Path) -> dict[str, str]:
    found = {}
    for file in files:
        path = benchmark.locate(data_dir, file.path, *file.aliases)
        if path.is_file():
            found[file.path] = hash_file(path)
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
    if path.is_file() and _has_pictures(folder):
        before = with_standard_names(json.loads(path.read_text(encoding="utf-8"))["drawing"])
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


def _has_pictures(folder: Path) -> bool:
    """Whether a picture is on record: only then does a folder belong to a run."""
    return any(True for _ in Lines(folder, "pictures", 0))


def _leave_folder(folder: Path) -> None:
    """Take away what a run wrote that was refused before its first picture; folders only where empty."""
    for path in [folder / "manifest.json", *folder.glob("failures-*.jsonl")]:
        path.unlink(missing_ok=True)
    for empty in (folder, folder.parent):
        with suppress(OSError):  # it holds something, or another run made it
            empty.rmdir()
