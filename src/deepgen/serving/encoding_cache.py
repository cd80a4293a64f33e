"""What was read before and need not be read again: prompts, and the pictures of edits.

Somebody who edits sends the same picture with one instruction after another, and several pictures of one
request share prompt and references. Kept are, each under all that it depends on:

- conditions: what the VLM and the connector make of a prompt, its negative and its references,
- features: what the VLM's vision tower makes of the references, which no instruction changes,
- posteriors: what the VAE makes of a reference; each picture still draws from it with its own seed.

Pictures are known by a digest of their pixels as the model reads them. What is kept is the very tensor that
was computed, so a picture is bit for bit what it is without the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from deepgen.models.bounded_cache import BoundedCache
from deepgen.models.condition_cache import condition_bytes
from deepgen.types import Condition

Kind = Literal["conditions", "features", "posteriors"]
KINDS: tuple[Kind, ...] = ("conditions", "features", "posteriors")
MAX_BYTES = 256 * 2**20  # some 20 prompts with a picture of one million pixels, of the 5B model

Conditions = tuple[Condition, Condition | None]
V = TypeVar("V")

# N vision tokens of width D


@dataclass(frozen=True)
class Reader:
    """The weights that read: adapters of the VLM and the connector change them, those of the DiT do not.

    Attributes:
        conditions: stands for the adapter that is active in the VLM or the connector; None for none.
        features: the same of the VLM alone.
    """

    conditions: int | None = None
    features: int | None = None


class EncodingCache:
    """The last used encodings, up to a number of bytes, on the device they were made on.

    Args:
        max_bytes: of all of them; 0 keeps nothing.
        on_lookup: told the kind and whether it was kept.
    """

    def __init__(self, max_bytes: int, on_lookup: Callable[[Kind, bool], None] | None = None) -> None:
        self._kept: BoundedCache[Any] = BoundedCache(max_bytes, _nbytes)
        self.on_lookup = on_lookup or (lambda kind, is_hit: None)

    def conditions(
        self,
        prompts: tuple[str, str],
        is_guided: bool,
        images: Sequence[bytes],
        reader: Reader,
        compute: Callable[[], Conditions],
    ) -> Conditions:
        """Positive and negative condition.

        Args:
            prompts: the prompt as it is read, and the negative one, to which it is padded even where that is
                not read itself.
            is_guided: whether the negative one is read.
            images: digests of the references, in order.
            reader: which weights read.
            compute: reads.
        """
        return self._get("conditions", (reader.conditions, is_guided, *prompts, *images), compute)

    def features(
        self, images: Sequence[bytes], reader: Reader, compute: Callable[[], Sequence[Tensor]]
    ) -> Sequence[Tensor]:
        """Vision features (N, D) of each of the references that are read in one pass.

        They are kept together, because the tower reads them in one product, whose rounding may depend on all.
        """
        return self._get("features", (reader.features, *images), compute)

    def posterior(self, image: bytes, compute: Callable[[], Any]) -> Any:
        """The VAE's posterior of a picture; no adapter changes the VAE."""
        return self._get("posteriors", (image,), compute)

    def forget(self, adapter: int) -> None:
        """Let go of what was read with an adapter that is gone."""
        self._kept.discard(lambda key: key[1] == adapter and key[0] != "posteriors")

    def clear(self) -> bool:
        """Let go of everything; whether there was anything."""
        was_full = len(self._kept) > 0
        self._kept.clear()
        return was_full

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return self._kept.nbytes

    def _get(self, kind: Kind, key: tuple[Any, ...], compute: Callable[[], V]) -> V:
        is_hit = True

        def computed() -> V:
            nonlocal is_hit
            is_hit = False
            return compute()

        value = self._kept.get((kind, *key), computed)
        self.on_lookup(kind, is_hit)
        return value


def digest(pixels: Tensor) -> bytes:
    """What stands for a picture: of its pixels, their shape and their number format."""
    told = hashlib.blake2b(repr((tuple(pixels.shape), pixels.dtype)).encode(), digest_size=32)
    told.update(pixels.detach().cpu().contiguous().view(torch.uint8).numpy())
    return told.digest()


def _nbytes(value: Any) -> int:
    """Bytes of the tensors in an encoding."""
    if value is None:
        return 0
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Condition):
        return condition_bytes(value)
    if isinstance(value, Sequence):
        return sum(_nbytes(one) for one in value)
    return value.parameters.nbytes + value.std.nbytes + value.var.nbytes  # a Gaussian of diffusers
