"""Outputs of frozen models on disk (VAE moments, vision features), so that training need not compute them.

A cache is a folder. `cache.json` says what it was made from and by; `shard-00000.safetensors` and so on hold
so many rows each, counted through the sources in their order. A shard is written under another name and
renamed when it is whole, so a shard that has its name is complete, and which ones are missing is all there is
to know to go on. Row numbers decide the shard, so nothing is searched for.

    <row>.moments.<k>     (2, C, h, w)  mean and deviation of picture k: 0 is the target, then the references
    <row>.features.<k>    (N, D)        vision features of reference k

What the tensors mean is the models' business; here they are only kept, found and checked.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deepgen.data.example import RowError, Size
from deepgen.data.mixture import Mixture
from deepgen.data.mixture_config import ImageRule, SourceEntry
from deepgen.data.mixture_file import place_options
from deepgen.data.resize import resize_rule

FORMAT = 1
MANIFEST = "cache.json"
_OPEN_SHARDS = 64


class CacheError(ValueError):
    """A cache that cannot be used as it is; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class CachedSource:
    """A source whose rows are kept; its options without places on disk, so that data can move."""

    name: str
    source: str
    task: str
    rows: int
    options: str


@dataclass(frozen=True, kw_only=True)
class CacheManifest:
    """What a cache was made from and by.

    Attributes:
        image: the size rule of its pictures.
        sources: whose rows it holds, in order.
        encoders: fingerprints of the weights that made it, by name.
        has_features: whether vision features of references are kept beside the moments.
        dtype: number format of what is kept.
        shard_size: rows of a shard.
    """

    image: ImageRule
    sources: tuple[CachedSource, ...]
    encoders: Mapping[str, str]
    has_features: bool = True
    dtype: str = "float32"
    shard_size: int = 256
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Refuse empty shards, and pictures that are cut differently each time."""
        if self.shard_size < 1:
            raise ValueError(f"shard_size must be at least 1, got {self.shard_size}")
        if resize_rule(self.image.rule).is_crop:
            raise ValueError(
                f"the rule {self.image.rule} cuts a picture elsewhere each time, so there is nothing to "
                "keep; use fix_pixels, or train without a cache"
            )

    @property
    def num_rows(self) -> int:
        """Of all sources together."""
        return sum(source.rows for source in self.sources)

    @property
    def num_shards(self) -> int:
        """Of the complete cache."""
        return -(-self.num_rows // self.shard_size)

    def row(self, source: str, index: int) -> int:
        """The number of a source's row in the cache."""
        before = 0
        for known in self.sources:
            if known.name == source:
                return before + index
            before += known.rows
        raise CacheError(f"the cache holds no source {source}")

    def rows_of(self, shard: int) -> range:
        """The rows of a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.num_rows))

    def source_of(self, row: int) -> tuple[str, int]:
        """(source, index) of a row of the cache."""
        for source in self.sources:
            if row < source.rows:
                return source.name, row
            row -= source.rows
        raise IndexError(row)


class RowNote(NamedTuple):
    """What a shard says of a row: its key's last part, its pictures' sizes, and why it could not be used."""

    key: str
    sizes: tuple[Size, ...] = ()
    problem: str | None = None


class CachedRow(NamedTuple):
    """Of one row: moments (2, C, h, w) of target and references, features (N, D) of references if kept."""

    moments: list[Tensor]
    features: list[Tensor] | None


def outline(mixture: Mixture) -> tuple[CachedSource, ...]:
    """The sources of a mixture as a cache remembers them."""
    return tuple(_remembered(entry, len(mixture.sources[entry.name])) for entry in mixture.config.sources)


def differences(manifest: CacheManifest, mixture: Mixture, encoders: Mapping[str, str]) -> list[str]:
    """Why rows of a mixture, for those models, are not those of a cache; empty where they are.

    Ratios, weights and seed do not matter, and the cache may hold further sources and further encoders.
    """
    found = []
    if manifest.image != mixture.config.image:
        found.append(
            f"size mismatch between cache and rule: its pictures are {_rule(manifest.image)}, the mixture's "
            f"{_rule(mixture.config.image)}"
        )
    known = {source.name: source for source in manifest.sources}
    for source in outline(mixture):
        if source.name not in known:
            found.append(f"source {source.name} is not in it; it holds: {', '.join(known)}")
        elif source != known[source.name]:
            changes = [
                f"{name} was {old!r} and is {new!r}"
                for (name, old), new in zip(
                    asdict(known[source.name]).items(), asdict(source).values(), strict=True
                )
                if old != new
            ]
            found.append(f"source {source.name} has changed: {', '.join(changes)}")
    found += [
        f"the {name} is another: the cache was made by {manifest.encoders.get(name, 'none')}, "
        f"the model has {fingerprint}"
        for name, fingerprint in encoders.items()
        if manifest.encoders.get(name) != fingerprint
    ]
    return found


def read_manifest(folder: Path) -> CacheManifest:
    """What the cache in a folder was made from; CacheError when there is none."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise CacheError(
                f"{path} is of format {content.get('format')}, this version reads {FORMAT}; "
                "make the cache again"
            )
        sources = tuple(CachedSource(**source) for source in content.pop("sources"))
        return CacheManifest(**{**content, "image": ImageRule(**content["image"]), "sources": sources})
    except FileNotFoundError as error:
        raise CacheError(f"there is no cache in {folder}; make it with: {command(folder)}") from error
    except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
        raise CacheError(
            f"{path} is damaged ({error}); delete the folder and make the cache again"
        ) from error


