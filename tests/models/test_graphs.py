"""Graphs: one for every size, batch and number of references, without a break, and the plain numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.export import Dim, export
from torch.utils._python_dispatch import TorchDispatchMode

from deepgen.models.adapter_scale import scaled
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.pipeline import DeepGenPipeline

Size = tuple[int, int]

# Latent sizes and references of each sample, and context tokens. Some numbers are alike by chance.
CASES: list[tuple[list[Size], list[list[Size]] | None, int]] = [
    ([(8, 8)] * 2, None, 5),
    ([(8, 8)], None, 5),
    ([(8, 12)], [[(8, 8)]], 7),
    ([(8, 12)] * 3, None, 16),
    ([(16, 8)] * 5, [[(4, 4), (6, 4)]] * 5, 3),
    ([(8, 12)] * 2, [[(8, 8)], [(6, 4)]], 7),  # from here on padded
    ([(8, 8), (4, 6), (4, 8), (8, 4)], [[], [(4, 4)], [(4, 4), (6, 4)], []], 9),
    ([(4, 4), (6, 4)], None, 2),
]


@pytest.fixture(autouse=True)
def own_compiler_state() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def make_dit(num_layers: int = 1, **changes: Any) -> DeepGenTransformer2DModel:
    torch.manual_seed(0)
    sizes = {"sample_size": 32, "in_channels": 4, "out_channels": 4, "num_layers": num_layers}
    widths = {"attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16}
    inputs = {"joint_attention_dim": 12, "pooled_projection_dim": 10, "pos_embed_max_size": 24}
    return DeepGenTransformer2DModel(**{**sizes, **widths, **inputs, **changes}).eval()


def arguments(sizes: Sequence[Size], references: Sequence[Sequence[Size]] | None, length: int) -> Any:
    random = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    latents: Any = [draw(4, *size) for size in sizes]
    return {
        "hidden_states": torch.stack(latents) if len(set(sizes)) == 1 else latents,
        "encoder_hidden_states": draw(len(sizes), length, 12),
        "pooled_projections": draw(len(sizes), 10),
        "timestep": draw(len(sizes)).abs() * 100,
        "reference_latents": references and [[draw(4, *size) for size in row] for row in references],
        "return_dict": False,
    }


def largest_difference(some: Any, others: Any) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(some, others, strict=True))


@torch.no_grad()
def compare(transformer: Any, compiled: Callable[..., Any], cases: Any = CASES) -> float:
    """The largest difference between a compiled model and the plain one."""
    differences = []
    for case in cases:
        given = arguments(*case)
        with torch.compiler.set_stance("force_eager"):
            expected = transformer(**given)[0]
        differences.append(largest_difference(compiled(**given)[0], expected))
    return max(differences)


def test_a_compiled_dit_is_two_graphs_for_every_size_batch_and_number_of_references() -> None:
    transformer = make_dit()
    compiled = torch.compile(transformer, dynamic=True, fullgraph=True, backend="eager")
    assert compare(transformer, compiled) == 0
    assert counters["stats"]["unique_graphs"] == 2, "one without masks, one with them"
    assert not counters["graph_break"]
    context = {"encoder_attention_mask": torch.tensor([[True, True, False]] * 2)}
    with torch.no_grad():
        compiled(**arguments([(8, 8)] * 2, None, 3), **context)
    assert counters["stats"]["unique_graphs"] == 2, "pads of the context are masked in the second graph"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["one picture first", "without dynamic=True", "compile", "gradients"])
def test_the_number_of_graphs_does_not_depend_on_how_it_is_compiled_or_on_the_first_call(way: str) -> None:
    transformer, cases = make_dit(), CASES
    compiled: Any = transformer
    if way == "compile":
        transformer.compile(dynamic=True, fullgraph=True, backend="eager")
    elif way == "without dynamic=True":
        compiled = torch.compile(transformer, backend="eager")
    else:
        compiled = torch.compile(transformer, dynamic=True, fullgraph=True, backend="aot_eager")
    if way == "one picture first":
        cases = CASES[1:] + CASES[:1]
    if way == "gradients":
        transformer.train().enable_gradient_checkpointing()
        for case in CASES:
            gradients = []
            for model, stance in ((compiled, "default"), (transformer, "force_eager")):
                transformer.zero_grad()
                with torch.compiler.set_stance(stance):
                    sum(x.square().sum() for x in model(**arguments(*case))[0]).backward()
                parameters = transformer.named_parameters()
                gradients.append({name: p.grad.clone() for name, p in parameters if p.grad is not None})
            torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)
    else:
        assert compare(transformer, compiled, cases) == 0
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


@pytest.mark.slow
def test_what_torch_explains_has_no_break() -> None:
    for case in (CASES[2], CASES[6]):
        explained = torch._dynamo.explain(make_dit())(**arguments(*case))
        assert (explained.graph_count, explained.graph_break_count) == (1, 0)


@pytest.mark.slow
def test_compiled_blocks_are_two_graphs_of_each_kind() -> None:
    transformer = make_dit(3, dual_attention_layers=(0,))
    transformer.compile_repeated_blocks(dynamic=True, fullgraph=True, backend="eager")
    assert compare(transformer, transformer) == 0
    assert counters["stats"]["unique_graphs"] == 6, "with two attentions, with one, and the last"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="on a CPU torch.compile needs a C++ compiler")
def test_a_dit_of_the_default_compiler_is_two_graphs_as_well() -> None:
    transformer = make_dit(2, dual_attention_layers=(0,))
    assert compare(transformer, torch.compile(transformer, dynamic=True, fullgraph=True)) < 1e-5
    assert counters["stats"]["unique_graphs"] == 2


@torch.no_grad()
def test_an_exported_dit_takes_other_batches_sizes_and_lengths() -> None:
    """With references, whose number is part of what is exported."""
    transformer, free = make_dit(dual_attention_layers=(0,)), Dim.DYNAMIC

    def given(batch: int, size: Size, length: int, reference: Size) -> Any:
        made = arguments([size] * batch, None, length)
        return {**made, "reference_latents": torch.randn(batch, 2, 4, *reference)}

    shapes = {
        "hidden_states": {0: free, 2: free, 3: free},
        "encoder_hidden_states": {0: free, 1: free},
        "pooled_projections": {0: free},
        "timestep": {0: free},
        "reference_latents": {0: free, 3: free, 4: free},
        "return_dict": None,
    }
    program = export(transformer, (), given(2, (8, 12), 5, (6, 4)), dynamic_shapes=shapes).module()
    for case in ((2, (8, 12), 5, (6, 4)), (3, (12, 8), 9, (4, 8)), (1, (8, 16), 4, (8, 8))):
        inputs = given(*case)
        expected = transformer(**inputs)[0]
        assert largest_difference(program(**inputs)[0], expected) == 0
        lists = {**inputs, "reference_latents": [list(row) for row in inputs["reference_latents"]]}
        assert largest_difference(transformer(**lists)[0], expected) < 1e-6


@pytest.mark.slow
@torch.no_grad()
def test_vlm_tower_and_connector_have_no_break(pipe: DeepGenPipeline) -> None:
    vlm, connector = pipe.vlm, pipe.connector
    vlm.language_model.layers, taps = vlm.language_model.layers[:2], (2, 1) * (len(connector.taps or ()) // 2)
    compiled = [torch.compile(x, dynamic=True, fullgraph=True, backend="eager") for x in (vlm, connector)]
    image = vlm.config.image_token_id
    pixels = [torch.rand(3, 64, 96) * 2 - 1, torch.rand(3, 128, 160) * 2 - 1]
    mask = torch.ones(2, 30, dtype=torch.long)
    mask[0, :4] = 0
    rows = [[0] * 4 + [7] * 16 + [image] * 6 + [8] * 4, [7] + [image] * 26 + [8, 9, 9]]
    calls: list[tuple[Any, ...]] = [
        (torch.randint(5, 50, (2, 12)), torch.ones(2, 12), {}),
        (torch.randint(5, 50, (3, 9)), torch.ones(3, 9), {}),
        (torch.tensor(rows), mask, {"pixel_values": pixels, "image_index": [[0], [0, 1]]}),
    ]
    graphs = []
    for ids, real, images in calls:
        think = connector.think_tokens()
        states = [model(ids, real, think, taps, **images) for model in (compiled[0], vlm)]
        # Plain, the tower's feed-forward is one operation of oneDNN, which rounds otherwise.
        assert largest_difference(*states) <= (1e-5 if images else 0)
        assert largest_difference(compiled[1](states[0]), connector(states[0])) == 0
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [2, 2, 4], "VLM and connector; another size; the tower and pads"
    assert not counters["graph_break"]


class Asked(TorchDispatchMode):
    """Counts operations after which a host knows numbers of a device."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = ("local_scalar_dense", "nonzero", "equal", "masked_select", "unique", "is_nonzero")
        has_mask = "index" in str(func) and any(
            isinstance(x, Tensor) and x.dtype == torch.bool for x in (args[1] if len(args) > 1 else ())
        )
        if has_mask or any(name in str(func) for name in names):
            self.operations.append(str(func))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_no_network_asks_what_the_host_knows(pipe: DeepGenPipeline) -> None:
    """The VLM still looks for pads, and whether the images fit, but in the prompts, which are on the host."""
    transformer = make_dit(dual_attention_layers=(0,))
    with Asked() as asked:
        for case in CASES:
            transformer(**arguments(*case))
    assert asked.operations == []
    image, size = pipe.vlm.config.image_token_id, (3, 128, 160)
    ids = torch.tensor([[7, *[image] * 20, 8, 9], [7, *[image] * 20, 8, 9]])
    pipe.vlm.image_features([torch.zeros(size)])  # what sizes tell is kept
    with Asked() as asked:
        think = pipe.connector.think_tokens()
        pixels = {"pixel_values": [torch.zeros(size)], "image_index": [[0], [0]]}
        states = pipe.vlm(ids, torch.ones_like(ids), think, pipe.connector.taps, **pixels)
        pipe.connector(states)
    assert asked.operations == ["aten._local_scalar_dense.default", "aten._local_scalar_dense.default"]


def test_a_scale_that_is_a_tensor_is_put_back(pipe: DeepGenPipeline) -> None:
    """A model that was prepared for swapping adapters holds tensors, which PEFT multiplies in place."""
    from peft import LoraConfig

    transformer = pipe.transformer
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=3, target_modules=["to_q"]), "x")
    layer: Any = transformer.transformer_blocks[0].attn.to_q
    scale = layer.scaling["x"] = torch.tensor(1.5)
    with scaled([transformer], 0.5):
        assert float(layer.scaling["x"]) == 0.75
    assert layer.scaling["x"] is scale
    assert float(scale) == 1.5
