"""Files of the user: run only where the user named them, faults in one line, on record with a sum."""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deepgen import registry, user_files
from deepgen.cli.app import main
from deepgen.data.mixture_file import read_mixture
from deepgen.data.sources import SOURCES, make_source
from deepgen.evaluation.benchmarks import BENCHMARKS, load_benchmark
from deepgen.evaluation.report import read_results
from deepgen.recipes import recipe, recipe_of
from deepgen.rewards.ensemble import RewardEnsemble, RewardEnsembleConfig
from deepgen.rewards.reward import Candidate, RewardResult
from deepgen.rewards.scorers import REWARDS, make_reward, reward_class
from deepgen.rl.judged_prompts import open_judged_prompts
from deepgen.rl.objectives import OBJECTIVES, make_objective
from deepgen.training.run_folder import USER_FILES, RunRecord

ALL = """
from dataclasses import dataclass
from pathlib import Path

from deepgen.data.example import Example

Path(__file__).with_name("was_run").touch()


@dataclass(frozen=True, kw_only=True)
class RowsOptions:
    path: str = "."
    count: int = 3


class Rows:
    task = "generate"

    def __init__(self, options: RowsOptions) -> None:
        self.options = options

    def __len__(self):
        return self.options.count

    def __getitem__(self, index):
        return Example(task="generate", text=["a", "b"][index], target=Path("x.png"), key=str(index))


def redness(candidate, strength: float = 1.0):
    return candidate.image.resize((1, 1)).getpixel((0, 0))[0] / 255 * strength


def quick():
    from deepgen.recipes.shapes import shapes_dit

    return shapes_dit()


options, source, reward, recipe = RowsOptions, Rows, redness, quick
"""
PLACE = "mine.py"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / PLACE
    path.write_text(ALL)
    return path


def candidate(color: str = "red") -> Candidate:
    return Candidate(image=Image.new("RGB", (4, 4), color), prompt="")


# --- what a document names is not run


def _mixture(folder: Path) -> Any:
    (folder / "m.yaml").write_text("tasks: {generate: {sources: {mine: {source: mine.py}}}}")
    return read_mixture(folder / "m.yaml")


def _prompts(folder: Path) -> Any:
    (folder / "p.txt").write_text("a red circle\n")
    (folder / "p.yaml").write_text(
        "rewards: {red: {scorer: 'mine.py:redness'}}\ndatasets: [{name: a, path: p.txt, rewards: {red: 1}}]"
    )
    return open_judged_prompts(folder / "p.yaml", (), RewardEnsembleConfig())


def _benchmark(folder: Path) -> Any:
    (folder / "b.yaml").write_text("prompts: [a red circle]\nrule: reward\nreward: mine.py:redness\n")
    return load_benchmark(str(folder / "b.yaml"))


def _run(folder: Path) -> Any:
    about = {"recipe": str(folder / "mine.py:quick"), "overrides": {}}
    (folder / "config.json").write_text(json.dumps({"about": about}))
    return recipe_of(folder)


def _result(folder: Path) -> Any:
    document = {"table": {"overall": 1}, "benchmark": "mine", "items": []}
    document["manifest"] = {"source": str(folder / "mine.py"), "protocol": "official"}
    (folder / "result.json").write_text(json.dumps(document))
    return read_results([folder])


READERS = [_mixture, _prompts, _benchmark, _run, _result]


@pytest.mark.parametrize("reads", READERS, ids=lambda reads: reads.__name__)
def test_a_file_that_a_document_names_is_run_only_once_the_user_names_it(
    reads: Callable[[Path], Any], mine: Path
) -> None:
    with pytest.raises(ValueError, match=r"only files that you name are run; .* add --plugins .*mine\.py"):
        reads(mine.parent)
    assert not mine.with_name("was_run").exists()
    user_files.allow([f"--plugins={mine}"])
    if reads is _result:  # it is no benchmark, and that is said once it was run
        with pytest.raises(ValueError, match="defines no benchmark"):
            reads(mine.parent)
    else:
        assert reads(mine.parent) is not None
    assert mine.with_name("was_run").exists()


@pytest.mark.parametrize(
    "word", ["{}", "{}:redness", "{}:redness=1", "--rewards={}:redness=0.5", "objective={}", "a=1,{}:b=2"]
)
def test_every_way_to_write_a_file_on_the_command_line_names_it(word: str, mine: Path) -> None:
    user_files.allow([word.format(mine)])
    assert user_files.named_by("m.yaml", "mine.py:Rows", mine.parent) == f"{mine}:Rows"


