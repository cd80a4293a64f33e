"""Settings and step recorded in a pickled training run: enough to compare two files.

Everything is read as data. A pickle may refer to one object a million times, so walks are bounded.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from deepgen.checkpoints.pickle_names import Inert, mapping
from deepgen.checkpoints.torch_files import StoredTensor

MOST_FACTS = 20_000
DEEPEST = 12
LONGEST_FACT = 200  # characters of a text that is compared, and of a key in its path
LONGEST_TEXT = 2_000_000  # characters of a configuration
LARGEST_SETTING = 2**20  # of LoRA: beyond, also infinite, it is no setting
OF_ONE_RANK = ("param_slice_mappings", "group_paddings")  # differ from rank to rank by design


@dataclass(frozen=True)
class RunSettings:
    """What the configuration of a run says of the model; None or empty where it does not."""

    connector: dict[str, Any] = field(default_factory=dict)
    lora_rank: int | None = None
    lora_scale: float | None = None
    bases: dict[str, str] = field(default_factory=dict)  # part -> folder or hub id it started from


def differing_fact(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> tuple[str, Any, Any] | None:
    """The first number or text in which two ranks' optimizer states differ: its path and both values."""
    first, second = dict(_facts(one)), dict(_facts(other))
    for path, value in first.items():
        if second.get(path, value) != value and not (value != value and second[path] != second[path]):
            return path, value, second[path]
    return None


def _facts(tree: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    waiting: list[tuple[str, Any, int]] = [
        (str(key)[:LONGEST_FACT], value, 0) for key, value in tree.items() if key not in OF_ONE_RANK
    ]
    count = 0
    while waiting and count < MOST_FACTS:
        path, value, depth = waiting.pop()
        count += 1
        if isinstance(value, str):
            yield path, value[:LONGEST_FACT]
        elif isinstance(value, int | float):
            if not isinstance(value, int) or value.bit_length() <= 64:
                yield path, value
        elif isinstance(value, StoredTensor):
            if value.numel == 1:  # the optimizer's step
                yield path, value.read().reshape(-1)[0].item()
        elif depth < DEEPEST:
            children = islice(_children(value), max(MOST_FACTS - len(waiting), 0))
            waiting += [(f"{path}.{str(key)[:LONGEST_FACT]}", item, depth + 1) for key, item in children]


def _children(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Inert):
        kept = {"args": value.args, "state": value.state, "items": value.items}
        return ((key, item) for key, item in kept.items() if item)
    if isinstance(value, dict):
        return ((key if isinstance(key, str | int) else "?", item) for key, item in value.items())
    return enumerate(value) if isinstance(value, list | tuple) else ()


# --- settings


def run_settings(states: Mapping[Any, Any]) -> RunSettings:
    """What mmengine's configuration, stored beside the weights as text or objects, says of the model."""
    for place in (("meta", "cfg"), ("message_hub", "runtime_info", "cfg")):
        value: Any = states
        for key in place:
            value = (mapping(value) or {}).get(key)
        config = parse_config(value) if isinstance(value, str) else value
        model = mapping((mapping(config) or {}).get("model"))
        if model:
            return _settings(model)
    return RunSettings()


def _settings(model: Mapping[Any, Any]) -> RunSettings:
    connector = {
        str(key): value for key, value in (mapping(model.get("connector")) or {}).items() if _is_count(value)
    }
    rank, alpha = model.get("lora_rank"), model.get("lora_alpha")
    scale = None
    are_sane = all(isinstance(n, int | float) and 0 < n < LARGEST_SETTING for n in (rank, alpha))
    if are_sane and isinstance(rank, int) and alpha is not None:
        scale = alpha / rank
    bases = {}
    for part, key in (("vlm", "lmm"), ("transformer", "transformer"), ("vae", "vae")):
        source = (mapping(model.get(key)) or {}).get("pretrained_model_name_or_path")
        if isinstance(source, str):
            bases[part] = source
    return RunSettings(connector, None if scale is None else rank, scale, bases)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def parse_config(text: str) -> dict[str, Any]:
    """The assignments of a configuration written as Python, as plain values; what computes is left out.

    The text is parsed and never run. A text that is no Python gives nothing.
    """
    if len(text) > LONGEST_TEXT:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in foreign text
            module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    values: dict[str, Any] = {}
    for statement in module.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            values[statement.targets[0].id] = _literal(statement.value, DEEPEST)
    return values


def _literal(node: ast.expr, depth: int) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if depth:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
            return {item.arg: _literal(item.value, depth - 1) for item in node.keywords if item.arg}
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            return {
                key.value: _literal(value, depth - 1) for key, value in pairs if isinstance(key, ast.Constant)
            }
        if isinstance(node, ast.List | ast.Tuple):
            return [_literal(item, depth - 1) for item in node.elts]
    return None
