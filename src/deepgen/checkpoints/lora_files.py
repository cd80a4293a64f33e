"""Reading LoRA files: found, opened, and split into pairs of factors with their scale.

Everything that can be said about a file without the model is said here, so that a file that is no LoRA, or
a damaged one, is refused before gigabytes are loaded. Which modules of the model the pairs are for is the
question of `lora_fit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepgen.checkpoints.layouts import HubOptions, resolve
from deepgen.checkpoints.lora import DEFAULT_SCALE
from deepgen.checkpoints.lora_keys import INSEPARABLE, LoraKey, is_of_text_encoder, method_of, read_key
from deepgen.checkpoints.lora_settings import AdapterSettings, LoraError, read_settings
from deepgen.checkpoints.tensors import LazyTensor, open_file, open_safetensors, read_header

SUFFIX = ".safetensors"
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
PEFT_WEIGHTS, PEFT_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
USUAL_NAMES = (PEFT_WEIGHTS, "pytorch_lora_weights.safetensors")
DISTILLED = "distilled"  # in a file's metadata: steps and noise levels, see sampling/few_steps.py
SHOWN = 3  # keys that an error names


@dataclass(frozen=True)
class FactorPair:
    """What a file adds to one of its modules: scale * B A.

    Attributes:
        key: the module, as the file names it.
        names: the tensors' names in the file, A and B first.
        a: (rank, in), floating point; of a convolution (rank, in, height, width).
        b: (out, rank), or (out, rank, 1, 1).
        scale: alpha / rank, or what the file's settings make of them.
    """

    key: LoraKey
    names: tuple[str, ...]
    a: Tensor
    b: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def is_zero(self) -> bool:
        """Whether it changes nothing."""
        return self.scale == 0 or not self.a.any() or not self.b.any()


@dataclass(frozen=True)
class LoraFile:
    """A LoRA before it meets a model.

    Attributes:
        origin: the file.
        pairs: what it adds, in the order of the file.
        foreign: keys that are no plain LoRA, with the reason.
        has_strength: whether file or settings say how strong it is, or its trainer always has alpha = rank.
        distilled: what it was distilled for, as JSON; None of an ordinary one.
    """

    origin: str
    pairs: tuple[FactorPair, ...]
    foreign: Mapping[str, str] = field(default_factory=dict)
    has_strength: bool = True
    distilled: str | None = None


def read_lora(
    source: str | Path | Mapping[str, Tensor],
    *,
    weight_name: str | None = None,
    subfolder: str | None = None,
    hub: HubOptions | None = None,
) -> LoraFile:
    """Open a LoRA and check all that needs no model.

    Args:
        source: a safetensors file, a folder with one, a hub id, or a state dict.
        weight_name: the file's name in a folder or repository that holds several.
        subfolder: where in the folder or repository it is.
        hub: how a hub id is looked up.

    Raises:
        FileNotFoundError: there is nothing of that name.
        LoraError: it is no LoRA, a pickle, of another method, damaged, or changes nothing.
        CheckpointError: the file is truncated.
    """
    if isinstance(source, Mapping):
        tensors = {name: _in_memory(name, tensor) for name, tensor in source.items()}
        return _take_apart("the state dict", tensors, {})
    path = _locate(source, weight_name, subfolder, hub)
    # Whatever its name: the hub's cache keeps files under their sums.
    tensors = open_file(path) if path.suffix == SUFFIX else open_safetensors(path)
    header, _ = read_header(path)
    beside = path.with_name(PEFT_SETTINGS)
    is_peft = path.name == PEFT_WEIGHTS and beside.is_file()
    metadata = header.get("__metadata__")
    settings = read_settings(metadata, beside if is_peft else None, str(path))
    return replace(_take_apart(str(path), tensors, settings), distilled=(metadata or {}).get(DISTILLED))


# --- where it is


def _locate(
    source: str | Path, weight_name: str | None, subfolder: str | None, hub: HubOptions | None
) -> Path:
    path = Path(source).expanduser()
    folder = path if path.exists() else _from_hub(str(source), weight_name, subfolder, hub or HubOptions())
    if folder.is_dir():
        folder = folder / (subfolder or "")
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}")
        there = sorted(file.name for file in folder.iterdir() if file.is_file())
        folder = folder / _choose(there, weight_name, str(folder))
    if not folder.is_file():
        raise FileNotFoundError(f"no such file: {folder}")
    with folder.open("rb") as file:
        start = file.read(9)  # of safetensors: the length of the header, and its first character
    if folder.suffix in PICKLES or (start[:1] in (b"P", b"\x80") and start[8:] != b"{"):
        raise LoraError(
            f"{folder} is a pickle, which is not opened because that could run code; write it as {SUFFIX} "
            "where it was made: safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
            f"'{folder.stem}{SUFFIX}')"
        )
    return folder


def _choose(names: Iterable[str], wanted: str | None, where: str) -> str:
    """The LoRA among a folder's file names."""
    names = list(names)
    if wanted is not None:
        if wanted not in names:
            raise FileNotFoundError(f"{where} has no {wanted}; it holds {first_names(names) or 'no files'}")
        return wanted
    found = [name for name in names if name.endswith(SUFFIX)]
    usual = [name for name in found if name in USUAL_NAMES]
    if len(usual) == 1 and not (usual == [PEFT_WEIGHTS] and PEFT_SETTINGS not in names and len(found) > 1):
        return usual[0]
    if len(found) > 1:
        raise LoraError(f"{where} holds {len(found)} LoRA files; name one of them: {first_names(found)}")
    if found:
        return found[0]
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        return pickles[0]  # whose error says what to do
    raise LoraError(f"{where} holds no {SUFFIX} file; it holds {first_names(names) or 'no files'}")


