"""Which of the known checkpoint layouts a path or hub id is, decided from names and headers without reading
weights.

    deepgen              our folder: model_index.json that registers vlm and connector
    diffusers-published  the released folder: model_index.json with a list for a class, vlm and connector
    beside it native-file          one .pt, .pth, .bin or .safetensors file, or a folder that holds one
    deepspeed-dir        iter_N.pth/ or global_stepN/ with mp_rank_00_model_states.pt and a file for each rank
    rl-dir               checkpoint-N/ with model.safetensors, one file or shards with an index; global_stepN/
                         beside it holds the float32 weights

What is none of these raises an error that says what was looked for, where, and what was there.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepgen.checkpoints.gguf_header import describe_gguf
from deepgen.checkpoints.published import NOT_WEIGHTS
from deepgen.checkpoints.tensors import CheckpointError, read_header
from deepgen.embedded import EMBEDDED
from deepgen.models.containment import check_folder, check_text_size, require_inside, require_plain
from deepgen.suggestions import suggestion

Kind = Literal["deepgen", "diffusers-published", "native-file", "deepspeed-dir", "rl-dir"]

NATIVE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
WEIGHT_NAMES = ("diffusion_pytorch_model", "model", "pytorch_model", "adapter_model")
LOOKED_FOR = (
    "model_index.json (a deepgen or published diffusers folder)",
    "mp_rank_00_model_states.pt (a DeepSpeed folder such as iter_N.pth/)",
    "model.safetensors or model.safetensors.index.json (an RL checkpoint-N/)",
    "one .pt, .pth, .bin, .ckpt or .safetensors file (a native checkpoint)",
)
_PUBLISHED_PARTS = ("transformer", "vae", "connector")
_DEEPGEN_PARTS = ("vlm", "connector", "transformer", "vae", "scheduler", "tokenizer")
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_VARIANT = re.compile(rf"(?:{'|'.join(WEIGHT_NAMES)})\.(\w+)(?:-\d+-of-\d+)?\.(?:safetensors|bin)")
_MODEL_RANK = re.compile(r"mp_rank_(\d+)_(?:model|optim)_states\.pt$")
_ZIP_PART = re.compile(r"\.zip\.part-\w+$|\.z\d\d$")


@dataclass(frozen=True)
class Layout:
    """A recognised checkpoint: its kind, its file or folder, and for native kinds the weight files."""

    kind: Kind
    path: Path
    source: str  # what was asked for
    files: tuple[Path, ...] = ()
    zero_dir: Path | None = None  # the folder with DeepSpeed's pieces of the weights

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def is_native(self) -> bool:
        return self.kind in ("native-file", "deepspeed-dir", "rl-dir")


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """How hub ids are turned into folders; as in huggingface_hub."""

    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False


def detect(source: str | Path, hub: HubOptions | None = None) -> Layout:
    """The layout of a path or hub id.

    Raises FileNotFoundError when nothing usable is there, CheckpointError when it is something else or
    broken.
    """
    path = resolve(source, hub, ignore=NOT_WEIGHTS)
    if path.is_dir():
        return _detect_folder(path, str(source))
    return _detect_file(path, str(source))


def resolve(
    source: str | Path,
    hub: HubOptions | None = None,
    *,
    allow: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
) -> Path:
    """The local path of a path or hub id, downloaded if need be; FileNotFoundError names every place.

    Raises CheckpointError where files of the folder, or links in it, lead out of it.
    """
    path = Path(source).expanduser()
    if path.exists():
        if path.is_dir():
            check_folder(path)
        return path.absolute()
    name = str(source)
    if not _HUB_ID.match(name) or name.startswith("."):
        parent = path.absolute().parent
        there = _listing(parent) if parent.is_dir() else "that folder does not exist either"
        meant = suggestion(name, list(EMBEDDED))
        raise FileNotFoundError(f"no such file or folder: {path.absolute()}; in {parent}: {there}{meant}")
    return _download(name, hub or HubOptions(), allow, ignore)


def _download(name: str, hub: HubOptions, allow: Sequence[str] | None, ignore: Sequence[str] | None) -> Path:
    from huggingface_hub import constants, snapshot_download

    cache = Path(hub.cache_dir or constants.HF_HUB_CACHE)
    try:
        folder = snapshot_download(
            name,
            revision=hub.revision,
            cache_dir=str(cache),
            token=hub.token,
            local_files_only=hub.local_files_only,
            allow_patterns=list(allow) if allow else None,
            ignore_patterns=list(ignore) if ignore else None,
        )
    except Exception as error:  # the hub client raises a dozen unrelated classes; all mean "not to be had"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"{name!r} is neither a folder ({Path(name).absolute()} does not exist) nor a model that can be "
            f"had from the hub: looked in the cache {cache} and at {constants.ENDPOINT}, "
            f"revision {hub.revision or 'main'}; {type(error).__name__}: {reason}. "
            f"Where there is a network, `deepgen download {name} --to FOLDER` fetches it; pass that folder"
        ) from error
    check_folder(Path(folder))
    return Path(folder)


def read_json(path: Path) -> Any:
    """A JSON file. Raises FileNotFoundError, or CheckpointError naming the line that is broken."""
    check_text_size(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); download or write it again") from None
    except RecursionError:
        raise CheckpointError(f"{path} is nested too deeply to be read; download or write it again") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object, as every config and index does; CheckpointError for anything else."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, expected an object; download or write it again"
        )
    return content


def weight_files(folder: Path, variant: str | None = None) -> tuple[Path, ...]:
    """The files that hold one part's weights: a single file, or the shards its index names.

    With a variant, as in diffusers, `model.fp16.safetensors` goes before `model.safetensors`; a part that has
    none is in the plain file. Raises FileNotFoundError listing the names tried, or the shards that are
    missing.
    """
    tried = []
    endings = [
        (suffix, stem, kind)
        for suffix in (".safetensors", ".bin")
        for stem in WEIGHT_NAMES
        for kind in ([f".{variant}", ""] if variant else [""])
    ]
    for suffix, stem, kind in sorted(endings, key=lambda ending: not ending[2]):
        name = f"{stem}{kind}{suffix}"
        single, index = folder / name, folder / f"{stem}{suffix}.index{kind}.json"
        tried.append(name)
        if index.is_file():
            content = read_json(index)
            if not isinstance(content, dict) or not isinstance(content.get("weight_map"), dict):
                raise CheckpointError(f"{index} has no weight_map")
            shards = sorted({require_plain(shard, index) for shard in content["weight_map"].values()})
            if absent := [shard for shard in shards if not (folder / shard).is_file()]:
                raise FileNotFoundError(f"{index} names shards that are not in {folder}: {', '.join(absent)}")
            return tuple(require_inside(folder / shard, folder) for shard in shards)
        if single.is_file():
            return (require_inside(single, folder),)
    variants = sorted({found[1] for file in folder.glob("*.*") if (found := _VARIANT.fullmatch(file.name))})
    hint = f"; these are variants, ask for one of them: variant={variants[0]!r}" if variants else ""
    raise FileNotFoundError(
        f"no weights in {folder}: looked for {', '.join(tried)} and their .index.json; "
        f"found {_listing(folder)}{hint}"
    )


def _detect_folder(path: Path, source: str) -> Layout:
    if (path / "model_index.json").is_file():
        return _detect_pipeline(path, source)
    if any(path.glob("*mp_rank_*_states.pt")):
        return _detect_deepspeed(path, source)
    if any((path / name).is_file() for name in ("model.safetensors.index.json", "model.safetensors")):
        weights = weight_files(path)
        config = read_object(path / "config.json") if (path / "config.json").is_file() else {}
        is_deepgen = any("meta_queries" in name for file in weights for name in read_header(file)[0])
        if "model_type" in config and not is_deepgen:
            raise CheckpointError(f"{path} is a language model by itself; pass it as the base VLM, with vlm=")
        return Layout("rl-dir", path, source, weights, _zero_dir(path))
    if (step := _zero_dir(path)) is not None:  # before single files: a trainer keeps others beside it
        return _detect_folder(step, source)
    files = sorted(file for file in path.iterdir() if file.is_file() and file.suffix in NATIVE_SUFFIXES)
    if len(files) == 1:
        return Layout("native-file", files[0], source, (files[0],))
    _refuse_split_zip(path)
    if not files and (parts := sorted(path.glob("*.gguf"))):
        raise CheckpointError(describe_gguf(parts[0]))
    inner = sorted(str(child.relative_to(path)) for child in _candidates(path))
    hint = f"; choose one of: {', '.join(inner)}" if inner else ""
    if len(files) > 1:
        hint = f"; several checkpoints, choose one of: {', '.join(file.name for file in files)}"
    raise FileNotFoundError(
        f"no checkpoint in {path}: looked for {'; '.join(LOOKED_FOR)}; found {_listing(path)}{hint}"
    )


def _candidates(path: Path) -> list[Path]:
    patterns = ("model_index.json", "mp_rank_00_model_states.pt", "model.safetensors*", "*.pt")
    found = [
        file for pattern in patterns for depth in ("*", "*/*") for file in path.glob(f"{depth}/{pattern}")
    ]
    native = {file if file.suffix == ".pt" and "mp_rank" not in file.name else file.parent for file in found}
    return [item for item in native if not any(item.is_relative_to(other) for other in native - {item})]


def _detect_pipeline(path: Path, source: str) -> Layout:
    index_path = path / "model_index.json"
    index = read_json(index_path)
    if not isinstance(index, dict) or "_class_name" not in index:
        raise CheckpointError(f"{index_path} has no _class_name; expected the index of a pipeline folder")
    name = index["_class_name"]
    registered = {key for key, value in index.items() if isinstance(value, list) and not key.startswith("_")}
    is_ours = {"vlm", "connector"} <= registered
    if not is_ours and "DeepGenPipeline" not in (name if isinstance(name, list) else [name]):
        raise CheckpointError(
            f"{path} is a {name}, not DeepGen; as a base model pass it with transformer=, vae= or scheduler="
        )
    parts = _DEEPGEN_PARTS if is_ours else _PUBLISHED_PARTS
    if absent := [part for part in parts if not (path / part).is_dir()]:
        raise FileNotFoundError(
            f"{path} lacks the folders {', '.join(absent)}; expected {', '.join(parts)}, "
            f"found {_listing(path)}"
        )
    return Layout("deepgen" if is_ours else "diffusers-published", path, source)


def _detect_deepspeed(path: Path, source: str) -> Layout:
    ranks = {match[1] for file in path.iterdir() if (match := _MODEL_RANK.search(file.name))}
    if others := sorted(ranks - {"00"}):
        raise CheckpointError(
            f"{path} was saved with model parallelism (mp_rank_{', mp_rank_'.join(others)}); "
            "only mp_rank_00 is supported"
        )
    files = sorted(path.glob("*mp_rank_00_*_states.pt"), key=lambda file: ("optim" in file.name, file.name))
    return Layout("deepspeed-dir", path, source, tuple(files), path)


def _zero_dir(path: Path) -> Path | None:
    """The folder inside, to which DeepSpeed wrote: the one that `latest` names, or the only one."""
    latest = path / "latest"
    if latest.is_file():
        name = latest.read_text(encoding="utf-8", errors="replace").strip()
        named = require_inside(path / require_plain(name, latest), path)
        if named.is_dir() and named.parent == path:
            check_folder(named)
            return named
    found = [child for child in path.glob("global_step*") if any(child.glob("*_states.pt"))]
    if len(found) > 1:
        names = ", ".join(sorted(child.name for child in found))
        raise CheckpointError(f"{path} holds {names} and no file `latest` that names one; remove the others")
    return found[0] if found else None


def _detect_file(path: Path, source: str) -> Layout:
    if _ZIP_PART.search(path.name):
        _refuse_split_zip(path.parent)
    if path.suffix == ".zip":
        members = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
        there = f"it holds {', '.join(members[:8])}" if members else "it is incomplete: join all parts first"
        raise CheckpointError(
            f"{path} is an archive; unpack it (`unzip {path.name}`) and pass what is inside; {there}"
        )
    if path.name == "model_index.json":
        return _detect_folder(path.parent, source)
    if path.name == "mp_rank_00_model_states.pt":
        return _detect_deepspeed(path.parent, source)
    if path.suffix.lower() == ".gguf":
        raise CheckpointError(describe_gguf(path))
    if path.suffix not in NATIVE_SUFFIXES:
        raise CheckpointError(f"{path} is no checkpoint file: known endings are {', '.join(NATIVE_SUFFIXES)}")
    return Layout("native-file", path, source, (path,))


def _refuse_split_zip(folder: Path) -> None:
    parts = sorted(file.name for file in folder.iterdir() if _ZIP_PART.search(file.name))
    if parts:
        name = parts[0].split(".zip")[0] + ".zip"
        raise CheckpointError(
            f"{folder} holds a split archive ({len(parts)} parts). Join and unpack it, then pass what is "
            "inside: "
            f"cd {folder} && cat {name}.part-* > {name} && unzip {name}"
        )


def _listing(folder: Path, limit: int = 20) -> str:
    names = sorted(child.name + "/" * child.is_dir() for child in folder.iterdir())
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "an empty folder") + more
