"""LoRA on the parts of a pipeline: `load_lora_weights` for any trainer's files, and diffusers' other methods.

A file is read (`checkpoints/lora_files.py`) and fitted to the models (`checkpoints/lora_fit.py`) before
anything changes; then PEFT's layers are put in with the exact names, ranks and strengths that were found.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_pipeline import SanaLoraLoaderMixin, _load_lora_into_text_encoder
from torch import Tensor
from transformers.utils import logging as transformers_logging

from deepgen.checkpoints.layouts import HubOptions
from deepgen.checkpoints.lora_files import LoraFile, read_lora
from deepgen.checkpoints.lora_fit import FittedLora, LowRankUpdate, fit, peft_settings
from deepgen.checkpoints.lora_keys import PARTS
from deepgen.checkpoints.saving import LORA_FILE
from deepgen.distilled_lora import DistilledLoraMixin, write_metadata

logger = logging.getLogger(__name__)

_HUB = ("revision", "cache_dir", "token", "local_files_only")
_IGNORED = ("use_safetensors", "force_download", "proxies", "low_cpu_mem_usage")  # of diffusers' method


def uncompiled(pipe: Any, part: str) -> Any:
    """A part of a pipeline itself, where `torch.compile(part)` was put in its place."""
    module = getattr(pipe, part)
    return getattr(module, "_orig_mod", module)


class DeepGenLoraLoaderMixin(DistilledLoraMixin, SanaLoraLoaderMixin):
    """`load_lora_weights`, `set_adapters`, `fuse_lora` and the rest of diffusers' LoRA methods, for our
    parts.

    Layers are found by the names of the trainers; see `docs/models.md` for the forms that are known.
    """

    _lora_loadable_modules = list(PARTS)

    def load_lora_weights(  # type: ignore[override]
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | Mapping[str, Tensor] | LoraFile,
        adapter_name: str | None = None,
        hotswap: bool = False,
        strict: bool = True,
        **kwargs: Any,
    ) -> None:
        """Load an adapter from a safetensors file, a folder, a hub id or a state dict.

        Args:
            pretrained_model_name_or_path_or_dict: the file, or what `read_lora` made of it.
            adapter_name: for `set_adapters` and the others; without dots.
            hotswap: put the new weights in the place of the adapter of that name, as diffusers does it.
            strict: refuse a file of which a part does not fit the model; False leaves that part out, and
                says so.
            **kwargs: `weight_name`, `subfolder`, `revision`, `cache_dir`, `token`, `local_files_only`.

        Raises:
            LoraError: the file is no LoRA, damaged, does not fit or changes nothing. Nothing has changed.
            ValueError: the adapter's name cannot be used, or an argument is not known.
        """
        fitted = self.check_lora_weights(pretrained_model_name_or_path_or_dict, strict=strict, **kwargs)
        name = self._adapter_name(adapter_name, fitted, hotswap)
        if hotswap:
            for part in fitted.parts:
                _hotswap(uncompiled(self, part), fitted.of(part), name, self)
        else:
            with _all_or_nothing(self, fitted.parts, name):
                for part in fitted.parts:
                    self._add_adapter(part, fitted.of(part), name)
        self._remember_distilled(name, fitted.distilled)
        for notice in fitted.notices:
            logger.warning("%s: %s", fitted.origin, notice)

    def check_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | Mapping[str, Tensor] | LoraFile,
        strict: bool = True,
        **kwargs: Any,
    ) -> FittedLora:
        """What `load_lora_weights` would add to which layers; the models stay as they are.

        Raises:
            LoraError, ValueError: as `load_lora_weights`.
        """
        source: Any = pretrained_model_name_or_path_or_dict
        hub = HubOptions(**{name: kwargs.pop(name) for name in _HUB if kwargs.get(name) is not None})
        file = source
        if not isinstance(source, LoraFile):
            places = {name: kwargs.pop(name, None) for name in ("weight_name", "subfolder")}
            file = read_lora(source, hub=hub, **places)
        if unknown := sorted(name for name in kwargs if name not in (*_IGNORED, *_HUB)):
            raise ValueError(f"load_lora_weights does not know {', '.join(unknown)}")
        if any(getattr(module, "fused_projections", False) for module in self.transformer.modules()):
            raise ValueError(
                "query, key and value are fused, so that LoRAs on them would have no effect; call "
                "transformer.unfuse_qkv_projections() first"
            )
        return fit(file, {part: uncompiled(self, part) for part in PARTS}, is_strict=strict)

    def remove_lora(self, adapter_name: str) -> None:
        """Take an adapter out of all parts, and the layers that were made for it alone: afterwards they are
        as if it had not been loaded. diffusers' `delete_adapters` leaves the layers.
        """
        for part in PARTS:
            module = uncompiled(self, part)
            if adapter_name in (getattr(module, "peft_config", None) or {}):
                _remove(module, adapter_name, [name for name in _active(module) if name != adapter_name])

    def fuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:  # type: ignore[override]
        """As diffusers' method; by default every part that has an adapter, not the transformer alone."""
        with _weights_in_place(self):
            super().fuse_lora(components=self._adapted() if components is None else components, **kwargs)

    def unfuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:  # type: ignore[override]
        """As diffusers' method; by default every part that has an adapter."""
        with _weights_in_place(self):
            super().unfuse_lora(components=self._adapted() if components is None else components, **kwargs)

    def _adapted(self) -> list[str]:
        adapted = [part for part in PARTS if getattr(uncompiled(self, part), "peft_config", None)]
        return adapted or ["transformer"]  # where there is nothing to fuse, as diffusers says it

    def _add_adapter(self, part: str, updates: list[LowRankUpdate], name: str) -> None:
        """Put new layers into one part and fill them."""
        state, settings = _state(updates), peft_settings(updates)
        model = uncompiled(self, part)
        if part == "vlm":
            with _quiet_load_report():
                _load_lora_into_text_encoder(
                    {f"vlm.{key}": value for key, value in state.items()},
                    network_alphas=None,
                    text_encoder=model,
                    prefix="vlm",
                    text_encoder_name="vlm",
                    adapter_name=name,
                    _pipeline=self,
                    metadata={f"vlm.{key}": value for key, value in settings.items()},
                )
        else:
            model.load_lora_adapter(state, prefix=None, adapter_name=name, metadata=settings, _pipeline=self)

    def _adapter_name(self, name: str | None, fitted: FittedLora, hotswap: bool) -> str:
        """The name of the new adapter. ValueError where it cannot be used, or swapped as asked."""
        names = {part: set(getattr(uncompiled(self, part), "peft_config", None) or {}) for part in PARTS}
        if hotswap:
            self._check_hotswap(name, fitted, [part for part in PARTS if name in names[part]])
            return str(name)
        if name is None:
            numbers = (f"default_{number}" for number in range(sum(map(len, names.values())) + 1))
            return next(new for new in numbers if not any(new in there for there in names.values()))
        if not name or "." in name:
            raise ValueError(f"adapter name {name!r}: PEFT wants a name without dots")
        if taken := [part for part in fitted.parts if name in names[part]]:
            raise ValueError(
                f"the {taken[0]} has an adapter named {name!r} already; choose another name, "
                f"delete_adapters({name!r}), or hotswap=True to put this one in its place"
            )
        return name

    def _check_hotswap(self, name: str | None, fitted: FittedLora, having: list[str]) -> None:
        """ValueError where the weights of an adapter cannot be exchanged.

        diffusers drops the old adapter when it finds that out half way, so it is found out here.
        """
        if set(having) != set(fitted.parts) or "vlm" in having:
            raise ValueError(
                f"hotswap: {fitted.origin} is for {', '.join(fitted.parts)}, and adapter {name!r} is on "
                f"{', '.join(having) or 'no part'}; both must be on the same parts, the VLM not among them"
            )
        for update in fitted.updates:
            layer: Any = getattr(self, update.part).get_submodule(update.module)
            if name not in getattr(layer, "lora_A", {}):
                raise ValueError(
                    f"hotswap: adapter {name!r} has no layer {update.part}.{update.module}, which "
                    f"{fitted.origin} changes; load it as an adapter of its own"
                )
            if layer.merged_adapters:
                raise ValueError("hotswap: adapters are fused into the weights; call unfuse_lora() first")

    def save_lora_weights(  # type: ignore[override]
        self, save_directory: str | os.PathLike, adapter_name: str = "default"
    ) -> None:
        """Write the adapters of all parts as one file for `load_lora_weights`, ranks and strengths included.

        Raises:
            ValueError: no part has an adapter of that name.
        """
        from peft.utils import get_peft_model_state_dict

        adapted = {
            part: uncompiled(self, part)
            for part in PARTS
            if adapter_name in (getattr(uncompiled(self, part), "peft_config", None) or {})
        }
        if not adapted:
            raise ValueError(f"no part has an adapter named {adapter_name!r}; there is nothing to save")
        with _weights_in_place(self):
            self._save_lora_weights(
                save_directory,
                lora_layers={
                    part: get_peft_model_state_dict(module, adapter_name=adapter_name)
                    for part, module in adapted.items()
                },
                lora_metadata={
                    part: module.peft_config[adapter_name].to_dict() for part, module in adapted.items()
                },
            )
        if adapter_name in self._distilled_adapters:
            write_metadata(Path(save_directory) / LORA_FILE, self._distilled_adapters[adapter_name])


