"""LoRA files of every trainer draw what the same adapter draws in our own format, or are one line."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepgen.checkpoints.lora_files import read_lora
from deepgen.checkpoints.lora_settings import LoraError
from deepgen.cli.app import main
from deepgen.embedded import embedded_folder
from deepgen.pipeline import DeepGenPipeline
from lora_cases import CASES, write_case

SHAPES_DIR = embedded_folder("shapes")

State = dict[str, Tensor]

DIT = [
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "ff.net.0.proj",
    "ff.net.2",
]
CLOSE = {"atol": 1e-5, "rtol": 0}  # the acceptance of the issue; same sums, in another order


def draw(pipe: DeepGenPipeline) -> Tensor:
    """A picture, (1, H, W, 3) in [0, 1]."""
    asked: Any = {"num_inference_steps": 1, "seed": 1, "output_type": "np", "height": 64, "width": 64}
    return torch.from_numpy(pipe("a red circle", **asked).images)


def adapt(pipe: DeepGenPipeline, **settings: Any) -> State:
    """A random adapter on the DiT, and its factors by PEFT's names."""
    torch.manual_seed(0)
    settings = {"r": 4, "lora_alpha": 10, "target_modules": DIT, "init_lora_weights": False} | settings
    pipe.transformer.add_adapter(LoraConfig(**settings))
    return {k: v.contiguous() for k, v in get_peft_model_state_dict(pipe.transformer).items()}


def snapshot(pipe: DeepGenPipeline) -> dict[str, Any]:
    """Everything a failed load could leave behind."""
    return {
        part: (
            {name: tensor.clone() for name, tensor in module.state_dict().items()},
            [(name, type(m).__name__) for name, m in module.named_modules()],
            copy.deepcopy(getattr(module, "peft_config", None)),
            getattr(module, "_hf_peft_config_loaded", None),
            [m.active_adapters for m in module.modules() if hasattr(m, "lora_A")],
        )
        for part, module in ((part, getattr(pipe, part)) for part in ("transformer", "connector", "vlm"))
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for part, (tensors, *rest) in before.items():
        assert rest == list(after[part][1:]), part
        assert tensors.keys() == after[part][0].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, after[part][0][name]), f"{part}.{name}"


def refused(pipe: DeepGenPipeline, source: Any, **options: Any) -> str:
    """The one line of a refusal that changes nothing."""
    before = snapshot(pipe)
    with pytest.raises(LoraError) as caught:
        pipe.load_lora_weights(source, **options)
    assert_same(before, snapshot(pipe))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the files of users -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> DeepGenPipeline:
    pipe = DeepGenPipeline.from_pretrained("shapes", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_tiny(pipe: DeepGenPipeline) -> Tensor:
    return torch.from_numpy(pipe("a red circle", num_inference_steps=1, seed=1, output_type="np").images)


@pytest.mark.parametrize(
    ("name", "alpha"),
    [("kohya_keys", 8.0), ("peft_keys_with_alpha", 8.0), ("peft_prefix", 16.0)],  # the last says none
)
def test_a_users_file_draws_what_our_own_format_draws(
    tiny: DeepGenPipeline, tmp_path: Path, name: str, alpha: float
) -> None:
    factors = load_file(write_case("peft_prefix.safetensors", tmp_path))
    ours = {f"transformer.{key.removeprefix('base_model.model.')}": value for key, value in factors.items()}
    modules = sorted({key.removeprefix("base_model.model.").split(".lora_")[0] for key in factors})
    settings = {"r": 16, "lora_alpha": alpha, "target_modules": modules}
    metadata = {f"transformer.{key}": value for key, value in settings.items()}
    save_file(ours, tmp_path / "ours.safetensors", {"lora_adapter_metadata": json.dumps(metadata)})
    plain = draw_tiny(tiny)
    drawn = []
    for path in (tmp_path / "ours.safetensors", write_case(f"{name}.safetensors", tmp_path)):
        tiny.load_lora_weights(path)
        layer: Any = tiny.transformer.transformer_blocks[0].attn.to_q
        assert layer.scaling == {"default_0": alpha / 16}
        drawn.append(draw_tiny(tiny))
        tiny.unload_lora_weights()
    torch.testing.assert_close(drawn[1], drawn[0], **CLOSE)
    assert (drawn[0] - plain).abs().max() > 0.05, "the adapter must matter"
    assert torch.equal(draw_tiny(tiny), plain)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", r"attn\.add_k_proj\.lora_A\.weight holds 2048 NaN or infinite numbers of 2048"),
        ("one_factor_missing", r"attn\.add_k_proj\.lora_A\.weight has no factor B beside it"),
    ],
)
def test_a_damaged_file_of_a_user_is_one_line_and_exit_code_1(
    tiny: DeepGenPipeline, tmp_path: Path, capsys: Any, monkeypatch: Any, name: str, message: str
) -> None:
    path = write_case(f"{name}.safetensors", tmp_path)
    assert re.search(message, refused(tiny, path))
    monkeypatch.setattr(
        DeepGenPipeline, "from_pretrained", lambda *a, **k: pytest.fail("the model was loaded")
    )
    arguments = [
        "generate",
        "a star",
        "--model",
        str(SHAPES_DIR),
        "--lora",
        str(path),
        "-o",
        str(tmp_path / "a.png"),
    ]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(rf"deepgen: error: [^\n]*{message}[^\n]*\n", error)


