"""Write the DeepSpeed folders that the tests read, with DeepSpeed and mmengine themselves.

    python -m venv /tmp/ds && /tmp/ds/bin/pip install torch safetensors deepspeed==0.17.5 mmengine==0.10.7
    /tmp/ds/bin/python tools/deepspeed_checkpoints.py tests/goldens/deepspeed.tar.xz

Each folder is a short CPU run on gloo with bfloat16 weights, float32 master weights and plain SGD, which
keeps the files small. `NAME.safetensors` beside a folder holds the float32 weights of that run, asked from
DeepSpeed with `safe_get_full_fp32_param`, so what we rebuild is compared with DeepSpeed's own answer.

    zero1-ranks1 ... zero3-ranks3   a small module: two groups, odd sizes, a frozen and a shared parameter
    sft/iter_6.pth                  ZeRO-2, two ranks: connector, DiT and VLM LoRA of a tiny DeepGen
    pretrain/iter_4.pth             ZeRO-2, two ranks: connector only, the DiT frozen and left out
    rl/checkpoint-6                 model.safetensors with flat keys, and global_step6/ of ZeRO-2
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")
GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "goldens"
PORTION = 0.4  # of one SGD step; large enough that float32 and bfloat16 weights differ


def odd_parameters():
    """Name -> (shape, is_trained, decays): sizes that no rank count divides."""
    return {
        "embed.weight": ((7, 5), True, True),
        "embed.bias": ((5,), True, False),
        "layers.0.weight": ((3, 11), True, True),
        "layers.0.bias": ((1,), True, False),
        "frozen.weight": ((5, 3), False, True),
        "layers.1.weight": ((13, 2, 3), True, True),
        "layers.1.bias": ((9,), True, False),
        "scale": ((), True, False),
    }


def make_module(shapes, hidden=(), buffers=(), shared=()):
    """A module whose parameters have exactly these names. State dicts leave out names with `hidden`."""
    import torch
    from torch import nn

    class Node(nn.Module):
        def forward(self):
            total = torch.zeros(())
            for number, value in enumerate(self.parameters(recurse=False)):
                total = total + (value.float() - 0.1 * (number + 1)).square().mean() * (1 + number % 5)
            for child in self.children():  # called one by one: ZeRO-3 fetches weights in a module's call
                total = total + child()
            return total

    class Root(Node):
        def state_dict(self, *args, **kwargs):
            state = super().state_dict(*args, **kwargs)
            for name in [name for name in state if any(part in name for part in hidden)]:
                del state[name]
            return state

    root = Root()
    for name, (shape, is_trained, _) in shapes.items():
        *path, leaf = name.split(".")
        place = root
        for step in path:
            if not hasattr(place, step):
                place.add_module(step, Node())
            place = getattr(place, step)
        value = torch.randn(shape) * 0.1
        if name in buffers:
            place.register_buffer(leaf, value)
        else:
            place.register_parameter(leaf, nn.Parameter(value, requires_grad=is_trained))
    for alias, source in shared:
        *path, leaf = alias.split(".")
        place = root
        for step in path:
            if not hasattr(place, step):
                place.add_module(step, Node())
            place = getattr(place, step)
        setattr(place, leaf, root.get_parameter(source))
    return root


def engine_of(module, shapes, stage, config_dict):
    """DeepSpeed's engine: two groups, as weight decay makes them."""
    import deepspeed  # pyright: ignore[reportMissingImports]  # in a throw-away environment
    import torch

    named = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    groups = [
        {
            "params": [value for name, value in named if shapes[name][2] == decays],
            "weight_decay": 0.05 * decays,
        }
        for decays in (True, False)
    ]
    optimizer = torch.optim.SGD([group for group in groups if group["params"]], lr=PORTION)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": stage, "overlap_comm": False, "stage3_param_persistence_threshold": 4},
    }
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config_dict(config))
    return engine


def train(engine, steps):
    for _ in range(steps):
        engine.backward(engine())
        engine.step()


def master_weights(engine):
    """What DeepSpeed itself calls the full float32 weight of every trained parameter."""
    from deepspeed.utils import safe_get_full_fp32_param  # pyright: ignore[reportMissingImports]

    state = {}
    for name, value in engine.module.named_parameters():
        if value.requires_grad:
            state[name] = (
                safe_get_full_fp32_param(value)
                .detach()
                .clone()
                .reshape(tuple(getattr(value, "ds_shape", value.shape)))
                .contiguous()
            )
    return state


def mmengine_state(config_text, iteration):
    """What mmengine's runner stores beside the weights, made of mmengine's objects."""
    import numpy as np
    from mmengine.logging import HistoryBuffer  # pyright: ignore[reportMissingImports]

    history = HistoryBuffer()
    for number in range(iteration):
        history.update(np.float64(1 / (number + 1)))
    return {
        "meta": {"epoch": 0, "iter": iteration, "cfg": config_text, "seed": np.int64(77), "dataset_meta": {}},
        "message_hub": {
            "log_scalars": {"train/loss": history},
            "runtime_info": {"cfg": config_text, "iter": iteration},
        },
        "param_schedulers": [{"last_step": iteration, "_last_value": [0.01]}],
    }


