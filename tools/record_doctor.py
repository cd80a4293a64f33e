"""Record what `deepgen doctor` compares with: inputs and outputs of the embedded model, and expected errors.

    python tools/record_doctor.py

Run it where the weights of src/deepgen/assets/tiny changed, or a part's inputs or outputs did. Outputs are
computed in float64; each number format's errors beside them are measured on this processor, whose name and
PyTorch are written into the file.
"""

from __future__ import annotations

import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from deepgen.doctor import kernels, measure, recorded
from deepgen.doctor.kernels import KERNELS
from deepgen.doctor.parts import PARTS
from deepgen.models.prompts import editing_prompt, generation_prompt, tokenize
from deepgen.pipeline import TINY_DIR


def exact(*shape: int, scale: float = 1.0) -> Tensor:
    """Random numbers that bfloat16 and float16 both have."""
    drawn = (torch.randn(*shape) * scale).bfloat16()
    return torch.where(drawn.abs() < 1e-3, torch.zeros((), dtype=torch.bfloat16), drawn)


def make_inputs() -> dict[str, Tensor]:
    """Small inputs of every part, of the sizes of the embedded model."""
    torch.manual_seed(0)
    pipe = measure.load(TINY_DIR, "cpu", torch.float32)
    connector, transformer = pipe.connector.config, pipe.transformer.config
    texts = [generation_prompt("a cat"), generation_prompt("two apples left of a bicycle")]
    prompts = tokenize(pipe.tokenizer, texts)
    edits = tokenize(pipe.tokenizer, [texts[0], editing_prompt("replace the cat with a dog", [4])])
    soft = F.interpolate(exact(1, 3, 8, 8, scale=0.4).float(), size=(64, 64), mode="bilinear")[0]
    channels, width = transformer.in_channels, connector.vlm_hidden_size
    return {
        "pixels": soft.clamp(-1, 1).bfloat16(),
        "prompt_ids": prompts.input_ids,
        "edit_ids": edits.input_ids,
        "edit_mask": edits.attention_mask,
        "features": exact(4, width),
        "states": exact(2, 24, len(pipe.connector.taps) * width),
        "noisy": exact(2, channels, 12, 12),
        "context": exact(2, 24, transformer.joint_attention_dim),
        "pooled": exact(2, transformer.pooled_projection_dim),
        "timesteps": torch.tensor([800.0, 300.0]),
        "reference": exact(channels, 8, 8),
        "latents": exact(1, channels, 8, 8),
        "start": exact(1, channels, 8, 8),
    }


@torch.no_grad()
def record(path: Path = recorded.RECORDED) -> None:
    """Write the file."""
    inputs = make_inputs()
    empty = recorded.Recording(inputs, {}, {}, {})
    pipe = measure.load(TINY_DIR, "cpu", torch.float32).to(torch.float64)
    outputs = {
        check.name: [
            recorded.kept(x)
            for x in check.run(pipe, measure.place_inputs(empty, check.inputs, "cpu", torch.float64))
        ]
        for check in PARTS
    }
    expected: dict[str, dict[str, tuple[float, float]]] = {}
    for name in recorded.FORMATS:
        dtype = getattr(torch, name)
        pipe = measure.load(TINY_DIR, "cpu", dtype)
        for check in PARTS:
            ours = check.run(pipe, measure.place_inputs(empty, check.inputs, "cpu", dtype))
            found = recorded.errors([recorded.kept(x) for x in ours], outputs[check.name])
            expected.setdefault(check.name, {})[name] = (found.mean, found.largest)
        for check in KERNELS:
            given = kernels.inputs_of(check)
            ours = check.looked_at(check.run(*kernels.placed(given, "cpu", dtype)))
            found = recorded.errors([recorded.kept(ours)], [recorded.kept(kernels.reference(check, given))])
            expected.setdefault(check.name, {})[name] = (found.mean, found.largest)
    facts = {
        "model": recorded.fingerprint(TINY_DIR),
        "torch": torch.__version__,
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "date": datetime.now(UTC).date().isoformat(),
    }
    tensors = {f"in.{name}": value.contiguous() for name, value in inputs.items()}
    for part, values in outputs.items():
        tensors |= {f"out.{part}.{place}": value.float() for place, value in enumerate(values)}
    rounded = {
        part: {name: [float(f"{x:.3g}") for x in pair] for name, pair in formats.items()}
        for part, formats in expected.items()
    }
    save_file(tensors, path, metadata={"expected": json.dumps(rounded), "facts": json.dumps(facts)})
    for part, formats in rounded.items():
        print(f"{part:20}", *(f"{name} {pair[0]:.1e} {pair[1]:.1e}" for name, pair in formats.items()))
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    record()
