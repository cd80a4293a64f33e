"""Reading a constant prompt without gradient changes nothing that training sees; hidden pads are as if
absent.
"""

import pytest
import torch

from deepgen.models.prompts import editing_prompt, generation_prompt, tokenize
from deepgen.pipeline import DeepGenPipeline

TEXTS = ["a cat", "two red stars and a very small blue circle on the left", "a dog on a hill"]


def read(pipe: DeepGenPipeline, is_prompt_constant: bool, edits: bool = False):
    """States of three prompts of different lengths, and the think tokens' gradient of a fixed function of
    them.
    """
    torch.manual_seed(0)
    pixels = [torch.rand(3, 64, 96) * 2 - 1, torch.rand(3, 64, 64) * 2 - 1]
    if edits:
        shown = [[0], [1, 0], [1]]
        sizes = [[6], [4, 6], [4]]
        tokens = tokenize(pipe.tokenizer, [editing_prompt(t, n) for t, n in zip(TEXTS, sizes, strict=True)])
    else:
        shown, tokens = None, tokenize(pipe.tokenizer, [generation_prompt(text) for text in TEXTS])
    think = pipe.connector.think_tokens().detach().clone().requires_grad_(True)
    with torch.enable_grad():
        states = pipe.vlm(
            tokens.input_ids,
            tokens.attention_mask,
            think,
            pipe.connector.taps,
            pixel_values=pixels if edits else (),
            image_index=shown,
            is_prompt_constant=is_prompt_constant,
        )
        queries = len(think)
        weights = torch.randn(states[:, -queries:].shape)
        (states[:, -queries:] * weights).sum().backward()
    return states.detach(), think.grad


@pytest.mark.parametrize("edits", [False, True], ids=["captions", "edits"])
def test_a_split_pass_gives_the_states_and_gradients_of_one_pass(pipe: DeepGenPipeline, edits: bool) -> None:
    pipe.vlm.requires_grad_(False)
    whole, whole_gradient = read(pipe, False, edits)
    split, split_gradient = read(pipe, True, edits)
    torch.testing.assert_close(split, whole, atol=1e-5, rtol=1e-5)
    largest = float(whole_gradient.abs().max())
    torch.testing.assert_close(split_gradient, whole_gradient, atol=1e-5 * largest, rtol=1e-4)


def test_a_hidden_pad_leaves_the_condition_of_a_prompt_alone(pipe: DeepGenPipeline) -> None:
    tokens = tokenize(pipe.tokenizer, [generation_prompt(text) for text in TEXTS])
    think, taps = pipe.connector.think_tokens(), pipe.connector.taps
    with torch.no_grad():
        states = pipe.vlm(tokens.input_ids, tokens.attention_mask, think, taps)
        mask = torch.nn.functional.pad(tokens.attention_mask.bool(), (0, len(think)), value=True)
        context, pooled = pipe.connector(states, mask)
        for row, text in enumerate(TEXTS):
            alone = tokenize(pipe.tokenizer, [generation_prompt(text)])
            alone_states = pipe.vlm(alone.input_ids, alone.attention_mask, think, taps)
            expected, expected_pooled = pipe.connector(alone_states)
            torch.testing.assert_close(context[row][mask[row]], expected[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(pooled[row], expected_pooled[0], atol=1e-5, rtol=1e-5)