def _from_hub(name: str, weight_name: str | None, subfolder: str | None, hub: HubOptions) -> Path:
    """The folder of a hub id, with only the files that are needed where there is a network."""
    if name.endswith((SUFFIX, *PICKLES)):  # "folder/file" looks like a hub id too
        raise FileNotFoundError(f"no such file: {Path(name).expanduser().absolute()}")
    allow = None
    if name.count("/") == 1 and not name.startswith(("/", ".")) and not hub.local_files_only:
        from huggingface_hub import constants, list_repo_files

        if not constants.HF_HUB_OFFLINE:
            try:
                there = list_repo_files(name, revision=hub.revision, token=hub.token)
            except Exception:  # the hub client raises a dozen classes; `resolve` says what it tried
                there = None
            if there is not None:
                prefix = f"{subfolder.strip('/')}/" if subfolder else ""
                files = [file.removeprefix(prefix) for file in there if file.startswith(prefix)]
                chosen = _choose(
                    [file for file in files if "/" not in file or file == weight_name], weight_name, name
                )
                allow = [prefix + chosen, prefix + PEFT_SETTINGS]
    return resolve(name, hub, allow=allow)


# --- what it holds


def _in_memory(name: str, tensor: Any) -> LazyTensor:
    if not isinstance(tensor, Tensor):
        raise LoraError(f"{name} of the state dict is a {type(tensor).__name__}, expected a tensor")
    return LazyTensor(
        name, tuple(tensor.shape), tensor.dtype, "the state dict", lambda: tensor.detach().cpu()
    )


def _take_apart(
    origin: str, tensors: Mapping[str, LazyTensor], settings: Mapping[str, AdapterSettings]
) -> LoraFile:
    if not tensors:
        raise LoraError(f"{origin} holds no tensors")
    modules: dict[tuple[Any, ...], dict[str, str]] = {}
    keys: dict[str, LoraKey] = {}
    foreign: dict[str, str] = {}
    for name in tensors:
        key = read_key(name)
        if is_of_text_encoder(name):
            foreign[name] = "of a text encoder, which DeepGen does not have"
        elif (method := method_of(name)) or key is None:
            foreign[name] = f"{method}, which DeepGen does not apply" if method else "no LoRA factor"
        else:
            keys[name] = key
            roles = modules.setdefault(key.owner, {})
            if key.role in roles:
                raise LoraError(f"{origin}: {roles[key.role]} and {name} are the same factor of {key.module}")
            roles[key.role] = name
    _drop_lone_alphas(modules, foreign)
    _check_method(origin, foreign, has_pairs=bool(modules))
    pairs = [_pair(origin, roles, keys, tensors, settings) for roles in modules.values()]
    if all(pair.is_zero for pair in pairs):
        raise LoraError(
            f"{origin} changes nothing: all of its {len(pairs)} updates are zero; was it trained?"
        )
    is_said = bool(settings) or any("alpha" in roles for roles in modules.values())
    is_of_peft = any(name.startswith("base_model.model.") for name in tensors)
    return LoraFile(origin, tuple(pairs), foreign, is_said or not is_of_peft)


