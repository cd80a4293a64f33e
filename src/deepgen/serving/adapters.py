"""LoRAs by name: loaded when they are first asked for, and switched between forwards.

Requests with different LoRAs never share a forward, so switching is choosing which adapter is active; the
weights of all that were used stay in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepgen.checkpoints.lora_files import read_lora
from deepgen.checkpoints.lora_keys import PARTS
from deepgen.checkpoints.lora_settings import LoraError
from deepgen.checkpoints.tensors import CheckpointError
from deepgen.pipeline import DeepGenPipeline

SUFFIX = ".safetensors"


class LoraAdapters:
    """The adapters a server knows. `use` belongs to the thread that runs the model.

    Args:
        pipe: gets the adapters.
        paths: name -> file or folder.

    Raises:
        LoraError: one of them cannot be used with this model; all are checked here, before any request.
    """

    def __init__(self, pipe: DeepGenPipeline, paths: Mapping[str, str]) -> None:
        self._pipe, self._paths = pipe, dict(paths)
        # Adapters the pipeline came with are part of the model and stay active under every other.
        self._own = {part: list(_active(getattr(pipe, part))) for part in PARTS}
        self._loaded: dict[str, list[str]] = {}  # name -> the parts it changes
        self._in_use: str | None = None
        for name, path in self._paths.items():
            with _named(name):
                pipe.check_lora_weights(path)

    @property
    def names(self) -> list[str]:
        """All of them, in order."""
        return sorted(self._paths)

    def check(self, name: str | None) -> None:
        """ValueError where there is no adapter of that name; None is always fine."""
        if name is not None and name not in self._paths:
            known = f"known: {', '.join(self.names)}" if self._paths else "this server has none"
            raise ValueError(f"lora {name!r} is not known; {known}")

    def use(self, name: str | None) -> None:
        """Make the next forwards run with this adapter, and no other of this shelf."""
        if name == self._in_use:
            return
        self.check(name)
        if name is not None and name not in self._loaded:
            self._load(name)
        used = {part for parts in self._loaded.values() for part in parts}
        for part in used:
            wanted = [*self._own[part], *([name] if name and part in self._loaded[name] else [])]
            module = getattr(self._pipe, part)
            if wanted:
                _enable(module, True)
                module.set_adapters(wanted) if hasattr(module, "set_adapters") else module.set_adapter(wanted)
            else:
                _enable(module, False)
        self._in_use = name

    def _load(self, name: str) -> None:
        before = {part: set(getattr(getattr(self._pipe, part), "peft_config", None) or {}) for part in PARTS}
        self._in_use = None  # loading activates what it loads
        self._pipe.load_lora_weights(self._paths[name], adapter_name=name)
        self._loaded[name] = [
            part
            for part in PARTS
            if set(getattr(getattr(self._pipe, part), "peft_config", None) or {}) - before[part]
        ]


def read_loras(given: Sequence[str]) -> dict[str, str]:
    """Names and paths of `NAME=PATH`, or of a folder whose files and folders of safetensors are the adapters.

    Raises:
        ValueError: a path is not there, a folder holds no adapter, or a name is used twice.
        LoraError: one of them is no LoRA, or damaged; whether it fits is checked when the model is loaded.
    """
    found: dict[str, str] = {}
    for entry in given:
        name, is_named, path = entry.partition("=")
        if is_named:
            pairs = [(name, Path(path))]
        else:
            pairs = [(file.stem, file) for file in sorted(Path(entry).glob(f"*{SUFFIX}"))]
            pairs += [(f.name, f) for f in sorted(Path(entry).glob("*")) if any(f.glob(f"*{SUFFIX}"))]
            if not pairs:
                raise ValueError(f"{entry} holds no LoRA; expected a folder of {SUFFIX} files, or NAME=PATH")
        for key, file in pairs:
            if not file.exists():
                raise ValueError(f"LoRA {key}: there is nothing at {file}")
            if not key or "." in key or key in found:
                raise ValueError(f"LoRA {key!r}: give it a name of its own, without dots (NAME=PATH)")
            found[key] = str(file)
    for name, path in found.items():
        with _named(name):
            read_lora(path)
    return found


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Which adapter an error is about."""
    try:
        yield
    except CheckpointError as error:
        raise LoraError(f"LoRA {name}: {error}") from None


def _active(module: Any) -> list[str]:
    """Names of the adapters a part runs with."""
    if not getattr(module, "peft_config", None):
        return []
    active = module.active_adapters
    return list(active() if callable(active) else active)


def _enable(module: Any, is_on: bool) -> None:
    """Both libraries have the switch, under names of their own."""
    names = ("enable_lora", "disable_lora") if hasattr(module, "disable_lora") else None
    names = names or ("enable_adapters", "disable_adapters")
    getattr(module, names[0 if is_on else 1])()
