"""A check that a model's folder refers only to files inside it.

An index file says which shards to open, and a link says where a file really is; both come with a downloaded
folder. Followed blindly they make a program read any file of the machine, and save or upload what was in it.
So names must stay inside the folder, and so must what links lead to. The Hub's cache is the one exception:
its `models--*/snapshots/*` are links into `models--*/blobs`, which is the same repository.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from deepgen.models.errors import CheckpointError

# What a library may open of a model. Other links in a folder, such as one to a data set, are left alone.
MODEL_SUFFIXES = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack"),
    *(".json", ".txt", ".model", ".jinja", ".py"),
)
PART_FOLDERS = ("vlm", "connector", "transformer", "vae", "scheduler", "tokenizer", "vlm_lora")
LARGEST_TEXT = 2**26  # bytes of an index or config that is looked into


def check_text_size(path: Path) -> None:
    """CheckpointError for a file that is too large to be an index or a config."""
    if (size := path.stat().st_size) > LARGEST_TEXT:
        raise CheckpointError(f"{path} has {size} bytes, which no config or index needs; it was not opened")


def require_plain(name: Any, origin: Path) -> str:
    """The name of a file inside a folder, as a file of that folder (`origin`) gives it.

    Raises CheckpointError for an absolute name, one with `..`, or one that is no text.
    """
    if isinstance(name, str) and name and "\0" not in name:
        kinds = (PurePosixPath(name), PurePath(name))  # the latter also knows C: and \\ on Windows
        if not any(path.anchor or ".." in path.parts for path in kinds):
            return name
    raise CheckpointError(
        f"{origin} names {name!r}, which is no file of its own folder; such a file was not opened. "
        "Get the folder from a source you trust"
    )


def require_inside(path: Path, folder: Path) -> Path:
    """`path`, once it is known that it lies in `folder`, or in the same repository of the Hub's cache.

    Raises CheckpointError where a link leads out of it, or in a circle.
    """
    try:
        root, target = folder.resolve(), path.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle, until Python 3.13
        raise CheckpointError(f"{path} cannot be followed: {error}") from None
    if not any(target.is_relative_to(place) for place in (root, _repository(root))):
        raise CheckpointError(
            f"{path} is a link that leads out of the model's folder, to {target}; it was not opened. If you "
            f"made this link, put the file there itself: cp -L {path} {path}.new && mv {path}.new {path}"
        )
    return path


def check_folder(folder: Path) -> None:
    """Nothing that a loader may open of this model, ours or a library's, lies elsewhere.

    Looks at the folder and at the folders of its parts, as deep as any loader does by itself; deeper files
    are opened only where an index names them, and those names are checked.

    Raises CheckpointError that names the link, or the file and the name in it.
    """
    for place in _places(folder):
        for path in _children(place):
            if path.is_symlink() and (path.suffix.lower() in MODEL_SUFFIXES or path.name in PART_FOLDERS):
                require_inside(path, folder)
            for name in _named_in(path):
                require_inside(place / require_plain(name, path), folder)


class OwnFolderMixin:
    """Before a library's model class: its `from_pretrained` first looks at the folder.

    `DiffusionPipeline.from_pretrained` comes to our parts without coming to our pipeline's own loader.
    """

    @classmethod
    def from_pretrained(cls, source: Any, *args: Any, **kwargs: Any) -> Any:
        """As the library's; CheckpointError where the folder names or links files elsewhere."""
        if isinstance(source, str | PathLike) and Path(source).is_dir():
            check_folder(Path(source))
        return super().from_pretrained(source, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]


def _repository(root: Path) -> Path:
    """Of a snapshot in the Hub's cache its repository's folder; of any other folder itself."""
    for place in (root, *root.parents):
        if place.parent.name == "snapshots" and place.parent.parent.name.startswith("models--"):
            return place.parent.parent
    return root


def _places(folder: Path) -> Iterator[Path]:
    yield folder
    parts = {*PART_FOLDERS, *_components(folder / "model_index.json")}
    for path in _children(folder):
        if path.name in parts and path.is_dir():
            require_inside(path, folder)
            yield path


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # no permission, or no folder after all: the loader that opens it says so
        return []


def _components(index: Path) -> Iterable[str]:
    content = _content(index)
    return [name for name in content if "/" not in name] if isinstance(content, dict) else []


def _named_in(path: Path) -> Iterable[Any]:
    """The files that an index or a tokenizer's config names."""
    if path.name.endswith(".index.json"):
        content = _content(path)
        shards = content.get("weight_map") if isinstance(content, dict) else None
        return list({_hashable(shard) for shard in shards.values()}) if isinstance(shards, dict) else []
    if path.name == "tokenizer_config.json":
        content = _content(path)
        names = content.get("fast_tokenizer_files") if isinstance(content, dict) else None
        return names if isinstance(names, list) else []
    return []


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str) else repr(value) + "\0"  # no text, so never a plain name


def _content(path: Path) -> Any:
    """What a JSON file says; None where it cannot be read, which its own reader reports."""
    try:
        if not path.is_file():
            return None
        check_text_size(path)
        return json.loads(path.read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError):
        return None