def _drop_lone_alphas(modules: dict[tuple[Any, ...], dict[str, str]], foreign: dict[str, str]) -> None:
    """An alpha without factors belongs to another method, or to nothing; it is no LoRA."""
    for owner in [owner for owner, roles in modules.items() if set(roles) == {"alpha"}]:
        foreign[modules.pop(owner)["alpha"]] = "alpha without factors"


def _check_method(origin: str, foreign: Mapping[str, str], has_pairs: bool) -> None:
    """LoraError where the file as a whole is no LoRA, or its pairs are meant to be used in another way."""
    methods = {name: method for name in foreign if (method := method_of(name))}
    inseparable = [name for name, method in methods.items() if method in INSEPARABLE]
    if inseparable or (methods and not has_pairs):
        name = (inseparable or list(methods))[0]
        raise LoraError(
            f"{origin} is a {methods[name]} adapter (keys such as {name}), which DeepGen does not apply; "
            "train or export it as plain LoRA"
        )
    if not has_pairs:
        reason = next(iter(foreign.values()))
        what = f"all of them {reason}" if reason.startswith("of a text") else "none of them a LoRA factor"
        raise LoraError(
            f"{origin} is not a LoRA file for this model: {len(foreign)} keys, {what}, the first are "
            f"{first_names(foreign)}; expected pairs such as MODULE.lora_A.weight and MODULE.lora_B.weight"
        )


def _pair(
    origin: str,
    roles: Mapping[str, str],
    keys: Mapping[str, LoraKey],
    tensors: Mapping[str, LazyTensor],
    settings: Mapping[str, AdapterSettings],
) -> FactorPair:
    """The two factors of a module; LoraError where one is missing, of another rank, or damaged."""
    names = tuple(roles[role] for role in ("A", "B", "alpha") if role in roles)
    if missing := [role for role in ("A", "B") if role not in roles]:
        raise LoraError(
            f"{origin}: {names[0]} has no factor {missing[0]} beside it; the file is not complete"
        )
    first, second = (tensors[roles[role]] for role in ("A", "B"))
    for tensor in (first, second):
        if not tensor.dtype.is_floating_point:
            raise LoraError(
                f"{origin}: {tensor.name} holds {_short(tensor.dtype)}, expected floating point numbers"
            )
    is_matrix = len(first.shape) in (2, 4) and len(second.shape) in (2, 4) and first.numel and second.numel
    if not is_matrix or first.shape[0] != second.shape[1] or any(n != 1 for n in second.shape[2:]):
        raise LoraError(
            f"{origin}: the factors of {keys[names[0]].module} need shapes (rank, in) and (out, rank), found "
            f"{first.name} {first.shape} and {second.name} {second.shape}"
        )
    a, b = (_finite(tensor, origin) for tensor in (first, second))
    alpha = None if "alpha" not in roles else _alpha(tensors[roles["alpha"]], origin)
    key = keys[names[0]]
    return FactorPair(key, names, a, b, _scale(origin, key, a.shape[0], alpha, settings))


def _scale(
    origin: str, key: LoraKey, rank: int, alpha: float | None, settings: Mapping[str, AdapterSettings]
) -> float:
    found = settings.get(key.part or "", settings.get(""))
    if found is None:
        if alpha is None and key.is_native:
            return DEFAULT_SCALE  # the published training's; its files do not store it
        return 1.0 if alpha is None else alpha / rank
    scale = found.scale(key.module, rank)
    if alpha is not None and alpha / rank != scale:
        raise LoraError(
            f"{origin}: alpha of {key.module} is {alpha:g}, which gives the scale {alpha / rank:g}, and "
            f"{found.origin} say {scale:g}; remove one of the two"
        )
    return scale


def _alpha(tensor: LazyTensor, origin: str) -> float:
    if tensor.numel != 1 or tensor.dtype.is_complex:
        raise LoraError(f"{origin}: {tensor.name} has shape {tensor.shape}, expected one number")
    alpha = float(tensor.read().double())
    if not torch.isfinite(torch.tensor(alpha)):
        raise LoraError(f"{origin}: {tensor.name} is {alpha}, expected a finite number")
    return alpha


def _finite(tensor: LazyTensor, origin: str) -> Tensor:
    """A factor in at least 16 bits; fp8 numbers cannot be computed with."""
    value = tensor.read()
    if value.dtype.itemsize < 2:
        value = value.float()
    if num := int((~torch.isfinite(value)).sum()):
        raise LoraError(
            f"{origin}: {tensor.name} holds {num} NaN or infinite numbers of {value.numel()}; the training "
            "broke down or the file is damaged"
        )
    return value


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def first_names(names: Iterable[str]) -> str:
    """The first few names for an error."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
