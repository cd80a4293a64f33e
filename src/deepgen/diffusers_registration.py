"""`DiffusionPipeline.from_pretrained(folder)` for folders of ours, once `deepgen` is imported.

diffusers looks classes up in itself or in code that lies in the folder; there is no registry to enter. So its
`from_pretrained` is wrapped: a local folder whose model_index.json names our class goes to
`DeepGenPipeline.from_pretrained`, which runs no code of the folder; all else goes on as before. `import
deepgen` must stay cheap, so this happens when diffusers is imported, before or after.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

_MODULE = "diffusers.pipelines.pipeline_utils"
_OURS = "DeepGenPipeline"


def register() -> None:
    """Wrap `DiffusionPipeline.from_pretrained` now, or as soon as its module is imported."""
    if (module := sys.modules.get(_MODULE)) is not None and hasattr(module, "DiffusionPipeline"):
        _wrap(module.DiffusionPipeline)
    else:
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds diffusers' module as usual, and lets it be wrapped when it has run."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec of that one module, once; None for every other."""
        if name != _MODULE or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            _wrap(module.DiffusionPipeline)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _wrap(pipeline_class: Any) -> None:
    original = pipeline_class.from_pretrained.__func__
    if hasattr(original, "of_deepgen"):
        return

    @functools.wraps(original)
    def from_pretrained(cls: Any, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        if cls is not pipeline_class or not _is_ours(pretrained_model_name_or_path):
            return original(cls, pretrained_model_name_or_path, **kwargs)
        kwargs.pop("trust_remote_code", None)
        ours = getattr(importlib.import_module("deepgen.pipeline"), _OURS)
        return ours.from_pretrained(pretrained_model_name_or_path, **kwargs)

    from_pretrained.of_deepgen = True  # type: ignore[attr-defined]
    pipeline_class.from_pretrained = classmethod(from_pretrained)


def _is_ours(source: Any) -> bool:
    """Whether this is a local folder whose index names our class; an unreadable one is not."""
    try:
        name = json.loads((Path(source) / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, TypeError, KeyError):
        return False
    return (name[-1] if isinstance(name, list) and name else name) == _OURS
