"""Plan of drawing one picture on an accelerator: memory, arithmetic and seconds, before anything is loaded.

Arithmetic is counted by flops.py. A part takes as long as the slower of two things: its products at a share
of the card's peak, and reading its weights at a share of the memory's bandwidth; weights that wait in main
memory come over the link first. The shares are assumptions, stated with each plan, until a card is measured.
Not counted: loading, compiling, widening quantised weights, norms and activations, which move memory, and the
launching of kernels, for which a fast card waits when pictures are small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deepgen.checkpoints.memory import GB, MARGIN, ImageRequest, MemoryPlan, Need, need, part_bytes
from deepgen.planning.accelerators import Accelerator
from deepgen.planning.flops import (
    Positions,
    bridge,
    dit,
    language_model,
    positions_of,
    vae_decoder,
    vae_encoder,
    vision_tower,
)

# Shares of what a maker states that are assumed to be reached, until they are measured on a card.
ARITHMETIC_SHARE = 0.4
BANDWIDTH_SHARE = 0.7
LINK_SHARE = 0.6

Moving = Literal["none", "model", "group", "sequential"]


@dataclass(frozen=True, kw_only=True)
class DrawingConfig:
    """What is drawn and how.

    Attributes:
        height, width: in pixels.
        references: pictures of that size given to an edit.
        prompt_tokens: of the prompt with its template, without references; the negative is as long.
        num_calls: of the DiT, for one picture.
        num_guided: of them, how many compute both branches of guidance.
        is_split: the branches run one after the other, so weights are read twice.
        memory: how the model is kept.
        moving: what moves the waiting weights; `memory` counts "sequential" as "group".
        gguf_bytes: of a file that holds the DiT, 0 where it is the model's own.
    """

    height: int = 512
    width: int = 512
    references: int = 0
    prompt_tokens: int = 80
    num_calls: int = 50
    num_guided: int = 50
    is_split: bool = False
    memory: MemoryPlan = field(default_factory=MemoryPlan)
    moving: Moving = "none"
    gguf_bytes: int = 0

    @property
    def rows(self) -> int:
        """Prompts that are read: the picture's and the negative one."""
        return 2 if self.num_guided else 1

    @property
    def image(self) -> ImageRequest:
        """What memory depends on."""
        rows = 1 if self.is_split else self.rows
        return ImageRequest(height=self.height, width=self.width, references=self.references, rows=rows)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One part of the work, for one picture."""

    name: str
    flops: float
    bytes_read: float  # of the device's memory: weights
    bytes_moved: float = 0.0  # over the link
    is_overlapped: bool = False  # moved while something else computes

    def seconds(self, accelerator: Accelerator) -> float:
        """On a card."""
        computing = self.flops / (accelerator.tflops * 1e12 * arithmetic_share(accelerator))
        reading = self.bytes_read / (accelerator.bandwidth * 1e9 * BANDWIDTH_SHARE)
        moving = 0.0 if accelerator.link is None else self.bytes_moved / (accelerator.link * 1e9 * LINK_SHARE)
        busy = max(computing, reading)
        return max(busy, moving) if self.is_overlapped else busy + moving


@dataclass(frozen=True)
class DrawingPlan:
    """Memory and time of one picture. `needed` is in bytes."""

    config: DrawingConfig
    accelerator: Accelerator
    needed: Need
    phases: tuple[Phase, ...]

    @property
    def fits(self) -> bool:
        """Whether the card holds it, with the margin that `--memory` keeps."""
        return self.needed.device <= MARGIN * self.accelerator.memory_gb * GB

    @property
    def seconds(self) -> float:
        """Of one picture."""
        return sum(phase.seconds(self.accelerator) for phase in self.phases)

    def lines(self) -> list[str]:
        """Memory and time, for people."""
        waits = f", {self.needed.host / GB:.1f} GB wait in main memory" if self.needed.host else ""
        fits = "it fits" if self.fits else "it does not fit"
        found = [
            f"memory: {self.config.memory}",
            f"  {self.needed.device / GB:.1f} of {self.accelerator.memory_gb:.0f} GB{waits}: {fits}",
            f"{'one picture':30}{'TFLOP':>9}{'seconds':>11}",
        ]
        for phase in self.phases:
            if phase.flops:
                seconds = said_seconds(phase.seconds(self.accelerator))
                found.append(f"  {phase.name:28}{phase.flops / 1e12:>9.2f}{seconds:>11}")
        total = sum(phase.flops for phase in self.phases)
        found.append(f"  {'total':28}{total / 1e12:>9.2f}{said_seconds(self.seconds):>11}")
        return [*found, assumptions(self.accelerator)]


def arithmetic_share(accelerator: Accelerator) -> float:
    """Of the peak; that of the machine's own processor is what training assumes, which was measured."""
    return accelerator.mfu if accelerator.name == "cpu" else ARITHMETIC_SHARE


