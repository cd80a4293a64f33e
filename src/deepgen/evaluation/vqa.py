"""A local model that answers questions about a picture, beside the judge: BLIP or ViLT, of transformers.

The official scorer of DPG-Bench asks mPLUG-large, which transformers does not have; how far scores of another
model are from it is not known, so the version names what was asked.
"""

from __future__ import annotations

import threading
from typing import Any

from PIL import Image

from deepgen.image_colors import to_srgb

_FAMILIES = ("blip", "vilt")
_LONGEST = 10  # tokens of an answer


class LocalVQA:
    """A frozen VQA model. Calls from several threads wait for each other.

    Args:
        model: Hub id or folder of a BlipForQuestionAnswering or ViltForQuestionAnswering, with its tokenizer
            and its image processor.
        device: auto is cuda where there is one.

    Raises:
        ValueError: a model of another family.
    """

    def __init__(self, model: str, device: str = "auto") -> None:
        import torch
        from transformers import (
            AutoConfig,
            AutoImageProcessor,
            AutoModelForVisualQuestionAnswering,
            AutoTokenizer,
        )

        config = AutoConfig.from_pretrained(model)
        if config.model_type not in _FAMILIES:
            raise ValueError(f"{model} is a {config.model_type}; for questions give {' or '.join(_FAMILIES)}")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = AutoModelForVisualQuestionAnswering.from_pretrained(model)
        self._model.requires_grad_(False).eval().to(device)
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        # One way of resizing, whether torchvision is there or not.
        self._processor = AutoImageProcessor.from_pretrained(model, backend="pil")
        self._writes = config.model_type == "blip"  # ViLT chooses among answers it knows
        self._max_tokens = (config.text_config if self._writes else config).max_position_embeddings
        self._lock = threading.Lock()
        self.version = f"{model}-{type(self._model).__name__}"

    def __call__(self, image: Image.Image, question: str) -> str:
        """The answer in small letters; a question is cut where the model's text ends."""
        import torch

        tokens = self._tokenizer(question, truncation=True, max_length=self._max_tokens, return_tensors="pt")
        given: dict[str, Any] = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        images = self._processor(images=to_srgb(image), return_tensors="pt")
        names = ("pixel_values",) if self._writes else ("pixel_values", "pixel_mask")
        given |= {name: images[name] for name in names}
        with self._lock, torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # ViLT shuffles its patches, which moves the rounding
            given = {name: value.to(self._model.device) for name, value in given.items()}
            if self._writes:
                written = self._model.generate(**given, max_new_tokens=_LONGEST)
                answer = self._tokenizer.decode(written[0], skip_special_tokens=True)
            else:
                best = int(self._model(**given).logits[0].argmax())
                answer = str(self._model.config.id2label[best])
        return answer.strip().lower()
