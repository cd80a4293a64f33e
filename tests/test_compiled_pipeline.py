"""A pipeline with a compiled DiT: it swaps adapters and shares steps of requests without new graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import nn
from torch._dynamo.utils import counters

from deepgen.models.compiled import CACHE_VARIABLE, compile_blocks
from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.engine import Engine, EngineConfig
from deepgen.serving.jobs import GenerationRequest

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_compiler_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(CACHE_VARIABLE, "/nonexistent")
    limit = torch._dynamo.config.cache_size_limit
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.config.cache_size_limit = limit
    torch._dynamo.reset()


def compile_whole(pipe: DeepGenPipeline) -> None:
    """As a user of diffusers does."""
    pipe.transformer.compile(dynamic=True, fullgraph=True, backend="eager")


def compile_each(pipe: DeepGenPipeline) -> None:
    """As `--compile` does."""
    compile_blocks(pipe.transformer, backend="eager")


def assign(pipe: DeepGenPipeline) -> None:
    """As PyTorch's documentation does."""
    pipe.transformer = torch.compile(pipe.transformer, dynamic=True, fullgraph=True, backend="eager")  # type: ignore[assignment]


def shorten(pipe: DeepGenPipeline) -> None:
    """A DiT of two blocks, which are compiled sooner."""
    blocks = pipe.transformer.transformer_blocks
    pipe.transformer.transformer_blocks = nn.ModuleList([blocks[0], blocks[-1]])


def adapter(pipe: DeepGenPipeline, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.transformer.add_adapter(config, f"made{seed}")
    state = get_peft_model_state_dict(pipe.transformer, adapter_name=f"made{seed}")
    pipe.transformer.delete_adapters(f"made{seed}")
    return {f"transformer.{name}": value.clone() for name, value in state.items()}


@pytest.mark.parametrize(("compiles", "most"), [(compile_whole, 2), (assign, 2), (compile_each, 8)], ids=str)
def test_a_compiled_pipeline_draws_edits_swaps_adapters_and_serves(
    pipe: DeepGenPipeline, image: Any, compiles: Callable[[DeepGenPipeline], None], most: int
) -> None:
    shorten(pipe)
    states = [adapter(pipe, seed) for seed in (1, 2)]
    calls: list[dict[str, Any]] = [
        {"prompt": "a cat"},
        {"prompt": ["a cat", "a dog on a long wooden table"], "height": 96},
        {"prompt": "a cat", "guidance_scale": 1.0},
        {"prompt": "make it blue", "image": image},
        {"prompt": ["make it blue", "both"], "image": [[image], [image, image]]},
    ]

    def draw(call: dict[str, Any]) -> Any:
        return pipe(**call, seed=1, output_type="latent").images

    def load(state: dict[str, Any], **how: Any) -> None:
        pipe.load_lora_weights(state, adapter_name="x", **how)

    request = {"num_inference_steps": 2, "height": 64, "width": 64}
    requests = [GenerationRequest(prompt=p, seed=3, **request) for p in ("a cat", "a dog on a long table")]

    def serve() -> list[Any]:
        engine = Engine(pipe, EngineConfig(max_batch=2))
        try:
            return [x for job in [engine.submit(r) for r in requests] for x in job.result(120)]
        finally:
            engine.close()

    pipe.transformer.enable_lora_hotswap(target_rank=4)
    load(states[0])
    expected = [draw(call) for call in calls]
    load(states[1], hotswap=True)
    swapped = draw(calls[0])
    assert (torch.as_tensor(swapped[0]) - torch.as_tensor(expected[0][0])).abs().max() > 1e-3
    load(states[0], hotswap=True)

    compiles(pipe)
    for call, plain in zip(calls, expected, strict=True):
        for ours, theirs in zip(draw(call), plain, strict=True):
            torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), atol=1e-5, rtol=1e-5)
    load(states[1], hotswap=True)
    for ours, theirs in zip(draw(calls[0]), swapped, strict=True):
        torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), atol=1e-5, rtol=1e-5)
    half = {"joint_attention_kwargs": {"scale": 0.5}}
    assert not torch.equal(torch.as_tensor(draw(calls[0] | half)[0]), torch.as_tensor(swapped[0]))
    assert len(serve()) == 2
    assert counters["stats"]["unique_graphs"] <= most
    assert not counters["graph_break"]
