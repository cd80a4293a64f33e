"""Official files of benchmarks in JSON, lines of JSON and CSV; an unreadable one is named with its line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from deepgen.text_lines import text_lines


def read_json(path: Path) -> Any:
    """The document; ValueError names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def read_list(path: Path, key: str = "") -> list[Any]:
    """The list a document is, or has under a key; ValueError names the file."""
    document = read_json(path)
    found = document.get(key) if key and isinstance(document, dict) else document
    if not isinstance(found, list):
        raise ValueError(f"{path} holds no list{f' {key!r}' if key else ''}")
    return found


def read_object(path: Path) -> dict[str, Any]:
    """The object a document is; ValueError names the file."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds no object of named rows")
    return document


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """One object a line; empty lines do not count. ValueError names file and line."""
    rows = []
    for line in text_lines(path):
        if not line.content.strip():
            continue
        try:
            rows.append(json.loads(line.text()))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {line.number} is not JSON: {error}") from error
    return rows


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows by the names in the first line; a byte order mark is skipped."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))
