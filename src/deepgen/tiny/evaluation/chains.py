"""Evaluation of twelve edits in a row: how well untouched cells are kept, and how many edits hold.

A picture that is encoded and decoded again at every edit loses a little each time; this says how much after
twelve. All chains take their first edit together, then their second, so that edits are drawn in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deepgen.data.png import read_record, save_png
from deepgen.evaluation.benchmark import Item, Settings
from deepgen.evaluation.models import Model
from deepgen.evaluation.run_config import Workers, chunked
from deepgen.evaluation.seeds import seed_of
from deepgen.evaluation.statistics import share_interval
from deepgen.evaluation.store import Images
from deepgen.tiny.edit_chain import ChainStep, EditChain, sample_chain
from deepgen.tiny.evaluation.scores import kept_share, psnr_within
from deepgen.tiny.read import Reading, read
from deepgen.tiny.render import render

NAME = "twelve edits"
LEAST_PSNR = 30.0  # dB, what is hoped for


@dataclass(frozen=True, kw_only=True)
class ChainReport:
    """What chains of edits came to.

    Attributes:
        num_chains: chains that were drawn.
        num_edits: of each chain.
        held: share of edits after which the picture had what this edit asked for, and not before it.
        held_interval: bootstrap interval at 95 % over chains, whose edits are not independent.
        whole: share of edits after which the whole picture was as all edits so far should have made it, by
            nouns, cells and word.
        kept: share of the cells left alone that still hold after the last edit what they held at first.
        psnr: in dB between first and last picture within these cells, mean of the chains.
        least_psnr: of the worst chain.
        psnr_after_one: the same after the first edit.
        num_above: chains of at least 30 dB after the last edit.
    """

    num_chains: int
    num_edits: int
    held: float
    held_interval: tuple[float, float]
    whole: float
    kept: float
    psnr: float
    least_psnr: float
    psnr_after_one: float
    num_above: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: _rounded(value) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        """One line."""
        return (
            f"{NAME}: {self.held:.2f} of the edits held, the whole picture was right after {self.whole:.2f} "
            f"of them, cells kept {self.kept:.2f}, PSNR outside edited cells {self.psnr:.1f} dB after "
            f"{self.num_edits} edits (worst {self.least_psnr:.1f}, after one {self.psnr_after_one:.1f}; "
            f"{self.num_above} of {self.num_chains} chains have at least {LEAST_PSNR:.0f})"
        )


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value


def sample_chains(num_chains: int, seed: int = 0) -> list[EditChain]:
    """That many chains; with more, the same come and further ones."""
    return [sample_chain(np.random.default_rng((seed, index))) for index in range(num_chains)]


def draw_chains(
    model: Model,
    chains: Sequence[EditChain],
    settings: Settings,
    folder: Path,
    batch_size: int,
    say: Callable[[int], None] = lambda step: None,
    team: Workers | None = None,
) -> list[list[Image.Image]]:
    """The pictures after each edit, chain by chain. Those that `folder` has of an earlier run are taken.

    `say` is called with the number of edits done of every chain. Of a team each process draws the chains of
    its batches, and returns when all have drawn theirs; then each has the pictures of all.
    """
    team = team or Workers()
    folder.mkdir(parents=True, exist_ok=True)
    stored = Images(folder, team.rank)
    drawn: list[list[Image.Image]] = [[] for _ in chains]
    mine = [n for batch in team.share(chunked(range(len(chains)), batch_size)) for n in batch]
    for step in range(len(chains[0].steps)):
        items = [_item(chains[n], drawn[n], n, step) for n in mine]
        missing = [item for item in items if (item.id, step) not in stored]
        for chunk in chunked(missing, batch_size):
            seeds = [seed_of(settings.seed, NAME, item.id, step) for item in chunk]
            for item, seed, image in zip(chunk, seeds, model.draw(chunk, seeds, settings), strict=True):
                path = f"{item.id}-{step + 1:02d}.png"
                save_png(image, folder / path, read_record(image))
                stored.add(item.id, step, path, seed=seed)
        for number in mine:
            drawn[number].append(_stored_image(stored, number, step))
        say(step + 1)
    if team.count > 1:
        team.wait()
        stored.read()
        for number in set(range(len(chains))) - set(mine):
            steps = range(len(chains[number].steps))
            drawn[number] = [_stored_image(stored, number, step) for step in steps]
    return drawn


def _stored_image(stored: Images, number: int, step: int) -> Image.Image:
    record = stored.get(_name(number), step)
    assert record is not None
    with Image.open(stored.folder / record["path"]) as image:
        return image.convert("RGB")


def _name(number: int) -> str:
    return f"chain-{number:03d}"


def _item(chain: EditChain, images: Sequence[Image.Image], index: int, step: int) -> Item:
    before = images[-1] if images else render(chain.start)
    return Item(
        id=_name(index),
        category=NAME,
        prompt=chain.steps[step].text,
        references=(lambda: before,),
    )


def score_chains(chains: Sequence[EditChain], drawn: Sequence[Sequence[Image.Image]]) -> ChainReport:
    """What the chains came to."""
    steps = [
        (_is_done(step, before, after), step.is_whole(after))
        for chain, images in zip(chains, drawn, strict=True)
        for step, before, after in _read_steps(chain, images)
    ]
    held, whole = (float(np.mean([step[index] for step in steps])) for index in (0, 1))
    length = len(chains[0].steps)
    of_chains = {
        n: [float(step[0]) for step in steps[n * length : (n + 1) * length]] for n in range(len(chains))
    }
    kept = [
        kept_share(chain.start, chain.untouched, read(images[-1]))
        for chain, images in zip(chains, drawn, strict=True)
    ]
    first = [_psnr(chain, images[0]) for chain, images in zip(chains, drawn, strict=True)]
    last = [_psnr(chain, images[-1]) for chain, images in zip(chains, drawn, strict=True)]
    return ChainReport(
        num_chains=len(chains),
        num_edits=len(chains[0].steps),
        held=held,
        held_interval=share_interval(of_chains),
        whole=whole,
        kept=float(np.mean([share for share in kept if share is not None])),
        psnr=float(np.mean(last)),
        least_psnr=min(last),
        psnr_after_one=float(np.mean(first)),
        num_above=sum(value >= LEAST_PSNR for value in last),
    )


def _psnr(chain: EditChain, image: Image.Image) -> float:
    value = psnr_within(chain.start, chain.untouched, image)
    assert value is not None  # a chain always leaves cells alone
    return value


def _read_steps(chain: EditChain, images: Sequence[Image.Image]) -> list[tuple[ChainStep, Reading, Reading]]:
    """Each edit with what is read before and after it."""
    readings = [read(render(chain.start)), *(read(image) for image in images)]
    return list(zip(chain.steps, readings[:-1], readings[1:], strict=True))


def _is_done(step: ChainStep, before: Reading, after: Reading) -> bool:
    """Whether an edit brought about what it asks for, which was not there already."""
    return step.held(after) and not step.held(before)


def chain_sheet(
    chains: Sequence[EditChain], drawn: Sequence[Sequence[Image.Image]], most: int = 4
) -> list[list[tuple[Image.Image, bool | None]]]:
    """Rows of (picture, whether it has what its edit asked for); the first picture has no edit."""
    rows = []
    for chain, images in list(zip(chains, drawn, strict=True))[:most]:
        row: list[tuple[Image.Image, bool | None]] = [(render(chain.start), None)]
        steps = _read_steps(chain, images)
        row += [(image, _is_done(*step)) for image, step in zip(images, steps, strict=True)]
        rows.append(row)
    return rows
