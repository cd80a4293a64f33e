from __future__ import annotations

import copy
import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_files import GOLDENS, HEADS
from deepgen.checkpoints.checkpoint import read_checkpoint
from deepgen.checkpoints.layouts import detect
from deepgen.checkpoints.parts import WEIGHTED
from deepgen.checkpoints.tensors import CheckpointError
from deepgen.checkpoints.weights import load_components
from deepgen.models.vlm import DeepGenVLM

SIX = {"vlm", "connector", "transformer", "vae", "scheduler", "tokenizer"}


def old_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """LoRA keys as transformers before 4.52 spelled them, without the adapter's name."""
    renamed = {}
    for name, value in state.items():
        name = name.replace("lmm.model.visual.", "lmm.visual.").replace(
            "lmm.model.language_model.", "lmm.model."
        )
        renamed[name.replace(".default", "")] = value
    return renamed


def assert_is_native(loaded, native):
    """Connector and transformer hold exactly the native tensors."""
    state = loaded["connector"].state_dict()
    assert torch.equal(state["think_tokens.weight"], native["meta_queries"])
    assert torch.equal(state["tap_projector.weight"], native["projector_1.weight"])
    assert torch.equal(state["layers.1.mlp.fc2.bias"], native["connector.layers.1.mlp.fc2.bias"])
    assert len(state) == sum(not name.startswith("transformer.") for name in native)
    for name, value in loaded["transformer"].state_dict().items():
        assert torch.equal(value, native[f"transformer.{name}"])


def test_every_native_layout_loads_bit_equal(native_layout, native, options, tmp_path):
    write, _ = native_layout
    loaded = load_components(write(tmp_path, native), **options)
    assert set(loaded) == SIX
    assert_is_native(loaded, native)
    vlm = DeepGenVLM.from_pretrained(GOLDENS / "vlm")
    for part in (loaded["vlm"], loaded["vae"], loaded["connector"], loaded["transformer"]):
        assert not part.training
        assert not any(tensor.is_meta for tensor in [*part.parameters(), *part.buffers()])
    expected, found = ({**dict(m.named_buffers()), **m.state_dict()} for m in (vlm, loaded["vlm"]))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_our_folder_and_the_published_one_load_bit_equal(ours, published, native):
    for folder in (ours, published):
        loaded = load_components(folder)
        assert set(loaded) == SIX
        assert_is_native(loaded, native)
        assert loaded["connector"].config.num_attention_heads == 4


@pytest.mark.parametrize("prefix", ["connector.", "connector_module.", "llm2dit."])
def test_a_prefix_in_the_published_connector_is_accepted(published, native, prefix):
    file = published / "connector" / "model.safetensors"
    save_file({prefix + name: value for name, value in load_file(file).items()}, file)
    assert_is_native(load_components(published), native)


def test_parts_take_the_asked_type_and_computed_buffers_stay_exact(published):
    loaded = load_components(published, torch_dtype="bfloat16")
    for name in ("vlm", "connector", "transformer", "vae"):
        assert {value.dtype for value in loaded[name].state_dict().values()} == {torch.bfloat16}
    assert loaded["vlm"].language_model.rotary_emb.inv_freq.dtype == torch.float32
    assert loaded["vlm"].config.dtype == torch.bfloat16


def test_without_a_type_every_part_takes_that_of_most_weights(native, options, published, tmp_path):
    stored = {
        name: value.bfloat16() if name.startswith("transformer.") else value for name, value in native.items()
    }
    torch.save(stored, tmp_path / "model.pt")  # the VLM and the VAE, which are larger here, are in float32
    loaded = load_components(tmp_path / "model.pt", **options)
    assert {loaded[name].dtype for name in WEIGHTED} == {torch.float32}
    for name in ("vlm", "transformer", "vae"):  # as the published folder is stored: its connector in float32
        (file,) = (published / name).glob("*.safetensors")
        save_file({key: value.bfloat16() for key, value in load_file(file).items()}, file)
    loaded = load_components(published)
    assert {loaded[name].dtype for name in WEIGHTED} == {torch.bfloat16}