def test_nothing_beside_the_file_is_run_or_written(mine: Path) -> None:
    mine.with_name("helper_beside.py").write_text("x = 1")
    mine.write_text("import helper_beside\n")
    with pytest.raises(user_files.UserFileError, match=r"mine\.py:1: ModuleNotFoundError"):
        user_files.load_file(mine)
    assert sorted(path.name for path in mine.parent.iterdir()) == ["helper_beside.py", "mine.py"]


# --- what is in it


def test_a_function_is_a_reward_with_its_further_parameters_as_options(mine: Path) -> None:
    (red,) = make_reward(f"{mine}:redness")([candidate()])
    (half,) = make_reward(f"{mine}:redness", strength=0.5)([candidate()])
    assert (red.score, half.score) == (1.0, 0.5)
    with pytest.raises(ValueError, match="unknown option 'strenth'"):
        make_reward(f"{mine}:redness", strenth=1)
    assert REWARDS.options_from_text(f"{mine}:redness", {"strength": "0.25"}) == {"strength": 0.25}


def test_another_content_is_another_version_of_a_reward(mine: Path) -> None:
    versions = {make_reward(f"{mine}:redness").version}
    mine.write_text(ALL.replace("/ 255", "/ 256"))
    changed = make_reward(f"{mine}:redness")
    versions.add(changed.version)
    assert len(versions) == 2
    assert changed([candidate()])[0].score == 255 / 256
    mine.write_text(
        "from deepgen.rewards.reward import EachAlone, RewardResult\n"
        "class Flat(EachAlone):\n"
        "    def __init__(self): self.version = 'flat-2'\n"
        "    def judge(self, candidate): return RewardResult(0.5)\n"
    )
    flat = make_reward(f"{mine}:Flat")
    assert flat.version.startswith("flat-2-")
    assert flat([candidate()]) == [RewardResult(0.5)]


BAD = {
    "def redness(:\n": r"mine\.py:1: SyntaxError",
    "x = 1\ny = x / 0\n": r"mine\.py:2: ZeroDivisionError: division by zero",
    "import sys\nsys.exit(3)\n": r"mine\.py:2: SystemExit: 3",
    "def redness(candidate):\n    return candidate.imag\n": r"mine\.py:2: AttributeError",
    "def redness(candidate):\n    return 'much'\n": "returned 'much'; a reward returns a number",
    "def rednes(candidate):\n    return 1\n": "defines no redness; it defines: rednes",
    "def redness(a, b):\n    return 1\n": "takes a, b; a reward takes a candidate",
    "redness = 3\n": "is int; a reward is a class, or a function",
    "class redness:\n    pass\n": "cannot be called",
    "class redness:\n    def __call__(self, c): return []\n": "lacks kind, needs, low, high",
}


