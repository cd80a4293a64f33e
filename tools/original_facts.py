"""Facts of the original's recipes, from tests/recipes/*.json, and of ours, from configs and mixtures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FACTS = ROOT / "tests" / "recipes"
Facts = Mapping[str, Any]  # values by dotted path
Here = Callable[[Any], Any]  # of a config


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One thing that a recipe sets.

    Attributes:
        name: of the row.
        keys: facts that it answers for; {stage} is the stage's, and `common` of none.
        original: their value in our words.
        here: ours, from the config.
        why: why a recipe differs, by the recipe; "" is for those not named.
    """

    name: str
    keys: tuple[str, ...]
    original: Callable[[Facts], Any]
    here: Here
    why: str | Mapping[str, str]

    def reason(self, recipe: str) -> str:
        """Why this recipe differs."""
        return self.why if isinstance(self.why, str) else self.why.get(recipe, self.why.get("", ""))


# --- reading


@cache
def facts(name: str) -> dict[str, Any]:
    """Leaves of a file by dotted path."""
    return dict(_leaves(json.loads((FACTS / f"{name}_defaults.json").read_text(encoding="utf-8"))))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{key}" if path else key)
    else:
        yield path, value


def of_stage(stage: str) -> dict[str, Any]:
    """Facts of a supervised stage, its own under `stage`."""
    known = facts("training")
    own = {
        f"stage{key.removeprefix(stage)}": value
        for key, value in known.items()
        if key.startswith(f"{stage}.")
    }
    return {key: value for key, value in known.items() if not key.startswith("stage")} | own


@cache
def mixture(path: Path) -> dict[str, Any]:
    """A mixture file as it is written."""
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def ratios(path: Path | None) -> dict[str, int]:
    """Of the tasks of a mixture."""
    return {} if path is None else {task: one["ratio"] for task, one in mixture(path)["tasks"].items()}


def row_weights(path: Path | None) -> dict[str, float]:
    """Of the kinds of sets of rl-supervised.yaml."""
    if path is None:
        return {}
    found: dict[str, float] = {}
    for one in mixture(path)["tasks"].values():
        for name, source in one["sources"].items():
            kind = "banana_jimeng" if name.startswith("banana_jimeng") else "general"
            kind = "text_rendering" if any(word in name for word in ("text", "poster")) else kind
            assert found.setdefault(kind, source.get("row_weight", 1.0)) == source.get("row_weight", 1.0), (
                name
            )
    return {kind: float(weight) for kind, weight in found.items()}


# The original's name of each of our sources, where it is not the same with other punctuation.
_SETS = {
    "text_to_image_2m_1024": "text-to-image-2M",
    "sharegpt4o": "ShareGPT-4o-Image",
    "echo4o": "Echo-4o-Image",
    "opengpt4o": "OpenGPT-4o-Image",
    "opengpt4o_edit": "OpenGPT-4o-Image",
    "sharegpt4o_edit": "ShareGPT-4o-Image",
    "nano_consistent": "Nano-consistent-150k",
    "pico_banana": "pico-banana-400k",
    "uniworld_edit": "UniWorld-V1",
    "gpt_edit_hqedit": "GPT-Image-Edit/hqedit",
    "gpt_edit_omniedit": "GPT-Image-Edit/omniedit",
    "gpt_edit_ultraedit": "GPT-Image-Edit/ultraedit",
    "unireason_edit": "UniReason",
    "nhr_edit_1": "NHR-Edit",
    "nhr_edit_2": "NHR-Edit-part2",
}


def sets(path: Path | None, task: str) -> tuple[str, ...]:
    """The original's names of the sources of a task, in one spelling, sorted."""
    if path is None:
        return ()
    names = mixture(path)["tasks"][task]["sources"]
    return plain_names(_SETS.get(name, name) for name in names)


def plain_names(names: Any) -> tuple[str, ...]:
    """Without punctuation and capitals, sorted, each once."""
    return tuple(sorted({"".join(c for c in name.lower() if c.isalnum()) for name in names}))


def trained(config: Any) -> str:
    """What learns, in words."""
    parts = ["connector"] if config.trains_connector else []
    parts += ["DiT"] if config.trains_transformer else []
    parts += ["LoRA of the DiT"] if config.transformer_lora else []
    parts += ["LoRA of the VLM"] if config.vlm_lora else []
    return ", ".join(parts)


def trained_there(names: Any) -> str:
    """The same of the original's list."""
    parts = ["connector"] if "connector" in names else []
    parts += ["DiT"] if "dit" in names else []
    return ", ".join(parts + (["LoRA of the VLM"] if "vlm_lora" in names else []))


def lora(settings: Any) -> str:
    """A LoRA's size, in words."""
    if settings is None:
        return "none"
    return f"rank {settings.rank}, alpha {settings.alpha}, dropout {settings.dropout:g}"


def first_rate(config: Any) -> float:
    """Share of the peak at the first step."""
    from deepgen.training.optim import lr_factor

    return lr_factor(config.optim, 0, config.num_steps)


def shown(value: Any) -> str:
    """A value in a cell."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(part)}" for name, part in value.items()) or "none"
    return ", ".join(map(str, value)) if type(value) in (tuple, list) else str(value)