def test_every_missing_and_foreign_key_is_listed(native, options, tmp_path):
    del native["connector.layers.0.mlp.fc1.bias"], native["transformer.proj_out.bias"]
    native["extra.weight"] = torch.ones(1)
    native["transformer.extra"] = torch.ones(1)
    native["projector_2.bias"] = torch.ones(3)
    torch.save(native, tmp_path / "model.pt")
    with pytest.raises(CheckpointError) as error:
        load_components(tmp_path / "model.pt", **options)
    text = str(error.value)
    assert "2 missing: connector.layers.0.mlp.fc1.bias, transformer.proj_out.bias" in text
    assert "2 unexpected: extra.weight, transformer.extra" in text
    assert re.search(r"1 wrong shape: connector\.pooled_projector\.bias \[3\] instead of \[\d+\]", text)


def test_a_file_that_is_not_deepgen_says_what_it_has(tmp_path, options):
    torch.save({"unet.conv_in.weight": torch.ones(1)}, tmp_path / "sd.pt")
    with pytest.raises(CheckpointError, match=r"no DeepGen checkpoint: .*unet\.conv_in\.weight"):
        load_components(tmp_path / "sd.pt", **options)


def test_a_checkpoint_without_transformer_takes_the_base(native, options, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(GOLDENS / "transformer", folder / "transformer")
    weights = {k.removeprefix("transformer."): v for k, v in native.items() if k.startswith("transformer.")}
    save_file(weights, folder / "transformer" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    small = {name: value for name, value in native.items() if not name.startswith("transformer.")}
    torch.save(small, tmp_path / "pretrain.pt")
    assert_is_native(load_components(tmp_path / "pretrain.pt", **{**options, "transformer": folder}), native)


def test_a_base_model_that_is_not_there_is_named(native, options, tmp_path):
    torch.save(native, tmp_path / "model.pt")
    with pytest.raises(FileNotFoundError, match=r"no vae in .*: looked for .*vae/config\.json and"):
        load_components(tmp_path / "model.pt", **{**options, "vae": tmp_path})


def test_the_scheduler_comes_from_the_first_base_that_has_one(native, options, tmp_path):
    torch.save(native, tmp_path / "model.pt")
    loaded = load_components(tmp_path / "model.pt", **{**options, "scheduler": None})
    assert loaded["scheduler"].config.shift == 3.0
    alone = {**options, "scheduler": None, "vae": GOLDENS / "vae", "local_files_only": True}
    with pytest.raises(FileNotFoundError, match=r"no scheduler in .*vae.*Skywork/UniPic2"):
        load_components(tmp_path / "model.pt", **alone)


def test_loaded_parts_are_taken_as_they_are(native, options, tmp_path):
    torch.save(native, tmp_path / "model.pt")
    vlm = DeepGenVLM.from_pretrained(GOLDENS / "vlm")
    assert load_components(tmp_path / "model.pt", **{**options, "vlm": vlm})["vlm"] is vlm


def test_heads_that_nothing_tells_are_asked_for(native, bases, tmp_path):
    torch.save(native, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"connector_config=\{'num_attention_heads': N\}"):
        load_components(tmp_path / "model.pt", **bases)
    (tmp_path / "model_config.json").write_text(json.dumps({"connector": HEADS}))
    assert load_components(tmp_path / "model.pt", **bases)["connector"].config.num_attention_heads == 4


def test_the_last_hidden_variant_is_known_by_its_projector(native, options, tmp_path):
    changed = load_file(GOLDENS / "last_hidden_projector_1.safetensors")
    for name in ("weight", "bias"):
        native[f"projector_1.{name}"] = next(v for k, v in changed.items() if k.endswith(name))
    torch.save(native, tmp_path / "model.pt")
    connector = load_components(tmp_path / "model.pt", **options)["connector"]
    assert connector.config.variant == "last_hidden"
    assert connector.taps is None


def test_a_plain_vlm_without_lora_is_warned_about(native, lora, options, tmp_path, caplog):
    torch.save(native, tmp_path / "model.pt")
    with caplog.at_level(logging.WARNING, logger="deepgen"):
        load_components(tmp_path / "model.pt", **options)
    assert "neither a VLM nor a LoRA" in caplog.text
    caplog.clear()
    torch.save({**native, **lora}, tmp_path / "model.pt")
    with caplog.at_level(logging.WARNING, logger="deepgen"):
        load_components(tmp_path / "model.pt", **options)
    assert "LoRA" not in caplog.text


def run(vlm: DeepGenVLM) -> torch.Tensor:
    """The VLM on a prompt that goes through embedding, language layers and vision tower."""
    image = vlm.config.image_token_id
    ids = torch.tensor([[5, 6, image, image, image, image, 7]])
    pixels = torch.linspace(-1, 1, 3 * 64 * 64).view(3, 64, 64)
    think = torch.linspace(-1, 1, 2 * vlm.config.text_config.hidden_size).view(2, -1)
    with torch.no_grad():
        return vlm(ids, torch.ones_like(ids), think, None, [pixels], [[0]])


@pytest.mark.parametrize("spell", [dict, old_names])
def test_merged_lora_computes_what_peft_computes(native, lora, options, tmp_path, spell):
    from peft import LoraConfig, inject_adapter_in_model

    torch.save({**native, **spell(lora)}, tmp_path / "model.pt")
    merged = load_components(tmp_path / "model.pt", **options, lora="merge")["vlm"]
    plain = DeepGenVLM.from_pretrained(GOLDENS / "vlm").eval()
    before = run(plain)
    found = {re.sub(r"^lmm\.(model\.)?|\.lora_.*", "", name) for name in lora} - {"lm_head"}
    targets = [name for name, _ in plain.named_modules() if name in found]
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=4, target_modules=targets), plain, "default")
    theirs = {
        name.removeprefix("lmm.").removeprefix("model."): value
        for name, value in lora.items()
        if "lm_head" not in name
    }
    missing, unexpected = plain.load_state_dict(theirs, strict=False)
    assert not unexpected
    assert not any("lora" in name for name in missing)
    after = run(plain.eval())
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(run(merged), after, atol=2e-5, rtol=1e-4)


