"""What a run made draws what it learnt, as a folder and as a LoRA file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from deepgen.checkpoints import remote_code
from deepgen.checkpoints.saving import DISTILLED_FILE
from deepgen.checkpoints.sums import SUMS, read_sums
from deepgen.checkpoints.verify import verify
from deepgen.embedded import embedded_folder
from deepgen.pipeline import DeepGenPipeline
from deepgen.recipes import export, recipe, recipe_of, run
from deepgen.training.checkpoints import read_checkpoint_folder
from deepgen.training.export import Trained
from deepgen.training.overrides import override
from deepgen.training.state import Snapshot
from small_runs import small

SHAPES_DIR = embedded_folder("shapes")


def draw(pipe: DeepGenPipeline) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe("a red circle", seed=1, num_inference_steps=2, output_type="pt").images


def load(source: Path | str) -> DeepGenPipeline:
    return DeepGenPipeline.from_pretrained(source, dtype=torch.float32)


# Rates that change a picture visibly within two steps.
FAST = {"optim.lr": "0.01", "num_steps": "2"}


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_an_exported_folder_draws_what_the_run_draws_with_its_adapters_merged(
    weights,
    mixture,
    tmp_path,
) -> None:
    run("sft", tmp_path / "run", overrides=small(mixture, **FAST, ema_decay="0.5"))
    export(tmp_path / "run", tmp_path / "out", what="folder", weights=weights)
    trained = Trained(recipe_of(tmp_path / "run"), tmp_path / "run", weights).load()
    expected = draw(trained.to(torch.float32))
    exported = draw(load(tmp_path / "out"))
    # The LoRA of preset "turbo" is the model's own and goes with it.
    assert [path.name for path in (tmp_path / "out").rglob("*lora*")] == [DISTILLED_FILE]
    # bfloat16 files, as the packaged model's are
    assert (exported - expected).abs().mean() < 0.02
    assert (exported - draw(load("shapes"))).abs().mean() > 0.04


def test_an_export_of_a_run_that_learnt_nothing_says_so(mixture, tmp_path, caplog, monkeypatch) -> None:
    run("lora", tmp_path / "run", overrides=small(mixture, **FAST))
    export(tmp_path / "run", tmp_path / "out", what="lora")
    assert "learnt nothing" not in caplog.text

    def flat_groups(folder: Path) -> Snapshot:
        snapshot = read_checkpoint_folder(folder)
        for weights in (snapshot.model, snapshot.ema):
            for name, value in weights.items():
                value.mul_(0 if ".lora_B." in name else 1)
        return snapshot

    monkeypatch.setattr("deepgen.training.export.read_checkpoint_folder", flat_groups)
    export(tmp_path / "run", tmp_path / "again", what="lora")
    assert "run learnt nothing: all" in caplog.text
    assert "groups/flat_share" in caplog.text


def test_a_run_of_the_former_tiny_is_not_exported_from_todays(mixture, tmp_path) -> None:
    run("lora", tmp_path / "run", overrides=small(mixture, **FAST))
    file = tmp_path / "run" / "config.json"
    written = json.loads(file.read_text())
    written["model"] = written["about"]["overrides"]["model"] = "tiny"
    file.write_text(json.dumps(written))
    with pytest.raises(ValueError, match=r'began from another model than tiny.*write "model": "shapes"'):
        export(tmp_path / "run", tmp_path / "out", what="lora")


def test_an_exported_lora_draws_what_the_run_draws(mixture, tmp_path) -> None:
    changes = small(mixture, **FAST)
    run("lora", tmp_path / "run", overrides={**changes, "transformer_lora.alpha": "48"})
    export(tmp_path / "run", tmp_path / "out", what="lora")
    pipe = load("shapes")
    plain = draw(pipe)
    pipe.load_lora_weights(tmp_path / "out")
    expected = draw(Trained(recipe_of(tmp_path / "run"), tmp_path / "run").load().to(torch.float32))
    torch.testing.assert_close(draw(pipe), expected, atol=1e-4, rtol=0)
    assert (draw(pipe) - plain).abs().max() > 0.01


def between(start: torch.Tensor, end: torch.Tensor, strength: float) -> torch.Tensor:
    return start.float() + strength * (end.float() - start.float())


def test_half_the_strength_is_half_the_way_for_adapters_and_for_whole_weights(mixture, tmp_path) -> None:
    changes = {"vlm_lora.rank": "4", "trains_connector": "true", "trains_transformer": "true"}
    run("sft", tmp_path / "run", overrides=small(mixture, **FAST, **changes, ema_decay="none"))
    for name, strength in (("none", 0.0), ("half", 0.5), ("whole", 1.0)):
        export(tmp_path / "run", tmp_path / name, what="folder", strength=strength)
    start, none, half, whole = (
        load(p) for p in (SHAPES_DIR, *(tmp_path / n for n in ("none", "half", "whole")))
    )
    for part in ("vlm", "connector", "transformer"):
        states = [getattr(pipe, part).state_dict() for pipe in (start, none, half, whole)]
        moved = {key for key in states[0] if not torch.equal(states[0][key], states[3][key])}
        assert moved, part
        for key in moved:
            torch.testing.assert_close(states[1][key], states[0][key], atol=0, rtol=0, msg=key)
            expected = between(states[0][key], states[3][key], 0.5)
            torch.testing.assert_close(states[2][key], expected, atol=1e-3, rtol=1e-2, msg=f"{part}.{key}")


def test_a_lora_file_of_half_the_strength_draws_what_the_folder_of_it_draws(mixture, tmp_path) -> None:
    run("lora", tmp_path / "run", overrides=small(mixture, **FAST))
    export(tmp_path / "run", tmp_path / "lora", what="lora", strength=0.5)
    export(tmp_path / "run", tmp_path / "whole", what="lora")
    half, whole = load("shapes"), load("shapes")
    half.load_lora_weights(tmp_path / "lora")
    whole.load_lora_weights(tmp_path / "whole")
    config = recipe_of(tmp_path / "run")
    expected = draw(Trained(config, tmp_path / "run", strength=0.5).load().to(torch.float32))
    torch.testing.assert_close(draw(half), expected, atol=1e-4, rtol=0)
    assert (draw(half) - draw(whole)).abs().max() > 0.01


@pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan")])
def test_a_strength_out_of_range_is_refused(strength, mixture, tmp_path) -> None:
    with pytest.raises(ValueError, match="strength must be between 0 and 2"):
        Trained(recipe("lora"), tmp_path, strength=strength)


def test_there_is_no_way_from_a_connector_that_began_with_random_weights(tmp_path) -> None:
    config = override(recipe("alignment"), {"new_connector": "true"})
    with pytest.raises(ValueError, match="began with a fresh connector"):
        Trained(config, tmp_path, strength=0.5)


def test_what_cannot_be_exported_is_refused(mixture, tmp_path) -> None:
    run("alignment", tmp_path / "run", overrides=small(mixture, num_steps="1"))
    with pytest.raises(ValueError, match="trained whole weights, which a LoRA file cannot hold"):
        export(tmp_path / "run", tmp_path / "out", what="lora")
    with pytest.raises(FileNotFoundError, match=r"there is no config\.json"):
        export(tmp_path, tmp_path / "out", what="folder")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**config, "about": {}}))
    with pytest.raises(ValueError, match="does not say which recipe"):
        export(tmp_path / "run", tmp_path / "out", what="folder")


@pytest.mark.parametrize("alpha", ["16", "8"])  # of rank 8: the original's scale, and another
def test_an_export_in_the_originals_layout_holds_connector_dit_and_lora(alpha, mixture, tmp_path) -> None:
    changes = {"vlm_lora.rank": "8", "vlm_lora.alpha": alpha, "ema_decay": "none"}
    run("sft", tmp_path / "run", overrides=small(mixture, **FAST, **changes))
    export(tmp_path / "run", tmp_path / "native", what="native")
    export(tmp_path / "run", tmp_path / "folder", what="folder")
    assert verify(tmp_path / "native" / "model.safetensors").hashes == {"model.safetensors": SUMS}
    written = {*read_sums(SHAPES_DIR), f"{remote_code.MODULE}.py"}
    assert set(verify(tmp_path / "folder").hashes) == written
    parts = {"vlm": str(SHAPES_DIR), "vae": str(SHAPES_DIR)}
    native = DeepGenPipeline.from_pretrained(tmp_path / "native", dtype=torch.float32, lora="merge", **parts)
    folder = load(tmp_path / "folder")
    for name in ("vlm", "connector", "transformer"):
        theirs = getattr(folder, name).state_dict()
        for key, tensor in getattr(native, name).state_dict().items():
            torch.testing.assert_close(tensor, theirs[key], atol=2e-2, rtol=2e-2, msg=f"{name}.{key}")
    before = load("shapes").vlm.state_dict()
    assert any((tensor - before[key]).abs().max() > 1e-3 for key, tensor in native.vlm.state_dict().items())
    with pytest.raises(FileExistsError, match="choose another --output"):
        export(tmp_path / "run", tmp_path / "native", what="native")
