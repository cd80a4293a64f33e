"""The tables of docs/training_plan.md: memory of each way of training on common cards.

`python tools/training_plan.py` prints them, `--write` puts them into the page.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from deepgen.planning.accelerators import accelerator
from deepgen.training.adapters import LoraSettings
from deepgen.training.plan import Counts, PlanConfig, TrainingPlan, plan

PAGE = Path(__file__).parents[1] / "docs" / "training_plan.md"
BEGIN, END = "<!-- tools/training_plan.py -->\n", "<!-- end -->"

_LORA = LoraSettings()
_SMALL = LoraSettings(rank=16, alpha=16, dropout=0.0)
_STAGE_2 = PlanConfig(trains_transformer=True, vlm_lora=_LORA, edit_share=1 / 3)
_SHARDED = replace(_STAGE_2, num_processes=8, sharding="fsdp")
MODES = {
    "DiT LoRA of rank 16": PlanConfig(trains_connector=False, transformer_lora=_SMALL),
    "DiT and VLM LoRA of rank 64": PlanConfig(
        trains_connector=False, transformer_lora=_LORA, vlm_lora=_LORA, edit_share=1 / 3
    ),
    "the same and the connector": PlanConfig(transformer_lora=_LORA, vlm_lora=_LORA, edit_share=1 / 3),
    "stage 1": PlanConfig(),
    "stage 2, 8-bit moments": replace(_STAGE_2, is_8bit=True),
    "stage 2": _STAGE_2,
    "stage 2, FSDP on 8": _SHARDED,
    "stage 2, FSDP on 8, frozen too": replace(_SHARDED, shards_frozen=True),
}
CARDS = ("rtx-4090", "a100-40gb", "h100", "h200")  # 24, 40, 80, 141 GB


def table() -> str:
    """One row a mode: GB of weights and state, GB of an edit's activations, and what fits each card."""
    counts = Counts()
    plans = {
        (name, again): plan(
            replace(config, micro_batch_size=1, is_checkpointing_activations=again),
            accelerator("b200"),
            counts=counts,
        )
        for name, config in MODES.items()
        for again in (False, True)
    }
    sizes = [f"{accelerator(name).memory_gb:.0f} GB" for name in CARDS]
    head = ["mode", "weights and state", "an edit", "an edit, recomputed", *sizes]
    lines = [_line(head), "|---|" + "---:|" * 3 + "---|" * len(CARDS)]
    for name in MODES:
        kept, again = plans[name, False], plans[name, True]
        cells = [f"{sum(kept.weights.values()) / 1e9:.1f}", f"{_edit(kept):.1f}", f"{_edit(again):.1f}"]
        cells += [_most(kept, again, accelerator(name).memory_gb * 1e9) for name in CARDS]
        lines.append(_line([name, *cells]))
    return "\n".join(lines) + "\n"


def _edit(result: TrainingPlan) -> float:
    return sum(result.activations["edit"].values()) / 1e9


def _most(kept: TrainingPlan, again: TrainingPlan, memory: float) -> str:
    """The largest micro-batch up to 64, kept / recomputed."""
    counts = []
    for result in (kept, again):
        one = max(sum(parts.values()) for parts in result.activations.values())
        counts.append(min(64, max(0, int((memory - (result.peak - one)) // one))))
    return " / ".join(str(count) if count else "–" for count in counts)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the tables, or write them."""
    text = table()
    if "--write" not in sys.argv:
        print(text, end="")
        return
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