def test_lora_kept_as_an_adapter_equals_the_merged_one(native, lora, options, tmp_path):
    torch.save({**native, **lora}, tmp_path / "model.pt")
    merged = load_components(tmp_path / "model.pt", **options, lora="merge")["vlm"]
    kept = load_components(tmp_path / "model.pt", **options, lora="adapter")["vlm"]
    ignored = load_components(tmp_path / "model.pt", **options, lora="ignore")["vlm"]
    torch.testing.assert_close(run(kept), run(merged), atol=2e-5, rtol=1e-4)
    kept.disable_adapters()
    torch.testing.assert_close(
        run(kept), run(ignored), atol=1e-5, rtol=1e-5
    )  # other kernels, where adapters are
    assert "default" in kept.peft_config


def test_the_scale_of_lora_can_be_given(native, lora, options, tmp_path):
    torch.save({**native, **lora}, tmp_path / "model.pt")
    nothing = load_components(tmp_path / "model.pt", **options, lora_scale=0.0)["vlm"]
    ignored = load_components(tmp_path / "model.pt", **options, lora="ignore")["vlm"]
    assert torch.equal(run(nothing), run(ignored))


def test_a_whole_vlm_in_the_checkpoint_replaces_the_base(native, lora, options, tmp_path):
    whole = {}
    for name, value in load_file(GOLDENS / "vlm" / "model.safetensors").items():
        module, _, leaf = name.rpartition(".")
        inner = f"lmm.{module}"
        is_wrapped = any(key.startswith((f"{inner}.lora", f"{inner}.lora_emb")) for key in old_names(lora))
        whole[f"{inner}.base_layer.{leaf}" if is_wrapped else f"{inner}.{leaf}"] = value + 1
    whole["lmm.lm_head.base_layer.weight"] = torch.ones(2, 2)
    torch.save({**native, **whole, **old_names(lora)}, tmp_path / "model.pt")
    loaded = load_components(tmp_path / "model.pt", **options, lora="ignore")["vlm"]
    plain = DeepGenVLM.from_pretrained(GOLDENS / "vlm")
    for name, value in plain.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value + 1)


