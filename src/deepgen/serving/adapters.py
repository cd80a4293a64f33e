"""LoRAs by name: loaded when they are first asked for, added and removed while the server runs.

Images with different LoRAs share forwards of the DiT where that is exact (`row_adapters.py`); elsewhere the
one that is asked for is made active before a forward. The weights of all that were used stay in memory until
they are removed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepgen.checkpoints.lora_files import LoraFile, read_lora
from deepgen.checkpoints.lora_keys import PARTS
from deepgen.checkpoints.lora_settings import LoraError
from deepgen.checkpoints.tensors import CheckpointError
from deepgen.distilled_lora import OWN
from deepgen.generation import ResolvedSettings
from deepgen.pipeline import DeepGenPipeline
from deepgen.sampling.few_steps import KEY, read_few_steps
from deepgen.serving.encoding_cache import Reader
from deepgen.serving.row_adapters import can_share, row_adapters

SUFFIX = ".safetensors"

_numbers = itertools.count(1)


class NameTaken(ValueError):
    """An adapter has this name, or had it and is still drawn with."""

    def __init__(self, name: str, is_leaving: bool = False) -> None:
        state = "is being removed and still drawn with" if is_leaving else "exists"
        super().__init__(f"an adapter {name!r} {state}; give another name, or remove it and try again")


@dataclass(eq=False)
class Adapter:
    """A LoRA of the server.

    Attributes:
        name: what requests ask for.
        source: file or folder, or what was read of it.
        parts: of the pipeline that it changes.
        number: of no other adapter, though its name may be used again.
        is_loaded: its weights are in the model.
        can_share: rows with it may share a forward of the DiT with others; known once it is loaded.
        is_leaving: nothing new may ask for it; it goes when nothing that was accepted uses it.
        distilled: what it was distilled for, as JSON; None of an ordinary one.
    """

    name: str
    source: str | LoraFile
    parts: tuple[str, ...]
    number: int = field(default_factory=lambda: next(_numbers))
    is_loaded: bool = False
    can_share: bool = False
    is_leaving: bool = False
    distilled: str | None = None


class LoraAdapters:
    """The adapters a server knows. `names`, `check` and `leave` may be called from any thread, the rest
    belongs to the one that runs the model.

    Args:
        pipe: gets the adapters.
        paths: name -> file or folder.

    Raises:
        LoraError: one of them cannot be used with this model; all are checked here, before any request.
    """

    def __init__(self, pipe: DeepGenPipeline, paths: Mapping[str, str]) -> None:
        self._pipe = pipe
        pipe.without_distilled()  # which a call before may have left in
        # Adapters the pipeline came with are part of the model and stay active under every other.
        self._own = {part: list(_active(getattr(pipe, part))) for part in PARTS}
        self._known: dict[str, Adapter] = {}
        self._in_use: tuple[str, ...] | None = ()  # None: not known
        self._defaults = pipe.defaults  # before others are active, which may be distilled
        for name, path in paths.items():
            with named(name):
                self._know(name, path)
        own = (pipe.distilled or {}).get("lora")
        if own is not None:
            self._know(OWN, own)

    def _know(self, name: str, source: str | LoraFile) -> Adapter:
        fitted = self._pipe.check_lora_weights(source)
        self._known[name] = Adapter(name, source, tuple(fitted.parts), distilled=fitted.distilled)
        return self._known[name]

    @property
    def names(self) -> list[str]:
        """All that may be asked for, in order; the model's own is asked for by preset."""
        known = list(self._known.values())
        return sorted(one.name for one in known if not one.is_leaving and one.name != OWN)

    def defaults(self, name: str | None) -> dict[str, Any]:
        """The model's defaults for images with this adapter, which may be a distilled one."""
        said = None if name is None else read_few_steps(self._known[name].distilled, f"LoRA {name}")
        return self._defaults | ({} if said is None else {KEY: said.to_json()})

    def of_dit(self, name: str | None, settings: ResolvedSettings) -> tuple[str, ...]:
        """What the DiT runs with for an image: the adapter that is asked for, and with a preset for
        distilled models the model's own, unless the adapter is distilled itself.
        """
        asked = () if name is None else (name,)
        is_own = settings.schedule is not None and OWN in self._known
        is_own = is_own and (name is None or self._known[name].distilled is None)
        return (*asked, OWN) if is_own else asked

    def check(self, name: str | None) -> None:
        """ValueError where there is no adapter of that name; None is always fine."""
        check_known(name, self.names)

    # --- for forwards -------------------------------------------------------------------------------------

    def use(self, *names: str) -> None:
        """Make the next forwards run with these adapters, and no others of these."""
        if self._in_use == names:
            return
        adapters = [self._loaded(name) for name in names]
        for part in {part for one in self._known.values() if one.is_loaded for part in one.parts}:
            wanted = [*self._own[part], *(one.name for one in adapters if part in one.parts)]
            module = getattr(self._pipe, part)
            if wanted:
                _enable(module, True)
                module.set_adapter(wanted)  # `set_adapters` would reset the strengths of the pipeline's own
            else:
                _enable(module, False)
        self._in_use = names

    def forward_group(self, names: Sequence[str]) -> str | None:
        """What images must agree in to share a forward of the DiT: None for all whose adapters do not
        matter there or can be added row by row, otherwise the adapters' names.
        """
        adapters = [one for one in map(self._loaded, names) if "transformer" in one.parts]
        return None if all(one.can_share for one in adapters) else " ".join(names)

    def rows(self, names: Sequence[Sequence[str]]) -> AbstractContextManager[None]:
        """The DiT with adapters for each row, all of one `forward_group` of None."""
        in_transformer = [[name for name in own if "transformer" in self._known[name].parts] for own in names]
        return row_adapters(self._pipe.transformer, in_transformer)

    def reader(self, name: str | None) -> Reader:
        """The weights that read the prompts of this adapter's images."""
        if name is None:
            return Reader()
        adapter = self._known[name]
        is_of_vlm = "vlm" in adapter.parts
        number = adapter.number if is_of_vlm or "connector" in adapter.parts else None
        return Reader(number, number if is_of_vlm else None)

    # --- coming and going ---------------------------------------------------------------------------------

    def add(self, name: str, file: LoraFile) -> None:
        """Take another adapter, and load it at once: its file may go.

        Raises:
            LoraError: it cannot be used with this model, which stays as it was.
            NameTaken: another one has its name.
        """
        if name in self._known:
            raise NameTaken(name, self._known[name].is_leaving)
        with named(name):
            fitted = self._pipe.check_lora_weights(file)
            adapter = Adapter(name, file, tuple(fitted.parts), distilled=fitted.distilled)
            self._load(adapter)
        self._known[name] = adapter

    def load_all(self) -> None:
        """Load those that were not asked for yet: layers that get adapters round otherwise than before."""
        for name in list(self._known):
            self._loaded(name)

    def leave(self, name: str) -> None:
        """Nothing new may ask for it. ValueError where there is none of that name."""
        self.check(name)
        self._known[name].is_leaving = True

    def remove(self, name: str) -> int:
        """Take it out of the model, which is then as before; its number."""
        adapter = self._known.pop(name)
        if adapter.is_loaded:
            self._in_use = None
            self._pipe.remove_lora(name)
        return adapter.number

    def leaving(self) -> list[str]:
        """Those that are to be removed."""
        return [adapter.name for adapter in list(self._known.values()) if adapter.is_leaving]

    def _loaded(self, name: str) -> Adapter:
        adapter = self._known[name]
        if not adapter.is_loaded:
            self._load(adapter)
        return adapter

    def _load(self, adapter: Adapter) -> None:
        self._in_use = None  # loading activates what it loads
        self._pipe.load_lora_weights(adapter.source, adapter_name=adapter.name)
        adapter.is_loaded, adapter.source = True, ""
        adapter.can_share = not self._own["transformer"] and can_share(self._pipe.transformer, adapter.name)


def check_known(name: str | None, names: Sequence[str]) -> None:
    """ValueError where there is no adapter of that name; None is always fine."""
    if name is not None and name not in names:
        known = f"known: {', '.join(names)}" if names else "this server has none"
        raise ValueError(f"lora {name!r} is not known; {known}")


def check_name(name: str) -> None:
    """ValueError where an adapter cannot be called so."""
    if name == OWN:
        raise ValueError(f"LoRA {name!r}: that name is the model's own; give it another")
    if not name or "." in name or "/" in name or not name.isprintable() or len(name) > 100:
        raise ValueError(
            f"LoRA {name[:100]!r}: give it a name of at most 100 printable characters without dots or slashes"
        )


def open_lora(name: str, path: str) -> LoraFile:
    """What is in an adapter's file or folder; errors say which adapter they are about."""
    with named(name):
        return read_lora(path)


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
            if not key or "." in key or key in found or key == OWN:
                raise ValueError(f"LoRA {key!r}: give it a name of its own, without dots (NAME=PATH)")
            found[key] = str(file)
    for name, path in found.items():
        open_lora(name, path)
    return found


@contextmanager
def named(name: str) -> Iterator[None]:
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