def test_every_file_of_a_user_is_tried_here() -> None:
    assert set(CASES) == {
        f"{name}.safetensors"
        for name in ("kohya_keys", "peft_keys_with_alpha", "peft_prefix", "nan", "one_factor_missing")
    }


# --- the forms that trainers write --------------------------------------------------------------------------


def peft_folder(pipe: DeepGenPipeline, state: State, folder: Path) -> Path:
    """By PEFT's own save_pretrained, from an adapter with the same factors."""
    wrapped = get_peft_model(
        copy.deepcopy(pipe.transformer), LoraConfig(r=4, lora_alpha=10, target_modules=DIT)
    )
    targets = dict(wrapped.named_parameters())
    for key, value in state.items():
        module, leaf = key.rsplit(".lora_", 1)
        targets[f"base_model.model.{module}.lora_{leaf[0]}.default.weight"].data.copy_(value)
    wrapped.save_pretrained(folder)
    return folder


def peft_file(pipe: DeepGenPipeline, state: State, folder: Path) -> Path:
    """The file inside the folder: its settings are beside it."""
    return peft_folder(pipe, state, folder) / "adapter_model.safetensors"


def raw_peft(pipe: DeepGenPipeline, state: State, folder: Path) -> State:
    """Parameters as the wrapped model names them, and alpha as ComfyUI's extractors add it."""
    named = {re.sub(r"(lora_[AB])\.", r"base_model.model.\1.default.", key): v for key, v in state.items()}
    named = {"base_model.model." + key.replace("base_model.model.", ""): v for key, v in named.items()}
    return named | alphas(named, r"\.lora_[AB]\.default\.weight$")


def diffusers_folder(pipe: DeepGenPipeline, state: State, folder: Path) -> Path:
    """By diffusers' own pipeline for SD3, with its metadata."""
    metadata = {"r": 4, "lora_alpha": 10, "target_modules": DIT}
    StableDiffusion3Pipeline.save_lora_weights(
        folder, transformer_lora_layers=state, transformer_lora_adapter_metadata=metadata
    )
    return folder


def diffusers_older(pipe: DeepGenPipeline, state: State, folder: Path) -> State:
    """`lora.down` and `lora.up`, as it wrote before PEFT."""
    named = {
        "transformer." + key.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): value
        for key, value in state.items()
    }
    return named | alphas(named, r"\.lora\.(down|up)\.weight$")


def diffusers_oldest(pipe: DeepGenPipeline, state: State, folder: Path) -> State:
    """Attention processors with `to_q_lora`, which knew attention only; the rest as older files have it."""
    named = {}
    for key, value in state.items():
        key = key.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up.")
        key = re.sub(r"\.attn\.(to_out)\.0\.lora\.", r".attn.processor.\1_lora.", key)
        named[re.sub(r"\.attn\.([a-z_]+)\.lora\.", r".attn.processor.\1_lora.", key)] = value
    assert any(".processor.to_out_lora.up.weight" in key for key in named)
    return named | alphas(named, r"(\.lora|_lora)\.(down|up)\.weight$")


def kohya(pipe: DeepGenPipeline, state: State, folder: Path) -> State:
    """By diffusers' own conversion; it always has alpha = rank, which is replaced."""
    named = convert_state_dict_to_kohya({f"unet.{key}": value for key, value in state.items()})
    assert any(key.startswith("lora_unet_transformer_blocks_0_attn_to_q.lora_down") for key in named)
    return {key: torch.tensor(10.0) if key.endswith(".alpha") else value for key, value in named.items()}


