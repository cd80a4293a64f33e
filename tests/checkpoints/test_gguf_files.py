"""GGUF files: what is written is read back, quantised, and draws nearly the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepgen.checkpoints.gguf_files import Kind, read_gguf, write_gguf
from deepgen.checkpoints.tensors import CheckpointError
from deepgen.cli.app import main
from deepgen.cli.loading import load_pipeline
from deepgen.cli.options import ModelOptions
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.pipeline import DeepGenPipeline

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def tiny() -> DeepGenPipeline:
    pipe = DeepGenPipeline.from_pretrained("tiny", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: DeepGenPipeline) -> torch.Tensor:
    images = pipe(
        "a red circle on a white background", seed=1, output_type="pt", num_inference_steps=8
    ).images
    return torch.as_tensor(images)


# One scale for 32 weights: 8 bits are off by at most 1/254 of a block's largest, 5 by 1/32, 4 by 1/16.
@pytest.mark.parametrize(("kind", "tolerance"), [("Q8_0", 0.02), ("Q5_0", 0.1), ("Q4_0", 0.2)])
def test_a_dit_in_few_bits_draws_nearly_the_same(
    kind: Kind, tolerance: float, tiny: DeepGenPipeline, tmp_path: Path
) -> None:
    expected = draw(tiny)
    write_gguf(tiny.transformer, tmp_path / "dit.gguf", kind)
    weights = sum(4 * tensor.numel() for tensor in tiny.transformer.state_dict().values())
    assert (tmp_path / "dit.gguf").stat().st_size < 0.4 * weights
    other = DeepGenPipeline.from_pretrained("tiny", dtype=torch.float32)
    other.set_progress_bar_config(disable=True)
    read_gguf(other.transformer, tmp_path / "dit.gguf")
    layer = other.transformer.transformer_blocks[0].attn.to_q
    assert type(layer).__name__ == "GGUFLinear"
    assert layer.weight.dtype in (torch.int8, torch.uint8)
    assert 0 < (draw(other) - expected).abs().mean() < tolerance


def test_a_file_of_another_part_is_refused_by_key(tiny: DeepGenPipeline, tmp_path: Path) -> None:
    write_gguf(tiny.connector, tmp_path / "connector.gguf")
    before = draw(tiny)
    with pytest.raises(
        CheckpointError, match=r"keys differ; it was not written from a DeepGenTransformer2DModel of this"
    ):
        read_gguf(tiny.transformer, tmp_path / "connector.gguf")
    assert torch.equal(draw(tiny), before), "a refused file must change nothing"


def test_a_missing_file_is_named(tiny: DeepGenPipeline, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.gguf"):
        read_gguf(tiny.transformer, tmp_path / "nowhere.gguf")


def stability_names(transformer: DeepGenTransformer2DModel) -> dict[str, torch.Tensor]:
    """A DiT in Stability AI's layout: query, key and value as one matrix, shift before scale."""
    ours = {name: tensor.detach().float() for name, tensor in transformer.state_dict().items()}
    width, last = transformer.inner_dim, len(transformer.transformer_blocks) - 1
    theirs = {}
    plain = {
        "pos_embed.pos_embed": "pos_embed",
        "pos_embed.proj": "x_embedder.proj",
        "context_embedder": "context_embedder",
        "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
    }
    for their, our in (("t_embedder", "timestep_embedder"), ("y_embedder", "text_embedder")):
        for index, layer in ((0, 1), (2, 2)):
            plain[f"time_text_embed.{our}.linear_{layer}"] = f"{their}.mlp.{index}"
    leaves = {
        "x_block": {
            "attn.norm_q": "attn.ln_q",
            "attn.norm_k": "attn.ln_k",
            "attn.to_out.0": "attn.proj",
            "attn2.norm_q": "attn2.ln_q",
            "attn2.norm_k": "attn2.ln_k",
            "attn2.to_out.0": "attn2.proj",
            "norm1.linear": "adaLN_modulation.1",
            "ff.net.0.proj": "mlp.fc1",
            "ff.net.2": "mlp.fc2",
        },
        "context_block": {
            "attn.norm_added_q": "attn.ln_q",
            "attn.norm_added_k": "attn.ln_k",
            "attn.to_add_out": "attn.proj",
            "norm1_context.linear": "adaLN_modulation.1",
            "ff_context.net.0.proj": "mlp.fc1",
            "ff_context.net.2": "mlp.fc2",
        },
    }
    stacked = {
        "x_block.attn": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "context_block.attn": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        "x_block.attn2": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    }
    for number in range(last + 1):
        for stream, names in leaves.items():
            for our, their in names.items():
                plain[f"transformer_blocks.{number}.{our}"] = f"joint_blocks.{number}.{stream}.{their}"
        for their, three in stacked.items():
            for leaf in ("weight", "bias"):
                names = [f"transformer_blocks.{number}.{one}.{leaf}" for one in three]
                if names[0] in ours:
                    theirs[f"joint_blocks.{number}.{their}.qkv.{leaf}"] = torch.cat(
                        [ours.pop(n) for n in names]
                    )
    for name, tensor in ours.items():
        module, _, leaf = name.rpartition(".")
        swapped = ("norm_out.linear", f"transformer_blocks.{last}.norm1_context.linear")
        value = torch.cat([tensor[width:], tensor[:width]]) if module in swapped else tensor
        theirs[plain[name] if name in plain else f"{plain[module]}.{leaf}"] = value
    return theirs


