"""Figures in the documentation are those of the recorded runs."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from deepgen.evaluation.benchmarks.shapes import EDIT_KINDS, GENERATION_KINDS

ROOT = Path(__file__).parents[1]


def recorded(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text())


ROWS_OF_RL = {
    "relation": "relation (trained)",
    "edit move": "edit move (trained)",
    "single": "one object",
    "two": "two objects",
    "all": "all properties at once",
}
KINDS = (*GENERATION_KINDS, *(f"edit {kind}" for kind in EDIT_KINDS))


def of_seeds(result: dict, way: str, kind: str) -> list[float]:
    return [change(result, f"ours-{seed}", way, kind) for seed in range(3)]


def costs(result: dict) -> dict[str, float]:
    """DiT passes of each run."""
    return {
        name: result[name]["passes_per_rollout"] * result[name]["rollouts"] for name in result if "-" in name
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_of_reinforcement_learning_is_that_of_the_recorded_runs(kind: str) -> None:
    result, part = recorded("tiny_rl_2026-11-27.json"), recorded("tiny_rl_strength_2026-11-28.json")
    assert part["before"]["by default"] == result["before"]["by default"]
    cells = [ROWS_OF_RL.get(kind, kind)]
    for way in ("as trained", "by default"):
        ours = of_seeds(result, way, kind)
        cells += [f"{100 * result['before'][way][kind]:.1f}", f"{statistics.mean(ours):+.1f}"]
    kept = of_seeds(part, "by default", kind)
    cells += [f"{statistics.mean(kept):+.1f}", f"{min(kept):+.1f} to {max(kept):+.1f}"]
    cells += [f"{change(result, f'{run}-0', 'by default', kind):+.1f}" for run in ("supervised", "upstream")]
    assert f"| {' | '.join(cells)} |" in PAGE_OF_RL


def test_rewards_teach_both_weak_abilities() -> None:
    result = recorded("tiny_rl_2026-11-27.json")
    for way in ("as trained", "by default"):
        assert min(statistics.mean(of_seeds(result, way, kind)) for kind in ("relation", "edit move")) >= 10


def test_part_of_what_was_learnt_passes_the_gate_and_keeps_the_rest() -> None:
    result = recorded("tiny_rl_strength_2026-11-28.json")
    changes = {kind: statistics.mean(of_seeds(result, "by default", kind)) for kind in KINDS}
    trained = {kind: changes.pop(kind) for kind in ("relation", "edit move")}
    assert min(trained.values()) >= 10
    assert min(changes.values()) > -1  # the gate asks for 2
    assert "relations rise by {:+.1f}, moves by {:+.1f}".format(*trained.values()) in PAGE_OF_RL
    counting = of_seeds(result, "by default", "counting")
    assert (
        f"counting changes by {changes['counting']:+.1f} ({min(counting):+.1f} to {max(counting):+.1f}), "
        f"recoloring by {changes['edit recolor']:+.1f}" in PAGE_OF_RL
    )
    assert {kind for kind in changes if changes[kind] < 0} == {"counting", "edit recolor"}
    again = result["counting"]
    means = {name: [100 * statistics.mean(run) for run in again[name]] for name in ("0.6", "1.0")}
    assert (
        f"in {min(means['0.6']):.0f} to {max(means['0.6']):.0f} % at 0.6, and in "
        f"{min(means['1.0']):.0f} to {max(means['1.0']):.0f} % as they ended; "
        f"the start does in {100 * statistics.mean(again['before']):.0f} %" in PAGE_OF_RL
    )
    by_scale = result["counting_by_guidance"]
    shares = [100 * statistics.mean(by_scale[scale]) for scale in ("1.75", "1.5", "1.25")]
    words = "{:.0f} % of 512 drawings right with the model's own 1.75, {:.0f} % with 1.5 and {:.0f} %"
    assert words.format(*shares) in PAGE_OF_RL
    whole = recorded("tiny_rl_2026-11-27.json")
    for kind, share, times in (("relation", 0.75, 25), ("edit move", 0.9, 15)):
        gain = statistics.mean(of_seeds(whole, "by default", kind))
        assert share < trained[kind] / gain < share + 0.05
        theirs = costs(whole)["upstream-0"] / change(whole, "upstream-0", "by default", kind)
        assert int(theirs / (costs(result)["ours-0"] / trained[kind])) == times


def test_what_is_said_of_the_table_is_in_the_record() -> None:
    result = recorded("tiny_rl_2026-11-27.json")
    trained = {kind: statistics.mean(of_seeds(result, "as trained", kind)) for kind in KINDS}
    usual = {kind: statistics.mean(of_seeds(result, "by default", kind)) for kind in KINDS}
    assert min(trained.values()) > 0
    assert [kind for kind in KINDS if usual[kind] < -2] == ["counting"]
    assert (
        f"{usual['counting']:+.1f}, by {min(of_seeds(result, 'by default', 'counting')):+.1f}" in PAGE_OF_RL
    )
    cost = costs(result)
    assert f"{cost['ours-0']:,.0f} passes" in PAGE_OF_RL
    assert f"took {cost['upstream-0']:,.0f} for 20 rollouts" in PAGE_OF_RL
    for kind, less in (("relation", 33), ("edit move", 17)):
        theirs = cost["upstream-0"] / change(result, "upstream-0", "by default", kind)
        assert int(theirs / (cost["ours-0"] / usual[kind])) == less
    general = [
        f"{statistics.mean(change(result, f'general-{seed}', 'by default', kind) for seed in (0, 1)):+.1f}"
        for kind in ("relation", "edit move", "counting", "edit recolor")
    ]
    assert "relations {}, moves {}, but counting {} and recoloring {}".format(*general) in PAGE_OF_RL


@pytest.mark.parametrize(
    ("file", "words"),
    [("tiny_rl_strength_2026-11-28.json", "leaves at 0.6"), ("tiny_rl_2026-11-27.json", "By default")],
)
def test_what_three_seeds_leave_open_is_said(file: str, words: str) -> None:
    """Student's t over three seeds (4.303 standard errors); the page names what it leaves open."""
    result, found, is_open = recorded(file), {}, set()
    for kind in KINDS:
        values = of_seeds(result, "by default", kind)
        half = 4.303 * statistics.stdev(values) / 3**0.5
        found[kind] = (statistics.mean(values) - half, statistics.mean(values) + half)
        is_open |= {kind} if found[kind][0] < 0 < found[kind][1] else set()
    if words == "leaves at 0.6":
        assert is_open == {
            *("counting", "background", "size"),
            *("edit remove", "edit add", "edit background", "edit resize"),
        }
        for kind, text in (
            ("relation", "relations {:+.1f} to {:+.1f}"),
            ("edit move", "moves {:+.1f} to {:+.1f}"),
        ):
            assert text.format(*found[kind]) in PAGE_OF_RL
        assert "counting, at {:+.1f} to {:+.1f}, is not significant".format(*found["counting"]) in PAGE_OF_RL
    else:
        assert is_open == {
            *("counting", "single"),
            *("edit recolor", "edit background", "edit replace", "edit resize"),
        }
        said = "By default counting, at {:+.1f} to {:+.1f}, is not significant either"
        assert said.format(*found["counting"]) in PAGE_OF_RL


