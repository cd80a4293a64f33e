"""What makes the connector work: fresh connectors of other shapes, trained by stage 1 on `shapes`.

    python tools/ablation.py OUTPUT [--steps 300] [--seeds 0 1 ... 7] [--cache FOLDER --data MIXTURE]

VLM, DiT and VAE are those of `shapes` and frozen; every row gets the same samples, noise and steps, and is
measured on held-out rows at eight fixed noise levels. A row that is there already is not run again, so the
command can be interrupted. Writes `ablation.json` and `ablation.md` into OUTPUT: the table, and which
differences may be claimed. With fewer than eight seeds none may, and the table has no interval.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

from deepgen.evaluation.statistics import LEAST_SEEDS, SeedMean, over_seeds
from deepgen.recipes import recipe
from deepgen.training.loop import train
from deepgen.training.optim import OptimConfig
from deepgen.training.supervised import SupervisedConfig
from deepgen.training.validation import ValidationConfig

# The small VLM has five layers, so five taps are all there are.
ROWS = {
    "as shipped: 3 taps, 8 think tokens": (),
    "last hidden state": ("variant=last_hidden",),
    "1 tap": ("tap_stride=6",),
    "5 taps": ("tap_stride=1",),
    "no think tokens": ("num_think_tokens=0",),
    "16 think tokens": ("num_think_tokens=16",),
    "32 think tokens": ("num_think_tokens=32",),
}
TASKS = {"generate": "captions", "edit": "edits"}
HELD_OUT = """\
seed: 1
image: {rule: fix_pixels, image_size: 96, unit: 32}
tasks:
  edit:
    ratio: 1
    sources:
      edits: {source: shapes, rows: 64, task: edit, seed: 91}
  generate:
    ratio: 2
    sources:
      captions: {source: shapes, rows: 128, seed: 91}
"""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Run what is missing and write the table."""

    output: Positional[Annotated[Path, arg(metavar="OUTPUT")]]
    data: Path
    """A mixture of the small world, and its cache."""
    cache: Path | None = None
    steps: int = 300
    batch_size: int = 48
    lr: float = 1e-3
    seeds: tuple[int, ...] = tuple(range(LEAST_SEEDS))

    def run(self) -> None:
        """One row after the other, all of a seed before the next seed."""
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / "held_out.yaml").write_text(HELD_OUT)
        file = self.output / "ablation.json"
        results: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        for seed in self.seeds:
            for name, options in ROWS.items():
                if str(seed) in results.get(name, {}):
                    continue
                results.setdefault(name, {})[str(seed)] = self._run(options, seed)
                file.write_text(json.dumps(results, indent=1) + "\n")
                (self.output / "ablation.md").write_text(f"{table(results)}\n\n{claims(results)}\n")
                print(name, seed, results[name][str(seed)], flush=True)

    def _run(self, options: tuple[str, ...], seed: int) -> dict[str, float]:
        config = recipe("alignment")
        assert isinstance(config, SupervisedConfig)
        config = replace(
            config,
            model="shapes",
            new_connector=True,
            connector_options=options,
            data=self.data,
            cache=self.cache,
            seed=seed,
            num_steps=self.steps,
            global_batch_size=self.batch_size,
            micro_batch_size=self.batch_size,
            num_workers=0,
            device="cpu",
            num_threads=1,
            ema_decay=None,
            save_every=self.steps,
            log_every=50,
            optim=OptimConfig(lr=self.lr, muon_lr=None, warmup_steps=30, decay_share=0.7),
            validation=ValidationConfig(
                data=self.output / "held_out.yaml", every=10**6, num_samples=96, num_images=0
            ),
        )
        folder = self.output / f"{'-'.join(options).replace('=', '') or 'shipped'}-{seed}"
        started = time.perf_counter()
        train(config, folder, resume=any(folder.glob("step-*")))
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        last = {key: value for key, value in lines[-1].items() if key.startswith("validation/")}
        return {
            "generate": last["validation/generate"],
            "edit": last["validation/edit"],
            "seconds": round(time.perf_counter() - started, 1),
        }


def difference(results: dict[str, Any], name: str, task: str) -> SeedMean:
    """Of a row to the first one, over the seeds that both have.

    Seeds differ in data, noise and what is held out, so rows are compared within a seed.
    """
    first, runs = results[next(iter(results))], results[name]
    return over_seeds([runs[seed][task] - first[seed][task] for seed in runs if seed in first])


def table(results: dict[str, Any]) -> str:
    """Markdown: mean loss, and the difference to the first row in the same seed."""
    lines = [
        "| connector | loss, captions | against the first | loss, edits | against the first | seeds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for place, (name, runs) in enumerate(results.items()):
        cells = []
        for task in TASKS:
            cells.append(f"{statistics.mean(run[task] for run in runs.values()):.4f}")
            cells.append(difference(results, name, task).shown(4) if place else "")
        lines.append(f"| {name} | {' | '.join(cells)} | {len(runs)} |")
    return "\n".join(lines)


def claims(results: dict[str, Any]) -> str:
    """What the table shows beyond chance, and what it does not, in words."""
    pairs = [(name, task) for name in list(results)[1:] for task in TASKS]
    found = {(name, TASKS[task]): difference(results, name, task) for name, task in pairs}
    few = min((one.num_seeds for one in found.values()), default=0)
    if few < LEAST_SEEDS:
        return f"No claim: {few} seeds, and a difference is claimed from {LEAST_SEEDS} on."
    lines = [
        f"± is half of the 95 % confidence interval of the mean over seeds (Student's t). Of {len(found)} "
        "differences one in twenty seems significant by chance alone."
    ]
    for heading, is_in in (("Differs from the first", True), ("Not significant", False)):
        names = [f"{name} ({task})" for (name, task), one in found.items() if one.is_significant == is_in]
        lines.append(f"{heading}: {', '.join(names) or 'none'}.")
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(Ablation).run()
