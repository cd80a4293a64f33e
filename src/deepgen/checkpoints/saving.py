"""Saved pipelines get a SHA256SUMS file, and adapters are read from within their own folder only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepgen.checkpoints import remote_code
from deepgen.checkpoints.lora_files import DISTILLED
from deepgen.checkpoints.sums import write_sums
from deepgen.models.containment import check_folder

DISTILLED_FILE = "distilled_lora.safetensors"  # of a model that has one for preset "turbo"
LORA_FILE = "pytorch_lora_weights.safetensors"  # diffusers' name


def without_own_lora(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A model's defaults for a layout that has no room for the LoRA of preset "turbo"."""
    is_in_file = "lora" in (defaults.get(DISTILLED) or {})
    return {key: value for key, value in defaults.items() if not (is_in_file and key == DISTILLED)}


class TrustedFilesMixin:
    """Goes before the classes of diffusers whose methods it completes."""

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As diffusers', and writes the folder's SHA256SUMS anew, also over an older model."""
        super().save_pretrained(save_directory, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        self._write_sums(save_directory)

    def _upload_folder(self, working_dir: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        # `push_to_hub` uploads from inside diffusers' save_pretrained
        self._write_sums(working_dir)
        return super()._upload_folder(working_dir, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]

    def _write_sums(self, folder: str | os.PathLike) -> None:
        parts: Any = self.components  # pyright: ignore[reportAttributeAccessIssue]
        own = [DISTILLED_FILE] if (Path(folder) / DISTILLED_FILE).is_file() else []
        write_sums(Path(folder), ["model_index.json", f"{remote_code.MODULE}.py", *own, *parts])

    def save_lora_weights(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As the LoRA methods', and adds the file to the folder's SHA256SUMS."""
        super().save_lora_weights(save_directory, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        if (Path(save_directory) / LORA_FILE).is_file():
            write_sums(Path(save_directory), [LORA_FILE])

    def load_lora_weights(self, source: Any, *args: Any, **kwargs: Any) -> Any:
        """As the LoRA methods'; CheckpointError where a link in a folder leads out of it."""
        if isinstance(source, str | os.PathLike) and Path(source).is_dir():
            check_folder(Path(source))
        return super().load_lora_weights(source, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
