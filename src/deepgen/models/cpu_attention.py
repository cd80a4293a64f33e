"""Attention as two large products of matrices, for drawing on CPUs that multiply bfloat16.

PyTorch's attention multiplies many small tiles there, at about the speed of float32; a large product is more
than twice as fast. What stands between the two products, exp(score) and the sum of a row, needs no pass over
the weights of its own:

- A softmax subtracts its maximum against overflow only, and no score exceeds |q| |k|, which is little where
  queries and keys are normalised. Brought far below zero by a bias of all keys, which a softmax does not see,
  exp(score) is the tail of the logistic function, which oneDNN applies to a product before writing it.
- Columns of ones beside the values make the second product give the sums as well.

Whether that is faster depends on the processor and the shape, so the first call with a shape measures it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from deepgen.models.fused import has_kernel

# B batch, S queries, K keys, H heads, E head width, C the same with columns of sums

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

_LARGEST_SCORE = 30.0  # exp(-2 * 30 - 17) is still a normal float32
_SUMS = 16  # columns, a vector register full: every 16th key in each, so that their total is rounded less
_WEIGHTS_AT_ONCE = 2**20  # in bfloat16: what the second-level caches of two cores hold
_WORTH = 1.05  # times faster than PyTorch's, for other roundings
_ROUNDING = 2**-6  # relative: four units in bfloat16's last place
_RUNS = 3  # of each way when they are compared

_fastest: dict[tuple[int, ...], Attention] = {}  # by queries, keys, heads and head width


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(E)) v of (B, S, H, E) over (B, K, H, E), in the way that is faster here.

    The numbers are those of PyTorch's attention up to rounding.
    """
    shape = (query.shape[1], *key.shape[1:])
    if shape not in _fastest:
        if not _largest_score(query, key) <= _LARGEST_SCORE:
            return pytorch(query, key, value)  # another block decides
        _fastest[shape] = _choose(query, key, value)
    return _fastest[shape](query, key, value)


def has_choice(query: Tensor) -> bool:
    """Whether there is more than PyTorch's way: without gradient, where a CPU multiplies bfloat16."""
    return (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and has_kernel(query.dtype)
    )


def pytorch(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """PyTorch's own attention, the layout of ours."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def two_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """1 / (1 + exp(-x)) = exp(x) / (1 + exp(x)), and far below zero the denominator is 1.

    Against PyTorch's attention the sums are rounded once more. Scores whose exponentials would leave the
    range of a float are left to it, and those that are no numbers.
    """
    largest = _largest_score(query, key)
    if not largest <= _LARGEST_SCORE:
        return pytorch(query, key, value)
    batch, rows, heads, width = query.shape
    margin = 1 + math.ceil(-math.log(torch.finfo(query.dtype).eps))
    bias = query.new_full((key.shape[1],), -math.ceil(largest) - margin)  # an integer: exact in bfloat16
    queries = rearrange(query * width**-0.5, "b s h e -> b h s e").contiguous()
    keys = rearrange(key, "b k h e -> b h k e").contiguous()
    values = _with_sums(value)
    out = query.new_empty(batch, heads, rows, values.shape[-1])

    for b in range(batch):
        for h in range(heads):
            for part in _parts(rows, _WEIGHTS_AT_ONCE // key.shape[1]):
                weights = logistic_product(queries[b, h, part], keys[b, h], bias)  # (part of S, K)
                torch.mm(weights, values[b, h], out=out[b, h, part])
    return _normalised(out, query)


WAYS: tuple[Attention, ...] = (pytorch, two_products)  # PyTorch's first


def compare(query: Tensor, key: Tensor, value: Tensor) -> dict[Attention, float]:
    """Seconds of each way, the best of some runs in turns; endless where oneDNN has no kernel for it on this
    processor, or one whose numbers are others.
    """
    spent = dict.fromkeys(WAYS, math.inf)
    expected = WAYS[0](query, key, value)
    for _ in range(_RUNS):
        for way in WAYS:
            spent[way] = min(spent[way], _seconds(way, (query, key, value), expected))
    return spent


def logistic_product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """1 / (1 + exp(-(x W^T + b))), rounded once; (S, E) by (K, E) and (K,) to (S, K)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "sigmoid", [], "")


def _with_sums(value: Tensor) -> Tensor:
    """Values (B, K, H, E) as (B, H, K, C): to the right of them, where a key's weight is summed up."""
    batch, keys, heads, width = value.shape
    wider = value.new_empty(batch, heads, keys, width + _SUMS)
    wider[..., :width] = value.transpose(1, 2)
    wider[..., width:] = _columns(keys, value.dtype)
    return wider


@lru_cache(maxsize=16)
def _columns(keys: int, dtype: torch.dtype) -> Tensor:
    """Ones (K, columns): each key in one column, in turns."""
    return torch.eye(_SUMS, dtype=dtype).repeat(math.ceil(keys / _SUMS), 1)[:keys]


def _normalised(out: Tensor, like: Tensor) -> Tensor:
    """Weighted sums of values by the sums of the weights, (B, H, S, C) to (B, S, H, E)."""
    width = like.shape[-1]
    totals = out[..., width:].sum(-1, keepdim=True, dtype=torch.float32)
    result = torch.empty_like(like, memory_format=torch.contiguous_format)
    torch.div(out[..., :width], totals, out=result.transpose(1, 2))
    return result


def _parts(rows: int, most: int) -> Iterator[slice]:
    """The rows in equal parts of at most so many."""
    size = math.ceil(rows / math.ceil(rows / max(1, most)))
    return (slice(start, start + size) for start in range(0, rows, size))


def _largest_score(query: Tensor, key: Tensor) -> float:
    """No score is larger, nor smaller than its negative (Cauchy and Schwarz)."""
    norms = (float(torch.linalg.vector_norm(x, dim=-1).max()) for x in (query, key))
    rounding = 1 + torch.finfo(query.dtype).eps
    return math.prod(norms) * rounding**2 * query.shape[-1] ** -0.5


def _choose(query: Tensor, key: Tensor, value: Tensor) -> Attention:
    """The fastest way with a few of the heads; PyTorch's where others gain next to nothing."""
    few = 2 * torch.get_num_threads()
    spent = compare(*(x[:1, :, :few] for x in (query, key, value)))
    best = min(spent, key=spent.__getitem__)
    return best if spent[best] * _WORTH < spent[WAYS[0]] else WAYS[0]


def _seconds(way: Attention, tensors: tuple[Tensor, Tensor, Tensor], expected: Tensor) -> float:
    started = time.perf_counter()
    try:
        attended = way(*tensors)
    except RuntimeError:  # no such primitive
        return math.inf
    spent = time.perf_counter() - started
    difference = (attended - expected).float().norm()
    return spent if difference <= _ROUNDING * expected.float().norm() else math.inf
