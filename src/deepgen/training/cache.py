"""Filling a cache: the work of the VAE and of the vision tower, done once for every row of a mixture.

Both are frozen in every supervised stage and neither sees anything random, so what they make of a picture is
a constant. The VAE's posterior is kept, not a draw from it: training draws with each sample's own noise,
cached or not, and its losses are the same.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from deepgen.checkpoints.spans import as_bytes
from deepgen.data.bad_rows import BadRow, BadRowTracker
from deepgen.data.batches import image_pixels
from deepgen.data.cache import (
    Cache,
    CachedRow,
    CacheManifest,
    RowNote,
    begin,
    note,
    outline,
    write_shard,
)
from deepgen.data.example import RowError, Size
from deepgen.data.example_images import ruled_sizes
from deepgen.data.file_stamp import DataChangedError
from deepgen.data.images import ImageError
from deepgen.data.mixture import Draw, Mixture
from deepgen.data.pixels import bytes_to_pixels
from deepgen.models import vae as latent_space
from deepgen.training.trained_pipeline import TrainedPipeline

StoredDtype = Literal["float32", "bfloat16", "float16"]
Progress = Callable[[int, int, int], object]
_DECODER = ("decoder.", "post_quant_conv.")


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """How a cache is made.

    Attributes:
        has_features: keep the vision tower's features of references beside the VAE's moments.
        dtype: number format kept, where it is narrower than the one computed in.
        shard_size: rows of a shard: what a kill can lose, and what is held in memory.
        batch_size: pictures encoded at a time.
        num_workers: processes that read and decode pictures; 0 reads here.
        process: this process, which makes every so many-th shard.
        num_processes: how many share the work.
    """

    has_features: bool = True
    dtype: StoredDtype = "float32"
    shard_size: int = 256
    batch_size: int = 8
    num_workers: int = 2
    process: int = 0
    num_processes: int = 1

    def __post_init__(self) -> None:
        """Refuse counts below one, and a process that is not among them."""
        if min(self.shard_size, self.batch_size) < 1 or self.num_workers < 0:
            raise ValueError("shard_size and batch_size must be at least 1, num_workers at least 0")
        if not 0 <= self.process < self.num_processes:
            raise ValueError(f"expected process in [0, {self.num_processes}), got {self.process}")


@dataclass(frozen=True)
class Filled:
    """What was done: shards made now and found complete, rows made now, and those that cannot be used."""

    num_made: int
    num_found: int
    num_rows: int
    num_bad: int


def fill_cache(
    mixture: Mixture,
    pipe: TrainedPipeline,
    folder: Path,
    config: CacheConfig | None = None,
    progress: Progress = lambda shard, num_shards, num_rows: None,
) -> Filled:
    """Make the shards that are missing; call it again after a kill and it goes on with the first of them.

    Args:
        mixture: every row of every source is kept.
        pipe: whose VAE and vision tower are used, where they are.
        folder: the cache.
        config: how.
        progress: called after each shard with its number, the number of shards, and the rows made so far.
    """
    config = config or CacheConfig()
    manifest = CacheManifest(
        image=mixture.config.image,
        sources=outline(mixture),
        encoders=fingerprints(pipe, has_features=config.has_features),
        has_features=config.has_features,
        dtype=config.dtype,
        shard_size=config.shard_size,
    )
    own = set(range(config.process, manifest.num_shards, config.num_processes))
    missing = [shard for shard in begin(folder, manifest) if shard in own]
    rows = _read_rows(mixture, manifest, missing, config.num_workers)
    bad_rows = BadRowTracker(limit=1.0)  # says which rows are bad; how many are too many, training judges
    for shard in missing:
        encoder = _Encoder(pipe, config)
        notes: dict[int, RowNote] = {}
        for row in manifest.rows_of(shard):
            read = next(rows)
            notes[row] = read.note
            bad_rows.record(1, _bad_rows(manifest, row, read.note))
            encoder.add(row, read.pixels)
        write_shard(folder, shard, encoder.finish(), notes)
        progress(shard, manifest.num_shards, bad_rows.num_samples)
    return Filled(len(missing), len(own) - len(missing), bad_rows.num_samples, bad_rows.num_bad)


def open_cache(folder: Path, mixture: Mixture, pipe: TrainedPipeline) -> Cache:
    """The cache, checked against the mixture and the model whose work it stands for."""
    return Cache(folder, mixture, fingerprints(pipe))


def fingerprints(pipe: TrainedPipeline, *, has_features: bool = True) -> dict[str, str]:
    """Of the weights that decide what is kept, by name; a decoder does not."""
    found = {"VAE": fingerprint(pipe.vae, without=_DECODER)}
    if has_features:
        found["vision tower"] = fingerprint(pipe.vlm.visual)
    return found


def fingerprint(module: nn.Module, without: tuple[str, ...] = ()) -> str:
    """A hash of names, number formats and values of a module's weights; begins with the format."""
    digest, formats = hashlib.sha256(), set()
    for name, tensor in sorted(module.state_dict().items()):
        if name.startswith(without):
            continue
        dtype = str(tensor.dtype).removeprefix("torch.")
        formats.add(dtype)
        digest.update(f"{name} {dtype} {tuple(tensor.shape)}".encode())
        digest.update(as_bytes(tensor.detach().cpu().contiguous()))
    return f"{'/'.join(sorted(formats))} weights {digest.hexdigest()[:32]}"


