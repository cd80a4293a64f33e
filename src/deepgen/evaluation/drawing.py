"""Drawing the missing pictures of a benchmark, in fixed chunks; each is recorded as it is written.

Process r of n takes every n-th chunk, so a picture is drawn in the same chunk with its own seed however many
processes there are.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from deepgen.data.png import read_record, save_png
from deepgen.evaluation.benchmark import Item
from deepgen.evaluation.image_folder import FolderMatch
from deepgen.evaluation.models import CannotDraw, Model
from deepgen.evaluation.run_config import EvaluationJob, chunked
from deepgen.evaluation.seeds import seed_of
from deepgen.evaluation.store import Images, Lines, write_json
from deepgen.moved import renamed
from deepgen.progress import progress_bar, write_line

_MOST_FAILURES = 8  # chunks in a row that cannot be drawn before the run stops
Sample = tuple[Item, int]  # an item and the number of a sample


def draw(job: EvaluationJob, model: Model) -> dict[str, str]:
    """Draw what this process has to; returns reasons by item where there is no picture.

    Raises:
        ValueError: eight chunks in a row failed, or a sequence has a gap.
    """
    return _Drawing(job, model).run()


class _Drawing:
    """This process's share of a benchmark's pictures."""

    def __init__(self, job: EvaluationJob, model: Model) -> None:
        self.job, self.model = job, model
        self.images = Images(job.folder, job.team.rank)
        for problem in self.images.problems:
            write_line(f"deepgen: {job.benchmark.label}: {problem}; drawn again")
        self.chunks = job.team.share(chunked(job.chosen, job.config.batch_size if model.is_batched else 1))
        self.mine = [item for chunk in self.chunks for item in chunk]
        self.sequence = None
        if job.config.seeds == "sequential":
            self.sequence = _Sequence(job.folder, job.team.rank, job.settings.seed)
        self.failures = {item.id: item.fault for item in self.mine if item.fault}

    def run(self) -> dict[str, str]:
        """Draw, and finish items whose pictures are all there."""
        there = sum((item.id, n) in self.images for item in self.mine for n in self.job.samples)
        bar = progress_bar(
            len(self.mine) * len(self.job.samples),
            f"{self.job.benchmark.label}: draw",
            "pictures",
            initial=there,
            is_shown=self.job.shows_progress,
        )
        in_a_row = 0
        for index, chunk in enumerate(self.chunks):
            missing = self._missing(index, chunk)
            if not missing:
                continue
            try:
                self._draw(index, missing)
                in_a_row = 0
            except CannotDraw as error:  # a folder's gaps are of single samples
                in_a_row += 1
                self._failed(missing, error, in_a_row)
            bar.update(len(missing))
        bar.close()
        self._finish()
        return self.failures

    def _missing(self, index: int, chunk: Sequence[Item]) -> list[Sample]:
        """What has to be drawn of a chunk."""
        all_of_it = [(item, n) for n in self.job.samples for item in chunk if not item.fault]
        missing = [(item, n) for item, n in all_of_it if (item.id, n) not in self.images]
        if self.sequence is None:
            return missing
        if index < self.sequence.next and missing:
            raise ValueError(
                f"{self.job.folder}: {missing[0][0].id} is missing from the middle of a sequence, and only "
                "the whole sequence can be drawn again; choose another --output"
            )
        return all_of_it if index >= self.sequence.next else []

    def _draw(self, index: int, missing: Sequence[Sample]) -> None:
        """Draw, write and record pictures of one chunk."""
        if self.job.taken is not None:
            self._take(self.job.taken, missing)
            return
        job, benchmark = self.job, self.job.benchmark
        seeds = [seed_of(job.settings.seed, benchmark.label, item.id, n) for item, n in missing]
        images = self._images(missing, seeds)
        for (item, sample), image, seed in zip(missing, images, seeds, strict=True):
            self._keep(item, sample, image, seed if self.sequence is None else None)
        if self.sequence is not None:
            self.sequence.advance(index + 1)

    def _keep(self, item: Item, sample: int, image: Image.Image, seed: int | None) -> None:
        """Write and record one picture."""
        path = self.job.benchmark.image_path(item, sample)
        (self.job.folder / path).parent.mkdir(parents=True, exist_ok=True)
        save_png(image, self.job.folder / path, read_record(image))
        self.images.add(item.id, sample, path, seed=seed, size=image.size)

    def _take(self, taken: FolderMatch, missing: Sequence[Sample]) -> None:
        """Pictures of a folder, each by itself: a gap leaves the other samples of its item."""
        reasons = []
        for item, sample in missing:
            try:
                self._keep(item, sample, taken.take(item.id, sample), None)
            except CannotDraw as error:
                reasons.append(str(error))
        if reasons:
            raise CannotDraw("; ".join(reasons[:3]))

    def _images(self, missing: Sequence[Sample], seeds: Sequence[int]) -> list[Image.Image]:
        model = self.model
        generator = None if self.sequence is None else self.sequence.generator
        images = model.draw([item for item, _ in missing], seeds, self.job.settings, generator)
        if len(images) != len(missing):
            raise ValueError(f"{model.name} drew {len(images)} pictures where {len(missing)} were asked for")
        return images

    def _failed(self, missing: Sequence[Sample], error: CannotDraw, in_a_row: int) -> None:
        """Note the reason; a model that cannot draw anything stops the run."""
        self.failures.update({item.id: str(error) for item, _ in missing})
        if in_a_row == _MOST_FAILURES and self.job.taken is None:
            raise ValueError(
                f"{_MOST_FAILURES} items in a row could not be drawn, the last because: {error}; start the "
                "same command again to go on"
            ) from error

    def _finish(self) -> None:
        """What else the official layout holds of whole items, and a record of those that failed."""
        job = self.job
        finished = Lines(job.folder, "finished", job.team.rank)
        done = {row["item"] for row in finished}
        for item in self.mine:
            records = [self.images.get(item.id, n) for n in job.samples]
            if item.id not in done and all(records):
                paths = [job.folder / record["path"] for record in records if record]
                job.benchmark.finish(job.folder, item, paths)
                finished.append({"item": item.id})
        if job.taken is not None and self.failures:
            example = min(self.failures)
            write_line(
                f"deepgen: {job.benchmark.label}: {len(self.failures)} items have gaps, such as {example}: "
                f"{self.failures[example]}"
            )
        for name, reason in self.failures.items():
            Lines(job.folder, "failures", job.team.rank).append({"item": name, "reason": reason})


class _Sequence:
    """One generator for all pictures of a process, and where it stood after the last whole chunk."""

    def __init__(self, folder: Path, rank: int, seed: int) -> None:
        import torch

        self._path = folder / f"sequence-{rank}.json"
        self.generator = torch.Generator().manual_seed(seed)
        self.next = 0
        if self._path.is_file():
            saved = json.loads(self._path.read_text())
            self.next = saved["next"]
            state = bytearray(base64.b64decode(saved["state"]))
            self.generator.set_state(torch.frombuffer(state, dtype=torch.uint8))

    def advance(self, index: int) -> None:
        """All chunks before `index` are recorded."""
        self.next = index
        state = base64.b64encode(self.generator.get_state().numpy().tobytes()).decode()
        write_json(self._path, {"next": index, "state": state})


__getattr__ = renamed(__name__, {"Picture": "deepgen.evaluation.drawing.Sample"})
