"""Compiled blocks: the numbers of plain ones, what steps share is still shared, and code is kept on disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deepgen.models.compiled import CACHE_VARIABLE, compile_blocks
from deepgen.pipeline import DeepGenPipeline


@pytest.fixture(autouse=True)
def own_compiler_state(monkeypatch: pytest.MonkeyPatch):
    """The environment and the limits as they were."""
    monkeypatch.setenv(CACHE_VARIABLE, "/nonexistent")
    limit = torch._dynamo.config.cache_size_limit
    torch._dynamo.reset()
    yield
    torch._dynamo.config.cache_size_limit = limit
    torch._dynamo.reset()


@pytest.mark.slow
@torch.no_grad()
def test_compiled_blocks_draw_the_same_in_sizes_they_have_not_seen_and_keep_the_trajectory(
    pipe: DeepGenPipeline, tmp_path: Path, image
) -> None:
    calls = [
        {"prompt": "a cat", "height": 64, "width": 64},
        {"prompt": ["a cat", "a dog on a long wooden table"], "height": 96, "width": 64},
        {"prompt": "make it blue", "image": image, "guidance_scale": 1.0},
    ]
    expected = [pipe(**call, seed=1, output_type="latent").images for call in calls]
    compile_blocks(pipe.transformer, tmp_path, backend="eager")
    graphs = torch._dynamo.utils.counters["stats"]
    modulations = []
    pipe.transformer.transformer_blocks[0].norm1.linear.register_forward_hook(
        lambda *_: modulations.append(1)
    )
    for call, plain in zip(calls, expected, strict=True):
        modulations.clear()
        compiled = pipe(**call, seed=1, output_type="latent").images
        assert len(modulations) == 1, "the modulation of both steps is one product"
        assert all(
            (torch.as_tensor(a) - torch.as_tensor(b)).abs().max() < 1e-5
            for a, b in zip(compiled, plain, strict=True)
        )
    before = graphs["unique_graphs"]
    assert before > 0
    pipe(prompt="a cow", height=128, width=96, seed=2, output_type="latent")
    assert graphs["unique_graphs"] == before, "another size needs no new graph"


def test_a_folder_that_was_named_is_kept(pipe: DeepGenPipeline, tmp_path: Path) -> None:
    os.environ[CACHE_VARIABLE] = str(tmp_path / "named")
    assert compile_blocks(pipe.transformer, backend="eager") == tmp_path / "named"
    del os.environ[CACHE_VARIABLE]
    assert compile_blocks(pipe.transformer, backend="eager") == Path.home() / ".cache/deepgen/compiled"
    assert os.environ[CACHE_VARIABLE] == str(Path.home() / ".cache/deepgen/compiled")


COMPILE = """
import sys
from pathlib import Path
import torch
from deepgen.models.blocks import JointBlock
from deepgen.models.compiled import compile_blocks
from diffusers.models.modeling_utils import ModelMixin
from deepgen.pipeline import DeepGenPipeline

transformer = DeepGenPipeline.from_pretrained("tiny", torch_dtype=torch.float32).transformer
transformer.transformer_blocks = transformer.transformer_blocks[:1]
compile_blocks(transformer, Path(sys.argv[1]))
block = transformer.transformer_blocks[0]
width = transformer.inner_dim
torch.manual_seed(0)
with torch.no_grad():
    block(torch.randn(2, 16, width), torch.randn(2, 5, width), torch.randn(2, width))
counters = torch._dynamo.utils.counters
hits = counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"]
print(hits, counters["inductor"]["fxgraph_cache_miss"])
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="on a CPU torch.compile needs a C++ compiler")
def test_a_second_process_reads_what_the_first_compiled(tmp_path: Path) -> None:
    results = [
        subprocess.run(
            [sys.executable, "-c", COMPILE, str(tmp_path)], check=True, capture_output=True, text=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert results[0][0] == "0"
    assert int(results[0][1]) > 0
    assert int(results[1][0]) > 0
    assert results[1][1] == "0"
