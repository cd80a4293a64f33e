"""The storybook benchmark: what is right scores 1, what is wrong 0 with its reason; no prompt comes twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from deepgen.cli.app import main
from deepgen.evaluation.benchmark import Settings
from deepgen.evaluation.statistics import wilson
from deepgen.tiny.claims import Claim, ThingClaim
from deepgen.tiny.evaluation.benchmark import StorybookBenchmark
from deepgen.tiny.evaluation.chains import draw_chains, sample_chains, score_chains
from deepgen.tiny.evaluation.evaluate import StorybookConfig, evaluate
from deepgen.tiny.evaluation.prompts import ABILITIES, kinds_of, prompts_of
from deepgen.tiny.evaluation.scores import score_image
from deepgen.tiny.evaluation.summary import _share, look_up, summarize_kinds
from deepgen.tiny.evaluation.table import table
from deepgen.tiny.render import render
from deepgen.tiny.scene import CELL, Scene, Thing, Word
from deepgen.tiny.splits import SAMPLERS, level_of
from loaded_scripts import load_script
from tiny.storybook_drawers import copying_drawer, empty_drawer, right_drawer

ROOT = Path(__file__).parents[2]
SOME = ("text", "reasoning", "editing")  # abilities, to keep the tests quick


@pytest.fixture(scope="module")
def right_run(tmp_path_factory):
    """(folder, report) of a model that draws everything right, two pictures of a prompt."""
    folder = tmp_path_factory.mktemp("right")
    config = StorybookConfig(output_dir=folder, num_prompts=2, num_seeds=2, abilities=SOME, lookup_prompts=10)
    return folder, evaluate(right_drawer(sample_chains(1)), config)


def test_every_kind_of_the_world_is_asked():
    asked = [kind for ability in ABILITIES.values() for kind in kinds_of(ability)]
    assert sorted(asked) == sorted(kind for kinds, _ in SAMPLERS.values() for kind in kinds)


def test_prompts_are_distinct_of_their_level_and_grow_by_adding():
    few, many = prompts_of("reasoning", 2), prompts_of("reasoning", 8)
    assert {prompt.id for prompt in few} <= {prompt.id for prompt in many}
    asked = [prompt for prompt in many if not prompt.is_direct]
    assert len({prompt.key for prompt in asked}) == len(asked)
    assert all(level_of(prompt.example) == prompt.level for prompt in asked)
    riddles = [prompt.level for prompt in asked if prompt.example.kind == "riddle"]
    assert sorted(set(riddles)) == ["new combinations", "new wordings", "trained"]
    assert (riddles.count("trained"), len(riddles)) == (2, 10)


def test_each_riddle_is_asked_directly_too():
    prompts = prompts_of("reasoning", 2)
    direct = {prompt.text for prompt in prompts if prompt.is_direct}
    assert direct == {
        prompt.example.direct for prompt in prompts if not prompt.is_direct and prompt.level != "trained"
    }


def test_right_pictures_score_one_everywhere(right_run):
    _, report = right_run
    assert [part.held_out.share for part in (*report.abilities, *report.kinds)] == [1.0] * 31
    assert all(share.share == 1 for part in report.kinds for share in part.levels.values())
    assert all(part.direct.share == 1 for part in report.kinds if part.ability == "reasoning")
    assert all(not part.faults for part in report.kinds)
    assert report.chains.held == report.chains.whole == 1
    assert report.chains.psnr == 60


def test_an_interval_is_over_prompts_and_not_over_pictures(right_run):
    _, report = right_run
    (part,) = (part for part in report.kinds if part.name == "erase")
    assert (part.held_out.num_prompts, part.held_out.num_images) == (2, 4)
    assert part.held_out.interval == wilson(1.0, 2)
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # Wilson 1927, by hand


def test_wordings_of_one_claim_are_one_piece_of_evidence():
    """Ten claims in two wordings each, both wrong for one of them: as if ten prompts had been asked twice."""
    rows = [
        {"kind": "one", "prompt": f"{n}", "claim": f"{n // 2}", "is_right": n // 2 != 3} for n in range(20)
    ]
    share = _share(rows)
    assert (share.share, share.num_prompts, share.num_claims, share.num_images) == (0.9, 20, 10, 20)
    assert share.interval == (0.7, 1.0)
    before = _share([{key: row[key] for key in ("kind", "prompt", "is_right")} for row in rows])
    assert before.num_claims == 20, "rows of an older run name no claim"
    assert share.interval[0] < before.interval[0]


def test_table_page_sheet_and_json_are_written(right_run):
    folder, report = right_run
    assert json.loads((folder / "storybook.json").read_text()) == report.to_dict()
    text = (folder / "storybook.md").read_text()
    assert text == table(report)
    assert "| riddle | **1.00** |" in text
    assert "twelve edits: 1.00 of the edits held" in text
    page = (folder / "storybook.html").read_text()
    assert "storybook-reasoning" in page
    assert "control: asked directly" in page
    with Image.open(folder / "storybook.png") as image:
        assert image.height > 28 * 100


def test_stages_stand_side_by_side_if_they_were_evaluated_alike(right_run, tmp_path, capsys, monkeypatch):
    folder, _ = right_run
    stages = load_script("tools/storybook_stages.py")
    named = [f"parts={folder / 'storybook.json'}", f"stage 1={folder / 'storybook.json'}"]
    monkeypatch.setattr("sys.argv", ["storybook_stages.py", *named, "-o", str(tmp_path)])
    stages.main()
    told = capsys.readouterr().out
    assert "| kind | parts | stage 1 |" in told
    assert "| riddle | 1.00 (" in told
    kept = json.loads((tmp_path / "storybook_stages.json").read_text())
    assert kept["stage 1"]["kinds"]["riddle"]["share"] == 1
    with Image.open(tmp_path / "storybook_stages.png") as image:
        assert image.width > 1000
    other = json.loads((folder / "storybook.json").read_text()) | {"num_seeds": 5}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit, match="evaluate alike"):
        stages.read_stages([stages.named_file(text) for text in (*named, f"other={tmp_path / 'other.json'}")])
    monkeypatch.setattr("sys.argv", ["storybook_stages.py", "parts", "-o", str(tmp_path)])
    with pytest.raises(SystemExit):
        stages.main()
    assert "give NAME=FILE, a storybook.json that is there; got 'parts'" in capsys.readouterr().err


def test_the_pages_tell_what_is_recorded_of_the_model_in_the_package():
    stages = json.loads((ROOT / "docs/tiny/storybook_stages.json").read_text())
    page = (ROOT / "docs/tiny/README.md").read_text()
    assert load_script("tools/storybook_stages.py").table(stages, "abilities") in page
    scores = json.loads((ROOT / "docs/tiny/scores.json").read_text())
    assert (scores["made"]["num_seeds"], scores["made"]["num_prompts_per_kind"]) == (3, 96)
    of = [f"{scores['abilities'][name]['share']:.2f}" for name in scores["abilities"]]
    held = f"{scores['twelve edits']['held']:.2f} hold"
    assert f"| {' | '.join([*of, held])} |" in (ROOT / "README.md").read_text()
    told = f"pictures {of[0]}, words {of[1]}, edits {of[2]}, riddles {of[3]}, edits that need thought {of[4]}"
    assert told in " ".join((ROOT / "CHANGELOG.md").read_text().split())
    kinds = {name: f"{score['share']:.2f}" for name, score in scores["kinds"].items()}
    levels, chains = scores["abilities"]["reasoning"]["levels"], scores["twelve edits"]
    seconds = scores["made"]["seconds_per_image"]
    assert f"a picture in {seconds:.2f} s" in (ROOT / "README.md").read_text()
    for row in (
        f"| pictures | {of[0]} |",
        f"| one thing | {kinds['single']} |",
        f"| two; position; relation | {kinds['two']}; {kinds['position']}; {kinds['relation']} |",
        f"| counting; style; size | {kinds['counting']}; {kinds['style']}; {kinds['size']} |",
        f"| words | {of[1]} |",
        f"| edits | {of[2]} |",
        f"{scores['abilities']['editing']['kept']:.2f} of the other cells kept",
        f"new combinations | {levels['new wordings']:.2f}; {levels['new combinations']:.2f} |",
        "{psnr:.1f} dB where none of them was (30 asked; {num_above} of {num_chains}".format_map(chains),
        f"the worst {chains['least_psnr']:.1f}",
        f"A picture took {seconds:.2f} s",
        f"(`name` {kinds['name']}, `opposite` {kinds['opposite']}, `riddle and text` "
        f"{kinds['riddle and text']} with",
        f"({kinds['change ground']})",
        f"({kinds['not there']})",
        f"({kinds['full cell']})",
        f"| riddles | {of[3]} |",
        f"| edits that need thought | {of[4]} |",
        f"| twelve edits in a row | {held} |",
    ):
        assert row in page
    table = (ROOT / "docs/tiny/scores.md").read_text()
    assert all(f"| {name} | **{share}** |" in table for name, share in kinds.items())


def test_the_scores_are_published_from_a_finished_evaluation(tmp_path, monkeypatch, capsys):
    report = json.loads((ROOT / "docs/tiny/scores.json").read_text())
    made = {**report["made"], **{part: report[part] for part in ("abilities", "kinds", "twelve edits")}}
    for score in [*made["abilities"].values(), *made["kinds"].values()]:
        score["trained"] = {"share": score["trained"]}
        score["levels"] = {level: {"share": share} for level, share in score["levels"].items()}
    (tmp_path / "storybook.json").write_text(json.dumps(made))
    (tmp_path / "storybook.md").write_text("# Storybook: x\n\na table\n")
    scores = load_script("tools/storybook_scores.py")
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path), "-o", str(tmp_path)])
    scores.main()
    assert (tmp_path / "scores.md").read_text() == "# Scores of tiny\n\na table\n"
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written == json.loads((ROOT / "docs/tiny/scores.json").read_text())
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        scores.main()
    assert "is not there" in capsys.readouterr().err


def test_a_run_that_is_there_is_not_drawn_again(right_run):
    folder, report = right_run
    again = right_drawer()
    config = StorybookConfig(output_dir=folder, num_prompts=2, num_seeds=2, abilities=SOME, lookup_prompts=10)
    assert evaluate(again, config).kinds == report.kinds
    assert again.batches == []


def test_batches_are_of_several_pictures_and_never_mix_edits_with_others():
    benchmark = StorybookBenchmark(variant="reasoning-editing", num_prompts=1)
    assert all(item.references for item in benchmark.items(Path()))
    assert not any(
        item.references for item in StorybookBenchmark(variant="text", num_prompts=1).items(Path())
    )


def test_wrong_pictures_score_nothing_and_say_why(tmp_path):
    config = StorybookConfig(output_dir=tmp_path, num_prompts=1, abilities=("text",), lookup_prompts=10)
    report = evaluate(empty_drawer(), config)
    assert [part.held_out.share for part in report.kinds] == [0, 0]
    assert {part.faults[0] for part in report.kinds} == {("no word", 1)}
    assert report.chains is None


def test_what_is_wrong_is_named():
    cat = Thing(noun="cat", cell=(1, 1))
    asked = Claim(things=(ThingClaim(nouns=("cat",), cells=((1, 1),), size="large", style="glossy"),))

    def fault(*things: Thing, word: Word | None = None) -> str:
        return score_image(asked, render(Scene(things=things, word=word))).fault

    assert fault(cat) == ""
    assert fault() == "too few things"
    assert fault(cat, Thing(noun="dog", cell=(0, 0))) == "too many things"
    assert fault(replace(cat, noun="dog")) == "another thing than asked for"
    assert fault(replace(cat, cell=(0, 0))) == "a thing in another place"
    assert fault(replace(cat, size="small")) == "a thing of the other size"
    assert fault(replace(cat, style="flat")) == "a thing in the other style"
    assert fault(replace(cat, style="flat", cell=(0, 0))) == "several properties of things are wrong"
    assert fault(cat, word=Word(text="NO", row=0)) == "a word that was not asked for"
    grey = score_image(asked, Image.new("RGB", (96, 96), (90, 30, 90)))
    assert grey.fault == "a ground that is none of the world's"
    blurred = render(Scene(things=(cat,))).resize((12, 12)).resize((96, 96))
    assert score_image(asked, blurred).fault == "blurred or mixed: no thing of the world"


def test_an_edit_is_also_judged_by_what_it_leaves_alone():
    prompt = next(
        prompt for prompt in prompts_of("edit", 4)
        if prompt.example.kind == "remove" and len(prompt.example.claim.untouched) == 8
    )  # fmt: skip
    claim, target = prompt.example.claim, prompt.example.target
    right = score_image(claim, render(target))
    assert (right.is_right, right.kept, right.psnr) == (True, 1.0, 60.0)
    cell = next(iter(sorted(claim.untouched)))
    image = render(target)
    image.paste(
        (255, 0, 255), (cell[1] * CELL + 4, cell[0] * CELL + 4, cell[1] * CELL + 28, cell[0] * CELL + 28)
    )
    wrong = score_image(claim, image)
    assert not wrong.is_right
    assert wrong.kept == 7 / 8
    assert wrong.psnr < 25
    lazy = score_image(claim, render(prompt.example.source))
    assert (lazy.is_right, lazy.kept, lazy.psnr) == (False, 1.0, 60.0)
    assert lazy.fault in ("too many things", "a word that was not asked for")


def test_twelve_edits_that_change_nothing_hold_nothing_and_keep_everything(tmp_path):
    chains = sample_chains(2)
    settings = Settings(height=96, width=96)
    model = copying_drawer()
    drawn = draw_chains(model, chains, settings, tmp_path, batch_size=2)
    report = score_chains(chains, drawn)
    assert (report.num_chains, report.num_edits) == (2, 12)
    assert (report.held, report.kept) == (0, 1)
    assert report.psnr == report.least_psnr == 60
    assert model.batches == [[True, True]] * 12
    assert draw_chains(empty_drawer(), chains, settings, tmp_path, batch_size=2) == drawn  # taken from there


def test_a_picture_that_fades_is_measured(tmp_path):
    chains = sample_chains(1)
    right = right_drawer(chains)

    def fading(item):
        shown = item.open_references()[0]
        return shown.point(lambda value: max(0, value - 2))

    right.draw_one = fading
    report = score_chains(chains, draw_chains(right, chains, Settings(height=96, width=96), tmp_path, 1))
    assert report.psnr_after_one > 40 > 25 > report.psnr
    assert report.num_above == 0


def test_the_look_up_answers_a_prompt_it_knows_and_hardly_a_new_combination():
    asked = {"generation": prompts_of("generation", 16), "editing": prompts_of("edit", 1)}
    rows = [
        {"kind": p.example.kind, "level": p.level, "is_direct": False, "prompt": p.key, "is_right": True,
         "fault": "", "kept": None, "psnr": None}
        for p in asked["generation"]
    ]  # fmt: skip
    parts = {part.name: part for part in summarize_kinds("generation", rows, look_up(asked, 100))}
    assert parts["single"].lookup >= 0.3
    assert parts["all"].lookup == 0
    # A pair that no caption of two things had may stand in one of a relation.
    assert parts["two"].lookup_levels["new combinations"] <= 0.25


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--abilities", "painting"], "abilities must be of generation, text"),
    ],
)
def test_a_wrong_option_is_told_before_a_model_is_loaded(options, said, capsys):
    assert main(["eval", "storybook", "--model", "no-such-model", *options]) == 2
    assert said in capsys.readouterr().err
