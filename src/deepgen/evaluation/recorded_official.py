"""Results that were recorded from official scorers, in the form of each recording, against the scoring code.

One function a benchmark reads its recording (`corebench.json`, `cvtg2k.json`, `risebench.json`,
`unigenbench.json`, `wise.json`) and yields a comparison for every recorded value. Replies of judges go
through the judge client and the benchmark's own rules. `deepgen.evaluation.official_differences` lists what
is different on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.evaluation.benchmark import Item
from deepgen.evaluation.benchmarks import corebench, cvtg2k, risebench, unigenbench, wise
from deepgen.evaluation.judge import JudgeConfig, PromptedJudge
from deepgen.evaluation.recorded_outcome import Outcome, difference
from deepgen.evaluation.scorers import Scorers
from deepgen.evaluation.text_files import read_json

_EXACT, _DIGITS_4 = 1e-9, 5.1e-5  # relative and absolute; the second for values recorded with four digits
_BLANK = Image.new("RGB", (8, 8))


class _Replies:
    """A connection that says what was recorded, one reply a call; the last again when there is no more."""

    def __init__(self) -> None:
        self.left: list[str | None] = []

    def post(self, path: str, payload: Mapping[str, Any]) -> Any:
        """The next reply; a call that failed is told as an empty one, which is asked again likewise."""
        text = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        return {
            "model": "recorded",
            "choices": [{"message": {"content": text or ""}, "finish_reason": "stop"}],
        }


def _judge() -> tuple[_Replies, Scorers]:
    replies = _Replies()
    config = JudgeConfig(url="http://recorded", model="recorded", replies="words")
    return replies, Scorers(judge=PromptedJudge(config, connection=replies))  # type: ignore[arg-type]


def _compare(case: str, expected: Any, got: Any, tolerance: float = _EXACT) -> Outcome:
    return Outcome(case=case, mismatch=difference(expected, got, tolerance))


def corebench_file(document: Mapping[str, Any], folder: Path) -> Iterator[Outcome]:
    """Every question with its retries, every picture, every dimension; and by the rule of the open judges."""
    replies, scorers = _judge()
    benchmark = corebench.CoReBench(protocol="fixed")
    ask = benchmark.asker(scorers)
    for case in document["cases"]:
        rows, name = [], f"corebench.json {case['id']}"
        texts = {key: row for task in case["data"].values() for key, row in task.items()}
        for picture, recorded in case["answers"].items():
            row = texts[picture.rsplit("-", 1)[0]]
            task = corebench.task_of(picture.rsplit("-", 1)[0])
            checklist = {"checklist": row["questions"]}
            item = Item(id=picture, category=task, prompt=row["Prompt"], metadata=checklist)
            answers = []
            for question, said in zip(benchmark.questions(item, _BLANK, ()), recorded, strict=True):
                replies.left = list(said)
                answers.append(ask(item, question)[0])
            score = corebench.image_score(answers)
            expected = case["expected"][task]["images"].get(picture)  # none where no question was graded
            yield _compare(f"{name} {picture} image_score", expected and expected["image_score"], score)
            if expected is not None:
                yield _compare(f"{name} {picture} scores", expected["scores"], answers)
            last = [said[-1] for said in recorded]
            open_judge = [None if text is None else corebench.parse(text, "official") for text in last]
            yield _compare(
                f"{name} {picture} qwen_path_scores", case["qwen_path_scores"][picture], open_judge
            )
            if score is not None:
                rows.append({"task": task, "score": score})
        table = corebench.aggregate(rows)
        for task, expected in case["expected"].items():
            yield _compare(f"{name} {task} mean_score", expected["mean_score"], table[task] / 100)
        tasks = {kind: [t for t in case["expected"] if t.startswith(kind)] for kind in ("C", "R", "")}
        for key, kind in (("composition", "C"), ("reasoning", "R"), ("all", "")):
            means = [table[task] / 100 for task in tasks[kind]]
            yield _compare(f"{name} overall {key}", case["overall"][key], sum(means) / len(means))


def cvtg2k_file(document: Mapping[str, Any], folder: Path) -> Iterator[Outcome]:
    """Single pictures, and the tables of many; prompts are in a folder `benchdata` above the recordings."""
    for index, case in enumerate(document["single"]):
        name = f"cvtg2k.json single[{index}]"
        targets = cvtg2k.target_words(case["prompt"])
        found = cvtg2k.read_words(case["ocr_lines"] or [])
        got = cvtg2k.match(targets, found)
        yield _compare(f"{name} words", case["gt_words"], targets)
        yield _compare(f"{name} total_words", case["total_words"], got["words"])
        yield _compare(f"{name} correct_words", case["correct_words"], got["right"])
        each = [cvtg2k.match([word], found)["likeness"] for word in targets]
        yield _compare(f"{name} word_similarity", case["word_similarity"], each)
    data = next(
        (p / "benchdata" / "cvtg2k" for p in folder.resolve().parents if (p / "benchdata").is_dir()), None
    )
    if data is None:
        yield Outcome(case="cvtg2k.json full", mismatch=f"no folder benchdata above {folder}")
        return
    prompts: dict[tuple[str, int], dict[int, str]] = {}
    for index, case in enumerate(document["full"]):
        rows = []
        for picture in case["images"]:
            key = (picture["benchmark"], picture["area"])
            if key not in prompts:
                listed = read_json(data / key[0] / f"{key[1]}.json")["data_list"]
                prompts[key] = {row["index"]: row["prompt"] for row in listed}
            targets = cvtg2k.target_words(prompts[key][picture["index"]])
            found = cvtg2k.read_words(picture["ocr_lines"] or [])
            rows.append({"set": key[0], "area": key[1], **cvtg2k.match(targets, found)})
        table = cvtg2k.aggregate(rows)
        groups = [("", case["expected"]["overall"])]
        groups += [(f" {row['benchmark_type']} area {row['area']}", row) for row in case["expected"]["areas"]]
        for suffix, expected in groups:
            chosen = [row for row in rows if f" {row['set']} area {row['area']}" == suffix or not suffix]
            got = {
                "word_accuracy": table[f"word_accuracy{suffix}"],
                "ned": table[f"ned{suffix}"],
                "total_images": len(chosen),
                "total_words": sum(row["words"] for row in chosen),
                "correct_words": sum(row["right"] for row in chosen),
            }
            for key, value in got.items():
                yield _compare(f"cvtg2k.json full[{index}]{suffix} {key}", expected[key], value)


_RISE_NAMES = {"Reasoning": "reasoning", "ApprConsistency": "consistency", "VisualPlausibility": "quality"}
_RISE_TABLE = {
    "Overall": "",
    "Temporal": " temporal_reasoning",
    "Causal": " causal_reasoning",
    "Spatial": " spatial_reasoning",
    "Logical": " logical_reasoning",
}
_RISE_MEANS = {
    "Reasoning": "reasoning",
    "Consistency": "consistency",
    "ApprConsistency": "consistency",
    "Quality": "quality",
    "VisualPlausibility_total": "quality",
}


def risebench_file(document: Mapping[str, Any], folder: Path) -> Iterator[Outcome]:
    """Replies, every sample, and every line of the summary, by the rule before and after 2026-04-13."""
    from deepgen.evaluation.judge_benchmark import parse_final_score

    for index, case in enumerate(document["extract"]):
        yield _compare(f"risebench.json extract[{index}]", case["expected"], parse_final_score(case["text"]))
    for case in document["cases"]:
        rows = {item["index"]: _rise_row(item, case["judge_texts"][item["index"]]) for item in case["items"]}
        table = risebench.aggregate(list(rows.values()), "official")
        drops = risebench.has_free(list(rows.values()))
        for rule, accuracy in (("current", "accuracy_new"), ("before_2026_04_13", "accuracy")):
            name = f"risebench.json {case['id']} {rule}"
            old_or_new = "new" if rule == "current" else "old"
            for line, expected in case["expected"][rule]["summary"].items():
                yield _compare(f"{name} {line}", expected, _rise_line(table, line, accuracy))
            for sample, expected in case["expected"][rule]["rows"].items():
                yield _compare(f"{name} {sample}", expected, _rise_sample(rows[sample], drops, old_or_new))


def _rise_row(item: Mapping[str, Any], said: Mapping[str, str | None]) -> dict[str, Any]:
    """The row of a sample, by the benchmark's own questions and rules."""
    benchmark = risebench.RISEBench(protocol="official")
    one = Item(id=item["index"], category=item["category"], prompt=item["instruction"], metadata=item)
    row: dict[str, Any] = {"consistency": None, **benchmark.failed_row(one)}
    keys = dict(zip(("consistency", "reasoning", "quality"), ("judge1", "judge2", "judge3"), strict=True))
    asked = [question.key for question in benchmark.questions(one, _BLANK, [_BLANK])]
    answers = {key: benchmark.read(one, key, said[keys[key]] or "") for key in asked}
    return row if None in answers.values() else {**row, **answers}


