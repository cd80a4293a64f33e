"""Changing a few fields of a recipe from text, by the types the config declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from deepgen.suggestions import suggestion_or_all

Config = TypeVar("Config")

_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def override(config: Config, changes: Mapping[str, str]) -> Config:
    """A copy of a frozen dataclass with dotted fields changed: {"num_steps": "10", "optim.lr": "1e-4"}.

    All changes are made at once, so their order does not matter to what the config refuses. A field of a part
    that is None, such as `vlm_lora.rank`, begins from that part's defaults.
    """
    return _changed(config, [(name.split("."), name, text) for name, text in changes.items()])


def _changed(config: Any, changes: list[tuple[list[str], str, str]]) -> Any:
    known = [field.name for field in fields(config)]
    values: dict[str, Any] = {}
    nested: dict[str, list[tuple[list[str], str, str]]] = {}
    for (first, *rest), name, text in changes:
        if first not in known:
            raise ValueError(f"no field {name!r} in {type(config).__name__}{suggestion_or_all(first, known)}")
        if rest:
            nested.setdefault(first, []).append((rest, name, text))
        else:
            values[first] = _parse(get_type_hints(type(config))[first], name, text)
    for first, inner in nested.items():
        if first in values:
            raise ValueError(f"{first!r} is set both as a whole and as {inner[0][1]!r}; keep one of them")
        values[first] = _changed(_part(config, first, inner[0][1]), inner)
    return replace(config, **values)


def _part(config: Any, name: str, full_name: str) -> Any:
    """The dataclass in a field, or the one that could be there."""
    part = getattr(config, name)
    kinds = get_args(get_type_hints(type(config))[name])
    if part is None:
        part = next((kind() for kind in kinds if is_dataclass(kind) and isinstance(kind, type)), None)
    if not is_dataclass(part):
        raise ValueError(f"{name!r} in {full_name!r} is {part} and has no fields; change the recipe")
    return part


def _parse_several(kinds: tuple[Any, ...], full_name: str, text: str) -> tuple[Any, ...]:
    """Words between commas, each of its own kind; as many as there are kinds, or any number."""
    words = [word for word in text.split(",") if word]
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(words)
    if len(words) != len(kinds):
        raise ValueError(f"{full_name} takes {len(kinds)} values with commas between them, got {text!r}")
    return tuple(_parse(kind, full_name, word) for kind, word in zip(kinds, words, strict=True))


def _parse(kind: Any, full_name: str, text: str) -> Any:
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if type(None) in kinds and text.lower() == "none":
        return None
    choices = [choice for option in kinds if get_origin(option) is Literal for choice in get_args(option)]
    if text in choices:
        return text
    if choices:
        raise ValueError(f"{full_name} takes one of {', '.join(map(str, choices))}, got {text!r}")
    for option in kinds:
        if get_origin(option) is tuple:
            return _parse_several(get_args(option), full_name, text)
    if bool in kinds:
        if text.lower() not in _TRUTHS:
            raise ValueError(f"{full_name} takes true or false, got {text!r}")
        return _TRUTHS[text.lower()]
    for candidate in (int, float, Path, str):
        if candidate in kinds:
            try:
                return candidate(text)
            except ValueError as error:
                raise ValueError(f"{full_name} takes {candidate.__name__}, got {text!r}") from error
    raise ValueError(f"{full_name} of type {kind} cannot be set from text; change the recipe")
