"""Saving and loading of pipeline folders, as diffusers documents it.

A folder says by itself which class draws with it. Parts handed from pipeline to pipeline, as in
`DeepGenPipeline(**pipe.components)`, bring its settings (`defaults`, ...) along, so that the new one draws
the same picture.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepgen.checkpoints import remote_code
from deepgen.distilled_lora import saved

_SETTINGS = "_pipeline_settings"  # on the connector, the part that no other pipeline has

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline as _Base
else:
    _Base = object


class SavedPipelineMixin(_Base):
    """Saving, and passing parts on; before `DiffusionPipeline` among the bases."""

    connector: Any

    def save_config(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write model_index.json and the module its `_class_name` names."""
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)
        index_path = Path(save_directory) / "model_index.json"
        index = json.loads(index_path.read_text(encoding="utf-8"))
        index["_class_name"] = remote_code.CLASS_NAME
        saved(index, Path(save_directory))
        index_path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        remote_code.write(Path(save_directory))

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """As diffusers' own; the folder's module is not asked for, because this is the class it names."""
        loaded = super().load_config(*args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        if isinstance(config, dict) and remote_code.is_ours(config.get("_class_name")):
            config["_class_name"] = remote_code.CLASS
        return loaded

    @property
    def components(self) -> dict[str, Any]:
        """The six parts. The connector carries this pipeline's settings to one that is made of them."""
        parts = super().components
        if self.connector is not None:
            setattr(self.connector, _SETTINGS, dict(self.parameters))
        return parts

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> Any:
        """A pipeline of the same parts and settings, in the dtype they have unless one is given."""
        if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
            kwargs["dtype"] = pipeline.dtype
        return super().from_pipe(pipeline, **kwargs)


def inherited(connector: Any, given: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """Settings of a new pipeline: what is given, if not None, else what its connector brings, else the
    usual.
    """
    brought = getattr(connector, _SETTINGS, {})
    return {name: brought.get(name, usual[name]) if value is None else value for name, value in given.items()}
