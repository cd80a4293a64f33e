"""The parity harness: every recorded section of a goldens folder, run through the library.

Used by `make parity GOLDENS=<folder>` on any folder, and by tests/test_parity.py on the compact one that is
committed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from deepgen.checkpoints.weights import load_components
from deepgen.models import vae as latent_space
from deepgen.models.connector import StackedChannelBridge
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.models.prompts import editing_prompt, generation_prompt, tokenize
from deepgen.models.vlm import PIXELS_PER_TOKEN, DeepGenVLM, vision_patches
from deepgen.pipeline import DeepGenPipeline
from deepgen.sampling.noise_levels import (
    dynamic_levels,
    loss_weights,
    sample_density,
    table_levels,
)
from deepgen.training.objective import FlowMatchingObjective, TrainingBatch
from deepgen.types import Condition
from parity_deepspeed import run_deepspeed
from parity_rl import check_advantages, check_nft, check_policy_losses, check_rollout, check_sde

FORMULA = (1e-5, 0.0)
CHAINED = (2e-4, 1e-3)  # atol, rtol of chained float32 outputs
EXACT = (0.0, 0.0)


@dataclass
class Section:
    """Errors of one section; `worst` is the largest absolute one, `failed` names what is outside its
    tolerance."""

    name: str
    worst: float = 0.0
    compared: int = 0
    failed: list[str] = field(default_factory=list)

    def check(
        self, what: str, ours: Tensor, golden: Tensor, tolerance: tuple[float, float] = CHAINED
    ) -> None:
        """Compare one tensor."""
        self.compared += 1
        if tuple(ours.shape) != tuple(golden.shape):
            self.failed.append(f"{what}: shape {tuple(ours.shape)}, expected {tuple(golden.shape)}")
            return
        error = (ours.detach().double() - golden.double()).abs()
        self.worst = max(self.worst, float(error.max()) if error.numel() else 0.0)
        atol, rtol = tolerance
        if not bool((error <= atol + rtol * golden.double().abs()).all()):
            self.failed.append(f"{what}: error {float(error.max()):.2e}")


class Goldens:
    """A goldens folder: its manifest, its tensors by section, and the tiny model in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.files = self.manifest["files"]
        self.config = json.loads((folder / self.files["config"]).read_text())

    def section(self, name: str) -> dict[str, Any]:
        """The manifest's entry."""
        return self.manifest["sections"][name]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The section's tensors."""
        return load_file(self.folder / self.section(name)["file"])

    @cached_property
    def native(self) -> dict[str, Tensor]:
        """The model in the original's flat layout."""
        return load_file(self.folder / self.files["original_pth_layout"])

    def connector(self, variant: str = "scb") -> StackedChannelBridge:
        """The connector, sizes read off its tensors."""
        weights = {}
        names = {
            "projector_1": "tap_projector",
            "projector_2": "pooled_projector",
            "projector_3": "context_projector",
        }
        source = dict(self.native)
        if variant == "last_hidden":
            for key, value in load_file(self.folder / self.files["last_hidden"]).items():
                source[key if key.startswith("projector_1.") else f"projector_1.{key.split('.')[-1]}"] = value
        for key, value in source.items():
            head, _, tail = key.partition(".")
            if head == "meta_queries":
                weights["think_tokens.weight"] = value
            elif head == "connector":
                weights[tail] = value
            elif head in names:
                weights[f"{names[head]}.{tail}"] = value
        sizes = self.config["connector"]
        connector = StackedChannelBridge(
            hidden_size=sizes["hidden_size"],
            intermediate_size=sizes["intermediate_size"],
            num_hidden_layers=sizes["num_hidden_layers"],
            num_attention_heads=sizes["num_attention_heads"],
            num_think_tokens=weights["think_tokens.weight"].shape[0],
            vlm_hidden_size=weights["think_tokens.weight"].shape[1],
            vlm_num_layers=self.vlm.config.text_config.num_hidden_layers,
            pooled_projection_dim=weights["pooled_projector.weight"].shape[0],
            joint_attention_dim=weights["context_projector.weight"].shape[0],
            variant=variant,
        )
        connector.load_state_dict(weights)
        return connector.eval()

    @cached_property
    def vlm(self) -> DeepGenVLM:
        """The tiny VLM."""
        return DeepGenVLM.from_pretrained(self.folder / self.files["vlm"], dtype=torch.float32).eval()

    def transformer(self) -> DeepGenTransformer2DModel:
        """The DiT, its weights from the original's flat layout."""
        folder = self.folder / self.files["transformer"]
        transformer = DeepGenTransformer2DModel.from_config(DeepGenTransformer2DModel.load_config(folder))
        head = "transformer."
        transformer.load_state_dict({k[len(head) :]: v for k, v in self.native.items() if k.startswith(head)})
        return transformer.eval()

    def pipeline(self, variant: str = "scb") -> DeepGenPipeline:
        """A pipeline of the tiny parts."""
        pipe = DeepGenPipeline(
            vlm=self.vlm,
            connector=self.connector(variant),
            transformer=self.transformer(),
            vae=AutoencoderKL.from_pretrained(self.folder / self.files["vae"]).eval(),
            scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(self.folder / self.files["scheduler"]),
            tokenizer=AutoTokenizer.from_pretrained(self.folder / self.files["tokenizer"]),
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @cached_property
    def references(self) -> list[list[Tensor]]:
        """Per sample, its reference images in [-1, 1]."""
        tensors = self.tensors("references")
        counts = self.section("references")["num_refs"]
        return [[to_pixels(tensors[f"ref.{i}.{j}"]) for j in range(n)] for i, n in enumerate(counts)]


def to_pixels(image: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return 2 * (image.float() / 255) - 1


def numbered(tensors: dict[str, Tensor], prefix: str) -> list[Tensor]:
    """Tensors `prefix.0`, `prefix.1`, ... in order."""
    found = []
    while f"{prefix}.{len(found)}" in tensors:
        found.append(tensors[f"{prefix}.{len(found)}"])
    return found


def token_counts(rows: list[list[Tensor]]) -> list[list[int]]:
    """Merged vision tokens of each reference."""
    return [
        [(x.shape[-2] // PIXELS_PER_TOKEN) * (x.shape[-1] // PIXELS_PER_TOKEN) for x in row] for row in rows
    ]


def check_prompts(goldens: Goldens, pipe: DeepGenPipeline, section: Section) -> None:
    """Token ids and masks, exactly."""
    entry, golden = goldens.section("prompts"), goldens.tensors("prompts")
    counts = token_counts(goldens.references)
    edits = [editing_prompt(text, n) for text, n in zip(entry["edit"], counts, strict=True)]
    negatives = [editing_prompt(entry["neg"], n) for n in counts]
    batches = {
        "t2i": [generation_prompt(text) for text in entry["t2i"]],
        "edit": edits,
        "edit_cfg": edits + negatives,
    }
    for index, text in enumerate(batches["t2i"]):
        batches[f"t2i_single.{index}"] = [text]
    for tag, texts in batches.items():
        tokens = tokenize(pipe.tokenizer, texts)
        section.check(f"{tag}.input_ids", tokens.input_ids, golden[f"{tag}.input_ids"], EXACT)
        if f"{tag}.attention_mask" in golden:
            section.check(
                f"{tag}.attention_mask", tokens.attention_mask, golden[f"{tag}.attention_mask"], EXACT
            )


def check_vision(goldens: Goldens, pipe: DeepGenPipeline, section: Section) -> None:
    """Patches, grids and vision features."""
    golden = goldens.tensors("vision")
    flat = [image for row in goldens.references for image in row]
    for index, features in enumerate(pipe.vlm.image_features(flat)):
        section.check(f"features.{index}", features, golden[f"features.{index}"])
        patches, grid = vision_patches(flat[index])
        section.check(f"grid.{index}", grid, golden["grid_thw"][index], EXACT)
        if f"patches.{index}" in golden:
            recorded = golden[f"patches.{index}"]
            section.check(f"patches.{index}", patches[: len(recorded)], recorded, FORMULA)


def tagged_prompts(goldens: Goldens) -> dict[str, tuple[list[str], list[list[Tensor]] | None]]:
    """The prompt batches of sections encode and lora."""
    entry = goldens.section("prompts")
    return {
        "t2i": (entry["t2i"], None),
        "t2i_one": (entry["t2i"][:1], None),
        "edit": (entry["edit"], goldens.references),
    }


def states(
    pipe: DeepGenPipeline, prompts: list[str], pixels: Any, last: bool = False, cut: int | None = None
) -> Tensor:
    """VLM states of a whole-batch-padded prompt batch."""
    tokens = pipe._tokenize(prompts, pixels)
    flat = [image for row in pixels or () for image in row]
    starts = [sum(len(row) for row in (pixels or [])[:i]) for i in range(len(prompts))]
    return pipe.vlm(
        tokens.input_ids,
        tokens.attention_mask,
        pipe.connector.think_tokens(),
        None if last else pipe.connector.taps,
        pixel_values=flat,
        image_index=None
        if pixels is None
        else [range(s, s + len(r)) for s, r in zip(starts, pixels, strict=True)],
        max_positions=cut,
    )


def check_encode(goldens: Goldens, pipe: DeepGenPipeline, section: Section) -> None:
    """VLM taps and the last hidden state."""
    golden = goldens.tensors("encode")
    for tag, (prompts, pixels) in tagged_prompts(goldens).items():
        if f"{tag}.merged_taps" in golden:
            section.check(f"{tag}.merged_taps", states(pipe, prompts, pixels), golden[f"{tag}.merged_taps"])
        if f"{tag}.last_hidden_state" in golden:
            last = states(pipe, prompts, pixels, last=True)
            section.check(f"{tag}.last_hidden_state", last, golden[f"{tag}.last_hidden_state"])


def check_scb(goldens: Goldens, pipe: DeepGenPipeline, section: Section) -> None:
    """Projector, connector and both conditions, from the recorded taps and from prompts."""
    golden = goldens.tensors("encode")
    for tag, (prompts, pixels) in tagged_prompts(goldens).items():
        if f"{tag}.merged_taps" not in golden:
            continue
        taps = golden[f"{tag}.merged_taps"]
        if f"{tag}.projected" in golden:
            section.check(f"{tag}.projected", pipe.connector.tap_projector(taps), golden[f"{tag}.projected"])
        seq, pooled = pipe.connector(taps)
        section.check(f"{tag}.seq", seq, golden[f"{tag}.seq"])
        section.check(f"{tag}.pooled", pooled, golden[f"{tag}.pooled"])
        condition, _ = pipe.encode_prompt(prompts, "", pixels, guided=False, padding="batch")
        section.check(f"{tag}.encode_prompt", condition.prompt_embeds, golden[f"{tag}.seq"])


def check_transformer(goldens: Goldens, pipe: DeepGenPipeline, section: Section) -> None:
    """The DiT alone: plain, with references, with mixed sizes."""
    golden = goldens.tensors("transformer")
    for case in sorted({key.split(".")[0] for key in golden if ".hidden." in key}):
        noisy = numbered(golden, f"{case}.hidden")
        batch = len(noisy)
        output = pipe.transformer(
            noisy,
            golden["encoder_hidden_states"][:batch],
            golden["pooled_projections"][:batch],
            golden["timestep"][:batch],
            reference_latents=[numbered(golden, f"{case}.ref.{i}") for i in range(batch)],
        ).sample
        for index, (ours, recorded) in enumerate(zip(output, numbered(golden, f"{case}.out"), strict=True)):
            section.check(f"{case}.{index}", ours, recorded)


def check_vae(goldens: Goldens, pipe: DeepGenPipeline, section: Section) -> None:
    """Posterior and decoder."""
    golden = goldens.tensors("vae")
    posterior = latent_space.encode(pipe.vae, goldens.references[0][0][None])
    section.check("mean", posterior.mean, golden["mean"])
    section.check("logvar", posterior.logvar, golden["logvar"])
    section.check("decoded", latent_space.decode(pipe.vae, golden["z"]), golden["decoded"])


def check_scheduler(goldens: Goldens, pipe: DeepGenPipeline, section: Section) -> None:
    """Noise levels of sampling and the training table."""
    from deepgen.sampling.schedule import set_timesteps

    golden = goldens.tensors("scheduler")
    for key in golden:
        kind, _, steps = key.rpartition(".")
        if kind == "timesteps" and steps.isdigit():
            timesteps = set_timesteps(pipe.scheduler, int(steps))
            section.check(key, timesteps / 1000, golden[key] / 1000, FORMULA)
            section.check(f"sigmas.{steps}", pipe.scheduler.sigmas, golden[f"sigmas.{steps}"], FORMULA)
        if kind.endswith(".sigmas") and kind.startswith("dynamic"):
            mu = float(goldens.section("scheduler")["tensors"][key]["note"].split("mu=")[1])
            dynamic = FlowMatchEulerDiscreteScheduler.from_config(
                pipe.scheduler.config, use_dynamic_shifting=True
            )
            dynamic.set_timesteps(int(steps), mu=mu)
            section.check(key, dynamic.sigmas, golden[key], FORMULA)
    total = pipe.scheduler.config.num_train_timesteps
    sigmas, timesteps = table_levels(pipe.scheduler, torch.arange(total) / total + 0.5 / total)
    section.check("train.sigmas", sigmas, golden["train.sigmas"], FORMULA)
    section.check("train.timesteps", timesteps / 1000, golden["train.timesteps"] / 1000, FORMULA)


def check_trajectories(goldens: Goldens, pipe: DeepGenPipeline, section: Section) -> None:
    """Whole runs of generate(): conditions, first velocities, every latent, pixels."""
    golden = goldens.tensors(section.name)
    for case, entry in goldens.section(section.name)["cases"].items():
        check_trajectory(goldens, pipe, section, case, entry, golden)


def check_trajectory(
    goldens: Goldens,
    pipe: DeepGenPipeline,
    section: Section,
    case: str,
    entry: dict[str, Any],
    golden: dict[str, Tensor],
) -> None:
    """One case of section generate or last_hidden."""
    guided = entry["cfg_scale"] > 1
    pixels, references = None, None
    if entry.get("ref_samples") is not None:
        pixels = [goldens.references[sample] for sample in entry["ref_samples"]]
        flat = [image for row in pixels for image in row]
        for index, image in enumerate(flat):
            posterior = latent_space.encode(pipe.vae, image[None])
            drawn = posterior.mean + posterior.std * golden[f"{case}.ref_vae_noise.{index}"]
            scaled = (drawn - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
            section.check(f"{case}.ref_latent.{index}", scaled, golden[f"{case}.ref_latent.{index}"])
        recorded = iter(numbered(golden, f"{case}.ref_latent"))
        references = [[next(recorded)[0] for _ in row] for row in pixels]
    positive, negative = pipe.encode_prompt(
        entry["prompt"], entry["cfg_prompt"], pixels, guided=guided, padding="batch"
    )
    both = positive if negative is None else Condition.cat([negative, positive])
    section.check(f"{case}.seq", both.prompt_embeds, golden[f"{case}.encoder_hidden_states"])
    section.check(f"{case}.pooled", both.pooled_prompt_embeds, golden[f"{case}.pooled"])

    steps: list[Tensor] = []
    latents = pipe.denoise(
        golden[f"{case}.noise"],
        positive,
        negative,
        references,
        num_inference_steps=entry["num_steps"],
        guidance_scale=entry["cfg_scale"],
        callback_on_step_end=lambda pipe, step, timestep, tensors: steps.append(tensors["latents"]) or {},
    )
    section.check(f"{case}.sigmas", pipe.scheduler.sigmas, golden[f"{case}.sigmas"], FORMULA)
    section.check(f"{case}.latents", torch.stack(steps), golden[f"{case}.latents"])
    section.check(f"{case}.pixels", latent_space.decode(pipe.vae, latents), golden[f"{case}.pixels"])


def check_losses(goldens: Goldens, pipe: DeepGenPipeline, section: Section) -> None:
    """Densities, weights, and every training loss with its gradients."""
    golden = goldens.tensors("losses")
    for name in ("none", "logit_normal", "mode"):
        if f"density.{name}" in golden:
            torch.manual_seed(7)
            section.check(
                f"density.{name}",
                sample_density(name, len(golden[f"density.{name}"])),
                golden[f"density.{name}"],
                FORMULA,
            )
    for key in (key for key in golden if key.startswith("weighting.") and not key.endswith(".sigmas")):
        ours = loss_weights(key.split(".")[1], golden["weighting.sigmas"])
        section.check(key, ours, golden[key], (1e-5, 1e-5))
    for case, entry in goldens.section("losses")["cases"].items():
        check_loss(goldens, pipe, section, case, entry, golden)


def check_loss(
    goldens: Goldens,
    pipe: DeepGenPipeline,
    section: Section,
    case: str,
    entry: dict[str, Any],
    golden: dict[str, Tensor],
) -> None:
    """One recorded training step."""
    texts, pixels = entry["texts"], goldens.references if case.startswith("edit") else None
    if pixels is None:
        texts = [
            "" if u < goldens.config["unconditional"] else text
            for text, u in zip(texts, entry["random_uniform"], strict=True)
        ]
    clean, references = training_latents(goldens, pipe, case, pixels, golden)
    u, noise = golden[f"{case}.u"], numbered(golden, f"{case}.noise")
    if "dynamic" in entry["scheduler"]:
        patch = pipe.transformer.config.patch_size
        tokens = [x.shape[-2] * x.shape[-1] // patch**2 for x in clean]
        sigma, timestep = dynamic_levels(pipe.scheduler.config, u, tokens)
    else:
        sigma, timestep = table_levels(pipe.scheduler, u)
    section.check(f"{case}.timesteps", timestep / 1000, golden[f"{case}.timesteps"] / 1000, FORMULA)
    noisy = [(1 - s) * x + s * eps for s, x, eps in zip(sigma, clean, noise, strict=True)]
    for index, (ours, recorded) in enumerate(zip(noisy, numbered(golden, f"{case}.noisy"), strict=True)):
        section.check(f"{case}.noisy.{index}", ours, recorded)

    objective = FlowMatchingObjective(pipe.vlm, pipe.connector, pipe.transformer, padding="visible")
    cut = entry["max_length"] + pipe.connector.config.num_think_tokens
    if pixels is not None:
        cut += max(len(row) for row in pixels) * max(n for row in token_counts(pixels) for n in row)
    batch = TrainingBatch(
        tokens=pipe._tokenize(texts, pixels),
        clean=clean,
        noise=noise,
        sigma=sigma,
        timestep=timestep,
        weights=loss_weights(entry["weighting_scheme"], sigma),
        pixels=pixels,
        references=references,
        max_positions=cut,
    )
    trained = (pipe.connector, pipe.transformer)
    for module in trained:
        module.train().requires_grad_(True).zero_grad()
    seen: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
        for name, module in (("condition", pipe.connector), ("velocity", pipe.transformer))
    ]
    with torch.enable_grad():
        loss = objective(batch).mean()
        loss.backward()
    for hook in hooks:
        hook.remove()
    section.check(f"{case}.seq", seen["condition"][0], golden[f"{case}.seq"])
    section.check(f"{case}.pooled", seen["condition"][1], golden[f"{case}.pooled"])
    for index, recorded in enumerate(numbered(golden, f"{case}.pred")):
        section.check(f"{case}.pred.{index}", seen["velocity"][0][index], recorded)
    section.check(f"{case}.loss", loss, golden[f"{case}.loss"])
    for name, gradient in gradients(pipe):
        if f"{case}.{name}" in golden:
            section.check(f"{case}.{name}", gradient, golden[f"{case}.{name}"])
    for module in trained:
        module.eval().requires_grad_(False).zero_grad()


def training_latents(
    goldens: Goldens,
    pipe: DeepGenPipeline,
    case: str,
    pixels: list[list[Tensor]] | None,
    golden: dict[str, Tensor],
) -> tuple[list[Tensor], list[list[Tensor]] | None]:
    """Clean target latents and reference latents; the posterior noise was recorded references first."""
    noise = iter(numbered(golden, f"{case}.vae_noise"))

    def encode(image: Tensor) -> Tensor:
        posterior = latent_space.encode(pipe.vae, image[None])
        drawn = posterior.mean + posterior.std * next(noise)
        return ((drawn - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor)[0]

    if f"{case}.vae_noise.0" not in golden:
        return numbered(golden, "t2i_latents_in"), None
    references = None if pixels is None else [[encode(image) for image in row] for row in pixels]
    return [encode(to_pixels(image)) for image in numbered(golden, "edit_target_u8")], references


def gradients(pipe: DeepGenPipeline) -> Iterator[tuple[str, Tensor]]:
    """Gradients and their norms under the original's names."""
    connector = pipe.connector
    groups = {
        "meta_queries": connector.think_tokens,
        "connector": connector.layers,
        "projector_1": connector.tap_projector,
        "projector_2": connector.pooled_projector,
        "projector_3": connector.context_projector,
        "transformer": pipe.transformer,
    }
    for name, module in groups.items():
        yield (
            f"grad_norm.{name}",
            torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm(),
        )
    yield "grad.meta_queries", connector.think_tokens.weight.grad
    yield "grad.projector_3.bias", connector.context_projector.bias.grad
    yield "grad.transformer.proj_out.bias", pipe.transformer.proj_out.bias.grad


def check_lora(goldens: Goldens, pipe: DeepGenPipeline, section: Section) -> None:
    """A native file with a VLM adapter, merged while it is loaded."""
    golden, plain = goldens.tensors("lora"), pipe.vlm
    with tempfile.TemporaryDirectory() as folder:
        weights = {**goldens.native, **load_file(goldens.folder / goldens.files["lora"])}
        save_file(weights, Path(folder) / "model.safetensors")
        bases = {
            name: goldens.folder / goldens.files[name] for name in ("vlm", "tokenizer", "vae", "scheduler")
        }
        heads = goldens.config["connector"]["num_attention_heads"]
        vlm = load_components(
            Path(folder) / "model.safetensors",
            **bases,
            transformer=pipe.transformer,
            connector_config={"num_attention_heads": heads},
        )["vlm"]
    pipe.vlm = vlm.eval()
    flat = [image for row in goldens.references for image in row]
    for index, features in enumerate(vlm.image_features(flat)):
        if f"features.{index}" in golden:
            section.check(f"features.{index}", features, golden[f"features.{index}"])
    for tag, (prompts, pixels) in tagged_prompts(goldens).items():
        if f"{tag}.seq" in golden:
            seq, pooled = pipe.connector(states(pipe, prompts, pixels))
            section.check(f"{tag}.seq", seq, golden[f"{tag}.seq"])
            section.check(f"{tag}.pooled", pooled, golden[f"{tag}.pooled"])
    pipe.vlm = plain


CHECKS: dict[str, Callable[[Goldens, DeepGenPipeline, Section], None]] = {
    "prompts": check_prompts,
    "vision": check_vision,
    "encode": check_encode,
    "scb": check_scb,
    "transformer": check_transformer,
    "vae": check_vae,
    "scheduler": check_scheduler,
    "generate": check_trajectories,
    "losses": check_losses,
    "lora": check_lora,
    "last_hidden": check_trajectories,
    "rl_sde": check_sde,
    "rl_adv": check_advantages,
    "rl_loss": check_policy_losses,
    "rl_nft": check_nft,
    "rl_rollout": check_rollout,
}


def run(folder: Path) -> Iterator[Section]:
    """Check every section this folder has."""
    goldens = Goldens(folder)
    pipes: dict[str, DeepGenPipeline] = {}
    for name, check in CHECKS.items():
        if ("encode" if name == "scb" else name) not in goldens.manifest["sections"]:
            continue
        variant = "last_hidden" if name == "last_hidden" else "scb"
        if variant not in pipes:
            pipes[variant] = goldens.pipeline(variant)
        section = Section(name)
        with torch.no_grad():
            check(goldens, pipes[variant], section)
        yield section


def main(arguments: list[str]) -> int:
    """Print one line per section."""
    if len(arguments) != 1 or not (Path(arguments[0]) / "manifest.json").is_file():
        print("usage: make parity GOLDENS=<folder with manifest.json>", file=sys.stderr)
        return 2
    failed, folder = 0, Path(arguments[0])
    sections = run(folder)
    if (folder / "deepspeed" / "sft").is_dir():
        sections = chain(sections, run_deepspeed(folder / "deepspeed"))
    for section in sections:
        verdict = "ok" if not section.failed else "FAILED"
        print(
            f"{section.name:<12} {section.compared:>4} compared  largest error {section.worst:.2e}  {verdict}"
        )
        for line in section.failed:
            print(f"             {line}")
        failed += bool(section.failed)
    return int(failed > 0)
