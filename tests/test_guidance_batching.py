"""Both branches of guidance in one pass or one after the other: the same picture."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from deepgen.pipeline import DeepGenPipeline

CALLS = {
    "one prompt": {"prompt": "a cat", "num_inference_steps": 3},
    "padded prompts": {"prompt": ["a cat", "a dog on a long wooden table"], "num_inference_steps": 3},
    "an edit": {"prompt": "make it blue", "image": Image.new("RGB", (64, 64), (200, 30, 30))},
    "a preset that rests": {"prompt": "a cat", "preset": "balanced"},
    "without guidance": {"prompt": "a cat", "guidance_scale": 1.0},
}


def rows_of_calls(pipe: DeepGenPipeline) -> list[int]:
    rows: list[int] = []
    pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    return rows


@pytest.mark.parametrize("case", CALLS)
def test_split_branches_draw_what_batched_ones_draw(pipe: DeepGenPipeline, case: str) -> None:
    options = {**CALLS[case], "seed": 1, "output_type": "latent", "negative_prompt": "blurry"}
    batched = torch.stack(list(pipe(**options, guidance_batching="batched").images))
    rows = rows_of_calls(pipe)
    split = torch.stack(list(pipe(**options, guidance_batching="split").images))
    assert (split - batched).norm() <= 1e-5 * batched.norm()
    assert max(rows) == len(batched), "never both branches at once"


def test_auto_splits_where_both_branches_do_not_fit_what_is_free(
    pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of_calls(pipe)
    pipe("a cat", seed=1, num_inference_steps=1, output_type="latent")
    monkeypatch.setattr("deepgen.denoising.free_bytes", lambda _: 1000)
    pipe("a cat", seed=1, num_inference_steps=1, output_type="latent")
    pipe.guidance_batching = "batched"
    pipe("a cat", seed=1, num_inference_steps=1, output_type="latent")
    assert rows == [2, 1, 1, 2]
    with pytest.raises(ValueError, match="unknown guidance_batching 'both'; known: auto, batched, split"):
        pipe("a cat", guidance_batching="both")  # type: ignore[arg-type]