def test_what_did_not_spare_counting_is_told_as_recorded() -> None:
    result = recorded("tiny_rl_guards_2026-11-28.json")
    usual = recorded("tiny_rl_2026-11-27.json")
    costs = [run["passes_per_rollout"] * run["rollouts"] for run in (usual["ours-0"], result["guided-0"])]
    assert costs[0] == costs[1]
    assert result["before"]["by default"] == usual["before"]["by default"]
    for name, seeds, kind, words in (
        (
            "guided",
            3,
            "edit replace",
            "relations rose by {} and moves by {}, counting fell by {}, replacing by {}",
        ),
        ("anchored", 2, "edit recolor", "relations {}, moves {}, counting {}, recoloring {}"),
    ):
        changes = {
            kind: statistics.mean(
                change(result, f"{name}-{seed}", "by default", kind) for seed in range(seeds)
            )
            for kind in KINDS
        }
        told = ("relation", "edit move", "counting", kind)
        assert words.format(*(f"{changes[kind]:+.1f}" for kind in told)) in PAGE_OF_RL
        assert {kind for kind in KINDS if changes[kind] < -2} == {"counting", kind}


def test_the_ratios_of_the_performance_page_are_those_of_the_recorded_run() -> None:
    summary = recorded("summary.json")
    page = (ROOT / "docs" / "performance.md").read_text()
    for name in ("t2i_exact_ratio", "edit_exact_ratio"):
        assert f"{summary[name]:.2f}" in page


def test_loading_takes_the_weights_and_nothing_more() -> None:
    result = recorded("load_5b_2026-11-24.json")
    page = (ROOT / "docs" / "hardware.md").read_text()
    peak, weights = (result[name] / 1e9 for name in ("peak_bytes_above_start", "weights_bytes"))
    assert f"{peak:.2f} GB at the peak for {weights:.2f} GB of weights" in page
    assert peak < 1.1 * weights


PAGE_OF_RL = " ".join((ROOT / "docs" / "rl.md").read_text().split())


