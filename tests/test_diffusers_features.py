"""What every diffusers pipeline can do, this one can: each feature on tiny random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import (
    DPMSolverMultistepScheduler,
    FirstBlockCacheConfig,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.quantizers import PipelineQuantizationConfig
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from deepgen.pipeline import DeepGenPipeline

REFERENCE = Image.new("RGB", (64, 64), (200, 30, 30))


def both(pipe: DeepGenPipeline) -> Tensor:
    """A drawing and an edit."""
    drawn = pipe("a cat", seed=1, output_type="pt", num_inference_steps=3).images
    edited = pipe("make it blue", image=REFERENCE, seed=1, output_type="pt", num_inference_steps=3).images
    return torch.cat([drawn, edited])


def same(ours: Tensor, expected: Tensor) -> bool:
    """Up to the order of float32 sums: where hooks bring weights in, modulation is computed step by step."""
    return bool((ours - expected).abs().max() < 1e-5)


def load(folder: Path, **kwargs) -> DeepGenPipeline:
    pipe = DeepGenPipeline.from_pretrained(folder, **kwargs)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def folder(pipe: DeepGenPipeline, tmp_path: Path) -> Path:
    pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_save_and_load_round_trip(pipe: DeepGenPipeline, folder: Path) -> None:
    loaded = load(folder)
    for name in ("vlm", "connector", "transformer", "vae"):
        ours, saved = getattr(pipe, name).state_dict(), getattr(loaded, name).state_dict()
        assert ours.keys() == saved.keys()
        assert all(torch.equal(ours[key], saved[key]) for key in ours)
    # A product with one row rounds by where a weight lies in memory, and a mapped file lies elsewhere.
    assert same(both(loaded), both(pipe))
    assert loaded.config.defaults == pipe.config.defaults
    assert set(loaded.components) == {"vlm", "connector", "transformer", "vae", "scheduler", "tokenizer"}


def test_push_to_hub_uploads_the_saved_folder(pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded = {}

    def upload(self, working_dir, repo_id, **kwargs):
        uploaded[repo_id] = sorted(path.name for path in Path(working_dir).iterdir())

    monkeypatch.setattr(
        "diffusers.utils.hub_utils.create_repo", lambda name, **kwargs: type("R", (), {"repo_id": name})
    )
    monkeypatch.setattr(DeepGenPipeline, "_upload_folder", upload)
    card = type("Card", (), {"save": lambda self, path: Path(path).touch()})
    monkeypatch.setattr("diffusers.utils.hub_utils.load_or_create_model_card", lambda *a, **k: card())
    monkeypatch.setattr("diffusers.utils.hub_utils.populate_model_card", lambda card: card)
    pipe.push_to_hub("someone/tiny")
    assert "model_index.json" in uploaded["someone/tiny"]
    assert "connector" in uploaded["someone/tiny"]


def test_device_map(pipe: DeepGenPipeline, folder: Path) -> None:
    assert (both(load(folder, device_map="cpu")) - both(pipe)).abs().max() < 1e-5


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_weights_go_to_their_device_one_by_one(
    pipe: DeepGenPipeline, folder: Path, device: Any, monkeypatch
) -> None:
    moved = []
    move = torch.Tensor.to

    def to(tensor: Tensor, *places: Any, **options: Any) -> Tensor:
        if options == {"non_blocking": False}:
            moved.append(places)
        return move(tensor, *places, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    loaded = load(folder, dtype=torch.float32, device_map=device)
    parts = [part for part in loaded.components.values() if isinstance(part, nn.Module)]
    assert moved == [(torch.device("cpu"),)] * sum(len(part.state_dict()) for part in parts)
    loaded.to("cpu")  # which a map of diffusers' own forbids
    assert same(both(loaded), both(pipe))


def test_pinned_memory_is_for_cuda(folder: Path, monkeypatch) -> None:
    asked = []

    def read_ahead(tensors: Any, is_pinned: bool) -> Any:
        asked.append(is_pinned)
        raise InterruptedError

    monkeypatch.setattr("deepgen.checkpoints.parts.read_ahead", read_ahead)
    for device in ("cuda:1", "mps", "cpu"):
        with pytest.raises(InterruptedError):
            load(folder, dtype=torch.float32, device_map=device)
    assert asked == [True, False, False]


def test_half_precision(pipe: DeepGenPipeline, folder: Path) -> None:
    half = load(folder, torch_dtype=torch.bfloat16)
    assert {part.dtype for part in half.components.values() if isinstance(part, nn.Module)} == {
        torch.bfloat16
    }
    assert (both(half) - both(pipe)).abs().mean() < 0.1


def test_a_folder_loads_with_its_own_scheduler_and_limits(pipe: DeepGenPipeline, tmp_path: Path) -> None:
    pipe.register_to_config(max_prompt_tokens=77)
    pipe.save_pretrained(tmp_path / "euler")
    assert load(tmp_path / "euler", dtype=torch.float32).config.max_prompt_tokens == 77
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, **FLOW)
    pipe.save_pretrained(tmp_path / "unipc")
    loaded = load(tmp_path / "unipc", dtype=torch.float32)
    assert isinstance(loaded.scheduler, UniPCMultistepScheduler)
    assert loaded.config.max_prompt_tokens == 77


def test_model_offload(pipe: DeepGenPipeline) -> None:
    expected = both(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(both(pipe), expected)


def test_sequential_offload(pipe: DeepGenPipeline) -> None:
    expected = both(pipe)
    # pipe.enable_sequential_cpu_offload() does this for each part, on an accelerator only.
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
    assert pipe.connector.think_tokens.weight.device.type == "meta"
    assert same(both(pipe), expected)


@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_group_offload(pipe: DeepGenPipeline, kind: str) -> None:
    expected = both(pipe)
    cpu = torch.device("cpu")
    pipe.enable_group_offload(cpu, cpu, offload_type=kind, num_blocks_per_group=1)
    assert same(both(pipe), expected)


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        (FlowMatchHeunDiscreteScheduler, {}),
        (DPMSolverMultistepScheduler, FLOW),
        (UniPCMultistepScheduler, FLOW),
    ],
)
def test_another_scheduler_follows_the_same_flow(pipe: DeepGenPipeline, scheduler, options: dict) -> None:
    fine = pipe("a cat", seed=1, output_type="latent", num_inference_steps=40, guidance_scale=1.0).images
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **options)
    other = pipe("a cat", seed=1, output_type="latent", num_inference_steps=20, guidance_scale=1.0).images
    assert (other - fine).abs().mean() < 0.05 * fine.abs().mean()


def test_a_scheduler_without_flow_sigmas_is_refused(pipe: DeepGenPipeline) -> None:
    pipe.scheduler = DPMSolverMultistepScheduler()
    with pytest.raises(ValueError, match="does not follow the flow-matching path"):
        pipe("a cat")


def test_first_block_cache(pipe: DeepGenPipeline) -> None:
    expected = both(pipe)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    assert same(both(pipe), expected)
    pipe.transformer.disable_cache()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    cached = both(pipe)
    assert not same(cached, expected)
    assert torch.equal(both(pipe), cached), "a second call must not see the first one's cache"


@pytest.mark.slow
def test_compile_repeated_blocks(pipe: DeepGenPipeline) -> None:
    expected = both(pipe)
    pipe.transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert (both(pipe) - expected).abs().max() < 1e-5


@pytest.fixture
def native_attention(pipe: DeepGenPipeline) -> Iterator[None]:
    """diffusers keeps the active backend for the whole process; put it back."""
    yield
    pipe.transformer.set_attention_backend("native")


@pytest.mark.usefixtures("native_attention")
def test_attention_backend_switch(pipe: DeepGenPipeline) -> None:
    expected = both(pipe)
    for part in (pipe.transformer, pipe.connector):
        part.set_attention_backend("_native_math")
    assert (both(pipe) - expected).abs().max() < 1e-4


@pytest.mark.usefixtures("native_attention")
def test_a_backend_that_cannot_mask_is_refused_where_a_mask_is_needed(pipe: DeepGenPipeline) -> None:
    for module in pipe.transformer.modules():
        if hasattr(module, "processor"):
            module.processor._attention_backend = AttentionBackendName.FLASH_VARLEN
    with pytest.raises(ValueError, match="cannot mask padding"):
        pipe(["a cat", "a longer prompt about a cat"])


# --- LoRA ---------------------------------------------------------------------------------------------------


@pytest.fixture
def lora(pipe: DeepGenPipeline, tmp_path: Path) -> tuple[Path, Tensor]:
    """An adapter on three parts, saved to a file, and what a pipeline with it draws."""
    targets = {"transformer": ["to_q", "to_k"], "connector": ["q_proj"], "vlm": ["q_proj", "gate_proj"]}
    weights = {}
    for part, modules in targets.items():
        module = getattr(pipe, part)
        module.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=modules, init_lora_weights=False))
        weights |= {
            f"{part}.{key}": value.contiguous() for key, value in get_peft_model_state_dict(module).items()
        }
    save_file(weights, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors", both(pipe)


def test_load_lora_weights_reaches_every_part(lora: tuple[Path, Tensor], fresh_pipe: DeepGenPipeline) -> None:
    path, expected = lora
    plain = both(fresh_pipe)
    fresh_pipe.load_lora_weights(path, adapter_name="style")
    assert (both(fresh_pipe) - expected).abs().max() < 1e-5
    fresh_pipe.set_adapters(["style"], [0.0])
    assert (both(fresh_pipe) - plain).abs().max() < 1e-5
    fresh_pipe.unload_lora_weights()
    assert (both(fresh_pipe) - plain).abs().max() < 1e-5


def test_a_foreign_lora_is_refused(pipe: DeepGenPipeline, tmp_path: Path) -> None:
    factors = {"lora_A": torch.ones(2, 2), "lora_B": torch.ones(2, 2)}
    save_file(
        {
            f"{module}.{name}.weight": t.clone()
            for module in ("unet", "transformer.x")
            for name, t in factors.items()
        },
        tmp_path / "a.safetensors",
    )
    message = "4 of its 4 keys have no place, the first are .*unet.* the model has transformer .*vlm"
    with pytest.raises(ValueError, match=message):
        pipe.load_lora_weights(tmp_path / "a.safetensors")
    save_file({"some.weight": torch.zeros(2, 2)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="is not a LoRA file for this model: 1 keys"):
        pipe.load_lora_weights(tmp_path / "b.safetensors")


# --- quantisation -------------------------------------------------------------------------------------------


def test_torchao_quantisation(pipe: DeepGenPipeline, folder: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    from diffusers import TorchAoConfig

    config = PipelineQuantizationConfig(
        quant_mapping={"transformer": TorchAoConfig(quantization.Int8WeightOnlyConfig())}
    )
    quantised = load(folder, quantization_config=config)
    assert "Int8" in type(quantised.transformer.transformer_blocks[0].attn.to_q.weight).__name__
    assert (both(quantised) - both(pipe)).abs().mean() < 0.1


def test_bitsandbytes_quantisation(pipe: DeepGenPipeline, folder: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = PipelineQuantizationConfig(quant_mapping={"vlm": BitsAndBytesConfig(load_in_4bit=True)})
    quantised = load(folder, quantization_config=config)
    layer = quantised.vlm.language_model.layers[0].self_attn.q_proj
    assert isinstance(layer, bitsandbytes.nn.Linear4bit)
    assert both(quantised).isfinite().all()
