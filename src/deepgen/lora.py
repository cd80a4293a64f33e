"""LoRA weights for the parts of a pipeline: one file, keys prefixed `transformer.`, `connector.` or
`vlm.`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from diffusers.loaders.lora_pipeline import SanaLoraLoaderMixin, _load_lora_into_text_encoder
from torch import Tensor
from transformers.utils import logging as transformers_logging

PARTS = ("transformer", "connector", "vlm")


class DeepGenLoraLoaderMixin(SanaLoraLoaderMixin):
    """`load_lora_weights`, `set_adapters`, `fuse_lora` and the rest of diffusers' LoRA methods, for our
    parts.

    Files without any of our prefixes, as other trainers write them, are taken to be for the transformer.
    """

    _lora_loadable_modules = list(PARTS)

    def load_lora_weights(  # type: ignore[override]
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | Mapping[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load an adapter from a safetensors file, a folder, a hub id or a state dict.

        Raises:
            ValueError: a key is no LoRA weight, or belongs to no part of this pipeline.
        """
        kwargs["return_lora_metadata"] = True
        kwargs["use_safetensors"] = True  # pickles are never opened
        state_dict, metadata = self.lora_state_dict(pretrained_model_name_or_path_or_dict, **kwargs)
        foreign = [key for key in state_dict if "lora" not in key]
        if foreign:
            raise ValueError(
                f"not a LoRA file: {len(foreign)} keys are no LoRA weights, the first is {foreign[0]!r}"
            )
        if not any(key.split(".", 1)[0] in PARTS for key in state_dict):
            state_dict = {f"transformer.{key}": value for key, value in state_dict.items()}
        stray = [key for key in state_dict if key.split(".", 1)[0] not in PARTS]
        if stray:
            raise ValueError(
                f"LoRA keys belong to none of {', '.join(PARTS)}: {', '.join(sorted(stray)[:5])}"
            )

        name = adapter_name or f"default_{len(getattr(self.transformer, 'peft_config', {}))}"
        for part in ("transformer", "connector"):
            if any(key.startswith(f"{part}.") for key in state_dict):
                getattr(self, part).load_lora_adapter(
                    state_dict,
                    prefix=part,
                    adapter_name=name,
                    metadata=metadata,
                    _pipeline=self,
                    hotswap=hotswap,
                )
        if any(key.startswith("vlm.") for key in state_dict):
            with _quiet_load_report():
                _load_lora_into_text_encoder(
                    state_dict,
                    network_alphas=None,
                    text_encoder=self.vlm,
                    prefix="vlm",
                    text_encoder_name="vlm",
                    adapter_name=name,
                    _pipeline=self,
                    hotswap=hotswap,
                    metadata=metadata,
                )

    def save_lora_weights(  # type: ignore[override]
        self, save_directory: str | os.PathLike, adapter_name: str = "default"
    ) -> None:
        """Write the adapters of all parts as one file for `load_lora_weights`, ranks and strengths included.

        Raises:
            ValueError: no part has an adapter of that name.
        """
        from peft.utils import get_peft_model_state_dict

        adapted = {
            part: getattr(self, part)
            for part in PARTS
            if adapter_name in (getattr(getattr(self, part), "peft_config", None) or {})
        }
        if not adapted:
            raise ValueError(f"no part has an adapter named {adapter_name!r}; there is nothing to save")
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


@contextmanager
def _quiet_load_report() -> Iterator[None]:
    """transformers reports every base weight as missing when it loads an adapter alone; that is no news."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
