"""Compiling the DiT block by block, with what was compiled kept on disk.

The blocks are compiled, not the DiT: one graph serves all blocks of a kind, what the steps of a run share
stays outside of it (`sampling/step_cache.py`), and sizes are symbols, so that another size or prompt needs no
new one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# Two kinds of block and the last; masks or none; modulation given or not; with gradient or without.
_GRAPHS = 64


def compile_blocks(transformer: Any, cache_dir: Path | None = None, backend: str = "inductor") -> Path:
    """Compile the DiT's blocks in place; the work is done when they first run.

    Args:
        transformer: the DiT; adapters and number formats come before.
        cache_dir: where compiled code is kept for later processes. Default: what the environment variable
            TORCHINDUCTOR_CACHE_DIR says, else ~/.cache/deepgen/compiled. It belongs to the process, not to
            this model.
        backend: of torch.compile.

    Returns:
        The folder of the compiled code.
    """
    named = os.environ.get(CACHE_VARIABLE)
    folder = cache_dir or (Path(named) if named else Path.home() / ".cache" / "deepgen" / "compiled")
    os.environ[CACHE_VARIABLE] = str(folder)  # read when a block is first compiled
    # Past the limit PyTorch runs the plain code and says so once in a log.
    torch._dynamo.config.cache_size_limit = max(_GRAPHS, torch._dynamo.config.cache_size_limit)
    transformer.compile_repeated_blocks(dynamic=True, backend=backend)
    return folder