def ai_toolkit(pipe: DeepGenPipeline, state: State, folder: Path) -> State:
    """Always alpha = rank, so the strength is in B."""
    return {
        f"diffusion_model.{key}": value * 2.5 if ".lora_B." in key else value for key, value in state.items()
    }


def ai_toolkit_down_up(pipe: DeepGenPipeline, state: State, folder: Path) -> State:
    named = {
        "diffusion_model." + key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): value
        for key, value in state.items()
    }
    return named | alphas(named, r"\.lora_(down|up)\.weight$")


def onetrainer(pipe: DeepGenPipeline, state: State, folder: Path) -> State:
    return {
        key.replace("lora_unet_", "lora_transformer_"): value
        for key, value in kohya(pipe, state, folder).items()
    }


def alphas(state: State, ending: str) -> State:
    return {re.sub(ending, ".alpha", key): torch.tensor(10.0) for key in state}


FORMS: list[Callable[[DeepGenPipeline, State, Path], Any]] = [
    *(peft_folder, peft_file, raw_peft, diffusers_folder, diffusers_older, diffusers_oldest),
    *(kohya, onetrainer, ai_toolkit, ai_toolkit_down_up),
]


@pytest.fixture(scope="module")
def expected(_components: dict[str, Any]) -> tuple[State, Tensor, Tensor]:
    """Factors, and what is drawn without and with them."""
    pipe = DeepGenPipeline(**copy.deepcopy(_components))
    pipe.set_progress_bar_config(disable=True)
    plain = draw(pipe)
    state = adapt(pipe)
    return state, plain, draw(pipe)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_form_draws_what_the_adapter_draws(
    form: Callable[[DeepGenPipeline, State, Path], Any],
    expected: tuple[State, Tensor, Tensor],
    fresh_pipe: DeepGenPipeline,
    tmp_path: Path,
) -> None:
    state, plain, adapted = expected
    source = form(fresh_pipe, state, tmp_path)
    if isinstance(source, dict):
        save_file({key: value.contiguous() for key, value in source.items()}, tmp_path / "a.safetensors")
        source = tmp_path / "a.safetensors"
    fresh_pipe.load_lora_weights(source, adapter_name="style")
    torch.testing.assert_close(draw(fresh_pipe), adapted, **CLOSE)
    assert (adapted - plain).abs().max() > 1e-3, "the adapter must matter"
    fresh_pipe.set_adapters(["style"], [0.0])
    torch.testing.assert_close(draw(fresh_pipe), plain, **CLOSE)
    fresh_pipe.set_adapters(["style"], [1.0])
    fresh_pipe.fuse_lora()
    torch.testing.assert_close(draw(fresh_pipe), adapted, atol=1e-4, rtol=0)  # W + s B A rounds once more
    fresh_pipe.unfuse_lora()
    fresh_pipe.unload_lora_weights()
    torch.testing.assert_close(draw(fresh_pipe), plain, atol=1e-4, rtol=0)


