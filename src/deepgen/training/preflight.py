"""What is worth knowing about training data before the first step, and what to do about it.

A loss falls on almost anything: on captions of words the model reads as `<unk>`, on pictures its VAE cannot
reproduce, on the same picture forty times. What comes out then is blurred, and nothing says why. So before a
run its data is looked at with the model's own tokenizer and VAE, for seconds, and every finding that spoils a
run is a warning that says what to do. Nothing is refused.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from deepgen.data.example import Size
from deepgen.data.mixture import Mixture
from deepgen.data.mixture_config import ImageRule
from deepgen.data.sources import make_source
from deepgen.data.survey import SourceSurvey, survey_source
from deepgen.models.vae import VAE
from deepgen.pipeline import DeepGenPipeline
from deepgen.training import preflight_warnings as warn
from deepgen.training.reproduction import Reproduction, reproduce_examples
from deepgen.training.supervised_settings import PreflightConfig, SupervisedSettings
from deepgen.training.unknown_words import UnknownWord, unknown_words, vocabulary
from deepgen.worlds import SHAPES, STORYBOOK

logger = logging.getLogger(__name__)

_WORLDS = (SHAPES, STORYBOOK)  # which are sources of that name, too
_OWN_IMAGES = 4  # of a world, as reference


@dataclass(frozen=True, kw_only=True)
class CheckedModel:
    """What of a model its training data is checked with.

    Attributes:
        tokenizer, vae: its parts.
        size: (height, width) it draws by default, pixels.
        world: the world it draws, if any.
    """

    tokenizer: PreTrainedTokenizerBase
    vae: VAE
    size: Size
    world: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """What of a run its data is compared with: samples of all steps together, and whether pictures are
    encoded already.
    """

    num_steps: int
    global_batch_size: int
    has_cache: bool = False

    @property
    def num_samples(self) -> int:
        """Of all steps."""
        return self.num_steps * self.global_batch_size


@dataclass(kw_only=True)
class SourcePreflight:
    """One source: its survey, the words of its captions that are not known, and pictures through the VAE."""

    survey: SourceSurvey
    unknown: list[UnknownWord] = field(default_factory=list)
    reproduced: list[Reproduction] = field(default_factory=list)
    share: float = 1.0  # of the run's samples
    is_world: bool = False  # draws the model's own world, so there is nothing to check

    @property
    def psnr(self) -> float:
        """Of the picture in the middle, dB."""
        values = sorted(pair.psnr for pair in self.reproduced)
        return values[len(values) // 2]


@dataclass(kw_only=True)
class Preflight:
    """Everything found, as facts and as warnings.

    Attributes:
        own_psnr: of the model's own pictures through its VAE, dB; None where no source's pictures were tried.
        own_pictures: what those are, in words.
        seconds: what it took.
    """

    model: CheckedModel
    run: PlannedRun
    sources: list[SourcePreflight] = field(default_factory=list)
    own_psnr: float | None = None
    own_pictures: str = ""
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def lines(self) -> list[str]:
        """The facts, for people."""
        lines = [f"the data before training, looked at for {self.seconds:.1f} s:"]
        for source in self.sources:
            lines += _source_lines(self, source)
        return lines

    def __str__(self) -> str:
        """Facts and warnings."""
        return "\n".join([*self.lines(), *(f"warning: {text}" for text in self.warnings)])

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "sources": [_plain(source) for source in self.sources],
            "own_psnr": self.own_psnr,
            "own_pictures": self.own_pictures,
            "warnings": self.warnings,
            "seconds": round(self.seconds, 2),
        }


def preflight(mixture: Mixture, model: CheckedModel, config: PreflightConfig, run: PlannedRun) -> Preflight:
    """Look at the data of a run, for about `config.seconds`.

    Args:
        mixture: the data, with the size rule that training will use.
        model: what it is checked with; the VAE stays where it is.
        config: how much is looked at.
        run: what is planned with it.
    """
    began = time.monotonic()
    found = Preflight(model=model, run=run)
    names = [entry.name for entry in mixture.config.sources]
    worlds = {entry.name for entry in mixture.config.sources if model.world == entry.source}
    checked = [name for name in names if name not in worlds]
    for name in names:
        seconds = config.seconds / 2 / max(1, len(checked))
        limit = max(1, config.num_rows // max(1, len(checked)))
        survey = (
            SourceSurvey(name=name, task=mixture.sources[name].task, num_rows=len(mixture.sources[name]))
            if name in worlds
            else survey_source(mixture, name, limit, seconds)
        )
        source = SourcePreflight(survey=survey, share=mixture.share(name), is_world=name in worlds)
        source.unknown = unknown_words(model.tokenizer, model.world, survey.captions)
        found.sources.append(source)
    for source in found.sources:
        left = config.seconds - (time.monotonic() - began)
        num_images = max(1, config.num_images // max(1, len(checked)))
        examples = _spread(source.survey.examples, num_images)
        source.reproduced = reproduce_examples(
            model.vae, mixture.config.image, examples, left / max(1, len(checked))
        )
    _add_reference(found)
    found.warnings = _warnings(found, mixture.config.image)
    found.seconds = time.monotonic() - began
    return found


def look_at_data(
    config: SupervisedSettings, mixture: Mixture, pipe: DeepGenPipeline, device: torch.device
) -> Preflight:
    """What a run will meet, with its VAE on the device of the run, where training puts it, too."""
    pipe.vae.to(device)
    own = (pipe.defaults["height"], pipe.defaults["width"])
    return preflight(
        mixture,
        CheckedModel(tokenizer=pipe.tokenizer, vae=pipe.vae, size=own, world=pipe.config.get("world")),
        config.preflight or PreflightConfig(),
        PlannedRun(
            num_steps=config.num_steps,
            global_batch_size=config.global_batch_size,
            has_cache=config.cache is not None,
        ),
    )


def say(found: Preflight) -> None:
    """Facts as information, and warnings as warnings, on the log."""
    for line in found.lines():
        logger.info(line)
    for text in found.warnings:
        logger.warning("warning: %s", text)


def _spread(examples: Sequence[Any], count: int) -> list[Any]:
    """So many, evenly over all."""
    count = min(count, len(examples))
    return [examples[number * len(examples) // count] for number in range(count)]


def _add_reference(found: Preflight) -> None:
    """How well the VAE reproduces pictures that the model was made for.

    Those of its world, where it has one. Of other models no picture is at hand that does not have to be drawn
    first, so what the VAE has decoded once goes through it again: nothing in it is new to the VAE.
    """
    pairs = [pair for source in found.sources for pair in source.reproduced]
    if not pairs:
        return
    model = found.model
    if model.world in _WORLDS:
        source = make_source(model.world, rows=_OWN_IMAGES)
        rule = ImageRule(image_size=round((model.size[0] * model.size[1]) ** 0.5))
        own = reproduce_examples(model.vae, rule, [source[row] for row in range(_OWN_IMAGES)], seconds=60)
        found.own_pictures = "the model's own pictures"
        values = [pair.psnr for pair in own]
    else:
        from deepgen.training.reproduction import decode, encode, psnr

        again = pairs[0].reproduced
        values = [psnr(again, decode(model.vae, encode(model.vae, again)))]
        found.own_pictures = "what it has decoded once, a second time"
    found.own_psnr = sum(values) / len(values)


def _warnings(found: Preflight, rule: ImageRule) -> list[str]:
    checked = [source for source in found.sources if not source.is_world]
    unknown = Counter[str]()
    nearest: dict[str, str] = {}
    for source in checked:
        for word in source.unknown:
            unknown[word.word] += word.num_captions
            nearest[word.word] = word.nearest
    words = [UnknownWord(word, count, nearest[word]) for word, count in unknown.most_common()]
    texts = [warn.unknown(words, vocabulary(found.model.tokenizer), found.model.world)]
    for source in checked:
        survey = source.survey
        texts += [
            warn.bad_rows(survey),
            warn.captions(survey),
            warn.copies(survey),
            warn.enlarged(survey),
            warn.reproduction(source.reproduced, found.own_psnr, found.model.world in _WORLDS, survey.name),
        ]
    sizes = sum((source.survey.sizes for source in checked), Counter[tuple[Size, Size]]())
    texts.append(warn.size(sizes, rule, found.model.size))
    if not found.run.has_cache:
        pairs = [pair for source in checked for pair in source.reproduced]
        num_rows = sum(source.survey.num_rows for source in checked)
        num_samples = sum(source.share for source in checked) * found.run.num_samples
        texts.append(warn.reading(pairs, num_samples, num_rows))
    return [text for text in texts if text]


# --- in words -----------------------------------------------------------------------------------------------


def _source_lines(found: Preflight, source: SourcePreflight) -> list[str]:
    survey = source.survey
    views = source.share * found.run.num_samples / max(1, survey.num_rows)
    passes = f"each row is seen about {views:.3g} times in {found.run.num_steps} steps"
    if source.is_world:
        return [f"  {survey.name}: {survey.num_rows:,} rows of the model's own world; {passes}"]
    looked = "" if survey.num_looked_at == survey.num_rows else f", {survey.num_looked_at:,} looked at"
    num_bad = sum(survey.bad.values())
    bad = f", {num_bad} of them cannot be used" if num_bad else ""
    return [
        f"  {survey.name}: {survey.num_rows:,} rows of {survey.num_images:,} pictures{looked}{bad}; {passes}",
        f"    captions    {_captions(survey)}",
        f"    words       {_words(source, vocabulary(found.model.tokenizer))}",
        f"    sizes       {_sizes(survey, found.model.size)}",
        f"    duplicates  {_duplicates(survey)}",
        f"    VAE         {_reproduction(found, source)}",
    ]


def _captions(survey: SourceSurvey) -> str:
    if not survey.captions:
        return "none"
    number = len(survey.captions)
    (text, count), *_ = survey.captions.most_common(1)
    rows = sum(survey.captions.values()) / number
    said = f", most often {warn.quoted(text)} ({count})" if count > 1 else ""
    return f"{number:,} different, {rows:.3g} pictures to each{said}"


def _words(source: SourcePreflight, known: Sequence[str]) -> str:
    if not source.unknown:
        return "all known to the model" if known else "read in pieces, so any can be used"
    return f"not known: {warn.listed([f'{word.word} ({word.num_captions})' for word in source.unknown])}"


def _sizes(survey: SourceSurvey, own: Size) -> str:
    given: Counter[Size] = Counter()
    for (_, size), count in survey.sizes.items():
        given[size] += count
    sides = [size for size, _ in survey.sizes]
    if not sides:
        return "none"
    low, high = min(sides, key=_area), max(sides, key=_area)
    owns = warn.size_text(low) if low == high else f"{warn.size_text(low)} to {warn.size_text(high)}"
    parts = [f"{warn.size_text(size)} ({count})" for size, count in given.most_common()]
    return f"{owns}, trained at {warn.listed(parts, 4)}; the model draws {warn.size_text(own)}"


def _area(size: Size) -> int:
    return size[0] * size[1]


def _duplicates(survey: SourceSurvey) -> str:
    copies = sum(len(group) - 1 for group in survey.copies)
    alike = sum(len(group) - 1 for group in survey.look_alikes)
    return f"{copies} copies, {alike} saved again" if copies or alike else "none"


def _reproduction(found: Preflight, source: SourcePreflight) -> str:
    if not source.reproduced:
        return "no picture could be tried"
    lowest = min(source.reproduced, key=lambda pair: pair.psnr)
    count = len(source.reproduced)
    return (
        f"{source.psnr:.1f} dB ({count} picture{'s' if count > 1 else ''}, lowest {lowest.psnr:.1f}: "
        f"{Path(lowest.key).name}); {found.own_pictures}: {found.own_psnr:.1f} dB"
    )


def _plain(source: SourcePreflight) -> Mapping[str, Any]:
    survey = source.survey
    return {
        "name": survey.name,
        "task": survey.task,
        "rows": survey.num_rows,
        "looked_at": survey.num_looked_at,
        "pictures": survey.num_images,
        "bad": dict(survey.bad),
        "captions": dict(survey.captions.most_common(20)),
        "different_captions": len(survey.captions),
        "unknown": [asdict(word) for word in source.unknown],
        "sizes": [
            {"own": own, "trained": given, "pictures": count} for (own, given), count in survey.sizes.items()
        ],
        "copies": survey.copies,
        "look_alikes": survey.look_alikes,
        "psnr": {pair.key: round(pair.psnr, 2) for pair in source.reproduced},
    }
