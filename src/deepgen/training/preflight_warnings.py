"""The warnings before a run, each with what to do; "" where there is nothing to warn of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from deepgen.data.example import Size
from deepgen.data.mixture_config import ImageRule
from deepgen.data.survey import SourceSurvey
from deepgen.training.reproduction import Reproduction
from deepgen.training.unknown_words import UnknownWord

FEWEST_DB = (
    22.0  # below it, shapes and colours are no longer those of the picture (docs/preflight.md shows it)
)
MOST_DB_BELOW_OWN = 10.0  # of a world, whose pictures are all the VAE has seen
_SAME_CAPTION = 0.5  # share of pictures with one caption
_ENLARGED = 1.2  # along a side
_OTHER_SIZE = 1.5  # ratio of areas
_SLOW_S = 60.0  # of a run, spent on reading and encoding again
_SHOWN_WORDS, _SHOWN_KEYS = 8, 3


def unknown(
    words: Sequence[UnknownWord], known: Sequence[str], world: str | None, text: str = "caption"
) -> str:
    """Of words that a closed vocabulary or a world has not; `text` says what they stand in."""
    if not words:
        return ""
    shown = listed(
        [
            f'"{word.word}" ({word.num_captions} {text}{"s" if word.num_captions > 1 else ""}'
            + (f', nearest "{word.nearest}")' if word.nearest else ")")
            for word in words
        ],
        _SHOWN_WORDS,
    )
    if not known:
        return (
            f"the model's world ({world}) does not have {shown}; it reads such words in pieces and at first "
            f"draws what is nearest. Give a new thing one name, the same in every {text}, and train "
            "longer than for what it knows"
        )
    return (
        f"the model cannot read {shown}: each such word is read as the same <unk>, so these words cannot be "
        f"told apart and draw something blurred. Write the {text}s in its words, and give a new thing the "
        f"name of one that the rest of your data does not use. It reads: {', '.join(known)}"
    )


def bad_rows(survey: SourceSurvey) -> str:
    """Of rows that cannot be used."""
    count = sum(survey.bad.values())
    if not count:
        return ""
    (reason, _), *_ = survey.bad.most_common(1)
    return (
        f"{survey.name}: {count} of {survey.num_looked_at} rows cannot be used, such as: {reason}. Mend or "
        "remove them; a run stops when their share passes the mixture's bad_share_limit"
    )


def captions(survey: SourceSurvey) -> str:
    """Of pictures that are all called the same, and of pictures without words."""
    total = sum(survey.captions.values())
    empty = survey.captions[""]
    if empty:
        return (
            f"{survey.name}: {empty} of {total} captions are empty; what such pictures show is drawn for any "
            "prompt. Say in each what it shows"
        )
    if total < 2:
        return ""
    (text, count), *_ = survey.captions.most_common(1)
    if count < 2 or count / total <= _SAME_CAPTION:
        return ""
    return (
        f"{survey.name}: {count} of {total} pictures have the same caption, {quoted(text)}; all they have in "
        "common, ground and light too, becomes part of it. Say in each caption what differs: colour, place, "
        "ground"
    )


def copies(survey: SourceSurvey) -> str:
    """Of pictures that are there twice."""
    groups = [*survey.copies, *survey.look_alikes]
    if not groups:
        return ""
    count = sum(len(group) - 1 for group in groups)
    shown = " = ".join(Path(key).name for key in groups[0][:_SHOWN_KEYS])
    return (
        f"{survey.name}: {count} of {survey.num_images} pictures are there already ({shown}"
        f"{', ...' if len(groups) > 1 else ''}); a picture that is seen more often than others is "
        "learnt by heart. Remove the copies"
    )


def enlarged(survey: SourceSurvey) -> str:
    """Of pictures smaller than what is trained on."""
    small = [
        (own, given, count) for (own, given), count in survey.sizes.items() if _scale(own, given) >= _ENLARGED
    ]
    if not small:
        return ""
    own, given, _ = max(small, key=lambda each: _scale(each[0], each[1]))
    return (
        f"{survey.name}: {sum(count for *_, count in small)} of {survey.num_images} pictures are enlarged, "
        f"such as {size_text(own)} to {size_text(given)}, and the model learns to draw them as blurred as "
        "that. Use larger pictures, or a smaller image_size in the mixture"
    )


def size(sizes: Counter[tuple[Size, Size]], rule: ImageRule, own: Size) -> str:
    """Of a mixture whose size is not the model's."""
    areas = sorted(height * width for (_, (height, width)), count in sizes.items() for _ in range(count))
    if not areas:
        return ""
    ratio = areas[len(areas) // 2] / (own[0] * own[1])
    if 1 / _OTHER_SIZE < ratio < _OTHER_SIZE:
        return ""
    side = round((own[0] * own[1]) ** 0.5)
    return (
        f"the mixture's size is {rule.image_size} ({rule.rule}), and the model draws {size_text(own)}; what "
        f"is learnt at another size shows little there. Write image: {{image_size: {side}}} into the "
        "mixture, or draw at the trained size with --size"
    )


def reproduction(pairs: Sequence[Reproduction], own_psnr: float | None, has_world: bool, name: str) -> str:
    """Of pictures that the VAE does not reproduce."""
    if not pairs or own_psnr is None:
        return ""
    middle = sorted(pair.psnr for pair in pairs)[len(pairs) // 2]
    if middle >= FEWEST_DB and not (has_world and middle < own_psnr - MOST_DB_BELOW_OWN):
        return ""
    advice = (
        "The VAE has seen nothing but its world, so take pictures like that (plain ground, even light, its "
        "colours), or a model of real pictures"
        if has_world
        else "Take pictures with less fine texture, crop to what matters, or train at a larger image_size"
    )
    return (
        f"{name}: the VAE alone already loses much of these pictures, {middle:.1f} dB where "
        f"{'its own have' if has_world else 'what it decodes has'} {own_psnr:.1f}; nothing that is trained "
        f"here draws them better. See it with `deepgen train preflight ... -o preflight.png`. {advice}"
    )


def reading(pairs: Sequence[Reproduction], num_samples: float, num_rows: int) -> str:
    """Of pictures that are decoded and encoded again in every pass."""
    if not pairs or num_samples < 2 * num_rows:
        return ""
    seconds = sum(pair.seconds for pair in pairs) / len(pairs)
    again = seconds * (num_samples - num_rows)
    if again < _SLOW_S:
        return ""
    return (
        f"reading and encoding takes {seconds:.2f} s a picture here, {again / 60:.0f} min of this run for "
        "pictures it has seen. Encode them once: `deepgen data cache DATA --model MODEL --output FOLDER`, "
        "then --set cache=FOLDER"
    )


def size_text(size: Size) -> str:
    """Width x height."""
    return f"{size[1]}x{size[0]}"


def quoted(text: str, most: int = 60) -> str:
    """A caption, or its beginning."""
    return f'"{text if len(text) <= most else text[: most - 3] + "..."}"'


def listed(parts: Sequence[str], most: int = _SHOWN_WORDS) -> str:
    """With commas, and how many more there are."""
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    return ", ".join(parts[:most]) + more


def _scale(own: Size, given: Size) -> float:
    return (given[0] * given[1] / (own[0] * own[1])) ** 0.5
