"""One set of settings at every door: the same names, the same resolved values, the same picture and record,
and the same suggestion for a field that does not exist.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_host import add_host, load_nodes
from deepgen.cli import drawing, main, prompt_file
from deepgen.client import Client, RequestFailed
from deepgen.data.png import ImageRecord, read_record
from deepgen.evaluation import drawing as evaluation_drawing
from deepgen.evaluation.benchmark import Benchmark, Item, Settings, settings_with, with_standard_names
from deepgen.evaluation.models import PipelineModel
from deepgen.evaluation.run_config import EvaluationJob, RunConfig, Workers
from deepgen.generation import (
    NAMES,
    GenerationSettings,
    ResolvedSettings,
    nearest_name,
    standard_names,
)
from deepgen.pipeline import ARGUMENTS, DeepGenPipeline
from deepgen.recipes import recipe
from deepgen.sampling.solvers import make_scheduler
from deepgen.serving.bodies import read_body
from deepgen.serving.jobs import GenerationRequest
from deepgen.serving.local import serve_locally
from deepgen.serving.schema import ChatCompletionRequest, ImageGenerationRequest, Limits
from deepgen.training.overrides import override

DEFAULTS = {"height": 64, "width": 96, "num_inference_steps": 24, "guidance_scale": 1.75}
PROMPT = "two blue stars"
ASKED = {
    "num_inference_steps": 2,
    "guidance_scale": 2.0,
    "height": 64,
    "width": 32,
    "negative_prompt": "a red cat",
    "seed": 3,
    "preset": "exact",
    "solver": "unipc",
}
# The same in the former names of doors that have had them.
FORMER = {
    "steps": 2,
    "guidance": 2.0,
    "negative": "a red cat",
    "size": "32x64",
    "seed": 3,
    "preset": "exact",
    "scheduler": "unipc",
}


# --- the value ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "is_edit", "expected"),
    [
        ({}, False, {"num_inference_steps": 24, "guidance_scale": 1.75, "height": 64, "width": 96}),
        ({"height": 32}, False, {"height": 32, "width": 96}),
        ({}, True, {"guidance_scale": 1.25, "height": None, "width": None}),
        ({"width": 32}, True, {"height": 64, "width": 32}),
        ({"guidance_scale": 0}, True, {"guidance_scale": 0}),
        ({"preset": "fast"}, False, {"num_inference_steps": 12, "preset": "fast", "solver": None}),
        ({"preset": "fast", "num_inference_steps": 5}, False, {"num_inference_steps": 5}),
        ({"preset": "fast", "solver": "unipc"}, False, {"solver": None}),
        ({"solver": "heun"}, False, {"num_inference_steps": 24, "preset": "exact", "solver": "heun"}),
    ],
)
def test_what_is_left_open_is_the_models_own(asked: dict, is_edit: bool, expected: dict) -> None:
    resolved = GenerationSettings(**asked).resolve({**DEFAULTS, "edit_guidance_scale": 1.25}, is_edit)
    assert {name: getattr(resolved, name) for name in expected} == expected
    assert GenerationSettings(**resolved.arguments()).resolve(DEFAULTS, is_edit) == resolved


def test_a_model_without_defaults_has_the_published_ones_and_a_server_its_preset() -> None:
    own = GenerationSettings().resolve({})
    assert (own.num_inference_steps, own.guidance_scale, own.height, own.width) == (50, 4.0, 512, 512)
    assert GenerationSettings().resolve({"preset": "balanced"}).num_inference_steps == 17
    assert GenerationSettings(preset="exact").resolve({"preset": "balanced"}).num_inference_steps == 50
    few = {"num_inference_steps": 8}  # a preset saves steps, and never adds any
    assert GenerationSettings(preset="balanced").resolve(few).num_inference_steps == 8
    assert (
        GenerationSettings(preset="balanced", num_inference_steps=12).resolve(few).num_inference_steps == 12
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number of at least 1, got 0"),
        ({"num_inference_steps": 2.5}, "num_inference_steps must be"),
        ({"guidance_scale": float("inf")}, "guidance_scale must be a finite number"),
        ({"preset": "quick"}, "unknown preset 'quick'"),
        ({"solver": "uni-pc"}, r"unknown solver 'uni-pc'; did you mean unipc\?"),
        ({"preset": "fast", "solver": "heun"}, "preset 'fast' chooses the solver unipc; leave out solver"),
    ],
)
def test_what_no_model_can_draw_with_is_refused(asked: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationSettings(**asked).resolve(DEFAULTS)


def test_former_names_stand_for_todays() -> None:
    assert standard_names({"steps": 3, "seed": 1}, ["steps"]) == {"num_inference_steps": 3, "seed": 1}
    with pytest.raises(ValueError, match="steps and num_inference_steps mean the same"):
        standard_names({"num_inference_steps": 3, "steps": 3}, ["steps"])
    for word in ("steps", "stesp", "num_steps", "num_inference_step"):
        assert nearest_name(word, NAMES) == "; did you mean num_inference_steps?"
    assert nearest_name("colour", NAMES) == ""


def test_a_solver_of_a_call_is_the_solver_of_a_pipeline(pipe: DeepGenPipeline) -> None:
    asked = {"seed": 1, "num_inference_steps": 3, "output_type": "np"}
    by_name = pipe(PROMPT, solver="heun", **asked).images
    pipe.scheduler = make_scheduler("heun", pipe.scheduler)
    assert np.array_equal(by_name, pipe(PROMPT, **asked).images)
    assert np.array_equal(by_name, pipe(PROMPT, solver="heun", **asked).images)
    with pytest.raises(ValueError, match="solver 'unipc' is asked for and the pipeline has FlowMatchHeun"):
        pipe(PROMPT, solver="unipc", **asked)


# --- doors that draw ----------------------------------------------------------------------------------------


GRAPH = {"1": {"class_type": "DeepGenSave", "inputs": {}}}  # what ComfyUI hands a node that saves
EXTRA = {"workflow": {"nodes": [1]}}


class OneItem(Benchmark):
    """A benchmark of one prompt."""

    name = "one"
    settings = Settings(height=64, width=32)

    def items(self, data_dir: Path, *, allow_altered: bool = False) -> list[Item]:
        return [Item(id="1", category="", prompt=PROMPT)]

    def image_path(self, item: Item, sample: int) -> str:
        return "one.png"


class Doors:
    """Every way to one pipeline: each gives the picture of its file, and the record in that."""

    def __init__(self, pipe: DeepGenPipeline, client: Client, nodes: ModuleType) -> None:
        self.pipe, self.client, self.nodes = pipe, client, nodes

    def python(self, **asked: Any) -> tuple[Image.Image, ImageRecord | None]:
        output = self.pipe(PROMPT, **asked)
        assert output.records == [read_record(output.images[0])]
        (path,) = output.save("python/out.png")
        return read(path)

    def command_line(self, **asked: Any) -> tuple[Image.Image, ImageRecord | None]:
        words = [word for name, value in asked.items() for word in (option(name), str(value))]
        assert main(["generate", PROMPT, "-o", "drawn.png", *words]) == 0
        return read(Path("drawn.png"))

    def prompt_file(self, **asked: Any) -> tuple[Image.Image, ImageRecord | None]:
        Path("rows.jsonl").write_text(json.dumps({"prompt": PROMPT, "name": "row.png", **asked}))
        assert main(["generate", "--file", "rows.jsonl", "-o", "rows"]) == 0
        return read(Path("rows/row.png"))

    def http(self, **asked: Any) -> tuple[Image.Image, ImageRecord | None]:
        (image,) = self.client.generate(PROMPT, **asked)
        return read(io.BytesIO(image.content))

    def comfyui(self, **asked: Any) -> tuple[Image.Image, ImageRecord | None]:
        model = self.nodes.Model(self.pipe)
        drawn, records = self.nodes.DeepGenGenerate().generate(model, PROMPT, **asked)
        shown = self.nodes.DeepGenSave().save(drawn, records, "comfyui", prompt=GRAPH, extra_pnginfo=EXTRA)
        (file,) = shown["ui"]["images"]
        image, record = read(Path("output", file["subfolder"], file["filename"]))
        kept = {name: json.loads(text) for name, text in image.text.items()}
        assert kept.keys() == {"prompt", "workflow", "deepgen"}
        assert (kept["prompt"], kept["workflow"]) == (GRAPH, EXTRA["workflow"])  # as the host's own node
        return image, record

    def evaluation(self, **asked: Any) -> tuple[Image.Image, ImageRecord | None]:
        names = {name: asked.pop(name) for name in ("preset", "solver", "seed")}
        model = PipelineModel("tiny", self.pipe, "", is_deepgen=True, preset=names["preset"])
        benchmark = OneItem()
        settings = settings_with(benchmark.settings, solver=names["solver"], **asked)
        job = EvaluationJob(
            benchmark=benchmark,
            settings=settings,
            config=RunConfig(output_dir=Path("eval"), data_dir=Path("data")),
            folder=Path("eval"),
            chosen=benchmark.items(Path("data")),
            team=Workers(),
        )
        job.folder.mkdir(exist_ok=True)
        (job.folder / "one.png").unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluation_drawing, "seed_of", lambda *args: names["seed"])
            assert evaluation_drawing.draw(job, model) == {}
        return read(Path("eval/one.png"))


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def read(file: Any) -> tuple[Image.Image, ImageRecord | None]:
    record = read_record(file)
    image = Image.open(file)
    image.load()
    return image, record


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_nodes(monkeypatch, "comfyui_nodes_of_a_test")
    monkeypatch.setattr(module, "_on_step", lambda num_steps: None)  # the host's progress bar
    add_host(monkeypatch)
    return module


@pytest.fixture
def doors(
    pipe: DeepGenPipeline, nodes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Doors]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPGEN_MODEL", raising=False)
    for module in (drawing, prompt_file):
        monkeypatch.setattr(module, "load_pipeline", lambda options: pipe)
        monkeypatch.setattr(module, "read_sizes", lambda model: None)
    monkeypatch.setattr(pipe, "model_name", "tiny")
    with serve_locally(pipe, model_name="tiny") as client:
        yield Doors(pipe, client, nodes)


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[ResolvedSettings]:
    """Everything that is resolved, in order."""
    found: list[ResolvedSettings] = []
    resolve = GenerationSettings.resolve

    def remembered(self: GenerationSettings, *args: Any, **options: Any) -> ResolvedSettings:
        found.append(resolve(self, *args, **options))
        return found[-1]

    monkeypatch.setattr(GenerationSettings, "resolve", remembered)
    return found


def test_every_door_draws_the_same_settings_as_the_same_picture_with_the_same_record(
    doors: Doors, resolved: list[ResolvedSettings]
) -> None:
    expected, first = doors.python(**ASKED)
    # What is kept of an edit's source: tests/serving/test_same_edit_everywhere.py.
    names = [name for name in NAMES if name not in ("seed", "keep_unchanged")]
    settings = {name: getattr(resolved[-1], name) for name in names}
    assert settings == {name: value for name, value in ASKED.items() if name != "seed"}
    records = [first]
    for door, asked in (
        (doors.command_line, ASKED),
        (doors.command_line, FORMER),
        (doors.prompt_file, ASKED),
        (doors.prompt_file, FORMER),
        (doors.http, ASKED),
        (doors.comfyui, ASKED),
        (doors.evaluation, ASKED),
    ):
        image, record = door(**asked)
        assert {name: getattr(resolved[-1], name) for name in settings} == settings, door.__name__
        difference = np.abs(np.asarray(image, dtype=int) - np.asarray(expected, dtype=int))
        assert difference.max() <= 1, door.__name__  # what a batch's shape and a tensor's rounding leave
        records += [] if record is None else [record]
    assert len(records) == 8
    assert all(record == records[0] for record in records)
    kept = {name: getattr(records[0], name) for name in ASKED}
    assert (kept, records[0].prompt, records[0].model) == (ASKED, PROMPT, "tiny")


def test_former_names_of_nodes_are_still_inputs(doors: Doors) -> None:
    named = {**ASKED, "steps": 2, "guidance": 2.0}
    named = {name: named[name] for name in named if name not in ("num_inference_steps", "guidance_scale")}
    assert np.array_equal(*(np.asarray(doors.comfyui(**asked)[0]) for asked in (named, ASKED)))


# --- names --------------------------------------------------------------------------------------------------


def test_every_door_has_every_name() -> None:
    for known in (
        ARGUMENTS,
        ChatCompletionRequest.model_fields,
        GenerationRequest.__dataclass_fields__,
        prompt_file._KINDS,
    ):
        assert set(NAMES) <= set(known)
    assert set(Settings.__dataclass_fields__) == {*NAMES, "num_samples"}
    assert {"num_inference_steps", "guidance_scale", "height", "width"} <= set(vars(recipe("rl")))


def _row(**fields: Any) -> None:
    prompt_file._read_json(json.dumps({"prompt": PROMPT, **fields}))


def _http(**fields: Any) -> None:
    read_body(ImageGenerationRequest, {"prompt": PROMPT, **fields}, Limits())


@pytest.mark.parametrize(
    ("misspelt", "name"),
    [("guidance_scal", "guidance_scale"), ("num_inference_step", "num_inference_steps")],
)
def test_every_door_refuses_an_unknown_field_with_the_nearest_name(
    misspelt: str, name: str, pipe: DeepGenPipeline, nodes: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def node(**fields: Any) -> None:
        nodes.DeepGenGenerate().generate(nodes.Model(pipe), PROMPT, seed=1, **fields)

    def node_of_a_graph(**fields: Any) -> None:  # ComfyUI itself drops inputs that a node does not declare
        graph = {"7": {"inputs": {"prompt": PROMPT, "seed": 1, **fields}}}
        model = nodes.Model(pipe)
        nodes.DeepGenGenerate().generate(model, PROMPT, seed=1, graph=graph, unique_id="7")

    def editing_node_of_a_graph(**fields: Any) -> None:
        graph = {"7": {"inputs": {"instruction": PROMPT, "seed": 1, **fields}}}
        image = torch.zeros(1, 64, 64, 3)
        nodes.DeepGenEdit().edit(nodes.Model(pipe), image, PROMPT, seed=1, graph=graph, unique_id="7")

    refusing: tuple[Callable[..., Any], ...] = (
        lambda **fields: pipe(PROMPT, **fields),
        _row,
        _http,
        node,
        node_of_a_graph,
        editing_node_of_a_graph,
        lambda **fields: settings_with(Settings(), **fields),
        lambda **fields: override(recipe("rl"), {key: str(value) for key, value in fields.items()}),
    )
    for door in refusing:
        with pytest.raises(Exception, match=rf"{misspelt}.*did you mean {name}\?"):
            door(**{misspelt: 2})
    evals = [["eval", kind] for kind in ("run", "storybook")]
    for command in (["generate", PROMPT], ["edit", PROMPT, "a.png"], *evals):
        with pytest.raises(SystemExit):
            main([*command, option(misspelt), "2"])
        assert f"did you mean {option(name)}?" in capsys.readouterr().err


def test_the_client_passes_on_what_the_server_refuses(doors: Doors) -> None:
    with pytest.raises(RequestFailed, match=r"unknown field 'steps'; did you mean num_inference_steps\?"):
        doors.client.generate(PROMPT, steps=2)


# --- files of earlier versions ------------------------------------------------------------------------------


def test_a_record_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    # As the version before these names wrote it.
    written = {
        "prompt": "a red star",
        "negative_prompt": None,
        "seed": 7,
        "steps": 16,
        "guidance": 2.5,
        "width": 96,
        "height": 96,
        "scheduler": "euler",
        "preset": "exact",
        "model": "tiny",
        "references": ["a.png"],
        "mask": None,
        "drawn_width": None,
        "drawn_height": None,
        "prompt_cut": None,
        "version": "0.0.9",
    }
    info = PngInfo()
    info.add_text("deepgen", json.dumps(written))
    Image.new("RGB", (96, 96)).save(tmp_path / "old.png", pnginfo=info)
    record = read_record(tmp_path / "old.png")
    assert record is not None
    assert (record.num_inference_steps, record.guidance_scale, record.solver) == (16, 2.5, "euler")
    assert (record.image, record.version) == (("a.png",), "0.0.9")


def test_a_manifest_of_an_earlier_version_has_todays_names() -> None:
    drawing = {"version": "1", "settings": {"num_steps": 50, "seed": 42}}
    assert with_standard_names(drawing)["settings"] == {"num_inference_steps": 50, "seed": 42}