def assumptions(accelerator: Accelerator) -> str:
    """What the seconds rest on."""
    link = (
        "" if accelerator.link is None else f", {LINK_SHARE:.0%} of {accelerator.link:g} GB/s to main memory"
    )
    return (
        f"planned, not measured: assumes {arithmetic_share(accelerator):.0%} of "
        f"{accelerator.tflops:.3g} TFLOP/s, {BANDWIDTH_SHARE:.0%} of {accelerator.bandwidth:g} GB/s{link}; "
        "loading is not counted"
    )


def said_seconds(seconds: float) -> str:
    """With one digit after the point where it matters, in minutes where they are many."""
    if seconds < 9.95:
        return f"{seconds:.1f}"
    return f"{seconds:.0f}" if seconds < 600 else f"{seconds / 60:.0f} min"


def plan_drawing(models: Mapping[str, Any], config: DrawingConfig, accelerator: Accelerator) -> DrawingPlan:
    """Count what one picture takes on a card; the parts may be on the meta device."""
    stored = {name: part_bytes(name, model, config.memory.quantize) for name, model in models.items()}
    if config.gguf_bytes:
        stored["transformer"] = config.gguf_bytes
    needed = need(
        models,
        config.memory,
        value_bytes=2 if accelerator.has_own_memory else 4,
        image=config.image,
        stored=stored,
    )
    return DrawingPlan(config, accelerator, needed, _phases(models, config, stored))


def _phases(models: Mapping[str, Any], config: DrawingConfig, stored: Mapping[str, int]) -> tuple[Phase, ...]:
    vlm, connector, transformer, vae = (models[name] for name in ("vlm", "connector", "transformer", "vae"))
    size = (config.height, config.width)
    p: Positions = positions_of(
        models, *size, prompt_tokens=config.prompt_tokens, references=config.references
    )
    moves = config.memory.offload != "none"
    is_hidden = config.moving == "group"  # moved ahead of time
    reading = language_model(vlm, connector, p, False, False) + bridge(connector, p, False)
    seeing = config.references * vae_encoder(vae, *size).forward + vision_tower(vlm, p).forward
    passes = config.num_calls + config.num_guided
    reads = passes if config.is_split else config.num_calls
    arrivals = reads if config.moving in ("group", "sequential") else 1
    condition = stored["vlm"] + stored["connector"]
    return (
        Phase(
            name="references",
            flops=seeing if config.references else 0.0,
            bytes_read=stored["vae"] if config.references else 0.0,
        ),
        Phase(
            name="prompt",
            flops=config.rows * reading.forward,
            bytes_read=condition,
            bytes_moved=condition * moves,
            is_overlapped=is_hidden,
        ),
        Phase(
            name=f"DiT, {passes} passes",
            flops=passes * dit(transformer, p, False).forward,
            bytes_read=reads * stored["transformer"],
            bytes_moved=arrivals * stored["transformer"] * moves,
            is_overlapped=is_hidden,
        ),
        Phase(
            name="decoding",
            flops=vae_decoder(vae, *size),
            bytes_read=stored["vae"],
            bytes_moved=stored["vae"] * moves,
            is_overlapped=is_hidden,
        ),
    )
