"""Blocks of zeros in a file of weights, wherever they are.

A download that was resumed wrongly leaves zeros where bytes are missing, at the end of a file or in its
middle, and such a file opens without complaint. Trained weights hold no page of zeros, so any is a finding.
Runs are followed from tensor to tensor, since a hole in a file knows no tensors; what is zero by design does
not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from deepgen.checkpoints.tensors import LazyTensor

PAGE = 4096  # bytes: fewer zeros in a row can be chance
_BLOCK = 64  # words of eight bytes that are looked at together
_BLOCKS = 1 << 13  # of them at a time: four megabytes


@dataclass
class ZeroRun:
    """Zero bytes from `start` to `end`: of the file where `is_in_file`, otherwise of the tensor."""

    start: int
    end: int
    is_in_file: bool
    tensors: list[str] = field(default_factory=list)
    by_design: int = 0  # bytes of tensors in it that may be zero
    is_whole: bool = False  # one tensor from its first byte to its last
    rows: tuple[int, int] | None = None  # exactly these rows of one tensor, first and past the last
    reaches_end: bool = False  # of the file

    @property
    def nbytes(self) -> int:
        return self.end - self.start

    @property
    def is_suspicious(self) -> bool:
        return self.nbytes - self.by_design >= PAGE


class ZeroSearch:
    """Runs of zeros in the tensors of one file, given one after the other in file order.

    Args:
        size: of the file, in bytes.
    """

    def __init__(self, size: int):
        self._size = size
        self._open: ZeroRun | None = None  # reaches to the end of the tensor before

    def runs(self, tensor: LazyTensor, value: Tensor, may_be_zero: bool) -> Iterator[ZeroRun]:
        """The runs that end in this tensor, or before it; of a tensor that is all zeros see `is_zero`."""
        base = tensor.offset
        if base is None or (self._open is not None and self._open.end != base):
            yield from self.finish()
        for start, end in zero_ranges(value):
            run = ZeroRun(start + (base or 0), end + (base or 0), base is not None, [tensor.name])
            run.is_whole = end - start == tensor.nbytes
            run.by_design = run.nbytes if run.is_whole and may_be_zero else 0
            run.rows = None if run.is_whole else _rows(tensor, start, end)
            if start == 0 and self._open is not None:
                run = self._joined(run)
            elif self._open is not None:
                yield from self.finish()
            if end == tensor.nbytes:
                self._open = run
            else:
                self._open = None
                yield from self._checked(run)
        if self._open is not None and base is not None and self._open.end != base + tensor.nbytes:
            yield from self.finish()

    def finish(self) -> Iterator[ZeroRun]:
        """The run that is still open, if it counts."""
        run, self._open = self._open, None
        if run is not None:
            yield from self._checked(run)

    def _joined(self, run: ZeroRun) -> ZeroRun:
        before = self._open
        assert before is not None
        self._open = None
        names, design = [*before.tensors, *run.tensors], before.by_design + run.by_design
        return ZeroRun(before.start, run.end, True, names, design)

    def _checked(self, run: ZeroRun) -> Iterator[ZeroRun]:
        run.reaches_end = run.is_in_file and run.end == self._size
        if run.is_suspicious and (not run.is_whole or run.reaches_end):
            yield run


def is_zero(value: Tensor) -> bool:
    """Whether every byte of a tensor that has any is zero."""
    data = value.contiguous().reshape(-1).view(torch.uint8).numpy()
    return bool(len(data)) and not data[:PAGE].any() and not data.any()


def zero_ranges(value: Tensor) -> list[tuple[int, int]]:
    """Ranges of zero bytes in a tensor, (first, past the last): a page or more, or any at its two ends."""
    data = value.contiguous().reshape(-1).view(torch.uint8).numpy()
    empty = _empty_blocks(data)
    size, length = 8 * _BLOCK, len(data)
    edges = np.flatnonzero(np.diff(empty.astype(np.int8), prepend=0, append=0)).reshape(-1, 2) * size
    least = PAGE // size - 1  # a page that begins inside a block covers one block less
    ranges = []
    for first, last in edges.tolist():
        if last - first < least * size and first > 0 and last + size <= length:
            continue
        before, after = data[max(0, first - size) : first], data[last : last + size]
        start = first - _zeros_at_end(before)
        end = last + _zeros_at_end(after[::-1])
        if start == 0 or end == length or end - start >= PAGE:
            ranges.append((start, end))
    if length and (not ranges or ranges[0][0] > 0) and (head := _zeros_at_end(data[: 2 * size][::-1])):
        ranges.insert(0, (0, head))
    if length and (not ranges or ranges[-1][1] < length) and (tail := _zeros_at_end(data[-2 * size :])):
        ranges.append((length - tail, length))
    return ranges


def _empty_blocks(data: np.ndarray) -> np.ndarray:
    """Of every whole block of the data whether it is all zeros."""
    words = data[: len(data) // (8 * _BLOCK) * 8 * _BLOCK].view(np.int64).reshape(-1, _BLOCK)
    empty = np.empty(len(words), dtype=bool)
    for first in range(0, len(words), _BLOCKS):
        part = words[first : first + _BLOCKS]
        # most blocks already differ from zero in one word; only the others are read whole
        hollow = np.flatnonzero(part[:, 0] == 0)
        empty[first : first + _BLOCKS] = False
        empty[first + hollow[~part[hollow].any(axis=1)]] = True
    return empty


def _zeros_at_end(data: np.ndarray) -> int:
    nonzero = np.flatnonzero(data)
    return len(data) - 1 - int(nonzero[-1]) if len(nonzero) else len(data)


def _rows(tensor: LazyTensor, start: int, end: int) -> tuple[int, int] | None:
    """The rows that a range of bytes covers exactly, up to the bytes of one number; None if it is no rows."""
    if len(tensor.shape) < 2 or tensor.shape[0] < 2:
        return None
    itemsize, row = tensor.dtype.itemsize, tensor.nbytes // tensor.shape[0]
    first, last = -(-start // itemsize) * itemsize, end // itemsize * itemsize
    return (first // row, last // row) if first % row == 0 and last % row == 0 and last > first else None
