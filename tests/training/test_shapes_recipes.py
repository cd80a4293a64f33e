"""The loop resumes exactly, and every recipe of a small model's part trains."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deepgen.cli.recipe_fields import recipe_in
from deepgen.models.config import DEEPGEN_SHAPES, DEEPGEN_TINY
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.recipes import recipe, run, shapes
from deepgen.shapes.scene import sample_scene
from deepgen.tiny import recipes as storybook
from deepgen.tiny.codes import empty_code
from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.recipes import finish_vae
from deepgen.tiny.sample import sample_scene as sample_storybook_scene
from deepgen.tiny.scene import Thing
from deepgen.tiny.stages import drawn
from deepgen.tiny.stages.dit import (
    StorybookDiT,
    StorybookDiTConfig,
    changed_cells,
    encode_scenes,
    load_vae,
    pack_codes,
    pool_example,
    wear,
)
from deepgen.tiny.stages.drawn import draw_pool, drawn_example
from deepgen.tiny.stages.looks import Looks
from deepgen.training.checkpoint_folders import latest_checkpoint
from deepgen.training.loop import train
from deepgen.training.optim import Muon, OptimConfig, lr_factor, orthogonalize
from deepgen.training.overrides import override
from deepgen.training.parallel import Processes
from deepgen.training.pool import to_pixels
from deepgen.training.stages.shapes_dit import DrawingBatch
from deepgen.training.stages.shapes_vae import fit_float16, normalize_latents

RECIPES = [
    name for name in {**shapes.RECIPES, **storybook.RECIPES} if name.endswith(("-vae", "-vlm", "-dit"))
]
SMALL = {
    "shapes-vae": {"batch_size": "2", "crop": "32", "whole_share": "0"},
    "shapes-vlm": {"batch_size": "3", "edit_batch_size": "2"},
    "shapes-dit": {"batch_size": "3", "edit_batch_size": "2", "pool_size": "4"},
    "storybook-vae": {"scenes": "1", "whole_share": "0"},
    "storybook-vlm": {"batch_size": "3", "edit_batch_size": "2", "plain_share": "0", "simple_share": "0"},
    "storybook-dit": {"batch_size": "3", "edit_batch_size": "2", "pool_size": "4"},
}
VAES = {"shapes-dit": DEEPGEN_SHAPES.vae, "storybook-dit": DEEPGEN_TINY.vae}


@pytest.fixture
def vae_dir(tmp_path: Path) -> Path:
    from diffusers import AutoencoderKL

    for name, sizes in VAES.items():
        AutoencoderKL(**sizes).save_pretrained(tmp_path / "vae" / name)
    return tmp_path / "vae"


def small(name: str, steps: int, vae_dir: Path) -> dict[str, str]:
    changes = {**SMALL[name], "num_steps": str(steps)}
    return {**changes, "vae": str(vae_dir / name)} if name in VAES else changes


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_trains_two_steps_and_resumes_to_four_bit_exactly(name, tmp_path, vae_dir):
    constant = {"optim.decay_share": "0"}  # the schedule of two steps is not that of four
    run(name, tmp_path / "halves", overrides={**small(name, 2, vae_dir), **constant})
    run(name, tmp_path / "halves", resume=True, overrides={**small(name, 4, vae_dir), **constant})
    run(name, tmp_path / "whole", overrides={**small(name, 4, vae_dir), **constant})
    halves, whole = (
        load_file(latest_checkpoint(tmp_path / run_name) / "model.safetensors")
        for run_name in ("halves", "whole")
    )
    assert halves.keys() == whole.keys()
    assert all(torch.equal(halves[key], whole[key]) for key in whole)


def test_an_unknown_recipe_and_field_name_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="shapes-vae"):
        run("nope", tmp_path)
    with pytest.raises(ValueError, match="num_steps"):
        override(recipe("shapes-vae"), {"nope": "1"})
    assert override(recipe("shapes-vae"), {"optim.lr": "0.5"}).optim.lr == 0.5


def test_resuming_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"step-\*"):
        train(override(recipe("shapes-vae"), SMALL["shapes-vae"]), tmp_path, resume=True)


def test_orthogonalized_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(3, 24, 40)))
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_muon_moves_a_convolution_down_its_gradient():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 6, 3, bias=False)
    optimizer, images = Muon(conv.parameters(), lr=0.02), torch.randn(2, 4, 8, 8)
    before = conv(images).pow(2).mean()
    before.backward()
    optimizer.step()
    assert conv(images).pow(2).mean() < before


def test_the_rate_warms_up_and_decays_to_its_end():
    config = OptimConfig(warmup_steps=10, decay_share=0.5)
    factors = [lr_factor(config, step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[40] == 1
    assert factors[75] == pytest.approx(0.5)
    assert factors[100] == 0


def test_normalizing_latents_keeps_reconstructions():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(**DEEPGEN_SHAPES.vae).eval()
    rng = np.random.default_rng(0)
    pixels = to_pixels([sample_scene(rng) for _ in range(4)])
    with torch.no_grad():
        before = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        normalize_latents(vae, pixels)
        latents = vae.encode(pixels).latent_dist.mean
        assert torch.allclose(vae.decode(latents).sample, before, atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    assert vae.config.scaling_factor == pytest.approx(1 / float(latents.std()))


@pytest.mark.parametrize("name", ["tiny-vae", "rl-tiny-student", "distill-tiny-matching"])
def test_a_recipes_former_name_is_still_understood(name):
    assert recipe(name) == recipe(name.replace("tiny", "shapes"))
    assert recipe_in([name, "-o", "x"]) == name.replace("tiny", "shapes")


def test_an_encoder_that_overflows_float16_is_made_to_fit_and_latents_stay(tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(**DEEPGEN_SHAPES.vae).eval()  # with attention in the middle, unlike the storybook's
    rng = np.random.default_rng(0)
    pixels = to_pixels([sample_scene(rng) for _ in range(4)])
    assert fit_float16(vae, pixels) == 1
    last = vae.encoder.down_blocks[-1].resnets[0]
    with torch.no_grad():
        for layer in (last.conv_shortcut, last.conv2):
            layer.weight *= 3e5
            layer.bias *= 3e5
        before = vae.encode(pixels).latent_dist.mean
        half = copy.deepcopy(vae).half()
        assert not half.encode(pixels.half()).latent_dist.mean.isfinite().all()
        assert fit_float16(vae, pixels) >= 16
        assert torch.allclose(vae.encode(pixels).latent_dist.mean, before, atol=1e-4)
        assert torch.allclose(vae.half().encode(pixels.half()).latent_dist.mean.float(), before, atol=0.05)


def test_resuming_from_a_damaged_checkpoint_names_the_file(tmp_path, vae_dir):
    run("shapes-vae", tmp_path, overrides=small("shapes-vae", 1, vae_dir))
    file = latest_checkpoint(tmp_path) / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ValueError, match=r"optimizer\.safetensors was changed or damaged"):
        run("shapes-vae", tmp_path, resume=True, overrides=small("shapes-vae", 1, vae_dir))


def test_a_decoder_alone_leaves_the_latents_as_they_are(tmp_path, vae_dir):
    start = vae_dir / "storybook-dit"
    changes = {"scenes": "1", "num_steps": "3", "trains_encoder": "false", "start": str(start)}
    run("storybook-vae", tmp_path / "decoder", overrides=changes)
    before = load_file(start / "diffusion_pytorch_model.safetensors")
    after = load_file(latest_checkpoint(tmp_path / "decoder") / "model.safetensors")
    same = {name: torch.equal(before[name], value) for name, value in after.items()}
    assert all(same[name] for name in same if name.startswith("encoder."))
    assert not all(same[name] for name in same if name.startswith("decoder."))
    finish_vae(tmp_path / "decoder", tmp_path / "finished", encoder_dir=start)
    finished = load_file(tmp_path / "finished" / "diffusion_pytorch_model.safetensors")
    averages = load_file(latest_checkpoint(tmp_path / "decoder") / "ema.safetensors")
    assert all(
        torch.equal(value, averages[name] if name.startswith("decoder.") else before[name])
        for name, value in finished.items()
    )


@pytest.fixture
def silent_dit(tmp_path: Path) -> Path:
    """A DiT that changes nothing: what is disturbed a little stays near what it was."""
    dit = DeepGenTransformer2DModel(**DEEPGEN_TINY.transformer)
    torch.nn.init.zeros_(dit.proj_out.weight)
    torch.nn.init.zeros_(dit.proj_out.bias)
    dit.save_pretrained(tmp_path / "silent-dit")
    return tmp_path / "silent-dit"


def test_a_decoder_learns_from_what_a_dit_draws_and_resumes_bit_exactly(tmp_path, vae_dir, silent_dit):
    changes = {
        "scenes": "1", "whole_share": "1", "trains_encoder": "false", "start": str(vae_dir / "storybook-dit"),
        "dit": str(silent_dit), "drawn_pool": "8", "drawn_share": "1", "detail_weight": "0.4",
        "optim.decay_share": "0", "log_every": "1",
    }  # fmt: skip
    run("storybook-vae", tmp_path / "halves", overrides={**changes, "num_steps": "1"})
    run("storybook-vae", tmp_path / "halves", resume=True, overrides={**changes, "num_steps": "2"})
    run("storybook-vae", tmp_path / "whole", overrides={**changes, "num_steps": "2"})
    halves, whole = (
        load_file(latest_checkpoint(tmp_path / name) / "model.safetensors") for name in ("halves", "whole")
    )
    assert all(torch.equal(halves[key], whole[key]) for key in whole)
    assert not torch.equal(
        whole["decoder.conv_in.weight"],
        load_file(vae_dir / "storybook-dit" / "diffusion_pytorch_model.safetensors")[
            "decoder.conv_in.weight"
        ],
    )
    assert "drawn_psnr" in (tmp_path / "whole" / "log.jsonl").read_text()


def test_the_decoders_recipe_weighs_what_came_back_unreadable(tmp_path, vae_dir, silent_dit, monkeypatch):
    read = []
    looks = Looks(tuple(Thing(noun=noun, cell=(0, 0)) for noun in NOUNS), np.ones(len(NOUNS)))
    monkeypatch.setattr("deepgen.tiny.stages.vae.read_looks", lambda vae: read.append(vae) or looks)
    monkeypatch.setattr(Looks, "share", lambda self, scene: float(len(scene.things)))
    monkeypatch.setattr("deepgen.tiny.stages.vae.hard_scene", lambda rng, looks: sample_storybook_scene(rng))
    changes = {
        "scenes": "1", "num_steps": "2", "start": str(vae_dir / "storybook-dit"), "dit": str(silent_dit),
        "drawn_pool": "8",
    }  # fmt: skip
    run("storybook-decoder", tmp_path / "decoder", overrides=changes)
    assert len(read) == 1
    with pytest.raises(ValueError, match="go on from a finished VAE; name its run or folder"):
        run("storybook-decoder", tmp_path / "nothing", overrides={"num_steps": "1"})
    with pytest.raises(ValueError, match="--set start=FOLDER"):
        run("storybook-vae", tmp_path / "nothing", overrides={"num_steps": "1", "hard_share": "0.5"})


def test_of_what_a_dit_draws_the_decoder_meets_what_is_near_the_picture(vae_dir, silent_dit):
    vae_folder = vae_dir / "storybook-dit"
    latents, numbers = draw_pool(vae_folder, silent_dit, 96, 3)
    assert 0 < len(numbers) < 96  # the DiT mends nothing, so the most disturbed are left out
    assert len({int(number) // 64 for number in numbers}) == 2  # captions, then edits
    examples = [drawn_example(3, int(number)) for number in numbers]
    assert [example.source is not None for example in examples] == [int(n) >= 64 for n in numbers]
    scenes = [example.target for example in examples]
    vae = load_vae(vae_folder)
    clean = encode_scenes(vae, scenes).float()  # scaling is 1 and shift 0 in this folder
    assert ((latents.float() - clean).square().mean((1, 2, 3)) < 0.5).all()


def test_a_dit_that_draws_nothing_right_is_named(vae_dir, silent_dit, monkeypatch):
    monkeypatch.setattr(drawn, "_MOST_ERROR", 0.0)
    with pytest.raises(ValueError, match="drew none of 2 pictures right; it needs more training"):
        draw_pool(vae_dir / "storybook-dit", silent_dit, 2, 3)


def test_a_decoder_takes_a_dit_only_with_the_latents_that_one_knows(tmp_path):
    with pytest.raises(ValueError, match="trains_encoder=false"):
        override(recipe("storybook-vae"), {"dit": str(tmp_path)})


def test_the_storybook_dit_needs_a_vae_and_a_pool_of_its_size(tmp_path, vae_dir):
    with pytest.raises(ValueError, match="--set vae="):
        run("storybook-dit", tmp_path / "none", overrides=SMALL["storybook-dit"])
    pool = {**small("storybook-dit", 1, vae_dir), "pool_file": str(tmp_path / "pool.safetensors")}
    run("storybook-dit", tmp_path / "first", overrides=pool)
    with pytest.raises(ValueError, match="holds 4 entries, not 5"):
        run("storybook-dit", tmp_path / "second", overrides={**pool, "pool_size": "5"})


def test_half_of_the_pictures_to_edit_are_worn_but_none_of_their_targets(vae_dir):
    """Else a DiT copies faults with what it keeps, and they add up over edits in a row."""
    sources = torch.zeros(4, 1, 2, 2)
    pool = {
        "edit sources": sources,
        "edit worn": sources + 1,
        "edit targets": sources + 2,
        "edit codes": pack_codes([empty_code("edit")] * 4),
    }
    stage = StorybookDiT.__new__(StorybookDiT)
    stage.config, stage.pool = StorybookDiTConfig(pool_size=4, edit_share=1, edit_batch_size=400), pool
    batch = stage.batch(np.random.default_rng(0), 0)
    assert set(batch.references.flatten().tolist()) == {0, 1}
    assert 0.4 < batch.references.mean() < 0.6
    assert set(batch.clean.flatten().tolist()) == {2}

    vae = load_vae(vae_dir / "storybook-dit")
    latents = encode_scenes(vae, [pool_example(1, i, "edit").target for i in range(3)])
    worn = wear(vae, latents, 1)
    assert worn.shape == latents.shape
    assert worn.dtype == torch.float16
    assert not torch.equal(worn, latents)
    assert torch.equal(worn, wear(vae, latents, 1))
    assert not torch.equal(worn, wear(vae, latents, 2))


def test_a_pool_from_before_pictures_were_worn_is_refused(tmp_path, vae_dir):
    pool = {**small("storybook-dit", 1, vae_dir), "pool_file": str(tmp_path / "pool.safetensors")}
    run("storybook-dit", tmp_path / "first", overrides=pool)
    kept = load_file(tmp_path / "pool.safetensors")
    del kept["edit worn"]
    save_file(kept, tmp_path / "pool.safetensors")
    with pytest.raises(ValueError, match="made before pictures to edit were worn; name another pool_file"):
        run("storybook-dit", tmp_path / "second", overrides=pool)


def test_the_cells_that_an_edit_changes_weigh_more():
    class Still(torch.nn.Module):
        def forward(self, hidden_states, **others):
            return (torch.zeros_like(hidden_states),)

    references, clean = torch.zeros(2, 1, 12, 12), torch.full((2, 1, 12, 12), 0.1)  # what is kept is worn
    clean[:, :, :4, 4:8] = 2.0
    changed = changed_cells(clean, references)
    assert changed[:, :4, 4:8].all()
    assert changed.sum() == 2 * 16
    one = torch.ones(2)
    batch = DrawingBatch(clean, references, one, one, one, torch.zeros_like(clean), 2)
    stage = StorybookDiT.__new__(StorybookDiT)
    stage.predict = Still()
    for weight, wanted in ((1, (4 + 8 * 0.01) / 9), (3, (3 * 4 + 8 * 0.01) / 11)):
        stage.config = StorybookDiTConfig(changed_weight=weight, autocast=False)
        loss = stage.loss(batch)
        assert float(loss.loss) == pytest.approx(wanted, rel=1e-4)
        total, count = loss.metrics["edit_changed"]
        assert total / count == pytest.approx(4)
        assert loss.metrics["edit"][0] / 2 == pytest.approx((4 + 8 * 0.01) / 9, rel=1e-4)


def test_the_loss_of_edits_is_the_sum_of_the_shares_of_several_processes(vae_dir):
    """One sample changes nothing, so that the weights of the shares differ."""
    config = override(recipe("storybook-dit"), small("storybook-dit", 1, vae_dir))
    stage = StorybookDiT(replace(config, edit_share=1, edit_batch_size=3, autocast=False), Processes("cpu"))
    batch = stage.batch(np.random.default_rng(0), 0)
    batch.references[0] = batch.clean[0]
    whole = stage.loss(batch).loss
    shares = [stage.loss(batch.share(rank, 2)).loss for rank in range(2)]
    torch.testing.assert_close(sum(shares), whole, rtol=1e-4, atol=1e-6)
    batch.references.copy_(batch.clean)
    assert "edit_changed" not in stage.loss(batch).metrics  # not a mean of nothing


def test_a_compiled_dit_learns_with_the_plain_ones_weights(vae_dir):
    config = override(recipe("storybook-dit"), small("storybook-dit", 1, vae_dir))
    losses, gradients = {}, {}
    for is_compiled in (False, True):
        torch.manual_seed(0)
        stage = StorybookDiT(replace(config, is_compiled=is_compiled, autocast=False), Processes("cpu"))
        assert (stage.predict is stage.modules) is not is_compiled
        # The real compiler takes minutes; what is traced for it is what this backend runs.
        with torch.compiler.set_stance("default", force_backend="eager"):
            of_steps = [stage.loss(stage.batches(step)[0]).loss for step in range(4)]  # of both tasks
            torch.stack(of_steps).sum().backward()
        losses[is_compiled] = [float(loss.detach()) for loss in of_steps]
        gradients[is_compiled] = {name: x.grad for name, x in stage.modules.named_parameters()}
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    torch.testing.assert_close(gradients[True], gradients[False], rtol=1e-3, atol=1e-6)


def test_a_pool_of_another_seed_or_world_is_refused(tmp_path, vae_dir, monkeypatch):
    pool = {**small("storybook-dit", 1, vae_dir), "pool_file": str(tmp_path / "pool.safetensors")}
    run("storybook-dit", tmp_path / "first", overrides=pool)
    with pytest.raises(ValueError, match=r"does not begin with what pool_seed 5 draws.*another pool_file"):
        run("storybook-dit", tmp_path / "second", overrides={**pool, "pool_seed": "5"})
    monkeypatch.setattr("deepgen.tiny.stages.dit.write_code", lambda example: empty_code("edit"))
    with pytest.raises(ValueError, match="by an earlier version"):
        run("storybook-dit", tmp_path / "third", overrides=pool)
