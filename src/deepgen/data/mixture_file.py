"""Reading a mixture from a YAML file.

    root: /data                # where relative paths start; the file's own folder where this line is left out
    seed: 0
    image: {rule: fix_pixels, image_size: 512, unit: 32}
    tasks:
      edit:
        ratio: 1
        sources:
          my_edits: {source: edit, path: edits.json, image_dir: pictures, weight: 2}

A new mixture of twenty sets usually has several mistakes, so all of them are reported together.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from deepgen.data.example import TASKS
from deepgen.data.mixture_config import ImageRule, MixtureConfig, MixtureError, SourceEntry
from deepgen.data.sources import option_fields, option_problems, source_names
from deepgen.user_files import named_by
from deepgen.yaml_files import read_yaml

_TOP = ("root", "seed", "image", "tasks", "bad_share_limit")
_GROUP = ("ratio", "sources")


def read_mixture(path: str | Path, root: str | Path | None = None) -> MixtureConfig:
    """The mixture a file describes.

    Args:
        path: a .yaml file.
        root: replaces the file's own root folder.

    Raises:
        ValueError: names every unknown or missing field and every path at which there is nothing.
    """
    path = Path(path).expanduser()
    reader = _MixtureReader(path, _load(path), root)
    config = reader.config()
    if reader.problems or config is None:
        listed = "".join(f"\n  - {problem}" for problem in reader.problems)
        raise ValueError(f"the mixture {path} has {len(reader.problems)} problem(s):{listed}")
    return config


def read_outline(path: str | Path) -> tuple[dict[str, int], ImageRule]:
    """Ratios of the tasks and the image rule of a file, whether or not its data is there.

    Raises:
        ValueError: the file is no mixture.
    """
    content = _load(Path(path).expanduser())
    tasks = content.get("tasks")
    if not isinstance(tasks, dict) or not tasks:
        raise ValueError(f"{path} has no tasks; see docs/data.md for what a mixture file holds")
    return {task: int(group["ratio"]) for task, group in tasks.items()}, ImageRule(**content.get("image", {}))


def place_options(source: str) -> list[str]:
    """The options of a source that are places on disk, by the convention of their names."""
    return [name for name in option_fields(source) if name == "path" or name.endswith("_dir")]


class _MixtureReader:
    """Turns the file's content into a config, collecting what is wrong on the way."""

    def __init__(self, path: Path, content: dict[str, Any], root: str | Path | None) -> None:
        self.path, self.content = path, content
        self.problems: list[str] = []
        self.root = self._root(root)

    def config(self) -> MixtureConfig | None:
        self._only("the mixture", self.content, _TOP)
        tasks = self._mapping("tasks", self.content.get("tasks"))
        sources, ratios = [], {}
        for task, group in tasks.items():
            if task not in TASKS:
                self.problems.append(f"unknown task {task!r}; known: {', '.join(TASKS)}")
                continue
            group = self._mapping(f"tasks.{task}", group)
            self._only(f"tasks.{task}", group, _GROUP)
            ratios[task] = group.get("ratio", 1)
            entries = self._mapping(f"tasks.{task}.sources", group.get("sources"))
            sources += [self._entry(str(name), task, entry) for name, entry in entries.items()]
        settings = {name: self.content[name] for name in ("seed", "bad_share_limit") if name in self.content}
        for name, value in settings.items():
            if isinstance(value, bool) or not isinstance(value, int | float if name != "seed" else int):
                self.problems.append(f"{name} must be a number, got {value!r}")
                return None
        image = self._image()
        if image is None:
            return None
        try:
            return MixtureConfig(sources=tuple(sources), ratios=ratios, image=image, **settings)
        except MixtureError as error:
            self.problems += error.problems
            return None

    def _root(self, given: str | Path | None) -> Path | None:
        if given is not None:
            return Path(given).expanduser()
        if "root" not in self.content:
            return self.path.parent
        root = self.content["root"]
        if root is None:
            return None  # a problem only if something is relative to it
        return self.path.parent / Path(str(root)).expanduser()

    def _image(self) -> ImageRule | None:
        values = self._mapping("image", self.content.get("image", {}))
        self._only("image", values, [field.name for field in fields(ImageRule)])
        known = {field.name: values[field.name] for field in fields(ImageRule) if field.name in values}
        wrong = [
            f"image.{field.name} must be like {field.default!r}, got {known[field.name]!r}"
            for field in fields(ImageRule)
            if field.name in known and field.default is not MISSING
            if type(known[field.name]) is not type(field.default)
        ]
        self.problems += wrong
        if wrong:
            return None
        try:
            return ImageRule(**known)
        except ValueError as error:
            self.problems.append(f"image: {error}")
            return None

    def _entry(self, name: str, task: Any, entry: Any) -> SourceEntry:
        values = dict(self._mapping(f"source {name}", entry))
        source, weight = values.pop("source", None), values.pop("weight", None)
        row_weight = values.pop("row_weight", None)
        if source is None:
            self.problems.append(f"{name}: `source` is missing; known: {', '.join(source_names())}")
        else:
            try:
                source = named_by(self.path, str(source), self.path.parent)
                found = option_problems(source, values)
                if not found or source in source_names():
                    values = self._resolved(name, source, values)
            except (ValueError, OSError) as error:  # of a file of the user's own
                found = [str(error)]
            self.problems += [f"{name}: {problem}" for problem in found]
        return SourceEntry(
            name=name, source=str(source), task=task, options=values, weight=weight, row_weight=row_weight
        )

    def _resolved(self, name: str, source: str, values: dict[str, Any]) -> dict[str, Any]:
        """Places joined to the root; those that are not there become problems."""
        for option in place_options(source):
            given = values.get(option)
            if not isinstance(given, str):
                continue
            place = Path(given).expanduser()
            if not place.is_absolute():
                if self.root is None:
                    self._once("`root` is empty: fill in the folder at which the relative paths start")
                    continue
                place = self.root / place
            if not place.exists() and option != "cache_dir":
                self.problems.append(f"{name}: there is nothing at {place} ({option})")
            values[option] = str(place)
        return values

    def _mapping(self, what: str, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        found = "nothing" if value is None else repr(value)
        self.problems.append(f"{what} must be fields with values, found {found}")
        return {}

    def _only(self, what: str, values: dict[str, Any], known: Any) -> None:
        self.problems += [
            f"{what} has an unknown field {key!r}; known: {', '.join(known)}"
            for key in values
            if key not in known
        ]

    def _once(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path, "mixture files need PyYAML", "train")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no mixture file {path.absolute()}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected fields such as `tasks:`, found {type(content).__name__}")
    return content
