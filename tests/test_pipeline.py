"""The pipeline: batches, references, sizes, outputs, callbacks, and every refusal."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deepgen.models.prompts import generation_prompt, tokenize
from deepgen.pipeline import DeepGenPipeline
from deepgen.prompt_text import PromptCutWarning

PROMPTS = [
    "a red apple",
    "two cats and three dogs on a very long wooden table",
    "x",
    "the same thing again, but smaller",
]


def flat_image(width: int, height: int, colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def draw(pipe: DeepGenPipeline, prompt, **kwargs):
    return pipe(prompt, output_type="pt", **kwargs).images


# --- batch invariance ---------------------------------------------------------------------------------------


def test_a_prompt_draws_the_same_alone_and_in_a_batch(pipe: DeepGenPipeline) -> None:
    together = draw(pipe, PROMPTS, seed=5)
    for index, prompt in enumerate(PROMPTS):
        alone = draw(pipe, prompt, seed=5 + index)
        assert (together[index] - alone[0]).abs().max() < 1e-5


def test_an_edit_is_the_same_alone_and_beside_other_references(pipe: DeepGenPipeline) -> None:
    first = flat_image(64, 64, (200, 30, 30))
    second = [flat_image(64, 64, (0, 90, 200)), flat_image(64, 32, (0, 200, 0))]
    together = draw(pipe, PROMPTS[:2], image=[first, second], seed=[3, 4])
    assert (together[0] - draw(pipe, PROMPTS[0], image=first, seed=3)[0]).abs().max() < 1e-5
    assert (together[1] - draw(pipe, PROMPTS[1], image=second, seed=4)[0]).abs().max() < 1e-5


def test_whole_batch_padding_does_depend_on_the_batch(pipe: DeepGenPipeline) -> None:
    together = draw(pipe, PROMPTS, seed=5, padding="batch")
    alone = draw(pipe, PROMPTS[0], seed=5, padding="batch")
    assert (together[0] - alone[0]).abs().max() > 1e-4


def test_both_paddings_agree_for_one_prompt(pipe: DeepGenPipeline) -> None:
    pair = draw(pipe, PROMPTS[1], seed=5, negative_prompt="blurry")
    batch = draw(pipe, PROMPTS[1], seed=5, negative_prompt="blurry", padding="batch")
    assert torch.equal(pair, batch)


def test_nothing_padded_means_no_mask(pipe: DeepGenPipeline) -> None:
    positive, negative = pipe.encode_prompt(PROMPTS[0], "")
    assert positive.mask is None
    assert negative is not None
    assert negative.mask is None
    mixed, _ = pipe.encode_prompt(PROMPTS[:2], "")
    assert mixed.mask is not None
    assert mixed.select([0]).mask is None


# --- seeds --------------------------------------------------------------------------------------------------


def test_image_k_of_a_batch_can_be_drawn_alone(pipe: DeepGenPipeline) -> None:
    result = pipe(PROMPTS[:2], num_images_per_prompt=2, seed=10, output_type="pt")
    assert result.seeds == [10, 11, 12, 13]
    assert (result.images[3] - draw(pipe, PROMPTS[1], seed=13)[0]).abs().max() < 1e-5
    assert (result.images[2] - result.images[3]).abs().max() > 1e-3


def test_a_reported_seed_repeats_an_unseeded_picture(pipe: DeepGenPipeline) -> None:
    result = pipe(PROMPTS[0], output_type="pt")
    assert torch.equal(draw(pipe, PROMPTS[0], seed=result.seeds[0]), result.images)


def test_generators_give_what_their_seeds_give(pipe: DeepGenPipeline) -> None:
    generators = [torch.Generator().manual_seed(s) for s in (3, 4)]
    assert torch.equal(draw(pipe, PROMPTS[:2], generator=generators), draw(pipe, PROMPTS[:2], seed=[3, 4]))


def test_an_edit_is_reproducible_from_its_seed_although_its_reference_is_sampled(
    pipe: DeepGenPipeline, image: Image.Image
) -> None:
    one = draw(pipe, "make it blue", image=image, seed=1)
    torch.randn(7)
    assert torch.equal(one, draw(pipe, "make it blue", image=image, seed=1))
    mode = draw(pipe, "make it blue", image=image, seed=1, reference_posterior="mode")
    assert not torch.equal(one, mode)


# --- references and sizes -----------------------------------------------------------------------------------


def test_every_kind_of_reference_is_the_same_reference(pipe: DeepGenPipeline, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "reference.png"
    Image.fromarray(array).save(path)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    expected = draw(pipe, "make it blue", image=Image.fromarray(array), seed=1)
    for source in (path, str(path), array, tensor, tensor.float() / 255, [path], [[path]], tensor[None]):
        assert torch.equal(draw(pipe, "make it blue", image=source, seed=1), expected)


def test_an_edit_returns_the_size_of_its_source(pipe: DeepGenPipeline, image: Image.Image) -> None:
    assert pipe("make it blue", image=image, seed=1).images[0].size == (90, 70)
    assert pipe("make it blue", image=image, seed=1, restore_size=False).images[0].size == (64, 64)
    assert pipe("make it blue", image=image, height=32, width=64, seed=1).images[0].size == (64, 32)


def test_edits_of_different_sizes_go_in_one_call(pipe: DeepGenPipeline) -> None:
    sources = [
        flat_image(64, 64, (9, 9, 9)),
        flat_image(100, 40, (99, 9, 9)),
        flat_image(64, 64, (9, 99, 9)),
    ]
    images = pipe(PROMPTS[:3], image=sources, seed=0).images
    assert [image.size for image in images] == [(64, 64), (100, 40), (64, 64)]
    alone = pipe(PROMPTS[1], image=sources[1], seed=1).images[0]
    assert np.abs(np.asarray(alone, dtype=int) - np.asarray(images[1], dtype=int)).max() <= 1


def test_exif_orientation_is_applied(pipe: DeepGenPipeline, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    path = tmp_path / "turned.jpg"
    flat_image(96, 32, (9, 9, 200)).save(path, exif=exif)
    assert pipe("make it red", image=path, seed=0).images[0].size == (32, 96)


def test_geometry_survives_the_way_in_and_out(image: Image.Image) -> None:
    from deepgen.data.pixels import resize_pixels, to_pixels

    there = to_pixels(image, (96, 128))
    back = resize_pixels(there, (image.height, image.width))
    original = to_pixels(image, (image.height, image.width))
    inner = (slice(None), slice(4, -4), slice(4, -4))
    assert (back - original)[inner].abs().max() < 0.02


@pytest.mark.parametrize(("height", "width"), [(32, 64), (80, 48), (16, 16)])
def test_any_multiple_of_16_can_be_drawn(pipe: DeepGenPipeline, height: int, width: int) -> None:
    assert pipe("a cat", height=height, width=width).images[0].size == (width, height)


# --- outputs, embeddings, callbacks -------------------------------------------------------------------------


def test_output_types(pipe: DeepGenPipeline) -> None:
    assert isinstance(pipe("a cat", seed=0).images[0], Image.Image)
    array = pipe("a cat", seed=0, output_type="np").images
    assert array.shape == (1, 64, 64, 3)
    assert 0 <= array.min() <= array.max() <= 1
    assert pipe("a cat", seed=0, output_type="pt").images.shape == (1, 3, 64, 64)
    assert pipe("a cat", seed=0, output_type="latent").images.shape == (1, 16, 8, 8)
    assert isinstance(pipe("a cat", seed=0, return_dict=False), tuple)


def test_given_latents_replace_the_noise(pipe: DeepGenPipeline) -> None:
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(draw(pipe, "a cat", latents=noise), draw(pipe, "a cat", seed=3))


def test_given_embeddings_replace_the_prompt(pipe: DeepGenPipeline) -> None:
    positive, negative = pipe.encode_prompt("a cat", "")
    given = draw(
        pipe,
        None,
        prompt_embeds=positive.prompt_embeds,
        pooled_prompt_embeds=positive.pooled_prompt_embeds,
        negative_prompt_embeds=negative.prompt_embeds,
        negative_pooled_prompt_embeds=negative.pooled_prompt_embeds,
        seed=3,
    )
    assert torch.equal(given, draw(pipe, "a cat", seed=3))


def test_guidance_of_one_ignores_the_negative_branch(pipe: DeepGenPipeline) -> None:
    plain = draw(pipe, "a cat", seed=3, guidance_scale=1.0)
    assert not torch.equal(plain, draw(pipe, "a cat", seed=3, guidance_scale=2.0))
    assert torch.equal(plain, draw(pipe, "a cat", seed=3, guidance_scale=0.5))


def test_the_negative_prompt_matters(pipe: DeepGenPipeline) -> None:
    assert not torch.equal(draw(pipe, "a cat", seed=3), draw(pipe, "a cat", seed=3, negative_prompt="a dog"))


def test_callbacks_see_every_step_and_may_replace_latents(pipe: DeepGenPipeline) -> None:
    seen = []

    def zero_at_the_end(pipe: DeepGenPipeline, step: int, timestep: torch.Tensor, tensors: dict) -> dict:
        seen.append((step, float(timestep)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else {}

    result = pipe(
        "a cat", num_inference_steps=3, callback_on_step_end=zero_at_the_end, output_type="latent"
    ).images
    assert [step for step, _ in seen] == [0, 1, 2]
    assert seen[0][1] == pytest.approx(1000)
    assert not result.any()


def test_interrupt_stops_after_the_current_step_and_keeps_what_is_there(pipe: DeepGenPipeline) -> None:
    steps = []

    def stop(pipe: DeepGenPipeline, step: int, timestep: torch.Tensor, tensors: dict) -> dict:
        steps.append(step)
        pipe.stop()
        return {}

    images = pipe("a cat", num_inference_steps=5, callback_on_step_end=stop).images
    assert steps == [0]
    assert len(images) == 1
    assert len(pipe("a cat").images) == 1
    pipe("a cat", num_inference_steps=2, callback_on_step_end=lambda p, s, t, k: steps.append(s) or {})
    assert steps == [0, 0, 1]


def test_interrupt_leaves_out_the_sizes_it_had_not_begun(pipe: DeepGenPipeline) -> None:
    def stop(pipe: DeepGenPipeline, step: int, timestep: torch.Tensor, tensors: dict) -> dict:
        pipe.stop()
        return {}

    sources = [Image.new("RGB", (64, 32)), Image.new("RGB", (64, 64)), Image.new("RGB", (64, 32))]
    result = pipe(["a", "b", "c"], image=sources, seed=[7, 8, 9], callback_on_step_end=stop)
    assert result.seeds == [7, 9]
    assert [image.size for image in result.images] == [(64, 32), (64, 32)]


def count(pipe: DeepGenPipeline, text: str) -> int:
    return len(pipe.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_an_overlong_prompt_is_cut_and_says_what_was_left_out(pipe: DeepGenPipeline) -> None:
    pipe.max_prompt_tokens = 8
    prompt = "a very long prompt " * 20
    with pytest.warns(PromptCutWarning, match="max_prompt_tokens is 8: only its first") as warned:
        result = pipe(prompt, seed=1, output_type="pt")
    assert len(warned) == 1
    (cut,) = result.prompt_cuts
    assert cut.kept + cut.left_out == prompt
    assert cut.num_tokens == count(pipe, prompt)
    assert 0 < cut.num_kept <= 8
    assert torch.equal(result.images[0], pipe(cut.kept, seed=1, output_type="pt").images[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert pipe("cat").prompt_cuts == []


def test_a_prompt_is_read_whole_up_to_the_context_of_the_vlm(pipe: DeepGenPipeline) -> None:
    """The original never cuts; beyond the context, template and think tokens count."""
    assert pipe.max_prompt_tokens is None
    prompt = "a very long prompt " * 40
    whole = len(pipe._tokenize([prompt], None).input_ids[0]) + pipe.connector.config.num_think_tokens
    pipe.vlm.config.text_config.max_position_embeddings = whole
    assert pipe.fit_prompts([prompt]) == ([prompt], [])
    pipe.vlm.config.text_config.max_position_embeddings = whole - 1
    (text,), (cut,) = pipe.fit_prompts([prompt])
    assert (cut.limit, text, cut.is_lower_bound) == ("context", cut.kept, False)
    assert pipe._tokenize([text], None).lengths[0] + pipe.connector.config.num_think_tokens < whole
    assert "the VLM's context has room for" in str(cut)


def test_image_tokens_leave_less_of_the_context(pipe: DeepGenPipeline) -> None:
    pixels = [[torch.zeros(3, 64, 96)] * 2]  # 6 tokens each
    pipe.vlm.config.text_config.max_position_embeddings = 60
    texts = [pipe.fit_prompts(["word " * 50], shown)[0][0] for shown in (None, pixels)]
    assert len(texts[1]) < len(texts[0])
    assert pipe._tokenize(texts[1:], pixels).lengths[0] <= 60 - pipe.connector.config.num_think_tokens
    with pytest.raises(ValueError, match="the references take 120 tokens, and the VLM's context holds 60"):
        pipe.fit_prompts(["word"], [[torch.zeros(3, 64, 96)] * 20])


def test_a_cut_falls_between_characters_and_a_negative_prompt_is_cut_too(pipe: DeepGenPipeline) -> None:
    pipe.max_prompt_tokens = 7
    prompt = "一只戴着红色围巾的狐狸坐在雪地里"  # bytes of a character are several tokens here
    with pytest.warns(PromptCutWarning):
        result = pipe("cat", negative_prompt=prompt)
    (cut,) = result.prompt_cuts
    assert (cut.name, cut.kept + cut.left_out) == ("negative_prompt", prompt)
    assert 1 <= len(cut.kept) <= 7
    assert pipe("cat", negative_prompt=prompt, guidance_scale=1.0).prompt_cuts == []  # it is not read


def test_an_absurdly_long_prompt_is_not_tokenised_whole(pipe: DeepGenPipeline) -> None:
    started = time.perf_counter()
    (text,), (cut,) = pipe.fit_prompts(["a red star " * 5_000_000])
    assert time.perf_counter() - started < 10
    assert cut.is_lower_bound
    assert len(text) + len(cut.left_out) == 55_000_000
    assert "prompt has over " in str(cut)


def test_a_long_prompt_that_does_not_fit_the_memory_is_refused(pipe: DeepGenPipeline, monkeypatch) -> None:
    pipe.vlm.config.text_config.max_position_embeddings = 10**6
    monkeypatch.setattr("deepgen.encoding.free_bytes", lambda device: 10**7)
    with pytest.raises(MemoryError, match=r"tokens of prompt takes about .* GB beside the model"):
        pipe("a red star " * 5000)


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "8"])
def test_a_limit_that_is_none_is_refused(pipe: DeepGenPipeline, limit: Any) -> None:
    with pytest.raises(ValueError, match="max_prompt_tokens must be a whole number of at least 1, or None"):
        pipe.max_prompt_tokens = limit


@pytest.mark.parametrize("prompt", ["", "   "])
def test_an_empty_prompt_draws_what_the_template_alone_says(pipe: DeepGenPipeline, prompt: str) -> None:
    result = pipe(prompt, seed=1, output_type="pt")
    assert result.images[0].isfinite().all()
    expected = tokenize(pipe.tokenizer, [generation_prompt(prompt)])
    assert torch.equal(pipe._tokenize([prompt], None).input_ids, expected.input_ids)
    assert pipe(prompt, image=BLACK, seed=1).images[0].size == (64, 64)


# --- refusals -----------------------------------------------------------------------------------------------

BLACK = Image.new("RGB", (64, 64))

REFUSED = {
    "missing among several": (dict(prompt=["a", None]), "prompt 1 is missing"),
    "no prompt": (dict(), "either prompt or prompt_embeds"),
    "empty list": (dict(prompt=[]), "prompt is an empty list"),
    "number": (dict(prompt=[3]), "prompt 0 is int"),
    "size": (dict(prompt="a", height=50, width=64), "not a multiple of 16.*64x48 or 64x64"),
    "negative size": (dict(prompt="a", height=-16, width=64), "not a multiple of 16"),
    "huge size": (dict(prompt="a", height=4096, width=64), "too large"),
    "steps": (dict(prompt="a", num_inference_steps=0), "num_inference_steps must be"),
    "nan guidance": (dict(prompt="a", guidance_scale=float("nan")), "guidance_scale must be"),
    "infinite guidance": (dict(prompt="a", guidance_scale=float("inf")), "guidance_scale must be"),
    "negatives": (dict(prompt=["a", "b"], negative_prompt=["c", "d", "e"]), "negative_prompt: 3 given for 2"),
    "images": (dict(prompt=["a", "b"], image=[BLACK, BLACK, BLACK]), "image: 3 entries given for 2"),
    "no image": (dict(prompt="a", image=[]), "image is an empty list"),
    "empty row": (dict(prompt=["a", "b"], image=[[BLACK], []]), "image: prompt 1 has no picture"),
    "missing file": (dict(prompt="a", image="nowhere.png"), "nowhere.png"),
    "seeds": (dict(prompt=["a", "b"], seed=[1]), "seed: 1 given for 2"),
    "both": (dict(prompt="a", seed=1, generator=torch.Generator()), "either seed or generator"),
    "generators": (dict(prompt="a", generator=[torch.Generator()] * 3), "generator: 3 given for 1"),
    "count": (dict(prompt="a", num_images_per_prompt=0), "num_images_per_prompt must be"),
    "output": (dict(prompt="a", output_type="jpg"), "unknown output_type"),
    "padding": (dict(prompt="a", padding="left"), "unknown padding"),
    "posterior": (dict(prompt="a", image=BLACK, reference_posterior="mean"), "unknown posterior"),
    "latents": (
        dict(prompt="a", latents=torch.zeros(1, 4, 8, 8)),
        r"latents must have shape \(1, 16, 8, 8\)",
    ),
    "callback": (dict(prompt="a", callback_on_step_end_tensor_inputs=["x"]), "unknown x"),
    "pooled": (dict(prompt_embeds=torch.zeros(1, 20, 40)), "prompt_embeds needs its pooled"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused_by_name(pipe: DeepGenPipeline, case: str) -> None:
    arguments, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)