def test_peft_settings_of_single_modules_and_of_stabilised_rank_are_kept(
    pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    config = LoraConfig(
        r=8,
        lora_alpha=4,
        target_modules=DIT,
        rank_pattern={"to_q": 2, r"^transformer_blocks\.0\.attn\.to_k$": 3},
        alpha_pattern={r"ff\.net\.\d+(\.proj)?": 16},
        use_rslora=True,
        init_lora_weights=False,
    )
    torch.manual_seed(0)
    get_peft_model(pipe.transformer, config).save_pretrained(tmp_path)
    fresh_pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(draw(fresh_pipe), draw(pipe), **CLOSE)
    block: Any = fresh_pipe.transformer.transformer_blocks[0]
    assert block.attn.to_q.scaling["default_0"] == pytest.approx(4 / 2**0.5)
    assert block.attn.to_k.scaling["default_0"] == pytest.approx(4 / 3**0.5)
    assert block.ff.net[2].scaling["default_0"] == pytest.approx(16 / 8**0.5)
    fresh_pipe.save_lora_weights(tmp_path / "again", "default_0")
    fresh_pipe.unload_lora_weights()
    fresh_pipe.load_lora_weights(tmp_path / "again")
    torch.testing.assert_close(draw(fresh_pipe), draw(pipe), **CLOSE)


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float64], ids=str
)
def test_any_number_format_of_a_file_loads(
    dtype: torch.dtype, pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    state = {f"transformer.{key}": value.to(dtype) for key, value in adapt(pipe, lora_alpha=4).items()}
    save_file(state, tmp_path / "a.safetensors")
    fresh_pipe.load_lora_weights(tmp_path / "a.safetensors")
    layer: Any = fresh_pipe.transformer.transformer_blocks[0].attn.to_q
    for side in ("A", "B"):
        found = getattr(layer, f"lora_{side}")["default_0"].weight
        assert found.dtype == torch.float32
        stored = state[f"transformer.transformer_blocks.0.attn.to_q.lora_{side}.weight"]
        assert torch.equal(found, stored.float())


def test_a_lora_of_the_vlm_in_the_originals_names_has_the_published_strength(
    pipe: DeepGenPipeline, goldens: Any, caplog: Any
) -> None:
    state = load_file(goldens.folder / goldens.files["lora"])
    plain = draw(pipe)
    pipe.load_lora_weights(goldens.folder / goldens.files["lora"])
    assert (draw(pipe) - plain).abs().max() > 1e-4
    assert "left out 2 keys: lmm.lm_head.lora_A.default.weight" in caplog.text  # DeepGen has no such head
    table: Any = pipe.vlm.language_model.embed_tokens
    assert table.scaling == {"default_0": 2.0}
    name = "lmm.model.language_model.embed_tokens.lora_embedding_A.default"
    assert torch.equal(table.lora_embedding_A["default_0"], state[name])
    pipe.unload_lora_weights()
    assert torch.equal(draw(pipe), plain)


def test_a_peft_folder_of_the_vlm_finds_its_part(
    pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "gate_proj"], init_lora_weights=False)
    get_peft_model(pipe.vlm, config).save_pretrained(tmp_path)
    fresh_pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(draw(fresh_pipe), draw(pipe), **CLOSE)
    assert fresh_pipe.get_list_adapters() == {"vlm": ["default_0"]}
    fresh_pipe.fuse_lora()  # of every part, not of the transformer alone
    fresh_pipe.unload_lora_weights()
    torch.testing.assert_close(draw(fresh_pipe), draw(pipe), atol=1e-4, rtol=0)


# --- several adapters, and exchanged ones -------------------------------------------------------------------


