"""Several LoRAs in one forward: each row of a batch gets the low-rank updates of its own adapters.

A layer with LoRAs computes W x, which no adapter changes, for all rows at once, and adds scale B (A x) to the
rows of each adapter. That is the arithmetic of an adapter that is active alone, in its order; what may differ
is the rounding of matrix products of another batch size. PEFT can mix adapters in a batch as well
(`adapter_names`), and moves a list of row numbers to the device in every layer, which waits for the device;
here they are moved once a forward.

It holds for linear layers whose first dimension is the batch. A convolution, an embedding or a quantised
layer, and a layer with a variant of LoRA, are not among them: adapters of those do not share a forward.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear, LoraLayer
from torch import Tensor, nn

from deepgen.transfer import to_device

# R rows of a forward


def can_share(module: nn.Module, name: str) -> bool:
    """Whether rows with this adapter may stand beside others: all its layers are plain linear ones."""
    for layer in module.modules():
        if getattr(layer, "_compiled_call_impl", None) is not None:
            return False  # a compiled graph would be made anew for every mixture of adapters
        if not isinstance(layer, LoraLayer) or name not in layer._all_available_adapter_names():
            continue
        is_plain = type(layer) is Linear and type(layer.get_base_layer()) is nn.Linear
        if not is_plain or layer.merged or layer.lora_variant or name not in layer.lora_A:
            return False
    return True


@contextmanager
def row_adapters(module: nn.Module, names: Sequence[Collection[str]]) -> Iterator[None]:
    """Forwards of `module` with R rows, row r with the adapters of its names, or without any.

    Args:
        module: has the adapters, each of which `can_share`. Those that are active otherwise do not count.
        names: of every row, (R,).

    Raises:
        RuntimeError: a layer is called with another number of rows, which would get the wrong adapters.
    """
    device = next(module.parameters()).device
    rows = {
        name: to_device(torch.tensor([row for row, own in enumerate(names) if name in own]), device)
        for name in dict.fromkeys(name for own in names for name in own)
    }
    changed: list[tuple[Linear, bool, Any]] = []
    try:
        for layer in module.modules():
            if isinstance(layer, LoraLayer):
                own = {name: index for name, index in rows.items() if name in layer.lora_A}
                hook = layer.register_forward_hook(_adding(own, len(names))) if own else None
                changed.append((layer, layer._disable_adapters, hook))  # pyright: ignore[reportArgumentType]
                layer._disable_adapters = True  # the hook adds what each row gets
        yield
    finally:
        for layer, was_disabled, hook in changed:
            layer._disable_adapters = was_disabled
            if hook is not None:
                hook.remove()


def _adding(rows: dict[str, Tensor], num_rows: int) -> Callable[[Any, tuple[Any, ...], Tensor], Tensor]:
    """A forward hook that adds to the output of a layer, in place, what each row's adapter adds."""

    def add(layer: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        x = args[0]
        if len(x) != num_rows:
            raise RuntimeError(f"a layer with adapters has {len(x)} rows in a forward of {num_rows}")
        for name, index in rows.items():
            factor_a, factor_b = layer.lora_A[name], layer.lora_B[name]
            own = x.index_select(0, index).to(factor_a.weight.dtype)
            update = factor_b(factor_a(own)) * layer.scaling[name]
            output.index_add_(0, index, update.to(output.dtype))
        return output

    return add