@pytest.mark.parametrize("content", BAD)
def test_a_fault_in_a_file_is_one_line_with_its_place(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(PLACE).write_text(content)
    Image.new("RGB", (8, 8)).save("a.png")
    code = main(["rewards", "score", "mine.py:redness", "--image", "a.png"])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    if "return candidate.imag" in content or "'much'" in content:  # known only at the picture
        assert code == 1
        assert re.search(BAD[content], said.out)
        return
    assert code == 2
    assert said.err.count("\n") == 1
    assert re.search(BAD[content], said.err), said.err


def test_a_reward_that_raises_in_training_costs_its_scores_and_says_where(
    mine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine.write_text("def redness(candidate):\n    raise KeyError('hue')\n")
    ensemble = RewardEnsemble({"redness": make_reward(f"{mine}:redness")})
    ensemble.submit([candidate()], {"redness": 1.0})
    batch = ensemble.collect()
    assert batch.reasons[0]["redness"] == f"{mine}:2: KeyError: 'hue'"
    assert [record.exc_info for record in caplog.records if "fails at" in record.message] == [None]


def test_a_source_names_the_row_and_travels_to_other_processes(mine: Path) -> None:
    source = make_source(f"{mine}:Rows", count=3)
    sent = pickle.dumps(source)
    for name in [name for name in sys.modules if name.startswith("deepgen_user_file_mine")]:
        del sys.modules[name]  # as in a process that was just started
    user_files._modules.clear()
    again = pickle.loads(sent)
    assert (len(again), again.task, again[1].text) == (3, "generate", "b")
    with pytest.raises(user_files.UserFileError, match=r"mine\.py:\d+: IndexError: .* \(row 2 of "):
        again[2]
    mine.write_text(ALL.replace('"b"', '"c"'))
    with pytest.raises(user_files.UserFileError, match="was changed while it was in use"):
        pickle.loads(sent)


def test_an_error_that_a_reading_process_sends_is_one_line_again() -> None:
    text = "Caught UserFileError in DataLoader worker process 0.\nOriginal Traceback:\n"
    error = user_files.UserFileError(f"{text}deepgen.user_files.UserFileError: m.py:3: KeyError: 'a'\n")
    assert str(error) == "m.py:3: KeyError: 'a'"


# --- names


@pytest.mark.parametrize(
    ("load", "name", "kind"),
    [
        (REWARDS.load, "ocr", "reward"),
        (SOURCES.load, "jsonl", "source"),
        (OBJECTIVES.load, "nft", "objective"),
        (BENCHMARKS.load, "wise", "benchmark"),
        (recipe, "sft", "recipe"),
    ],
)
def test_a_name_that_is_taken_is_refused_by_name(
    load: Callable[[str], Any], name: str, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / f"{name}.py"
    path.write_text(f"{name} = {kind} = None\n")
    for place in (str(path), f"{path}:{name}"):
        with pytest.raises(ValueError, match=f"is called {name}, as a {kind} that there is; give yours"):
            load(place)


def test_a_benchmark_that_is_called_as_one_that_there_is_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text("name: wise\nprompts: [a]\nrule: yes-no\nquestions: [is it]\n")
    with pytest.raises(ValueError, match="is called wise, as a benchmark that there is"):
        load_benchmark(str(tmp_path / "w.yaml"))


def test_two_rewards_of_one_name_are_refused(mine: Path) -> None:
    (mine.parent / "p.txt").write_text("a\n")
    given = (f"{mine}:redness=1", f"{mine.parent}/other.py:redness=1")
    with pytest.raises(ValueError, match="two rewards are called redness"):
        open_judged_prompts(mine.parent / "p.txt", given, RewardEnsembleConfig())


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed distribution as pip leaves one."""
    (tmp_path / "my_things.py").write_text(ALL.replace("Path(__file__)", "Path(__file__ or '')"))
    (tmp_path / "my_objective.py").write_text(
        "from deepgen.rl.objectives.flow_grpo import FlowGRPO\nclass Mine(FlowGRPO): pass\n"
    )
    info = tmp_path / "my_things-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-things\nVersion: 1.0\n")
    groups = {
        "rewards": "redness = my_things:redness\nocr = my_things:redness\nwhole = my_things",
        "sources": "rows = my_things:Rows",
        "objectives": "mine = my_objective:Mine\nbroken = my_objective:Nothing",
        "recipes": "quick = my_things:quick",
    }
    (info / "entry_points.txt").write_text("".join(f"[deepgen.{k}]\n{v}\n" for k, v in groups.items()))
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._entry_points.cache_clear()
    yield
    registry._entry_points.cache_clear()
    for name in ("my_things", "my_objective"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("package")
def test_things_of_installed_packages_have_names_like_ours(caplog: pytest.LogCaptureFixture) -> None:
    assert {"redness", "whole"} <= set(REWARDS.names())
    assert "my_things:redness offers a reward ocr, which deepgen has itself; it is left out" in caplog.text
    assert reward_class("ocr").__module__.startswith("deepgen.")
    for name in ("redness", "whole"):
        assert make_reward(name)([candidate()])[0].score == 1.0
    assert len(make_source("rows", count=2)) == 2
    assert make_objective("mine", kl_coef=0.0).kl_coef == 0.0
    with pytest.raises(ValueError, match="objective broken of my_objective:Nothing cannot be loaded"):
        make_objective("broken")
    assert type(recipe("quick")) is type(recipe("shapes-dit"))


# --- the record


def test_a_run_keeps_what_it_ran_and_does_not_go_on_with_another_content(mine: Path) -> None:
    run = mine.parent / "run"

    def found(written: dict[str, Any], *, accepts_changes: bool = False) -> dict[str, Any]:
        return RunRecord(run, None, {}, written, accepts_changes, is_main=True).user_files()

    user_files.load_file(mine)
    record = found({})
    (kept,) = (row for row in record[USER_FILES] if row["path"] == str(mine))
    assert found(record) == record  # the same content
    mine.write_text(ALL + "\n# another\n")
    user_files.load_file(mine)
    with pytest.raises(ValueError, match=rf"another content of .*mine\.py \(sha256 {kept['sha256'][:12]}"):
        found(record)
    assert kept not in found(record, accepts_changes=True)[USER_FILES]
