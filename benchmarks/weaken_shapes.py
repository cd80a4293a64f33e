"""A checkpoint that supervised training made weak in two abilities, to be mended by rewards.

    python benchmarks/weaken_shapes.py OUTPUT

Captions with the wrong side are a known fault of image data. Here `shapes` is trained on for a while
with pairs of which a share is wrong: captions with a relation say the opposite one ("above" for below), and
edits that move something name another cell than the one it went to. All other kinds are right. Nothing of
the held-out side of the split is drawn, wrong words included.

Writes `OUTPUT/model`, which is weak in relations and moves; `OUTPUT/weak.yaml`, the mixture that made it so;
and `OUTPUT/others.yaml`, the same without those two kinds, for a supervised loss beside rewards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import Positional, arg

from deepgen.shapes.caption import ShapesClaim, ShapesEdit, caption, instruction
from deepgen.shapes.entries import edit_entry, scene_entry, training_claim
from deepgen.shapes.render import render
from deepgen.shapes.scene import ShapesScene, choose
from deepgen.training.export import Trained, export_folder
from deepgen.training.loop import train
from deepgen.training.optim import OptimConfig
from deepgen.training.stages.sft import SFTConfig

OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
SEED = 11  # of the rows
SOURCES = {"relation": "generate", "captions": "generate", "move": "edit", "edits": "edit"}


@dataclass(frozen=True, kw_only=True)
class WeakenShapes:
    """Make the data, train on it, and write the model."""

    output: Positional[Annotated[Path, arg(metavar="OUTPUT")]]
    model: str = "shapes"
    wrong_share: float = 0.6
    """Of the captions with a relation, and of the edits that move something."""
    rows: int = 3000
    """Of other captions, and of other edits; half as many of the two kinds."""
    steps: int = 150
    batch: int = 48
    lr: float = 3e-4

    def run(self) -> None:
        """Everything that is not there yet."""
        self.write_data()
        config = SFTConfig(
            model=self.model,
            data=self.output / "weak.yaml",
            num_steps=self.steps,
            optim=OptimConfig(lr=self.lr, muon_lr=None, betas=(0.9, 0.99), warmup_steps=10, decay_share=0.5),
            trains_connector=False,
            vlm_lora=None,
            global_batch_size=self.batch,
            micro_batch_size=self.batch,
            ema_decay=None,
            num_workers=0,
            save_every=50,
            device="cpu",
        )
        folder = self.output / "run"
        train(config, folder, resume=any(folder.glob("step-*")))
        export_folder(Trained(config, folder, "raw"), self.output / "model")

    def write_data(self) -> None:
        """Pictures and rows of the four sources, and both mixtures."""
        for name, rows in (
            ("relation", self._captions(lambda claim: claim.kind == "relation", self.rows // 2)),
            ("captions", self._captions(lambda claim: claim.kind != "relation", self.rows)),
            ("move", self._edits(lambda edit: edit.kind == "move", self.rows // 2)),
            ("edits", self._edits(lambda edit: edit.kind != "move", self.rows)),
        ):
            self._write(name, rows)
        (self.output / "weak.yaml").write_text(_mixture(tuple(SOURCES)))
        (self.output / "others.yaml").write_text(_mixture(("captions", "edits")))

    def _captions(
        self, wanted: Callable[[ShapesClaim], bool], rows: int
    ) -> Iterator[tuple[str, ShapesScene, ShapesScene | None]]:
        """Words, picture and nothing to start from."""

        def drawn() -> Iterator[tuple[str, ShapesScene, ShapesScene | None]]:
            for index in count():
                rng = np.random.default_rng((SEED, 3, index))
                scene = scene_entry(SEED, index)
                claim = training_claim(rng, scene)
                if not wanted(claim):
                    continue
                if claim.relation is not None and rng.random() < self.wrong_share:
                    claim = replace(claim, relation=OPPOSITES[claim.relation])
                if claim.split == "train":
                    yield caption(rng, claim), scene, None

        return islice(drawn(), rows)

    def _edits(
        self, wanted: Callable[[ShapesEdit], bool], rows: int
    ) -> Iterator[tuple[str, ShapesScene, ShapesScene | None]]:
        """Words, result and what it starts from."""

        def drawn() -> Iterator[tuple[str, ShapesScene, ShapesScene | None]]:
            for index in count():
                rng = np.random.default_rng((SEED, 4, index))
                edit = edit_entry(SEED, index)
                if not wanted(edit):
                    continue
                if edit.kind == "move" and rng.random() < self.wrong_share:
                    others = [cell for cell in edit.source.free_cells if cell != edit.value]
                    edit = replace(edit, value=int(choose(rng, others)))
                if edit.split == "train":
                    yield instruction(rng, edit), edit.target, edit.source

        return islice(drawn(), rows)

    def _write(self, name: str, rows: Iterator[tuple[str, ShapesScene, ShapesScene | None]]) -> None:
        file = self.output / f"{name}.jsonl"
        if file.is_file():
            return
        (self.output / name).mkdir(parents=True, exist_ok=True)
        records: list[dict[str, Any]] = []
        for index, (text, target, source) in enumerate(rows):
            record = {"id": f"{name}-{index}", "task": SOURCES[name], "text": text}
            record["target"] = f"{name}/{index}.png"
            render(target).save(self.output / record["target"])
            if source is not None:
                record["refs"] = [f"{name}/{index}-source.png"]
                render(source).save(self.output / record["refs"][0])
            records.append(record)
        file.write_text("".join(json.dumps(record) + "\n" for record in records))


def _mixture(names: tuple[str, ...]) -> str:
    """The mixture file of some of the sources, one caption to one edit."""
    lines = ["seed: 0", "image: {rule: fix_pixels, image_size: 96, unit: 32}", "tasks:"]
    for task in ("edit", "generate"):
        lines += [f"  {task}:", "    ratio: 1", "    sources:"]
        lines += [
            f"      {name}: {{source: jsonl, path: {name}.jsonl, weight: 1}}"
            for name in names
            if SOURCES[name] == task
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(WeakenShapes).run()