def command(folder: Path) -> str:
    """What to type to make or complete a cache."""
    return f"deepgen data cache MIXTURE --model MODEL --output {folder}"


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / f"shard-{shard:05d}.safetensors"


# --- writing ------------------------------------------------------------------------------------------------


def begin(folder: Path, manifest: CacheManifest) -> list[int]:
    """Open a folder for writing and say which shards are missing; CacheError when it holds another cache."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MANIFEST
    if path.exists():
        old = read_manifest(folder)
        changed = [
            f"{name} was {ours!r} and is {theirs!r}"
            for (name, ours), theirs in zip(vars(old).items(), vars(manifest).values(), strict=True)
            if ours != theirs
        ]
        if changed:
            raise CacheError(
                f"{folder} holds another cache: {'; '.join(changed)}; choose another --output, or delete it"
            )
    else:
        part = _part(path)
        part.write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
        part.replace(path)
    return [shard for shard in range(manifest.num_shards) if not shard_path(folder, shard).exists()]


def write_shard(
    folder: Path, shard: int, rows: Mapping[int, CachedRow], notes: Mapping[int, RowNote]
) -> None:
    """Write a shard; it has its name once it is whole."""
    tensors = {}
    for row, cached in rows.items():
        tensors |= {f"{row}.moments.{k}": tensor for k, tensor in enumerate(cached.moments)}
        tensors |= {f"{row}.features.{k}": tensor for k, tensor in enumerate(cached.features or [], start=1)}
    path = shard_path(folder, shard)
    part = _part(path)
    try:
        save_file(tensors, part, {"rows": json.dumps(notes, ensure_ascii=False)})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# --- reading ------------------------------------------------------------------------------------------------


class Cache:
    """The rows of a cache by source and index. Can be sent to workers; each opens files of its own.

    Args:
        folder: the cache.
        mixture: whose rows will be asked for.
        encoders: fingerprints of the weights that would otherwise encode them.

    Raises:
        CacheError: it was made from other rows, at other sizes, or by other weights.
    """

    def __init__(self, folder: Path, mixture: Mixture, encoders: Mapping[str, str]) -> None:
        self.folder, self.manifest = folder, read_manifest(folder)
        # A model's encoder counts where the cache has its work; whether that is enough the caller sees.
        needed = {name: text for name, text in encoders.items() if name in self.manifest.encoders}
        found = differences(self.manifest, mixture, needed)
        if found:
            raise CacheError(
                f"the cache in {folder} does not fit: {'; '.join(found)}. Make one for this model and "
                f"mixture in another folder: {command(Path('FOLDER'))}"
            )
        self._shards: OrderedDict[int, _Shard] = OrderedDict()

    def read(self, source: str, index: int, key: str, sizes: Sequence[Size]) -> CachedRow:
        """A row, whose pictures are expected to have those (height, width).

        Raises:
            RowError: the row could not be used when the cache was made.
            CacheError: the row is missing, or another than was cached.
        """
        row = self.manifest.row(source, index)
        shard = self._shard(row // self.manifest.shard_size, f"row {index} of source {source} ({key})")
        note = shard.notes.get(row)
        if note is None:
            raise CacheError(
                f"{shard.path} lacks row {index} of source {source} ({key}); delete that file and run again: "
                f"{command(self.folder)}"
            )
        if note.problem is not None:
            raise RowError(
                f"{note.problem} (when the cache was made; once it is mended, delete {shard.path} and run "
                f"again: {command(self.folder)})"
            )
        if note.key != _tail(key) or note.sizes != tuple(sizes):
            raise CacheError(
                f"row {index} of source {source} is {_tail(key)} of {_sizes(sizes)}, but {note.key} of "
                f"{_sizes(note.sizes)} was cached; the data has changed: delete {self.folder} and run again: "
                f"{command(self.folder)}"
            )
        moments = [shard.tensor(f"{row}.moments.{k}") for k in range(len(sizes))]
        if not self.manifest.has_features:
            return CachedRow(moments, None)
        return CachedRow(moments, [shard.tensor(f"{row}.features.{k}") for k in range(1, len(sizes))])

    def _shard(self, number: int, asked: str) -> _Shard:
        """An open shard; the ones used last stay open."""
        if number not in self._shards:
            path = shard_path(self.folder, number)
            if not path.exists():
                raise CacheError(f"{asked} is not cached: {path} is missing; run: {command(self.folder)}")
            self._shards[number] = _Shard(path, self.folder)
            if len(self._shards) > _OPEN_SHARDS:
                self._shards.popitem(last=False)
        self._shards.move_to_end(number)
        return self._shards[number]

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay here when the rest is sent to a worker."""
        return {**self.__dict__, "_shards": OrderedDict()}