def change(result: dict, run: str, way: str, kind: str) -> float:
    return 100 * (result[run]["after"][way][kind] - result["before"][way][kind])


def test_what_the_published_recipe_cost_is_what_was_recorded() -> None:
    result = recorded("tiny_rl_2026-11-24.json")
    cost = {
        run: result[run]["passes_per_rollout"] * result[run]["rollouts"] for run in ("ours-0", "upstream-0")
    }
    theirs = [change(result, "upstream-0", way, "relation") for way in ("as trained", "by default")]
    assert f"{cost['upstream-0']:,.0f}"[:3] == "564"
    assert f"{cost['ours-0']:,.0f}"[:3] == "195"
    assert f"relations had moved by {theirs[0]:+.1f} and {theirs[1]:+.1f}" in PAGE_OF_RL
    ours = statistics.mean(change(result, f"ours-{seed}", "as trained", "relation") for seed in range(3))
    assert (cost["upstream-0"] / theirs[0]) / (cost["ours-0"] / ours) > 50


def test_what_a_weak_start_gave_is_what_was_recorded() -> None:
    result = recorded("tiny_rl_weak_start_2026-11-24.json")
    found = {
        (way, kind): statistics.mean(change(result, f"ours-{seed}", way, kind) for seed in range(3))
        for way in ("as trained", "by default")
        for kind in ("relation", "edit move", "counting")
    }
    trained, usual = (
        [f"{found[way, kind]:+.1f}" for kind in ("relation", "edit move", "counting")]
        for way in ("as trained", "by default")
    )
    assert f"{trained[0]} for relations and {trained[1]} for moves drawn as trained" in PAGE_OF_RL
    assert f"and {usual[0]} and {usual[1]} by default, counting {usual[2]}" in PAGE_OF_RL
    alone = [change(result, "supervised-0", way, "relation") for way in ("as trained", "by default")]
    assert f"changed relations by {alone[0]:+.1f} and {alone[1]:+.1f}" in PAGE_OF_RL


def test_other_items_are_told_as_they_were_recorded() -> None:
    fresh = recorded("tiny_rl_2026-11-24.json")["fresh_items"]
    for kind in ("relation", "edit move"):
        first, second = fresh["ours-0"][kind], fresh["ours-1"][kind]
        assert f"{fresh['before'][kind]}" in PAGE_OF_RL
        assert f"{first} and {second}" in PAGE_OF_RL or f"{first} after and {second}" in PAGE_OF_RL


def test_the_table_of_knobs_and_the_hacked_reward_are_those_recorded() -> None:
    table = (ROOT / "benchmarks" / "results" / "rollout_knobs_2026-11-24.md").read_text()
    assert table.strip() in (ROOT / "docs" / "rl.md").read_text()
    result = recorded("reward_hacking_2026-11-24.json")
    first, last = (statistics.mean(part) for part in (result["kilobytes"][:5], result["kilobytes"][-5:]))
    assert f"{first:.2f} to {last:.2f} kB" in PAGE_OF_RL
    assert f"right pictures {statistics.mean(result['right'][:5]):.0%} to 0" in PAGE_OF_RL.replace(
        "69 %", "69%"
    )
    assert statistics.mean(result["right"][-5:]) == 0


def test_the_front_page_says_what_was_recorded() -> None:
    page = " ".join((ROOT / "README.md").read_text().split())
    rl = recorded("tiny_rl_strength_2026-11-28.json")
    for kind, words in (("relation", "relations"), ("edit move", "moving an object")):
        before = 100 * rl["before"]["by default"][kind]
        after = before + statistics.mean(of_seeds(rl, "by default", kind))
        assert f"{words} {before:.0f} to {after:.0f} %" in page
    speed = recorded("summary.json")
    for name in ("t2i_exact_ratio", "edit_exact_ratio", "t2i_balanced_ratio"):
        assert f"{speed[name]:.2f}" in page
    assert speed["balanced_error"] < speed["euler_50_error"]
    load = recorded("serve_load.json")
    assert load["batches"]["errors"] == load["memory"]["errors"] == {}
    assert load["batches"]["lost"] == load["memory"]["lost"] == 0
    assert load["equal_alone"]["bit_equal"] == load["equal_alone"]["compared"]
    assert f"{load['batches']['requests']:,} requests" in page
    assert f"{load['batches_gain']:.1f} times" in page


