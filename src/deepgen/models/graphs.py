"""What torch.compile sees of a model: tensors, in one graph for every size.

A forward takes lists, as pictures of one call differ in size and number. Such structure is what PyTorch's
tracer turns into a graph for each case. So a forward here is three parts: plain Python that packs lists into
tensors, one method of tensors alone, and plain Python that unpacks. The decorators keep the tracer out of the
outer two when the model itself is compiled, without a break, because the traced method is then where
compilation begins; in a graph of somebody else's, and in torch.export, all three are traced as they are.

The sizes that come in are marked as symbols of their own. PyTorch otherwise makes a second graph for a batch
of one, and takes two sizes for one size where the first call has them equal.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._C._dynamo import eval_frame
from torch._dynamo.decorators import mark_dynamic, mark_unbacked
from torch._dynamo.eval_frame import skip_code

Function = TypeVar("Function", bound=Callable[..., Any])


def entered_plainly(function: Function) -> Function:
    """A function that is run as Python where it is the first of a compiled model; what it calls may be
    traced.
    """
    skip_code(function.__code__)
    return function


def outside_graphs(function: Function) -> Function:
    """A function that is run as Python, and all it calls, unless it is called from a graph."""
    untraced = torch.compiler.disable(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (function if torch.compiler.is_compiling() else untraced)(*args, **kwargs)

    return entered_plainly(call)  # pyright: ignore[reportReturnType]


def traces_next() -> bool:
    """Whether the next function that is not marked here will be traced: a compiled model has been called,
    and no graph of it has begun.
    """
    # What PyTorch calls before it runs a function, if it does; asked here, as another function of ours would
    # be traced itself.
    return not torch.compiler.is_compiling() and callable(eval_frame.get_eval_frame_callback())


entered_plainly(traces_next)


def are_compiled(modules: Iterable[nn.Module]) -> bool:
    """Whether each of these modules is called as graphs of its own."""
    return not torch.compiler.is_compiling() and all(
        getattr(module, "_compiled_call_impl", None) is not None for module in modules
    )


def of_any_size(
    tensor: Tensor, batch: int | None, lengths: Sequence[int] = (), *, is_own: bool = False
) -> Tensor:
    """A tensor for a graph that holds for any size of some dimensions; a copy, unless `is_own`.

    Args:
        tensor: given to the graph.
        batch: dimension of the samples, of which there may be one.
        lengths: dimensions of two or more, not equal to others but by chance.
        is_own: nothing else holds this tensor.
    """
    # Marks stay on the object, and a view's sizes are those of its base as well.
    marked = tensor if is_own and not tensor._is_view() else tensor.clone()
    if batch is not None and _HAS_BATCHES:
        mark_unbacked(marked, batch, shape_id="batch")
    for dimension in lengths:
        if marked.shape[dimension] > 1:
            mark_dynamic(marked, dimension)
    return marked


# Older versions of PyTorch make a graph for a batch of one beside that for several.
_HAS_BATCHES = "shape_id" in inspect.signature(mark_unbacked).parameters
