"""Scoring of drawn pictures: a verdict for each item, recorded as it comes, and the aggregated table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.data.images import open_image
from deepgen.evaluation.benchmark import Benchmark, CannotDraw, Item, ItemScore
from deepgen.evaluation.run_config import EvaluationJob, chunked
from deepgen.evaluation.scorers import Scorers
from deepgen.evaluation.store import Images, Scores, write_json
from deepgen.progress import progress_bar
from deepgen.rewards.reward import RewardUnavailable


class TooFewVerdicts(ValueError):
    """Too few pictures have a verdict for a score."""


def score(job: EvaluationJob, scorers: Scorers, failures: Mapping[str, str], version: str) -> None:
    """Score this process's share.

    Args:
        job: whose pictures.
        scorers: those the benchmark needs.
        failures: why pictures are missing, by item.
        version: what verdicts are made with; those of another are not reused.
    """
    pictures, scores = Images(job.folder, job.team.rank), Scores(job.folder, job.team.rank)
    mine = [item for chunk in job.team.share(chunked(job.chosen, job.config.batch_size)) for item in chunk]

    def one(item: Item) -> tuple[ItemScore, list[str]] | None:
        records, hashes = _records(job, pictures, item)
        kept = scores.get(item.id, hashes, version)
        if kept is not None and kept.num_scored == kept.num_expected:
            return None
        reason = failures.get(item.id, "no picture")
        gaps = tuple(f"sample {sample}: {reason}" for sample, record in enumerate(records) if record is None)
        images = [_open(job.folder / record["path"]) for record in records if record is not None]
        made = _verdict(job.benchmark, item, images, scorers)
        return replace(made, num_expected=len(records), problems=(*gaps, *made.problems)), hashes

    width = scorers.judge.concurrency if "judge" in job.benchmark.needs and scorers.judge else 1
    bar = progress_bar(len(mine), f"{job.benchmark.label}: score", "items", is_shown=job.shows_progress)
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


def _verdict(benchmark: Benchmark, item: Item, images: Sequence[Image.Image], scorers: Scorers) -> ItemScore:
    """The benchmark's, or none where there is no picture or a service did not answer about it."""
    empty = ItemScore(
        item=item.id,
        category=item.category,
        value=None,
        rows=benchmark.failed_rows(item, len(images) or 1),
        num_scored=0,
    )
    if not images:
        return empty
    try:
        return benchmark.score(item, images, scorers)
    except (RewardUnavailable, CannotDraw) as error:  # the connection has been patient already
        return replace(empty, problems=(str(error),))
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ZeroDivisionError) as error:
        reason = f"its data do not fit the rule ({type(error).__name__}: {error})"  # rare data, not the run
        return replace(empty, problems=(reason,))


def open_questions(document: Mapping[str, Any]) -> str:
    """In words how many questions of a result have no answer; empty where all have one."""
    asked, answered = document.get("num_questions", 0), document.get("num_answered", 0)
    if answered >= asked:
        return ""
    return f"{answered} of {asked} questions answered; start the run again to ask the rest"


def add_up(job: EvaluationJob, manifest: Mapping[str, Any], scorers: Scorers) -> dict[str, Any]:
    """The table, or the reason there is none; written either way.

    Raises:
        TooFewVerdicts: too few pictures have a verdict.
    """
    benchmark, config = job.benchmark, job.config
    images, stored = Images(job.folder, 0), Scores(job.folder, 0)
    scores = [_stored(job, images, stored, item, manifest["scorer"]) for item in job.chosen]
    values = benchmark.item_values(scores, benchmark.protocol)
    scores = [replace(each, value=values[each.item]) for each in scores]
    expected = sum(each.num_expected for each in scores)
    judged = sum(each.num_scored for each in scores)
    least = benchmark.min_coverage if config.min_coverage is None else config.min_coverage
    coverage = judged / expected
    problems = [f"{each.item}: {problem}" for each in scores for problem in each.problems]
    is_refused = (coverage < least and not config.allow_partial) or not judged
    result: dict[str, Any] = {
        "manifest": dict(manifest),
        "benchmark": benchmark.label,
        "headline": benchmark.headline,
        "item_metric": benchmark.item_metric or benchmark.headline,
        "coverage": coverage,
        "num_expected": expected,
        "num_judged": judged,
        "num_questions": sum(each.num_questions for each in scores),
        "num_answered": sum(each.num_answered for each in scores),
        "is_partial": coverage < 1 or len(job.chosen) < manifest["num_items"],
        "table": {} if is_refused else benchmark.aggregate(scores, benchmark.protocol),
        "problems": problems,
        "strangers": images.unknown_files() if not _writes_more(benchmark) else [],
        "same_pictures": doubles(job, images),
        "items": [_item(job, images, *pair) for pair in zip(job.chosen, scores, strict=True)],
    }
    if scorers.judge is not None:
        result["judge"] = scorers.judge.bill()
    write_json(job.folder / "result.json", result)
    if is_refused:
        reasons = "; ".join(part for part in (open_questions(result), *problems[:3]) if part)
        raise TooFewVerdicts(
            f"{benchmark.label}: {judged} of {expected} pictures have a verdict ({coverage:.1%}, at "
            f"least {least:.1%} needed), so there is no score; first: {reasons}; all are in "
            f"{job.folder / 'result.json'}; start again to try those once more, or --allow-partial"
        )
    return result


def _stored(job: EvaluationJob, images: Images, stored: Scores, item: Item, scorer: str) -> ItemScore:
    _, hashes = _records(job, images, item)
    found = stored.get(item.id, hashes, scorer)
    if found is not None:
        return found
    return ItemScore(
        item=item.id,
        category=item.category,
        value=None,
        rows=job.benchmark.failed_rows(item, len(job.samples)),
        problems=("no verdict on these pictures",),
        num_expected=len(job.samples),
        num_scored=0,
    )


def _records(job: EvaluationJob, images: Images, item: Item) -> tuple[list[dict[str, Any] | None], list[str]]:
    """What is recorded of each sample, and the hashes, empty where nothing is."""
    records = [images.get(item.id, n) for n in job.samples]
    return records, ["" if record is None else str(record["sha256"]) for record in records]


def _item(job: EvaluationJob, images: Images, item: Item, verdict: ItemScore) -> dict[str, Any]:
    records, _ = _records(job, images, item)
    paths = [record["path"] for record in records if record is not None]
    return {**asdict(verdict), "prompt": item.prompt, "pictures": paths}


def doubles(job: EvaluationJob, images: Images) -> list[list[str]]:
    """Groups of pictures of different items or samples that are the same file."""
    groups: dict[str, list[str]] = defaultdict(list)
    for item in job.chosen:
        for record in _records(job, images, item)[0]:
            if record is not None:
                groups[record["sha256"]].append(record["path"])
    return [paths for paths in groups.values() if len(paths) > 1]


def _writes_more(benchmark: Benchmark) -> bool:
    return type(benchmark).finish is not Benchmark.finish


def _open(path: Path) -> Image.Image:
    return open_image(path)
