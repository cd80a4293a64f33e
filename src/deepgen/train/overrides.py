"""Changing a few fields of a recipe from text, by the types the config declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")

_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def override(config: Config, changes: Mapping[str, str]) -> Config:
    """A copy of a frozen dataclass with dotted fields changed: {"num_steps": "10", "optim.lr": "1e-4"}."""
    for name, text in changes.items():
        config = _set(config, name.split("."), name, text)
    return config


def _set(config: Any, path: list[str], full_name: str, text: str) -> Any:
    known = [field.name for field in fields(config)]
    if path[0] not in known:
        raise ValueError(f"no field {full_name!r} in {type(config).__name__}; known: {', '.join(known)}")
    if len(path) > 1:
        inner = getattr(config, path[0])
        if not is_dataclass(inner):
            raise ValueError(f"{path[0]!r} in {full_name!r} is {inner} and has no fields; change the recipe")
        return replace(config, **{path[0]: _set(inner, path[1:], full_name, text)})
    return replace(config, **{path[0]: _parse(get_type_hints(type(config))[path[0]], full_name, text)})


def _parse(kind: Any, full_name: str, text: str) -> Any:
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if type(None) in kinds and text.lower() == "none":
        return None
    choices = [choice for option in kinds if get_origin(option) is Literal for choice in get_args(option)]
    if text in choices:
        return text
    if choices:
        raise ValueError(f"{full_name} takes one of {', '.join(map(str, choices))}, got {text!r}")
    if any(get_origin(option) is tuple for option in kinds):
        return tuple(word for word in text.split(",") if word)
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