@torch.no_grad()
def latent_moments(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Mean and deviation (B, 2, C, h, w) of the posteriors of pixels (B, 3, H, W) in [-1, 1]."""
    posterior = latent_space.encode(vae, pixels)
    return torch.stack([posterior.mean, posterior.std], dim=1)


# --- reading ------------------------------------------------------------------------------------------------


class _Read(NamedTuple):
    note: RowNote
    pixels: list[Tensor]
    error: ValueError | None = None  # ends the work; raised outside of the workers


class _RowDataset(Dataset[_Read]):
    """Item i is row number rows[i] of the cache, its pictures decoded; a row that cannot be used says why."""

    def __init__(self, mixture: Mixture, manifest: CacheManifest, rows: Sequence[int]) -> None:
        self.mixture, self.manifest, self.rows = mixture, manifest, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> _Read:
        source, index = self.manifest.source_of(self.rows[number])
        rule, key = self.mixture.config.image, f"{source}:{index}"
        try:
            example = self.mixture.example(Draw(number, self.mixture.sources[source].task, source, index))
            key = example.key
            target, references = ruled_sizes(example, rule)
            sizes = (target, *references)
            images = (example.target, *example.references)
            pixels = [image_pixels(image, size, rule, key) for image, size in zip(images, sizes, strict=True)]
        except (RowError, ImageError) as error:
            return _Read(note(key, (), str(error)), [])
        except DataChangedError as error:
            return _Read(note(key), [], error)
        return _Read(note(key, sizes), pixels)


def _bad_rows(manifest: CacheManifest, row: int, found: RowNote) -> list[BadRow]:
    if found.problem is None:
        return []
    return [BadRow(row, manifest.source_of(row)[0], found.key, found.problem)]


def _read_rows(
    mixture: Mixture, manifest: CacheManifest, shards: Sequence[int], num_workers: int
) -> Iterator[_Read]:
    """The rows of those shards in their order, read ahead by workers."""
    rows = [row for shard in shards for row in manifest.rows_of(shard)]
    loader = DataLoader(
        _RowDataset(mixture, manifest, rows),
        batch_size=None,
        num_workers=num_workers if rows else 0,
        prefetch_factor=16 if num_workers and rows else None,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),
    )
    for read in loader:
        if read.error is not None:
            raise read.error
        yield read


def _ignore_interrupts(_: int) -> None:
    """Ctrl-C reaches every process of a terminal; the main one ends its workers, which need say nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# --- encoding -----------------------------------------------------------------------------------------------


class _Image(NamedTuple):
    row: int
    slot: int
    pixels: Tensor


class _Encoder:
    """The pictures of one shard, encoded in batches of one size as they come."""

    def __init__(self, pipe: TrainedPipeline, config: CacheConfig) -> None:
        self.pipe, self.config = pipe, config
        self._waiting: dict[tuple[Size, bool], list[_Image]] = {}
        self._moments: dict[int, dict[int, Tensor]] = {}
        self._features: dict[int, dict[int, Tensor]] = {}

    def add(self, row: int, pixels: Sequence[Tensor]) -> None:
        """Target and references of a row, uint8 (3, H, W)."""
        for slot, image in enumerate(pixels):
            kind = ((image.shape[1], image.shape[2]), slot > 0)
            waiting = self._waiting.setdefault(kind, [])
            waiting.append(_Image(row, slot, image))
            if len(waiting) == self.config.batch_size:
                self._encode(self._waiting.pop(kind))

    def finish(self) -> dict[int, CachedRow]:
        """Everything added, by row."""
        for images in self._waiting.values():
            self._encode(images)
        self._waiting.clear()
        return {
            row: CachedRow(_in_order(moments), _in_order(self._features.get(row, {})))
            for row, moments in self._moments.items()
        }

    @torch.no_grad()
    def _encode(self, images: Sequence[_Image]) -> None:
        vae, vlm = self.pipe.vae, self.pipe.vlm
        stacked = torch.stack([image.pixels for image in images])
        moments = latent_moments(vae, bytes_to_pixels(stacked.to(vae.device)))
        for image, pair in zip(images, moments, strict=True):
            self._moments.setdefault(image.row, {})[image.slot] = self._kept(pair)
        if not self.config.has_features or images[0].slot == 0:
            return
        # As in training, where arithmetic narrower than float32 runs under autocast.
        device, dtype = vlm.visual.device, vlm.visual.dtype
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            features = vlm.image_features(list(bytes_to_pixels(stacked.to(device))))
        for image, tokens in zip(images, features, strict=True):
            self._features.setdefault(image.row, {})[image.slot] = self._kept(tokens)

    def _kept(self, tensor: Tensor) -> Tensor:
        """In main memory, in the format asked for unless what was computed is narrower."""
        wanted: torch.dtype = getattr(torch, self.config.dtype)
        narrower = tensor.dtype if tensor.dtype.itemsize < wanted.itemsize else wanted
        return tensor.to("cpu", narrower, copy=True).contiguous()


def _in_order(tensors: dict[int, Tensor]) -> list[Tensor]:
    return [tensors[slot] for slot in sorted(tensors)]