@contextmanager
def _weights_in_place(pipe: Any) -> Iterator[None]:
    """Without sequential offloading meanwhile, which puts empty tensors in the place of the weights between
    two forwards: what is added to those is lost without an error, and a picture is drawn without the LoRA.
    """
    modules = [uncompiled(pipe, part) for part in PARTS]
    if pipe.hf_device_map is not None or not any(p.is_meta for part in modules for p in part.parameters()):
        yield
        return
    device = pipe._execution_device
    pipe.remove_all_hooks()
    try:
        yield
    finally:
        pipe.enable_sequential_cpu_offload(device=device)


def _state(updates: list[LowRankUpdate]) -> dict[str, Tensor]:
    return dict(entry for update in updates for entry in update.tensors())


def _hotswap(model: Any, updates: list[LowRankUpdate], name: str, pipe: Any) -> None:
    """Exchange an adapter's weights and strengths in place."""
    from peft import LoraConfig

    before, settings = model.peft_config[name], peft_settings(updates)
    # PEFT compares these with the adapter's own and refuses what differs, because it does not exchange them.
    # Here that is done below.
    same = {key: getattr(before, key) for key in ("alpha_pattern", "use_rslora", "lora_dropout", "use_dora")}
    model.load_lora_adapter(
        _state(updates),
        prefix=None,
        adapter_name=name,
        metadata=settings | same,
        hotswap=True,
        _pipeline=pipe,
    )
    for update in updates:
        scaling = model.get_submodule(update.module).scaling
        if isinstance(scaling[name], Tensor):  # of a model prepared for compiling
            scaling[name].fill_(update.scale)
        else:
            scaling[name] = update.scale
    model.peft_config[name] = LoraConfig(**settings)


