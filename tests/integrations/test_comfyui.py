"""The ComfyUI nodes, loaded as ComfyUI loads them, with the few functions of the host they call."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

from deepgen.pipeline import DeepGenPipeline
from lora_cases import write_case

PACK = Path(__file__).parents[2] / "integrations" / "comfyui"
WORKFLOWS = sorted((PACK / "example_workflows").glob("*.json"))
WIDGETS = ("STRING", "INT", "FLOAT", "BOOLEAN")  # types that ComfyUI shows as fields; a list is one too


class Stopped(Exception):
    """What the host raises where somebody pressed cancel."""


class Host:
    """ComfyUI's progress and its cancel button."""

    def __init__(self) -> None:
        self.totals: list[int] = []
        self.steps = 0
        self.stop_at = 10**9

    def bar(self, total: int) -> Host:
        self.totals.append(total)
        return self

    def update(self, steps: int) -> None:
        self.steps += steps

    def throw(self) -> None:
        if self.steps >= self.stop_at:
            raise Stopped


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    comfy, management, utils = (ModuleType(n) for n in ("comfy", "comfy.model_management", "comfy.utils"))
    management.throw_exception_if_processing_interrupted = host.throw  # type: ignore[attr-defined]
    utils.ProgressBar = host.bar  # type: ignore[attr-defined]
    comfy.model_management, comfy.utils = management, utils  # type: ignore[attr-defined]
    for module in (comfy, management, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return host


@pytest.fixture(scope="module")
def pack() -> Iterator[Any]:
    name = "custom_nodes_of_a_test"
    spec = importlib.util.spec_from_file_location(
        name, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for known in [known for known in sys.modules if known.startswith(name)]:
        del sys.modules[known]


def run(pack: Any, kind_name: str, /, **inputs: Any) -> Any:
    """A node's first output; fields left out have their defaults, as in the host."""
    node = pack.NODE_CLASS_MAPPINGS[kind_name]()
    given = {}
    for field, (kind, *options) in node.INPUT_TYPES()["required"].items():
        if field not in inputs:
            given[field] = kind[0] if isinstance(kind, list) else options[0]["default"]
    outputs = getattr(node, node.FUNCTION)(**{**given, **inputs})
    assert len(outputs) == len(node.RETURN_TYPES)
    return outputs[0]


def check(image: Tensor, shape: tuple[int, ...]) -> None:
    assert image.dtype == torch.float32
    assert tuple(image.shape) == shape
    assert image.min() >= 0
    assert image.max() <= 1


def lora_of(pipe: DeepGenPipeline, folder: Path) -> str:
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=64, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.transformer.add_adapter(config)
    pipe.save_lora_weights(folder)
    return str(folder)


def test_every_node_keeps_to_the_hosts_conventions(pack: Any) -> None:
    assert set(pack.NODE_CLASS_MAPPINGS) == set(pack.NODE_DISPLAY_NAME_MAPPINGS)
    for node in pack.NODE_CLASS_MAPPINGS.values():
        inputs = node.INPUT_TYPES()
        method = getattr(node, node.FUNCTION)
        names = method.__code__.co_varnames[1 : method.__code__.co_argcount]
        assert set(names) == {name for group in inputs.values() for name in group}
        assert set(inputs) <= {"required", "optional", "hidden"}
        assert node.CATEGORY


def test_load_draw_and_edit_with_the_small_model(pack: Any, host: Host) -> None:
    model = run(pack, "DeepGenLoad", name="tiny", device="cpu")
    drawn = run(pack, "DeepGenGenerate", model=model, steps=2, seed=3, batch_size=2)
    check(drawn, (2, 96, 96, 3))
    alone = model.pipe("a cat in a meadow", num_inference_steps=2, seed=4, output_type="np").images[0]
    torch.testing.assert_close(drawn[1], torch.from_numpy(alone), atol=1e-3, rtol=0)
    edited = run(pack, "DeepGenEdit", model=model, image=drawn[:, :80], steps=2, seed=1)
    check(edited, (2, 80, 96, 3))
    assert (host.totals, host.steps) == ([2, 2], 4)


def test_references_sizes_and_alpha_are_taken(pack: Any, host: Host, pipe: DeepGenPipeline) -> None:
    model = sys.modules[pack.__name__ + ".nodes"].Model(pipe)
    image, other = torch.rand(1, 40, 48, 4), torch.rand(2, 64, 64, 3)
    asked = {"model": model, "image": image, "steps": 2, "width": 64, "height": 32}
    one = run(pack, "DeepGenEdit", **asked)
    two = run(pack, "DeepGenEdit", **asked, image_2=other)
    check(two, (1, 32, 64, 3))
    assert not torch.equal(one, two)
    with pytest.raises(ValueError, match="both width and height"):
        run(pack, "DeepGenGenerate", model=model, width=64)
    with pytest.raises(ValueError, match="shape"):
        run(pack, "DeepGenEdit", model=model, image=torch.rand(1, 40, 48, 1))


@pytest.mark.parametrize(
    ("node", "given", "message"),
    [
        ("DeepGenGenerate", {"width": 65, "height": 64}, "width and height: 65x64 .* not a multiple"),
        ("DeepGenGenerate", {"width": 64}, "both width and height"),
        ("DeepGenGenerate", {"preset": "fast", "solver": "heun"}, "solver"),
        ("DeepGenGenerate", {"preset": "slow"}, "^preset: unknown 'slow'"),
        ("DeepGenGenerate", {"solver": "rk4"}, "^solver: unknown 'rk4'"),
        ("DeepGenGenerate", {"prompt": None}, "^(the )?prompt"),
        ("DeepGenGenerate", {"batch_size": 0}, "^batch_size must be at least 1"),
        ("DeepGenGenerate", {"instruction": "a"}, "unknown field 'instruction'"),
        ("DeepGenEdit", {"prompt": "a"}, "unknown field 'prompt'.*known.*instruction"),
        ("DeepGenEdit", {"instruction": None}, "^instruction is missing"),
        ("DeepGenEdit", {"image": torch.rand(1, 64, 64, 1)}, r"^image: expected pictures \(H, W, 3\)"),
        ("DeepGenEdit", {"image_3": torch.rand(1, 64, 64, 1)}, "^image_3: expected pictures"),
        ("DeepGenEdit", {"mask": torch.ones(1, 32, 64)}, "mask is 64x32 and image 64x64"),
        ("DeepGenEdit", {"mask": torch.zeros(1, 64, 64)}, "mask is empty; paint over"),
        ("DeepGenEdit", {"mask": torch.rand(2, 64, 64)}, "^mask: one for all"),
        (
            "DeepGenLoad",
            {"name": "tiny", "device": "cpu", "offload": "model"},
            "^offload model .*set it to none",
        ),
        ("DeepGenLoad", {"name": "tiny", "device": "mps"}, "^device mps"),
    ],
)
def test_errors_speak_of_the_nodes_own_inputs(
    pack: Any, host: Host, pipe: DeepGenPipeline, node: str, given: dict[str, Any], message: str
) -> None:
    model = sys.modules[pack.__name__ + ".nodes"].Model(pipe)
    asked = {} if node == "DeepGenLoad" else {"model": model}
    if node == "DeepGenEdit":
        asked["image"] = torch.rand(1, 64, 64, 3)
    with pytest.raises(ValueError, match=message) as refused:
        run(pack, node, **{**asked, **given})
    said = str(refused.value)
    assert not re.search("--|num_images_per_prompt|transparent|scheduler", said)


def test_a_lora_works_on_its_own_wire_only(
    pack: Any, host: Host, pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    path = lora_of(fresh_pipe, tmp_path)
    plain = sys.modules[pack.__name__ + ".nodes"].Model(pipe)
    with_lora = run(pack, "DeepGenLora", model=plain, path=path)
    asked = {"steps": 2, "seed": 1}
    before = run(pack, "DeepGenGenerate", model=plain, **asked)
    changed = run(pack, "DeepGenGenerate", model=with_lora, **asked)
    after = run(pack, "DeepGenGenerate", model=plain, **asked)
    assert torch.equal(before, after)
    assert (before - changed).abs().max() > 1e-3
    expected = fresh_pipe("a cat in a meadow", num_inference_steps=2, seed=1, output_type="np").images[0]
    torch.testing.assert_close(changed[0], torch.from_numpy(expected), atol=1e-3, rtol=0)
    twice = run(pack, "DeepGenLora", model=with_lora, path=path, strength=-1.0)
    undone = run(pack, "DeepGenGenerate", model=twice, **asked)
    torch.testing.assert_close(undone, before, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="path is empty"):
        run(pack, "DeepGenLora", model=plain, path=" ")


def test_a_lora_of_another_trainer_draws_and_a_damaged_one_leaves_the_model_as_it_was(
    pack: Any, host: Host, tmp_path: Path
) -> None:
    pipe = DeepGenPipeline.from_pretrained("shapes", torch_dtype=torch.float32)
    model = sys.modules[pack.__name__ + ".nodes"].Model(pipe)
    asked = {"steps": 1, "seed": 1}
    before = run(pack, "DeepGenGenerate", model=model, **asked)
    for name in ("kohya_keys", "peft_keys_with_alpha"):
        path = write_case(f"{name}.safetensors", tmp_path)
        with_lora = run(pack, "DeepGenLora", model=model, path=str(path))
        assert (run(pack, "DeepGenGenerate", model=with_lora, **asked) - before).abs().max() > 0.01
    damaged = run(pack, "DeepGenLora", model=model, path=str(write_case("nan.safetensors", tmp_path)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        run(pack, "DeepGenGenerate", model=damaged, **asked)
    after = run(pack, "DeepGenGenerate", model=model, **asked)
    torch.testing.assert_close(
        after, before, atol=1e-5, rtol=0
    )  # layers that are switched off round otherwise


def test_the_hosts_cancel_button_stops_between_steps(pack: Any, host: Host, pipe: DeepGenPipeline) -> None:
    host.stop_at = 2
    model = sys.modules[pack.__name__ + ".nodes"].Model(pipe)
    with pytest.raises(Stopped):
        run(pack, "DeepGenGenerate", model=model, steps=9)
    assert host.steps == 2


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_fits_the_nodes(pack: Any, path: Path) -> None:
    workflow = json.loads(path.read_text())
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link[1:] for link in workflow["links"]}
    kinds = {node["type"] for node in nodes.values()}
    assert {"DeepGenLoad", "DeepGenGenerate", "DeepGenEdit"} <= kinds
    assert kinds <= {*pack.NODE_CLASS_MAPPINGS, "PreviewImage", "SaveImage"}
    for source, slot, target, place, kind in links.values():
        assert nodes[source]["outputs"][slot]["type"] == nodes[target]["inputs"][place]["type"] == kind
    for node in nodes.values():
        for given in node["inputs"]:
            assert given["link"] is None or links[given["link"]][2] == node["id"]
        if node["type"] in pack.NODE_CLASS_MAPPINGS:
            check_fields(pack.NODE_CLASS_MAPPINGS[node["type"]], node)


def check_fields(kind: Any, node: dict[str, Any]) -> None:
    inputs = kind.INPUT_TYPES()
    everything = {**inputs["required"], **inputs.get("optional", {})}
    everything = {  # an input without a field is shown as a socket
        name: kind for name, kind in everything.items() if not (kind[1:] and kind[1].get("forceInput"))
    }
    wired = {given["name"]: given for given in node["inputs"]}
    values = list(node["widgets_values"])
    for name, (type_, *options) in everything.items():
        if isinstance(type_, str) and type_ not in WIDGETS:
            assert wired.pop(name)["type"] == type_
            continue
        if not values:  # a workflow of an earlier version: later fields have their defaults
            assert name in ("preset", "solver", "keep_unchanged")
            continue
        value = values.pop(0)
        if isinstance(type_, list):
            assert value in type_
            continue
        assert isinstance(value, {"STRING": str, "INT": int, "FLOAT": float}[type_])
        limits = options[0]
        assert limits.get("min", value) <= value <= limits.get("max", value)
        if limits.get("control_after_generate"):
            assert values.pop(0) in ("fixed", "increment", "decrement", "randomize")
    assert not values
    assert not wired
    for name in inputs["required"]:
        given = next((given for given in node["inputs"] if given["name"] == name), None)
        assert given is None or given["link"] is not None
    assert [output["type"] for output in node["outputs"]] == list(kind.RETURN_TYPES)
