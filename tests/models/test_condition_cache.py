"""Conditions of negative prompts are kept, equal to fresh ones, and never older than the weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig

from deepgen.models.condition_cache import ConditionCache
from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.jobs import GenerationRequest
from deepgen.serving.sampler import Sampler
from deepgen.types import Condition


def rows_read(pipe: DeepGenPipeline) -> list[int]:
    """A list that grows by the rows of each pass of the VLM."""
    seen: list[int] = []
    pipe.vlm.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return seen


def fresh(pipe: DeepGenPipeline, prompt: str, negative: str = "") -> Condition:
    """The negative's condition without anything kept."""
    kept, pipe._negatives = pipe._negatives, ConditionCache()
    condition = pipe.encode_prompt(prompt, negative)[1]
    pipe._negatives = kept
    assert condition is not None
    return condition


def negative_of(pipe: DeepGenPipeline, prompt: str, negative: str = "") -> Condition:
    condition = pipe.encode_prompt(prompt, negative)[1]
    assert condition is not None
    return condition


def same(a: Condition, b: Condition) -> bool:
    return torch.equal(a.prompt_embeds, b.prompt_embeds) and torch.equal(
        a.pooled_prompt_embeds, b.pooled_prompt_embeds
    )


@torch.no_grad()
def test_a_second_call_reads_the_prompt_alone_and_draws_the_same(pipe: DeepGenPipeline) -> None:
    seen = rows_read(pipe)
    first = pipe("a red apple", seed=1, output_type="latent").images[0]
    assert seen == [1, 1]
    second = pipe("a red apple", seed=1, output_type="latent").images[0]
    assert seen == [1, 1, 1]
    assert torch.equal(first, second)


@torch.no_grad()
def test_a_kept_condition_is_the_one_of_both_rows_in_one_pass(pipe: DeepGenPipeline) -> None:
    negative_of(pipe, "two cats and a dog", "blurry")
    kept = negative_of(pipe, "two cats and a dog", "blurry")
    assert pipe._negatives.hits == 1
    tokens = pipe._tokenize(["two cats and a dog", "blurry"], None)
    together = pipe._encode_tokens(tokens, None).select([1])
    assert (kept.prompt_embeds - together.prompt_embeds).abs().max() < 1e-5
    assert (kept.pooled_prompt_embeds - together.pooled_prompt_embeds).abs().max() < 1e-5


@torch.no_grad()
def test_a_prompt_of_another_length_has_a_negative_of_its_own(pipe: DeepGenPipeline) -> None:
    short = negative_of(pipe, "a cat")
    long = negative_of(pipe, "a cat on a very long wooden table in a small kitchen")
    assert short.prompt_embeds.shape != long.prompt_embeds.shape
    assert same(long, fresh(pipe, "a cat on a very long wooden table in a small kitchen"))
    assert same(negative_of(pipe, "a dog"), short), "only the length counts"


@torch.no_grad()
def test_one_negative_of_many_prompts_is_read_once(pipe: DeepGenPipeline) -> None:
    seen = rows_read(pipe)
    pipe.encode_prompt(["a cat"] * 3, "")
    assert seen == [3, 1]


@torch.no_grad()
def test_references_are_part_of_a_negative_so_nothing_is_kept(pipe: DeepGenPipeline, image) -> None:
    seen = rows_read(pipe)
    for _ in range(2):
        pipe("make it blue", image=image, seed=1, output_type="latent")
    assert seen == [2, 2]
    assert len(pipe._negatives) == 0


def lora_on_the_vlm(pipe: DeepGenPipeline, name: str = "one") -> None:
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], init_lora_weights=False)
    pipe.vlm.add_adapter(config, adapter_name=name)


def change_weight_through_data(pipe: DeepGenPipeline) -> None:
    pipe.vlm.language_model.layers[0].mlp.up_proj.weight.data.mul_(1.5)