@contextmanager
def _all_or_nothing(pipe: Any, parts: list[str], name: str) -> Iterator[None]:
    """Take the adapter `name` out of all parts again where one of them could not be given it."""
    active = {part: _active(uncompiled(pipe, part)) for part in parts}
    try:
        yield
    except BaseException:  # Ctrl-C too: half an adapter must not stay
        for part in parts:
            _remove(uncompiled(pipe, part), name, active[part])
        raise


def _active(model: Any) -> list[str]:
    """The adapters a part runs with."""
    if not getattr(model, "peft_config", None):
        return []
    active = model.active_adapters
    return list(active() if callable(active) else active)


def _remove(model: Any, name: str, active: list[str]) -> None:
    """The part as it was before `name`: without its weights, its settings and the layers made for it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in list(model.named_modules()):
        if not isinstance(module, BaseTunerLayer):
            continue
        if name in module._all_available_adapter_names():
            module.delete_adapter(name)
        if not module._all_available_adapter_names():
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module.get_base_layer())
    settings = getattr(model, "peft_config", {})
    settings.pop(name, None)
    if active:
        model.set_adapter(active)
    elif not settings and hasattr(model, "peft_config"):
        del model.peft_config
        model._hf_peft_config_loaded = False


@contextmanager
def _quiet_load_report() -> Iterator[None]:
    """transformers reports every base weight as missing when it loads an adapter alone; that is no news."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
