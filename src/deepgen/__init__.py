"""DeepGen 1.0: generate and edit images with one small unified model.

Names are imported on first use, so that `import deepgen` costs nothing and `deepgen --help` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from deepgen._version import __version__
from deepgen.diffusers_registration import register as _register_with_diffusers
from deepgen.old_paths import register as _register_old_paths

_HOMES = {
    "Client": "deepgen.client",
    "DeepGenPipeline": "deepgen.pipeline",
    "DeepGenPipelineOutput": "deepgen.pipeline",
    "DeepGenTransformer2DModel": "deepgen.models.dit",
    "DeepGenVLM": "deepgen.models.vlm",
    "StackedChannelBridge": "deepgen.models.connector",
}

if TYPE_CHECKING:
    from deepgen.client import Client
    from deepgen.models.connector import StackedChannelBridge
    from deepgen.models.dit import DeepGenTransformer2DModel
    from deepgen.models.vlm import DeepGenVLM
    from deepgen.pipeline import DeepGenPipeline, DeepGenPipelineOutput

__all__ = [
    "Client",
    "DeepGenPipeline",
    "DeepGenPipelineOutput",
    "DeepGenTransformer2DModel",
    "DeepGenVLM",
    "StackedChannelBridge",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'deepgen' has no attribute {name!r}")


_register_with_diffusers()
_register_old_paths()