def train_connector(pipe: DeepGenPipeline) -> None:
    pipe.connector.think_tokens.weight[0, 0] += 1.0  # a single value, as sparse as a change can be


def replace_vlm(pipe: DeepGenPipeline) -> None:
    import copy

    pipe.vlm = copy.deepcopy(pipe.vlm)
    pipe.vlm.language_model.layers[0].mlp.up_proj.weight.data.mul_(1.5)


@pytest.mark.parametrize(
    "change",
    [
        lora_on_the_vlm,
        change_weight_through_data,
        train_connector,
        replace_vlm,
        lambda pipe: pipe.connector.double() and pipe.vlm.double(),
    ],
    ids=["lora", "data", "one value in place", "another vlm", "dtype"],
)
@torch.no_grad()
def test_a_change_of_weights_is_heeded(
    pipe: DeepGenPipeline, change: Callable[[DeepGenPipeline], None]
) -> None:
    before = negative_of(pipe, "a cat")
    change(pipe)
    after = negative_of(pipe, "a cat")
    assert same(after, fresh(pipe, "a cat"))
    assert before.prompt_embeds.dtype != after.prompt_embeds.dtype or not same(before, after)


@torch.no_grad()
def test_adapters_switched_off_scaled_and_removed_are_heeded(pipe: DeepGenPipeline) -> None:
    plain = negative_of(pipe, "a cat")
    lora_on_the_vlm(pipe)
    adapted = negative_of(pipe, "a cat")
    pipe.vlm.disable_adapters()
    assert same(negative_of(pipe, "a cat"), plain)
    pipe.vlm.enable_adapters()
    assert same(negative_of(pipe, "a cat"), adapted)
    layer = pipe.vlm.language_model.layers[0].self_attn.q_proj
    layer.set_scale("one", 0.5)
    scaled = negative_of(pipe, "a cat")
    assert not same(scaled, adapted)
    assert same(scaled, fresh(pipe, "a cat"))
    layer.merge()  # through .data
    assert same(negative_of(pipe, "a cat"), fresh(pipe, "a cat"))
    layer.unmerge()
    pipe.vlm.delete_adapter("one")
    assert same(negative_of(pipe, "a cat"), fresh(pipe, "a cat"))


def test_with_gradient_nothing_is_kept_and_the_numbers_are_the_same(pipe: DeepGenPipeline) -> None:
    with torch.no_grad():
        kept = negative_of(pipe, "a cat")
    graph = negative_of(pipe, "a cat")
    assert graph.prompt_embeds.requires_grad
    assert torch.equal(graph.prompt_embeds.detach(), kept.prompt_embeds)
    assert len(pipe._negatives) == 1
    assert not negative_of_kept(pipe).requires_grad


def negative_of_kept(pipe: DeepGenPipeline) -> torch.Tensor:
    with torch.no_grad():
        return negative_of(pipe, "a cat").prompt_embeds


@torch.no_grad()
def test_the_server_reads_a_negative_once(pipe: DeepGenPipeline) -> None:
    sampler = Sampler(pipe)
    seen = rows_read(pipe)
    first, second = (
        sampler.encode(sampler.plan(GenerationRequest(prompt=prompt, seed=1)))
        for prompt in ("a cat", "a dog")
    )
    assert seen == [1, 1, 1]
    assert first.negative is not None
    assert second.negative is not None
    assert same(first.negative, second.negative)


def test_the_oldest_conditions_leave_where_the_bytes_end() -> None:
    row = Condition(torch.zeros(1, 4, 8), torch.zeros(1, 8))
    cache = ConditionCache(max_bytes=2 * (row.prompt_embeds.nbytes + row.pooled_prompt_embeds.nbytes))
    with torch.no_grad():
        for key in ("a", "b", "a", "c"):
            cache.get(key, lambda: row)
        assert len(cache) == 2
        hits = cache.hits
        cache.get("a", lambda: row)
        assert cache.hits == hits + 1, "the one used last stays"
        cache.get("b", lambda: row)
        assert cache.hits == hits + 1