def _rise_line(table: Mapping[str, float], line: str, accuracy: str) -> list[float | None]:
    """[mean, percentage, accuracy] of a line of the official summary."""
    if line in _RISE_TABLE:
        suffix = _RISE_TABLE[line]
    elif "-" in line:
        suffix = f" subtask {line.split('-', 1)[1]}"
    else:
        group, key = line.split("_", 1)
        share = table.get(f"{_RISE_MEANS[key]}{_RISE_TABLE[group]}")
        return [None if share is None else 1 + share / 25, share, None]
    share = table.get(f"score{suffix}")
    return [None if share is None else 1 + share / 25, share, table[f"{accuracy}{suffix}"] / 100]


def _rise_sample(row: Mapping[str, Any], drops: bool, rule: str) -> dict[str, float | None]:
    is_judged = row.get("reasoning") is not None
    return {
        **{theirs: row.get(ours) if is_judged else None for theirs, ours in _RISE_NAMES.items()},
        "score": risebench.score_of(row, drops_consistency=drops) if is_judged else None,
        "complete": int(risebench.is_right(row, rule=rule)),
    }


def unigenbench_file(document: Mapping[str, Any], folder: Path) -> Iterator[Outcome]:
    """Replies and tables, by the official rule and by that of the evaluation while DeepGen's RL ran."""
    for index, case in enumerate(document["parse"]):
        name, count = f"unigenbench.json parse[{index}]", len(case["testpoints"])
        expected = case["expected_official"]
        bits = None if expected is None else [int(score == 1) for score in expected["score"]]
        yield _compare(f"{name} official", bits, unigenbench.parse(case["response"], count))
        if expected is not None:  # what stands in the tags, besides what it counts as
            said = {tag: unigenbench.tagged_list(case["response"], tag) for tag in ("analysis", "score")}
            yield _compare(f"{name} tags", expected, said)
        while_rl = case["expected_deepgen_rl"]
        got = unigenbench.parse_as_deepgen_rl(case["response"], count)
        yield _compare(f"{name} deepgen_rl success", while_rl["success"], got is not None)
        raw = unigenbench.tagged_list(case["response"], "score") if got is not None else [0] * count
        yield _compare(f"{name} deepgen_rl scores", while_rl["scores"], raw)
    for case in document["aggregate"]:
        name = f"unigenbench.json {case['id']}"
        read = [row for row in case["rows"] if row["scores"] is not None]
        table = unigenbench.aggregate(read)
        yield _compare(f"{name} overall", case["expected_overall_macro_percent"], table["overall"])
        for kind, groups in case["expected_official"].items():
            for group, expected in groups.items():
                share = table[f"{kind} {group}"] / 100
                yield _compare(f"{name} {kind} {group}", expected["accuracy"], share, _DIGITS_4)
                correct = share * expected["total"]
                yield _compare(f"{name} {kind} {group} correct", expected["correct"], correct)
        yield from _deepgen_rl(name, case)