def deepgen_shapes(stage):
    """Names and sizes of a tiny DeepGen whose base VLM is tests/goldens/vlm."""
    import re

    from safetensors.torch import load_file

    width, context, pooled, vlm, taps, think = 16, 24, 12, 32, 6, 6
    shapes = {"meta_queries": (think, vlm)}
    for name, value in load_file(GOLDENS / "lora_weights.safetensors").items():
        if stage != "pretrain" and not re.search(r"(layers|blocks)\.[1-9]", name):
            shapes[name] = tuple(value.shape)
    shapes |= dit_shapes(context, pooled)
    layer = {f"self_attn.{side}_proj": (width, width) for side in ("q", "k", "v", "out")}
    layer |= {
        "layer_norm1": (width,),
        "layer_norm2": (width,),
        "mlp.fc1": (30, width),
        "mlp.fc2": (width, 30),
    }
    for name, shape in layer.items():
        shapes[f"connector.layers.0.{name}.weight"] = shape
        shapes[f"connector.layers.0.{name}.bias"] = shape[:1]
    for name, shape in {"1": (width, taps * vlm), "2": (pooled, width), "3": (context, width)}.items():
        shapes[f"projector_{name}.weight"], shapes[f"projector_{name}.bias"] = shape, shape[:1]
    is_trained = lambda name: stage != "pretrain" or not name.startswith("transformer.")  # noqa: E731
    return {
        name: (shape, is_trained(name), not name.endswith("bias") and len(shape) > 1)
        for name, shape in shapes.items()
    }


def dit_shapes(context, pooled):
    """Of the DiT described by DIT, from diffusers."""
    import torch
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        model = SD3Transformer2DModel(**dit_config(context, pooled))
    return {f"transformer.{name}": tuple(value.shape) for name, value in model.state_dict().items()}


def dit_config(context=24, pooled=12):
    return {
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": context,
        "caption_projection_dim": 16,
        "pooled_projection_dim": pooled,
        "pos_embed_max_size": 12,
        "dual_attention_layers": (0,),
        "qk_norm": "rms_norm",
    }


def config_text(stage):
    """The configuration as mmengine writes it out: Python text."""
    from mmengine.config import Config  # pyright: ignore[reportMissingImports]

    model = {
        "type": "src.models.Qwen2p5VLStableDiffusion3HF",
        "connector": {
            "hidden_size": 16,
            "intermediate_size": 30,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        "lmm": {"type": "transformers.X.from_pretrained", "pretrained_model_name_or_path": "/data/base/qwen"},
        "transformer": {"pretrained_model_name_or_path": "/data/base/sd3", "subfolder": "transformer"},
        "num_queries": 6,
    }
    if stage != "pretrain":
        model |= {"lora_modules": "auto", "lora_rank": 2, "lora_alpha": 6}
    return Config({"model": model, "max_iters": 6}).pretty_text


def work(name, folder):
    """One rank of one run."""
    import deepspeed  # pyright: ignore[reportMissingImports]
    import torch
    from mmengine.config import ConfigDict  # pyright: ignore[reportMissingImports]
    from safetensors.torch import save_file

    deepspeed.init_distributed("gloo")
    rank = torch.distributed.get_rank()
    torch.manual_seed(sum(map(ord, name)))
    if name.startswith("zero"):
        shapes = odd_parameters()
        module = make_module(shapes, shared=[("head.weight", "embed.weight")])
        engine = engine_of(module, shapes, int(name[4]), dict)
        train(engine, 3)
        engine.save_checkpoint(folder, tag=name, save_latest=False)
    else:
        stage = name.split("-")[0]
        shapes = deepgen_shapes(stage)
        module = make_module(shapes, hidden=("lmm.",), buffers=("transformer.pos_embed.pos_embed",))
        engine = engine_of(module, shapes, 2, ConfigDict)
        iteration = 4 if stage == "pretrain" else 6
        train(engine, iteration)
        tag, place = f"iter_{iteration}.pth", folder / name
        if stage == "rl":
            tag, place = "global_step6", folder / name / "checkpoint-6"
        extra = mmengine_state(config_text(stage), iteration) if stage != "rl" else {}
        engine.save_checkpoint(
            place, tag=tag, client_state=extra, save_latest=stage == "rl", exclude_frozen_parameters=True
        )
        if stage == "rl" and rank == 0:
            flat = {key: value.contiguous() for key, value in engine.module.state_dict().items()}
            save_file(flat, place / "model.safetensors", {"format": "pt"})
    state = master_weights(engine)
    if rank == 0:
        save_file(state, folder / f"{name}.safetensors")
    torch.distributed.barrier()


def main(target):
    import json

    runs = {f"zero{stage}-ranks{ranks}": ranks for stage in (1, 2, 3) for ranks in (1, 2, 3)}
    runs |= {"sft": 2, "pretrain": 2, "rl": 2, "sft-other": 2}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "deepspeed"
        folder.mkdir()
        for port, (name, ranks) in enumerate(runs.items(), start=29600):
            workers = []
            for rank in range(ranks):
                world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
                env = {**os.environ, "MASTER_ADDR": "127.0.0.1", **{k: str(v) for k, v in world.items()}}
                command = [sys.executable, __file__, "--worker", name, str(folder)]
                workers.append(subprocess.Popen(command, env=env))
            codes = [worker.wait() for worker in workers]
            if any(codes):
                raise SystemExit(f"{name} failed")
            print(name, "done", flush=True)
        for script in folder.rglob("zero_to_fp32.py"):
            script.unlink()
        (folder / "transformer").mkdir()
        (folder / "transformer" / "config.json").write_text(
            json.dumps({"_class_name": "SD3Transformer2DModel", **dit_config()})
        )
        with tarfile.open(target, "w:xz") as archive:
            archive.add(folder, "deepspeed")
        if len(sys.argv) > 2:
            shutil.copytree(folder, sys.argv[2])


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        work(sys.argv[2], Path(sys.argv[3]))
    else:
        main(sys.argv[1])
