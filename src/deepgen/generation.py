"""How a picture is generated: one set of settings, their defaults and checks.

The pipeline's keyword arguments, the command line, HTTP fields, tools for agents, ComfyUI's nodes, evaluation
and reinforcement learning are views of `GenerationSettings`. A setting that is None is the model's own, and
`resolve` is the one place where the model's own is looked up. No large library is loaded before a preset has
to be looked up, so that a command line can check what was typed first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from deepgen.suggestions import nearest, suggestion

if TYPE_CHECKING:
    from deepgen.data.png import ImageRecord
    from deepgen.sampling.few_steps import FewStepSchedule
    from deepgen.sampling.presets import Preset

# Of a model that names no defaults of its own: the published ones.
FALLBACK_DEFAULTS = {"height": 512, "width": 512, "num_inference_steps": 50, "guidance_scale": 4.0}
# Former and common names, and the names they stand for.
ALIASES = {
    "steps": "num_inference_steps",
    "num_steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "true_cfg_scale": "guidance_scale",
    "negative": "negative_prompt",
    "scheduler": "solver",
    "sampler": "solver",
    "references": "image",
    "images": "image",
}
MAX_SEED = 2**63 - 1


class UnknownFieldError(ValueError, TypeError):
    """A field that does not exist. A ValueError as every refused setting, and a TypeError because Python
    raises one for an unknown keyword argument.
    """


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """What one may choose about a picture beside prompt and references; None is the model's own.

    Attributes:
        num_inference_steps: solver steps, at least 1.
        guidance_scale: weight of the prompt, 0 or more; 1 or less draws without a negative branch.
        height: pixels; `SizeRules` says which a model can draw.
        width: as `height`.
        negative_prompt: what to steer away from; the pipeline also takes one for each prompt.
        seed: of the noise; the pipeline also takes one for each image.
        preset: solver and spacing of the steps, see `sampling/presets.py`; None is "exact". Of a model whose
            weights are distilled themselves that is "turbo", the only way it was made for.
        solver: name of a solver, see `sampling/solvers.py`; None is the preset's, or the pipeline's
            scheduler.
        keep_unchanged: of an edit: what it left as it was comes back pixel for pixel from the source.

    Raises:
        ValueError: a value that no model can draw with.
    """

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    negative_prompt: str | Sequence[str] | None = None
    seed: int | Sequence[int] | None = None
    preset: str | None = None
    solver: str | None = None
    keep_unchanged: bool | None = None

    def __post_init__(self) -> None:
        check_flag(self.keep_unchanged, "keep_unchanged")
        check_num_inference_steps(self.num_inference_steps)
        check_guidance_scale(self.guidance_scale)

    def resolve(self, model_defaults: Mapping[str, Any], is_edit: bool = False) -> ResolvedSettings:
        """These settings with the model's own in place of None.

        Args:
            model_defaults: height, width, num_inference_steps, guidance_scale and, where a model has another
                one for edits, edit_guidance_scale, or keep_unchanged; `preset` where a server was started
                with one; `distilled` where preset "turbo" may be used. What is missing is the published
                model's.
            is_edit: whether there are references. Without a size, an edit keeps its source's: height and
                width stay None.

        Raises:
            ValueError: the preset or the solver is unknown, or the preset chooses another solver, or is for
                distilled models and this one, the number of steps or the guidance is not so, or the other
                way round.
        """
        defaults = {**FALLBACK_DEFAULTS, **model_defaults}
        chosen = _of_model(_preset(self.preset or defaults.get("preset") or "exact"), defaults)
        steps, guidance_scale, schedule = self.num_inference_steps, self.guidance_scale, None
        if chosen.is_distilled:
            steps, guidance_scale, schedule = self._distilled(defaults, chosen.name)
        if steps is None:  # a preset saves steps, so it takes no more than the model would without one
            own = defaults["num_inference_steps"]
            steps = min(chosen.num_steps or own, own)
        if guidance_scale is None:
            usual = defaults["guidance_scale"]
            guidance_scale = defaults.get("edit_guidance_scale", usual) if is_edit else usual
        if self.solver is not None:
            check_solver(self.solver)
            if chosen.solver not in (None, self.solver):
                raise ValueError(
                    f"preset {chosen.name!r} chooses the solver {chosen.solver}; "
                    f"leave out solver {self.solver!r}"
                )
        if self.keep_unchanged and not is_edit:
            raise ValueError("keep_unchanged keeps what an edit leaves as it was; give the picture as image")
        keep_unchanged = self.keep_unchanged
        if keep_unchanged is None and is_edit:
            keep_unchanged = defaults.get("keep_unchanged")
            check_flag(keep_unchanged, "the model's own keep_unchanged")
        height, width = self.height, self.width
        if not is_edit or height is not None or width is not None:
            height = defaults["height"] if height is None else height
            width = defaults["width"] if width is None else width
        own = {one.name: getattr(self, one.name) for one in fields(GenerationSettings)}
        return ResolvedSettings(
            **{
                **own,
                "num_inference_steps": steps,
                "guidance_scale": guidance_scale,
                "height": height,
                "width": width,
                "preset": chosen.name,
                "solver": None if chosen.solver else self.solver,  # the preset's own
                "schedule": schedule,
                "keep_unchanged": keep_unchanged,
            }
        )

    def _distilled(self, defaults: Mapping[str, Any], preset: str) -> tuple[int, float, FewStepSchedule]:
        """Steps, guidance and noise levels of a preset for distilled models."""
        from deepgen.sampling.few_steps import KEY, required

        made_for = required(defaults.get(KEY), preset)
        if self.guidance_scale is not None and self.guidance_scale > 1:
            raise ValueError(
                f"preset {preset!r} has the guidance learnt and draws without a negative branch; leave out "
                f"guidance_scale {self.guidance_scale:g}"
            )
        given = [self.negative_prompt] if isinstance(self.negative_prompt, str) else self.negative_prompt
        if any(given or ()):
            raise ValueError(
                f"preset {preset!r} draws without a negative branch, so a negative_prompt would do nothing; "
                "leave it out, or use preset balanced"
            )
        steps = self.num_inference_steps or made_for.usual_steps
        return steps, 1.0, made_for.schedule(steps)


@dataclass(frozen=True, kw_only=True)
class ResolvedSettings(GenerationSettings):
    """Settings that leave nothing open but the size of an edit, which is its source's where None, and the
    solver, which is the preset's or the pipeline's scheduler where None. `schedule` has the noise levels of a
    distilled model, where the preset is for one.
    """

    num_inference_steps: int = field()
    guidance_scale: float = field()
    preset: str = field()
    schedule: FewStepSchedule | None = None

    @property
    def chosen_preset(self) -> Preset:
        """The preset of that name, with the model's own levels where it is for distilled ones."""
        return _preset(self.preset).with_schedule(self.schedule)

    @property
    def is_guided(self) -> bool:
        """Whether there is a negative branch."""
        return self.guidance_scale > 1

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the pipeline; those that are None are left out."""
        values = {one.name: getattr(self, one.name) for one in fields(GenerationSettings)}
        return {name: value for name, value in values.items() if value is not None}

    def record(
        self,
        *,
        prompt: str,
        seed: int | None,
        model: str,
        image: Sequence[str] = (),
        mask: str | None = None,
        size: tuple[int, int] | None = None,
        drawn_size: tuple[int, int] | None = None,
        solver: str | None = None,
        prompt_cuts: Iterable[object] = (),
    ) -> ImageRecord:
        """What a picture's file says of how it was made, the same whatever drew it.

        Args:
            prompt: as it was given.
            seed: of this picture alone; None where its noise came from elsewhere.
            model: its name.
            image: names of the references, where they have names.
            mask: the name of the mask.
            size: (height, width) of the file, pixels; default the settings', or 0 where they leave it open.
            drawn_size: (height, width) the model drew.
            solver: of the pipeline, where it is not "euler".
            prompt_cuts: what was left out of the prompts.
        """
        from deepgen.data.png import ImageRecord

        height, width = size or (self.height or 0, self.width or 0)
        is_resized = drawn_size is not None and size is not None and drawn_size != size
        return ImageRecord(
            prompt=prompt,
            negative_prompt=self.negative_prompt or None,  # pyright: ignore[reportArgumentType]  # of one picture
            seed=seed,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            width=width,
            height=height,
            solver=self.chosen_preset.solver or self.solver or solver or "euler",
            preset=self.preset,
            model=model,
            image=tuple(image),
            mask=mask,
            keep_unchanged=self.keep_unchanged or None,
            drawn_width=drawn_size[1] if drawn_size and is_resized else None,
            drawn_height=drawn_size[0] if drawn_size and is_resized else None,
            prompt_cut="; ".join(map(str, prompt_cuts)) or None,
        )


NAMES = tuple(one.name for one in fields(GenerationSettings))  # the vocabulary, with `prompt` and `image`


def _of_model(chosen: Preset, defaults: Mapping[str, Any]) -> Preset:
    """What a preset means of this model, which may be a student without its teacher.

    Raises:
        ValueError: it draws at levels that the student has never seen.
    """
    entry = defaults.get("distilled")
    if chosen.is_distilled or not entry or entry.get("lora"):
        return chosen
    if chosen.name != "exact":
        raise ValueError(
            f"this model was distilled and draws well at the noise levels of preset 'turbo' alone, which is "
            f"also its default; leave out preset {chosen.name!r}"
        )
    return _preset("turbo")


# --- names --------------------------------------------------------------------------------------------------


def nearest_name(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest of the known names, or nothing where none is near.

    A former or common name, misspelt or not, stands for today's name of the field.
    """
    known = list(known)
    spelt = {name: name for name in known}
    spelt |= {alias: name for alias, name in ALIASES.items() if name in spelt}
    found = nearest(word.lstrip("-").replace("-", "_"), list(spelt))
    return f"; did you mean {spelt[found]}?" if found else ""


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise UnknownFieldError for the first field that is not known, with the nearest name."""
    known = list(known)
    if unknown := sorted(set(map(str, given)) - set(known)):
        near = nearest_name(unknown[0], known) or f"; known: {', '.join(known)}"
        raise UnknownFieldError(f"unknown field {unknown[0]!r}{near}")


def standard_names(given: Mapping[str, Any], aliases: Iterable[str]) -> dict[str, Any]:
    """The values under today's names, at a door that also takes these former ones.

    Raises:
        ValueError: a value is given under both names.
    """
    aliases, named = set(aliases), dict[str, Any]()
    for name, value in given.items():
        standard = ALIASES[name] if name in aliases else name
        if standard in named:
            raise ValueError(f"{name} and {standard} mean the same; give one")
        named[standard] = value
    return named


# --- checks -------------------------------------------------------------------------------------------------


def check_num_inference_steps(value: Any, name: str = "num_inference_steps") -> None:
    """ValueError unless there is at least one step, or none are named."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_guidance_scale(value: Any, name: str = "guidance_scale") -> None:
    """ValueError unless the scale is a finite number that is not negative, or none is named."""
    if value is not None and (not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0):
        raise ValueError(f"{name} must be a finite number, 0 or more, got {value!r}; 1 switches it off")


def check_flag(value: Any, name: str) -> None:
    """ValueError unless it is true or false, or nothing is said."""
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")


def check_seed(value: int | None, num_images: int = 1, name: str = "seed") -> None:
    """ValueError unless the seeds of so many images, counted up from this one, are 0 to 2^63 - 1."""
    if value is not None and not 0 <= value <= MAX_SEED + 1 - num_images:
        raise ValueError(f"{name} must be between 0 and 2^63 - {num_images}, got {value}")


def check_solver(name: str) -> None:
    """ValueError unless there is a solver of that name."""
    from deepgen.sampling.solvers import NAMES as SOLVERS

    if name not in SOLVERS:
        raise ValueError(f"unknown solver {name!r}{suggestion(name, SOLVERS)}; known: {', '.join(SOLVERS)}")


def _preset(name: str) -> Preset:
    from deepgen.sampling.presets import get_preset

    return get_preset(name)
