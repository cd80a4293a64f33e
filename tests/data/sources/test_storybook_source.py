"""The storybook as data and as prompts: the same at every call, never held out, as often as asked."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deepgen.recipes
from deepgen.cli.app import main
from deepgen.data.mixture import open_mixture
from deepgen.data.prompts import open_prompts
from deepgen.data.sources import make_source, options_from_text
from deepgen.rewards.reward import Candidate
from deepgen.rewards.scorers import make_reward
from deepgen.tiny.claims import EditClaim, from_json
from deepgen.tiny.render import render_array
from deepgen.tiny.rows import EDIT_GROUPS, GROUPS, Group, Selection
from deepgen.tiny.splits import SAMPLERS, is_held_out_word, levels_of

SHIPPED = Path(deepgen.recipes.__file__).parent / "mixtures"


def pixels(image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def test_the_groups_are_those_of_the_world() -> None:
    assert set(GROUPS) == set(SAMPLERS)


@pytest.mark.parametrize("group", GROUPS)
def test_rows_are_a_pure_function_of_seed_and_number_and_never_held_out(group: Group) -> None:
    first, again = (make_source("storybook", group=group, seed=4, rows=1000) for _ in range(2))
    other, drawn = make_source("storybook", group=group, seed=5), Selection(group=group)
    assert (len(first), first.task) == (1000, "edit" if group in EDIT_GROUPS else "generate")
    assert first[900] == again[900]  # whatever was asked for before
    assert [first[n] for n in range(20)] == [again[n] for n in range(20)]
    assert [first[n].text for n in range(20)] != [other[n].text for n in range(20)]
    for index in range(500):  # 2,000 in all groups together
        example = drawn.example(4, index)
        assert not levels_of(example), example.text
        assert not any(is_held_out_word(word) for word in example.origin.words)
        if index % 25 == 0:
            row = first[index]
            assert row.text == example.text
            assert (pixels(row.target) == render_array(example.target)).all()
            assert len(row.references) == (group in EDIT_GROUPS)
            for reference in row.references:
                assert example.source is not None
                assert (pixels(reference) == render_array(example.source)).all()


def test_kinds_and_weights_say_what_is_drawn() -> None:
    chosen = Selection(group="caption", kinds=("two", "counting"), weights={"counting": 3})
    drawn = Counter(chosen.example(0, index).kind for index in range(800))
    assert set(drawn) == {"two", "counting"}
    assert drawn["counting"] / 800 == pytest.approx(0.75, abs=0.05)
    options = options_from_text(
        "storybook", {"group": "edit", "weights": "add=0,remove=2.5", "kinds": "add,swap"}
    )
    assert options == {"group": "edit", "weights": {"add": 0, "remove": 2.5}, "kinds": ["add", "swap"]}
    source = make_source("storybook", **options)
    assert all("swap" in source[n].text or "chang" in source[n].text for n in range(20))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "captions"}, "group must be caption or edit or reasoning"),
        ({"group": "edit", "kinds": ["single"]}, "unknown edit kind 'single'; known: replace"),
        ({"weights": {"riddle": 2}}, "unknown caption kind 'riddle'"),
        ({"weights": {"two": -1}}, "weight of two must be at least 0"),
        ({"weights": {"two": "much"}}, "weights must be numbers by name"),
        ({"kinds": ["two"], "weights": {"two": 0}}, "no kind of caption is left"),
        ({"rows": 0}, "rows must be at least 1"),
        ({"seed": -1}, "seed at least 0"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_source("storybook", **options)


def test_the_shipped_mixture_has_two_captions_to_one_edit_and_all_groups(tmp_path, capsys) -> None:
    mixture = open_mixture(SHIPPED / "storybook.yaml")
    drawn = [mixture.draw(sample, block_size=1) for sample in range(900)]
    assert Counter(draw.task for draw in drawn) == {"generate": 600, "edit": 300}
    assert Counter(draw.source for draw in drawn)["reasoning"] == pytest.approx(200, abs=3)
    assert mixture.example(drawn[5]) == open_mixture(SHIPPED / "storybook.yaml").example(drawn[5])
    assert main(["data", "inspect", "storybook", "-n", "4", "-o", str(tmp_path / "sheet.png")]) == 0
    assert main(["data", "stats", "storybook", "--only", "captions", "--json"]) == 0
    (captions,) = json.loads("{" + capsys.readouterr().out.partition("{")[2])["sources"]
    assert captions["bad"] == {}


# --- prompts of reinforcement learning


def mix(folder: Path, entry: str) -> Path:
    (folder / "mix.yaml").write_text(
        f"sampling_mode: weight_only\nrewards: {{right: {{scorer: storybook}}}}\ndatasets:\n  - {entry}\n"
    )
    return folder / "mix.yaml"


def test_the_shipped_prompts_carry_claims_that_their_targets_fulfil() -> None:
    prompts = open_prompts(SHIPPED / "storybook-rl.yaml")
    kinds = [kind for group in GROUPS for kind in SAMPLERS[group][0]]
    assert [one.name for one in prompts.sets] == kinds
    assert prompts.shares()[kinds.index("counting")] == pytest.approx(3 * prompts.shares()[0])
    reward = make_reward("storybook")
    for number in range(60):
        prompt = prompts.draw(0, number)
        assert prompt.metadata["kind"] == prompt.dataset
        claim = from_json(json.loads(json.dumps(prompt.metadata["storybook"])))
        assert isinstance(claim, EditClaim) == bool(prompt.references)
        if isinstance(claim, EditClaim):
            assert (np.asarray(prompt.references[0]) == render_array(claim.source)).all()
        (verdict,) = reward(
            [Candidate(image=Image.new("RGB", (96, 96)), prompt="", metadata=prompt.metadata)]
        )
        assert verdict.score == 0
    assert [prompts.draw(0, n).text for n in range(20)] == [prompts.draw(0, n).text for n in range(20)]


def test_the_gate_asks_every_kind_other_rows_than_the_training_draws() -> None:
    training, gate = (open_prompts(SHIPPED / f"storybook-{name}.yaml") for name in ("rl", "gate"))
    assert {one.name for one in gate.sets} == {one.name for one in training.sets}
    for mine, theirs in zip(gate.sets, training.sets, strict=True):
        assert mine.prompt(0).key.split(":")[0] != theirs.prompt(0).key.split(":")[0]
    assert gate.reward_names == ("right",)


def test_a_set_has_the_words_of_the_source_and_its_kinds(tmp_path: Path) -> None:
    (one,) = open_prompts(
        mix(tmp_path, "{name: s, storybook: reasoning, kinds: [riddle, order], seed: 3, rewards: {right: 1}}")
    ).sets
    source = make_source("storybook", group="reasoning", kinds=["riddle", "order"], seed=3)
    assert (one.name, len(one.rows)) == ("s", 1000)
    assert [one.prompt(n).text for n in range(20)] == [source[n].text for n in range(20)]
    assert {one.prompt(n).metadata["kind"] for n in range(40)} == {"riddle", "order"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("storybook: captions", "s: unknown group 'captions'; known: caption, edit"),
        ("storybook: [caption]", "s: unknown group"),
        ("storybook: caption, kinds: [add]", "s: unknown caption kind 'add'"),
        ("storybook: caption, kinds: two", r"s: kinds must be a list such as \[counting, two\]"),
        ("storybook: caption, weights: [2]", "s: weights must be numbers by kind"),
        ("storybook: caption, weights: {two: often}", "s: weights must be numbers by kind"),
        ("storybook: caption, each_kind: 1", "s: each_kind must be true or false"),
        ("storybook: caption, rows: 0", "s: rows must be a whole number of at least 1"),
        ("storybook: caption, seed: x", "s: seed must be a whole number"),
        ("storybook: caption, shapes: edit", "s: give either a path or shapes or storybook"),
        ("shapes: generate, each_kind: true", "s: a set with shapes has no each_kind"),
        ("path: a.txt, kinds: [two]", "s: a set with path has no kinds"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_set_is_said(tmp_path: Path, fields: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_prompts(mix(tmp_path, f"{{name: s, {fields}, rewards: {{right: 1}}}}"))