def _deepgen_rl(name: str, case: Mapping[str, Any]) -> Iterator[Outcome]:
    expected, rows = case["expected_deepgen_rl"], case["rows"]
    table = unigenbench.aggregate_as_deepgen_rl(rows)
    points = sum(len(row["testpoints"]) for row in rows)
    read = [row for row in rows if row["scores"] is not None]
    got = {
        "overall_accuracy_micro": table["overall"] / 100,
        "total_correct": round(table["overall"] / 100 * points),
        "total_count": points,
        "success_rate": len(read) / len(rows),
    }
    for key, value in got.items():
        yield _compare(f"{name} deepgen_rl {key}", expected[key], value)
    for kind in ("primary", "sub"):
        for group, values in expected[kind].items():
            share = table[f"{kind} {group}"] / 100
            yield _compare(f"{name} deepgen_rl {kind} {group}", values["accuracy"], share)
            yield _compare(
                f"{name} deepgen_rl {kind} {group} correct", values["correct"], share * values["total"]
            )


def wise_file(document: Mapping[str, Any], folder: Path) -> Iterator[Outcome]:
    """Replies, categories and the weighted sum of both generations."""
    for index, case in enumerate(document["parse_legacy"]):
        grades = wise.parse_legacy(case["text"])
        name = f"wise.json parse_legacy[{index}]"
        yield _compare(f"{name} accepted", case["accepted"], grades is not None)
        found = wise.named_grades(case["text"])
        if grades is not None:
            found = dict(zip(wise.GRADES, grades, strict=True))
        yield _compare(name, case["expected"], {key.replace(" ", "_"): value for key, value in found.items()})
    for index, case in enumerate(document["parse_verified"]):
        bit = wise.parse_verified(case["text"])
        name = f"wise.json parse_verified[{index}]"
        yield _compare(f"{name} accepted", case["accepted"], bit is not None)
        yield _compare(name, case["expected"], {} if bit is None else {"score": bit})
    for case in document["legacy"]:
        grades = {i + 1: [int(digit) for digit in case["digits"][3 * i : 3 * i + 3]] for i in range(1000)}
        present = set(grades) - set(case["dropped_ids"])
        judged = present - set(case["realism_null_ids"])
        scores = {number: wise.wiscore(grades[number]) for number in judged}
        yield from _wise_table(case, scores, len(present), "legacy")
    for case in document["verified"]:
        bits = {i + 1: int(digit) for i, digit in enumerate(case["digits"])}
        scores = {number: float(bit) for number, bit in bits.items() if number not in case["score_2_ids"]}
        yield from _wise_table(case, scores, len(bits), "verified")


def _wise_table(
    case: Mapping[str, Any], scores: Mapping[int, float], num_present: int, generation: wise.Generation
) -> Iterator[Outcome]:
    table = wise.aggregate([{"prompt_id": n, "score": s} for n, s in scores.items()], generation)
    expected, name = case["expected"], f"wise.json {case['id']}"
    for category, value in expected["category_mean"].items():
        yield _compare(f"{name} {category}", value, table[category.lower()])
        count = sum(wise.category_of(number, generation) == category.lower() for number in scores)
        yield _compare(f"{name} {category} number", expected["category_n"][category], count)
    is_refused = num_present < wise.Wise.min_coverage * wise.NUM_PROMPTS
    yield _compare(f"{name} refused", expected["aborted_missing_ids"], is_refused)
    yield _compare(
        f"{name} overall", expected["overall"], None if is_refused else table["overall"], _DIGITS_4
    )


FILES: dict[str, Callable[[Mapping[str, Any], Path], Iterator[Outcome]]] = {
    "corebench.json": corebench_file,
    "cvtg2k.json": cvtg2k_file,
    "risebench.json": risebench_file,
    "unigenbench.json": unigenbench_file,
    "wise.json": wise_file,
}