@dataclass
class _Shard:
    path: Path
    folder: Path
    file: Any = field(init=False)
    names: frozenset[str] = field(init=False)
    notes: dict[int, RowNote] = field(init=False)

    def __post_init__(self) -> None:
        try:
            self.file = safe_open(self.path, framework="pt")
            self.names = frozenset(self.file.keys())
            notes = json.loads((self.file.metadata() or {})["rows"])
        except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
            raise CacheError(
                f"{self.path} ({self.path.stat().st_size} bytes) is truncated or no shard of a cache "
                f"({error}); delete that file and run again: {command(self.folder)}"
            ) from error
        self.notes = {
            int(row): RowNote(key, tuple((height, width) for height, width in sizes), problem)
            for row, (key, sizes, problem) in notes.items()
        }

    def tensor(self, name: str) -> Tensor:
        if name not in self.names:
            raise CacheError(
                f"{self.path} lacks {name}; delete that file and run again: {command(self.folder)}"
            )
        return self.file.get_tensor(name)


def note(key: str, sizes: Sequence[Size] = (), problem: str | None = None) -> RowNote:
    """What a shard should say of a row."""
    return RowNote(_tail(key), tuple(sizes), problem)


def _remembered(entry: SourceEntry, rows: int) -> CachedSource:
    places = place_options(entry.source)
    options = {name: value for name, value in sorted(entry.options.items()) if name not in places}
    return CachedSource(entry.name, entry.source, entry.task, rows, json.dumps(options, default=str))


def _tail(key: str) -> str:
    """A key without its folders, so that data can move."""
    return key.replace("\\", "/").rsplit("/", 1)[-1]


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _rule(image: ImageRule) -> str:
    return f"{image.rule} of {image.image_size} in units of {image.unit}"


def _sizes(sizes: Sequence[Size]) -> str:
    return ", ".join(f"{width}x{height}" for height, width in sizes)