def test_a_vae_in_the_checkpoint_replaces_the_base_and_averages_are_noted(native, options, tmp_path, caplog):
    vae = load_file(GOLDENS / "vae" / "diffusion_pytorch_model.safetensors")
    averages = {f"ema.{name}": value for name, value in native.items()}
    torch.save({**native, **{f"vae.{k}": v + 1 for k, v in vae.items()}, **averages}, tmp_path / "model.pt")
    with caplog.at_level(logging.WARNING, logger="deepgen"):
        loaded = load_components(tmp_path / "model.pt", **options)["vae"].state_dict()
    assert all(torch.equal(loaded[name], value + 1) for name, value in vae.items())
    assert f"{len(native)} tensors under ema. are not used" in caplog.text


def test_a_quantised_part_is_left_to_its_own_library(ours):
    path = ours / "transformer" / "config.json"
    config = {**json.loads(path.read_text()), "quantization_config": {"quant_method": "bitsandbytes"}}
    path.write_text(json.dumps(config))
    checkpoint = read_checkpoint(detect(ours))
    checkpoint.check()
    assert any("transformer is quantised" in note for note in checkpoint.report.notes)
    with pytest.raises(CheckpointError, match=r"transformer of .* are quantised"):
        load_components(ours)


def test_a_config_that_describes_no_model_is_named(ours):
    path = ours / "connector" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "variant": "third"}))
    with pytest.raises(CheckpointError, match=r"config of connector .*unknown connector variant 'third'"):
        load_components(ours)


def test_half_a_lora_pair_and_a_misfit_are_errors(native, lora, options, tmp_path):
    name = "lmm.model.visual.merger.mlp.0.lora_B.default.weight"
    half = {key: value for key, value in lora.items() if key != name}
    torch.save({**native, **half}, tmp_path / "half.pt")
    with pytest.raises(CheckpointError, match=r"LoRA of visual\.merger\.mlp\.0 needs A .* found A"):
        load_components(tmp_path / "half.pt", **options)
    torch.save({**native, **lora, name: torch.ones(3, 2)}, tmp_path / "wide.pt")
    with pytest.raises(
        CheckpointError, match=r"LoRA of visual\.merger\.mlp\.0 goes on a weight of shape \(3,"
    ):
        load_components(tmp_path / "wide.pt", **options)


def test_unknown_choices_are_refused_with_the_known_ones(ours):
    with pytest.raises(ValueError, match="known: merge, adapter, ignore"):
        load_components(ours, lora="fuse")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="deepgen convert SRC DST"):
        load_components(ours, quantization_config=object())
    with pytest.raises(ValueError, match="deepgen convert SRC DST"):
        load_components(ours, device_map="balanced")
    with pytest.raises(
        ValueError, match="'gpu' is no device; while reading this layout give one, such as 'cuda'"
    ):
        load_components(ours, device_map="gpu")


def test_remote_code_of_the_published_folder_never_runs(published):
    before = copy.copy(load_components(published))
    assert type(before["connector"]).__module__ == "deepgen.models.connector"
    assert not list(Path(published).rglob("__pycache__"))