def test_two_files_of_different_trainers_work_together(
    pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    state = adapt(pipe)
    fresh_pipe.load_lora_weights(kohya(pipe, state, tmp_path), adapter_name="one")
    fresh_pipe.load_lora_weights(ai_toolkit(pipe, state, tmp_path), adapter_name="two")
    fresh_pipe.set_adapters(["one", "two"], [0.25, 0.75])
    torch.testing.assert_close(draw(fresh_pipe), draw(pipe), **CLOSE)
    fresh_pipe.delete_adapters("one")
    fresh_pipe.set_adapters("two")
    torch.testing.assert_close(draw(fresh_pipe), draw(pipe), **CLOSE)


def test_hotswap_takes_weights_and_strengths_of_single_modules(
    pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    state = adapt(pipe, alpha_pattern={"to_q": 40}, rank_pattern={"to_k": 2})
    named = kohya(pipe, state, tmp_path)
    named |= {key: torch.tensor(40.0) for key in named if key.endswith("to_q.alpha")}
    first = {key: value if key.endswith("alpha") else value.flip(0) for key, value in named.items()}
    fresh_pipe.load_lora_weights(
        first | {k: torch.tensor(3.0) for k in first if "alpha" in k}, adapter_name="x"
    )
    fresh_pipe.load_lora_weights(named, adapter_name="x", hotswap=True)
    torch.testing.assert_close(draw(fresh_pipe), draw(pipe), **CLOSE)
    fresh_pipe.save_lora_weights(tmp_path, "x")  # with the new strengths
    fresh_pipe.unload_lora_weights()
    fresh_pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(draw(fresh_pipe), draw(pipe), **CLOSE)


def test_hotswap_of_another_rank_works_in_a_model_prepared_for_compiling(
    pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline
) -> None:
    state = adapt(pipe)
    fresh_pipe.transformer.enable_lora_hotswap(target_rank=8)
    small = {k: v[:2] if "lora_A" in k else v[:, :2] for k, v in state.items()}
    fresh_pipe.load_lora_weights(small, adapter_name="x")
    layer: Any = fresh_pipe.transformer.transformer_blocks[0].attn.to_q
    assert isinstance(layer.scaling["x"], Tensor)
    fresh_pipe.load_lora_weights(kohya(pipe, state, Path()), adapter_name="x", hotswap=True)
    torch.testing.assert_close(draw(fresh_pipe), draw(pipe), **CLOSE)
    assert isinstance(layer.scaling["x"], Tensor), "a number would have the blocks compiled again"


def test_a_hotswap_that_cannot_work_keeps_the_old_adapter(
    pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    state = adapt(pipe)
    few = {key: value for key, value in state.items() if "to_q" in key}
    fresh_pipe.load_lora_weights(few, adapter_name="x")
    before = snapshot(fresh_pipe)
    with pytest.raises(ValueError, match=r"adapter 'x' has no layer transformer.*load it as an adapter"):
        fresh_pipe.load_lora_weights(state, adapter_name="x", hotswap=True)
    with pytest.raises(ValueError, match="adapter 'y' is on no part"):
        fresh_pipe.load_lora_weights(few, adapter_name="y", hotswap=True)
    with pytest.raises(ValueError, match="has an adapter named 'x' already"):
        fresh_pipe.load_lora_weights(few, adapter_name="x")
    with pytest.raises(ValueError, match="without dots"):
        fresh_pipe.load_lora_weights(few, adapter_name="a.b")
    assert_same(before, snapshot(fresh_pipe))


# --- what does not fit --------------------------------------------------------------------------------------


def foreign_text_encoder(state: State) -> State:
    return state | {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(4, 8),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(8, 4),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(4.0),
    }


def deeper_model(state: State) -> State:
    return state | {
        key.replace("blocks.0.", "blocks.37."): v for key, v in state.items() if "blocks.0." in key
    }


def wider_layer(state: State) -> State:
    key = "transformer_blocks.0.attn.to_q.lora_A.weight"
    return state | {key: torch.cat([state[key], state[key]], dim=1)}


def whole_weight(state: State) -> State:
    return state | {"transformer_blocks.0.attn.to_q.weight": torch.ones(2, 2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            foreign_text_encoder,
            r"3 of its \d+ keys have no place, the first are lora_te1_.* \(of a text encoder,",
        ),
        (deeper_model, r"transformer_blocks\.37\..*no such layer.*the model has transformer \(\d+ layers"),
        (wider_layer, r"2 of its .*to_q\.lora_A.*the layer has \d+ in and \d+ out"),
        (whole_weight, r"1 of its .*to_q\.weight \(no LoRA factor"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_file_of_which_a_part_does_not_fit_is_refused_unless_that_is_allowed(
    change: Callable[[State], State],
    message: str,
    pipe: DeepGenPipeline,
    fresh_pipe: DeepGenPipeline,
    caplog: Any,
) -> None:
    state = change(adapt(pipe, lora_alpha=4))
    error = refused(fresh_pipe, state)
    assert re.search(message, error)
    assert "strict=False" in error
    fresh_pipe.load_lora_weights(state, strict=False)
    assert "left out" in caplog.text
    if change is not wider_layer:  # whose factor B of the same layer goes as well
        torch.testing.assert_close(draw(fresh_pipe), draw(pipe), **CLOSE)


def test_a_file_for_another_model_is_refused_even_where_parts_may_be_missing(pipe: DeepGenPipeline) -> None:
    state = {f"unet.mid_block.to_q.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    for strict in (True, False):
        error = refused(pipe, state, strict=strict)
        assert "unet.mid_block.to_q.lora_A.weight" in error
        assert "such as transformer_blocks.0.attn.to_q" in error
        assert "strict=False" not in error


def test_two_keys_for_one_layer_are_refused(pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline) -> None:
    state = adapt(pipe)
    twice = state | kohya(pipe, {k: v for k, v in state.items() if "blocks.0.attn.to_q" in k}, Path())
    assert re.search(
        r"to_q\.lora_A\.weight and lora_unet_.*are both for transformer\.", refused(fresh_pipe, twice)
    )
    again = state | {f"transformer.{key}": value for key, value in state.items()}
    assert "are both for" in refused(fresh_pipe, again)
    named = {re.sub(r"(lora_[AB])", rf"\1.{name}", k): v for name in ("one", "two") for k, v in state.items()}
    assert "are the same factor" in refused(fresh_pipe, named)


def test_what_changes_nothing_is_an_error(pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline) -> None:
    state = adapt(pipe)
    for zeroed in ("lora_A", "lora_B"):
        error = refused(fresh_pipe, {k: v * 0 if zeroed in k else v for k, v in state.items()})
        assert "changes nothing: all of its" in error
    silent = {
        k: torch.tensor(0.0) if k.endswith("alpha") else v for k, v in kohya(pipe, state, Path()).items()
    }
    assert "changes nothing" in refused(fresh_pipe, silent)
    partly = {k: v * 0 if "to_q.lora_B" in k else v for k, v in state.items()}
    fresh_pipe.load_lora_weights(partly)


def test_numbers_too_large_for_the_models_format_are_named(
    pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline
) -> None:
    state = adapt(pipe)
    key = "transformer_blocks.0.attn.to_q.lora_A.weight"
    fresh_pipe.to(torch.float16)
    error = refused(fresh_pipe, state | {key: state[key] + 1e6})
    assert f"{key} holds numbers up to 1e+06, more than torch.float16" in error


def test_fused_projections_would_pass_a_lora_by_and_are_refused(
    pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline
) -> None:
    state = adapt(pipe, lora_alpha=4)
    fresh_pipe.transformer.fuse_qkv_projections()
    with pytest.raises(ValueError, match="unfuse_qkv_projections"):
        fresh_pipe.load_lora_weights(state)
    fresh_pipe.transformer.unfuse_qkv_projections()
    fresh_pipe.load_lora_weights(state)
    torch.testing.assert_close(draw(fresh_pipe), draw(pipe), **CLOSE)


def test_a_failure_of_the_libraries_half_way_is_undone(
    pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline, monkeypatch: Any
) -> None:
    state = {f"transformer.{key}": value for key, value in adapt(pipe).items()}
    fresh_pipe.load_lora_weights({k: v for k, v in state.items() if "to_q" in k}, adapter_name="kept")
    fresh_pipe.connector.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]), adapter_name="other")
    state |= {f"connector.layers.0.self_attn.q_proj.lora_{s}.weight": torch.ones(2, 2) for s in "AB"}
    width = fresh_pipe.connector.layers[0].self_attn.q_proj.out_features
    state["connector.layers.0.self_attn.q_proj.lora_A.weight"] = torch.ones(2, width)
    state["connector.layers.0.self_attn.q_proj.lora_B.weight"] = torch.ones(width, 2)
    before = snapshot(fresh_pipe)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(fresh_pipe.connector, "load_lora_adapter", fail)
    with pytest.raises(MemoryError):
        fresh_pipe.load_lora_weights(state, adapter_name="new")
    monkeypatch.undo()
    assert_same(before, snapshot(fresh_pipe))


# --- doors --------------------------------------------------------------------------------------------------


def test_a_pickle_is_never_opened(pipe: DeepGenPipeline, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    for name in ("a.pt", "b.bin", "c.ckpt", "pytorch_lora_weights.safetensors"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_bytes(pickle.dumps(Evil()))
        for source in (folder, folder / name):
            assert "is a pickle, which is not opened" in refused(pipe, source)
    assert not (tmp_path / "ran").exists()


def test_the_command_line_applies_what_fits_where_it_is_told_to(
    pipe: DeepGenPipeline, tmp_path: Path, capsys: Any, caplog: Any
) -> None:
    state = foreign_text_encoder(load_file(write_case("peft_keys_with_alpha.safetensors", tmp_path)))
    save_file(state, tmp_path / "a.safetensors")
    asked = ["generate", "a star", "--model", "shapes", "--steps", "1"]
    asked += ["--lora", str(tmp_path / "a.safetensors"), "-o", str(tmp_path / "a.png")]
    assert main(asked) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"deepgen: error: .*lora_te1_.*--lora-partial", last)
    assert main([*asked, "--lora-partial"]) == 0
    assert "left out 3 keys: lora_te1_" in caplog.text
    assert (tmp_path / "a.png").exists()


def test_a_lora_is_read_once_and_loaded_as_often_as_wanted(
    pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline
) -> None:
    file = read_lora(adapt(pipe, lora_alpha=4))
    fresh_pipe.load_lora_weights(file, adapter_name="one")
    fresh_pipe.load_lora_weights(file, adapter_name="two")
    fresh_pipe.set_adapters(["one", "two"], [0.5, 0.5])
    torch.testing.assert_close(draw(fresh_pipe), draw(pipe), **CLOSE)
    with pytest.raises(ValueError, match="does not know stricct"):
        fresh_pipe.load_lora_weights(file, stricct=False)
