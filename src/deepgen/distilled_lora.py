"""What a pipeline was distilled for, and the LoRA of its folder that makes it so.

A model says under `defaults["distilled"]` what it was distilled for, and so does a LoRA in its metadata.
Where a model's entry names a LoRA in its own folder, that one is put in for calls with preset "turbo" and
taken out again for the next call of another preset: all other pictures are drawn as if there were none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from deepgen.checkpoints.lora_keys import PARTS
from deepgen.checkpoints.saving import DISTILLED_FILE as FILE
from deepgen.sampling.few_steps import KEY, FewSteps, read_few_steps

OWN = "distilled"  # the adapter's name


class DistilledLoraMixin:
    """`defaults["distilled"]` of a pipeline with LoRAs, and the switch between its own LoRA and none."""

    config: Any
    transformer: Any
    load_lora_weights: Any
    remove_lora: Any

    @property
    def distilled(self) -> dict[str, Any] | None:
        """What it can be drawn with by preset "turbo" as it is, as JSON values: of a LoRA that is active,
        otherwise of the model. None: it was not distilled.
        """
        for name in self._active_adapters():
            if name in self._distilled_adapters and name != OWN:
                return self._distilled_adapters[name]
        return (self.config.get("defaults") or {}).get(KEY)

    @property
    def is_student(self) -> bool:
        """Whether its weights, or a LoRA that is active, are distilled themselves: it has one way to draw."""
        entry = self.distilled
        return entry is not None and entry.get("lora") is None

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As diffusers', of the DiT without the model's own LoRA, which is a file beside it.

        Raises:
            ValueError: other LoRAs are loaded, with whose layers the folder could not be loaded again.
        """
        self._use_distilled(False)
        if parts := [part for part in PARTS if _has_adapter_layers(getattr(self, part, None))]:
            raise ValueError(
                f"the {parts[0]} has LoRA layers, and a folder with them cannot be loaded again; call "
                "unload_lora_weights() to save the model without them (save_lora_weights() writes LoRAs), "
                "or fuse_lora() and then unload_lora_weights() to save it with them"
            )
        super().save_pretrained(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]

    def without_distilled(self) -> None:
        """Take the model's own LoRA out of the DiT, where a call with preset "turbo" left it."""
        self._use_distilled(False)

    def _use_distilled(self, is_wanted: bool) -> None:
        """Have the model's own LoRA in the DiT, or not."""
        entry, has_it = self.distilled, OWN in (getattr(self.transformer, "peft_config", None) or {})
        path = entry.get("lora") if is_wanted and entry is not None else None
        if path is None:
            if has_it:
                self.remove_lora(OWN)
            return
        active = self._active_adapters()
        if OWN not in active:
            if self._are_adapters_disabled():
                # PEFT disables layers, not adapters: with this one they would all be back.
                if set(self.transformer.peft_config) - {OWN}:
                    raise ValueError(
                        "preset 'turbo' puts the model's own LoRA into the DiT, whose LoRAs are disabled; "
                        "call enable_lora() to draw with them, or unload_lora_weights() to draw without"
                    )
                self.remove_lora(OWN)
                has_it = False
            if not has_it:
                self.load_lora_weights(path, adapter_name=OWN)
            self.transformer.set_adapter([*active, OWN])  # `set_adapters` would reset the others' strengths

    @property
    def _distilled_adapters(self) -> dict[str, dict[str, Any]]:
        """Of each adapter that was distilled, what for."""
        return self.__dict__.setdefault("_made_for_few_steps", {})

    def _remember_distilled(self, name: str, said: str | None) -> None:
        """Note what a LoRA that was loaded under a name says; ValueError where it cannot be read."""
        found = read_few_steps(said, f"LoRA {name}")
        if found is None:
            self._distilled_adapters.pop(name, None)
        else:
            self._distilled_adapters[name] = found.to_json()

    def _active_adapters(self) -> list[str]:
        """Names of those the DiT is drawn with; none after `disable_lora`."""
        is_adapted = getattr(self.transformer, "_hf_peft_config_loaded", False)  # False beside PEFT's own
        if not is_adapted or not getattr(self.transformer, "peft_config", None):
            return []
        if self._are_adapters_disabled():
            return []
        active = self.transformer.active_adapters
        return list(active() if callable(active) else active)

    def _are_adapters_disabled(self) -> bool:
        """Whether `disable_lora` was called and `enable_lora` was not."""
        layers = (getattr(module, "_disable_adapters", False) for module in self.transformer.modules())
        return bool(getattr(self.transformer, "peft_config", None)) and any(layers)


def _has_adapter_layers(module: Any) -> bool:
    return isinstance(module, nn.Module) and any(isinstance(one, BaseTunerLayer) for one in module.modules())


def located(defaults: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A model's defaults with the place of its own LoRA, where its folder has one.

    Raises:
        ValueError: the entry cannot be read or names no file of that folder.
    """
    entry = read_few_steps(defaults.get(KEY), f"{folder}/model_index.json")
    if entry is None or entry.lora is None:
        return dict(defaults)
    path = folder / Path(entry.lora).name
    if Path(entry.lora).name != entry.lora or not path.is_file():
        raise ValueError(
            f"{folder}/model_index.json names the LoRA {entry.lora!r} for preset 'turbo', and there is no "
            f"such file in {folder}; download the model again, or remove the entry {KEY!r} from its defaults"
        )
    return {**defaults, KEY: {**defaults[KEY], "lora": str(path)}}


def saved(index: dict[str, Any], folder: Path) -> str | None:
    """Copy the model's own LoRA beside an index that is about to be written there, and name it in that.

    Returns:
        The file's name, where there is one.
    """
    entry = (index.get("defaults") or {}).get(KEY) or {}
    if entry.get("lora") is None:
        return None
    target = folder / FILE
    if not target.exists() or not target.samefile(entry["lora"]):
        shutil.copyfile(entry["lora"], target)
    entry["lora"] = FILE
    return FILE


def write_metadata(file: Path, few_steps: FewSteps | Mapping[str, Any]) -> None:
    """Add to a LoRA file what it was distilled for."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(file, framework="pt") as opened:
        metadata = dict(opened.metadata() or {})
    said = few_steps.to_json() if isinstance(few_steps, FewSteps) else few_steps
    save_file(load_file(file), file, metadata={**metadata, KEY: json.dumps(said)})