def test_the_page_of_the_server_says_what_was_recorded() -> None:
    page = " ".join((ROOT / "docs" / "serve.md").read_text().split())
    load, memory = recorded("serve_load_2026-11-29.json"), recorded("serve_load.json")["memory"]
    many, one = load["batches"], load["one_at_a_time"]
    turns = recorded("serve_load_against_2026-11-29.json")["ratios"]
    assert f"gave {min(turns):.2f} to {max(turns):.2f} times" in page
    assert load["equal_alone"] == {"compared": 20, "bit_equal": 20}
    assert f"got {many['requests']:,} of {many['requests']:,}" in page
    assert f"within {many['p50_s']:.1f} s, 99 % within {many['p99_s']:.1f} s" in page
    assert (
        f"drew {many['pictures_per_s']:.1f} pictures a second, one at a time {one['pictures_per_s']:.1f}"
        in page
    )
    held = [sample["mib"] for sample in memory["samples"] if sample["requests"] >= 1000]
    assert f"held {held[0]:.0f} MiB after the first thousand and {held[-1]:.0f} MiB at the end" in page
    assert max(held) < 1.02 * held[0]


def test_another_machines_speed_and_a_slow_reward_are_told_as_recorded() -> None:
    page = " ".join((ROOT / "docs" / "performance.md").read_text().split())
    speed = recorded("summary_avx2_2026-11-28.json")
    ratios = [speed[f"{name}_ratio"] for name in ("t2i_exact", "edit_exact", "t2i_balanced")]
    assert "{:.2f} and {:.2f} there, and {:.2f} with".format(*ratios) in page
    whole, parts = (speed["widened_in_parts"][f"step_seconds_{how}"] for how in ("whole", "in_parts"))
    paired = statistics.median(a / b for a, b in zip(whole, parts, strict=True))
    assert f"takes {paired:.2f} times longer" in page
    rounds = speed["t2i_rounds"]
    assert "rounds of text to image were {:.2f} and {:.2f}".format(*rounds) in page
    later = [row["reference"] / row["ours"] for row in speed["later_step_rounds"]]
    assert (len(later), sum(ratio > 1 for ratio in later)) == (9, 8)
    assert f"by {statistics.median(later):.2f} in the median ({min(later):.2f} to {max(later):.2f})" in page
    assert f"reached {speed['dit_step_mfu']:.2f} of its peak" in page
    once_more = recorded("summary_avx2_2026-11-28_quiet.json")
    ratios = [once_more[f"{name}_ratio"] for name in ("t2i_exact", "edit_exact", "t2i_balanced")]
    told = "{:.2f}, {:.2f} and {:.2f}, and {:.2f} of the peak".format(*ratios, once_more["dit_step_mfu"])
    assert f"with nothing beside it: {told}" in page
    slow = recorded("slow_reward.json")
    for way in ("rewards alone", "with the supervised loss"):
        after, before = slow[way]["slow_and_dead_step_seconds"], slow[way]["quick_step_seconds"]
        assert (
            f"{after:.1f} s instead of {before:.1f} s, {slow[way]['growth_over_latency']:.2f}" in PAGE_OF_RL
        )
        assert slow[way]["growth_over_latency"] < 1


def test_the_second_way_of_attention_is_as_right_and_as_long_as_the_page_says() -> None:
    tokens = recorded("attention_emulated_2026-11-28.json")["tokens"]["1152"]
    error, counted = tokens["relative_error"], tokens["counted_ms"]
    page = " ".join((ROOT / "docs" / "performance.md").read_text().split())
    assert f"with {error['two_products'] / error['pytorch']:.2f} times the rounding error" in page
    assert f"executes {counted['two_products'] / counted['pytorch']:.2f} times as many instructions" in page


def test_loading_by_threads_gains_what_the_page_says() -> None:
    pairs = recorded("load_threads_2026-11-28.json")["pairs"]
    gains = [pair["one_seconds"] / pair["several_seconds"] for pair in pairs]
    page = " ".join((ROOT / "docs" / "performance.md").read_text().split())
    spread = f"(six pairs, {min(gains):.2f} to {max(gains):.2f};"
    assert len(pairs) == 6
    assert f"{statistics.median(gains):.2f} times faster than one thread {spread}" in page
    assert f"a peak of {max(pair['several_peak_over_weights'] for pair in pairs):.3f} of the weights" in page
    over_disk = statistics.median(pair["several_seconds"] / pair["disk_seconds"] for pair in pairs)
    assert f"{over_disk:.1f} times what the disk alone needs" in page


def test_a_cpu_with_bfloat16_multiplies_faster_by_what_the_page_says() -> None:
    peaks = recorded("summary.json")["peak_flop_per_second"]
    ratio = peaks["bfloat16"] / peaks["float32"]
    assert f"multiplies {ratio:.1f} times faster so" in " ".join(
        (ROOT / "docs" / "hardware.md").read_text().split()
    )