def write_foreign(path: Path, tensors: dict[str, torch.Tensor], prefix: str = "") -> None:
    """As other programs write: matrices in 8 bits where they divide, small tensors in bfloat16."""
    types = gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(path, "sd3")
    for name, tensor in tensors.items():
        values = tensor.contiguous().numpy()
        kind = types.Q8_0 if tensor.ndim == 2 and tensor.shape[-1] % 32 == 0 else types.BF16
        if name == "pos_embed" or tensor.ndim > 2:
            kind = types.F16
        writer.add_tensor(prefix + name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_dit_with_stability_names_is_the_one_with_ours_bit_by_bit(
    prefix: str, tiny: DeepGenPipeline, tmp_path: Path
) -> None:
    theirs = stability_names(tiny.transformer)
    write_foreign(tmp_path / "theirs.gguf", theirs, prefix)
    pipe = DeepGenPipeline.from_pretrained(
        "tiny", dtype=torch.float32, transformer_gguf=tmp_path / "theirs.gguf"
    )
    ours = tiny.transformer
    for block, loaded in zip(ours.transformer_blocks, pipe.transformer.transformer_blocks, strict=True):
        layer = loaded.attn.to_k
        assert type(layer).__name__ == "GGUFLinear"
        kept = gguf.quants.quantize(block.attn.to_k.weight.detach().numpy(), gguf.GGMLQuantizationType.Q8_0)
        assert torch.equal(layer.weight.as_tensor(), torch.from_numpy(kept)), "rows divided, not widened"
    pipe.set_progress_bar_config(disable=True)
    assert 0 < (draw(pipe) - draw(tiny)).abs().mean() < 0.02


def test_a_foreign_file_that_lacks_a_key_or_has_another_is_refused_with_both_sides(
    tiny: DeepGenPipeline, tmp_path: Path
) -> None:
    theirs = stability_names(tiny.transformer)
    write_foreign(tmp_path / "more.gguf", {**theirs, "first_stage_model.x": torch.ones(32)})
    with pytest.raises(CheckpointError, match=r"1 keys differ[^$]*foreign: first_stage_model\.x"):
        read_gguf(tiny.transformer, tmp_path / "more.gguf")
    del theirs["final_layer.linear.bias"]
    write_foreign(tmp_path / "less.gguf", theirs)
    with pytest.raises(CheckpointError, match=r"lacks final_layer\.linear\.bias .* it has context_embedder"):
        read_gguf(tiny.transformer, tmp_path / "less.gguf")


def test_the_command_line_writes_and_draws_from_a_file(tmp_path: Path, capsys) -> None:
    assert main(["convert", "tiny", str(tmp_path / "dit.gguf"), "--gguf", "q8_0"]) == 0
    assert "transformer, q8_0" in capsys.readouterr().out
    options = ModelOptions(transformer_gguf=tmp_path / "dit.gguf")
    pipe = load_pipeline(options)
    assert type(pipe.transformer.transformer_blocks[0].attn.to_q).__name__ == "GGUFLinear"
    direct = DeepGenPipeline.from_pretrained("tiny", dtype=torch.float32)
    write_gguf(direct.transformer, tmp_path / "direct.gguf")
    read_gguf(direct.transformer, tmp_path / "direct.gguf")
    direct.set_progress_bar_config(disable=True)
    pipe.set_progress_bar_config(disable=True)
    assert torch.equal(draw(pipe), draw(direct))
    assert main(["convert", "tiny", str(tmp_path / "dit.gguf"), "--gguf", "q8_0"]) == 2
    assert "exists" in capsys.readouterr().err
    with pytest.raises(ValueError, match="leave out --quantize and --memory"):
        load_pipeline(replace(options, memory="24"))


def test_sixteen_bits_widened_on_a_cpu_leave_a_quantised_dit_as_it_is(
    tiny: DeepGenPipeline, tmp_path
) -> None:
    write_gguf(tiny.transformer, tmp_path / "dit.gguf")
    pipe = load_pipeline(ModelOptions(transformer_gguf=tmp_path / "dit.gguf", dtype="bfloat16", device="cpu"))
    pipe.set_progress_bar_config(disable=True)
    assert pipe.transformer.transformer_blocks[0].attn.to_q.weight.dtype in (torch.int8, torch.uint8)
    assert (draw(pipe) - draw(tiny)).abs().mean() < 0.03
