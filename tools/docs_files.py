"""Inputs that pages of the documentation suppose: small, made on the fly, each kind by a function."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
COLORS = ("red", "green", "blue", "purple")
PUBLISHED = "deepgenteam/DeepGen-1.0-diffusers"
NATIVE = "deepgenteam/DeepGen-1.0"
BASES = ("Qwen/Qwen2.5-VL-3B-Instruct", "Skywork/UniPic2-SD3.5M-Kontext-2B")


def make(kind: str, target: Path, small: Callable[[], Path]) -> None:
    """Make one input; `small` gives the folder of small random weights.

    Raises:
        ValueError: there is no such kind.
    """
    makers: dict[str, Callable[[Path], Any]] = {
        "picture": image,
        "captions": captions,
        "shapes": shapes,
        "edits": edits,
        "tars": tars,
        "parquet": parquet,
        "stages": stages,
        "keys": lambda path: path.write_text("me:0123456789abcdef\n"),
        "sign": sign,
        "certificate": certificate,
        "prompts": prompts,
        "prompt-file": prompt_file,
        "benchmarks": benchmarks,
        "storybook": storybook,
        "model": lambda path: shutil.copytree(small(), path),
        "native": lambda path: native(path, small()),
        "lora": lambda path: lora(path, small()),
        "tiny-lora": lambda path: lora(path, None),
        "tiny-loras": lambda path: lora(path / "soft.safetensors", None),
    }
    if kind not in makers:
        raise ValueError(f"unknown kind of file {kind!r}; known: {', '.join(makers)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    makers[kind](target)


def image(path: Path, color: str = "red") -> None:
    """A circle on white, 96 x 96."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(image).ellipse((28, 28, 68, 68), fill=color)
    image.save(path)


def captions(folder: Path) -> None:
    """Pictures, each beside a text file of its name."""
    for color in COLORS:
        image(folder / f"{color}.png", color)
        (folder / f"{color}.txt").write_text(f"a {color} circle on a white background")


def shapes(path: Path) -> None:
    """A mixture of the flat world: 8 edits and 16 captions."""
    text = (ROOT / "src/deepgen/recipes/mixtures/shapes.yaml").read_text()
    text = text.replace("rows: 10000000, task", "rows: 8, task").replace("rows: 10000000", "rows: 16")
    path.write_text(text)


def edits(path: Path, image_dir: str = "pictures") -> None:
    """A manifest of edits in the original's format, and its pictures."""
    rows = []
    for first, second in pairwise(COLORS):
        image(path.parent / image_dir / f"{first}.png", first)
        image(path.parent / image_dir / f"{second}.png", second)
        row = {"input_image": [f"{first}.png"], "output_image": f"{second}.png"}
        rows.append({**row, "instruction": f"make the circle {second}"})
    path.write_text(json.dumps(rows))


def tars(folder: Path) -> None:
    """A folder of one tar with pictures and JSON texts."""
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w") as archive:
        for index, color in enumerate(COLORS):
            image(folder / "new.png", color)
            _add(archive, f"{index:04d}.png", (folder / "new.png").read_bytes())
            _add(archive, f"{index:04d}.json", json.dumps({"prompt": f"a {color} circle"}).encode())
    (folder / "new.png").unlink()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def parquet(path: Path) -> None:
    """A table of pictures and captions."""
    import pyarrow
    from pyarrow import parquet as files

    rows = []
    for color in COLORS:
        image(path.with_suffix(".png"), color)
        rows.append(
            {"image": {"bytes": path.with_suffix(".png").read_bytes()}, "caption": f"a {color} circle"}
        )
    path.with_suffix(".png").unlink()
    files.write_table(pyarrow.Table.from_pylist(rows), path)


def stages(root: Path) -> None:
    """What both of the original's mixtures read: four rows of every source, in its layout."""
    for name in ("stage1", "stage2"):
        _stage(root, name)


def _stage(root: Path, name: str) -> None:
    import yaml

    mixture = yaml.safe_load((ROOT / f"src/deepgen/recipes/mixtures/{name}.yaml").read_text())
    for options in (source for task in mixture["tasks"].values() for source in task["sources"].values()):
        path = root / options["path"]
        place = root / options.get("image_dir", Path(options["path"]).parent)
        for color in COLORS:
            image(place / f"{color}.png", color)
        if options["source"] == "edit":
            rows = [
                {"input_image": [f"{a}.png"], "output_image": f"{b}.png", "instruction": f"make it {b}"}
                for a, b in pairwise(COLORS)
            ]
        elif options["source"] == "t2i_sft":
            rows = [{"txt": f"a {color} circle", "image_path": f"{color}.png"} for color in COLORS]
        else:
            key = options.get("caption_key", "caption")
            for color in COLORS:
                caption = root / options.get("caption_dir", place) / f"{color}.json"
                caption.parent.mkdir(parents=True, exist_ok=True)
                caption.write_text(json.dumps({key: f"a {color} circle"}))
            rows = [{"image": f"{color}.png", "annotation": f"{color}.json"} for color in COLORS]
        file = path if path.suffix == ".json" else path / "rows.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows))


def sign(path: Path) -> None:
    """A picture that says OPEN."""
    image = Image.new("RGB", (320, 128), "white")
    ImageDraw.Draw(image).text((40, 30), "OPEN", fill="black", font_size=64)
    image.save(path)


def certificate(path: Path) -> None:
    """A signer's chain, and beside it the key of the same folder, `key.pem`; asked for where c2pa is."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/serving")]
    from test_provenance import ec, signer_files  # pyright: ignore[reportMissingImports]

    signer_files(path.parent, ec.generate_private_key(ec.SECP256R1()))


def prompt_file(path: Path) -> None:
    """Two prompts."""
    path.write_text('{"prompt": "two apples"}\n{"prompt": "a cat in a meadow"}\n')


def prompts(path: Path) -> None:
    """A mix of prompts for reinforcement learning, in the small model's world."""
    shutil.copy(ROOT / "examples/rl_tiny.yaml", path)


def benchmarks(folder: Path) -> None:
    """A few items of every benchmark, in the form of its official files."""
    sys.path.insert(0, str(ROOT / "tests/evaluation"))
    from benchmark_files import write_all  # pyright: ignore[reportMissingImports]

    write_all(folder)


# --- weights


def small_model(folder: Path) -> Path:
    """The classes and wiring of the published model with small random weights, as a folder of ours.

    Sides are multiples of 16 up to 2048 pixels, as those of the published model can be.
    """
    import torch

    from deepgen import DeepGenPipeline, DeepGenTransformer2DModel, DeepGenVLM

    torch.manual_seed(0)
    pipe = DeepGenPipeline.from_pretrained("shapes", dtype=torch.float32)
    config = {**pipe.transformer.config, "patch_size": 2, "pos_embed_max_size": 128}
    transformer = DeepGenTransformer2DModel.from_config(config)
    depth = pipe.connector.config["vlm_num_layers"]  # `shapes` leaves out the layers above its deepest tap
    pipe.vlm.config.text_config.num_hidden_layers = depth
    pipe.vlm.config.text_config.layer_types = ["full_attention"] * depth
    pipe.register_modules(vlm=DeepGenVLM(pipe.vlm.config))
    for part in (pipe.vlm, pipe.connector, pipe.vae):
        for parameter in part.parameters():
            parameter.data.normal_(std=0.02)
    defaults = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 4.0}
    parts = {**pipe.components, "transformer": transformer}
    DeepGenPipeline(**parts, defaults=defaults).to(dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def published_folder(name: str, small: Path, folder: Path) -> Path:
    """What the Hub has under a published name, with small weights."""
    if name == NATIVE:
        folder.mkdir(parents=True)
        native(folder / "model.pt", small)
        connector = json.loads((small / "connector" / "config.json").read_text())
        heads = {"num_attention_heads": connector["num_attention_heads"]}  # no tensor says it
        (folder / "config.json").write_text(json.dumps({"_class_name": "DeepGen-1.0", "connector": heads}))
        return folder
    shutil.copytree(small, folder)
    if name == BASES[0]:  # a plain VLM
        for part in ("vlm", "tokenizer"):
            shutil.copytree(small / part, folder, dirs_exist_ok=True)
        (folder / "model_index.json").unlink()
    return folder


def published_files(small: Path) -> dict[str, dict[str, bytes]]:
    """The published repositories with small weights, as a Hub serves them: name -> path -> content."""
    repositories = {}
    for name in (PUBLISHED, NATIVE, *BASES):
        with tempfile.TemporaryDirectory() as place:
            folder = published_folder(name, small, Path(place) / "model")
            files = [file for file in folder.rglob("*") if file.is_file() and file.name != "SHA256SUMS"]
            repositories[name] = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    return repositories


def hub_cache(cache: Path, small: Path) -> Path:
    """A cache of the Hub in which the published model and the bases of its native files are small ones."""
    for name in (PUBLISHED, *BASES):
        home = cache / f"models--{name.replace('/', '--')}"
        published_folder(name, small, home / "snapshots" / ("0" * 40))
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text("0" * 40)
    return cache


def storybook(folder: Path) -> None:
    """The storybook's architecture with random weights."""
    sys.path.append(str(ROOT / "tests"))
    from storybook_model import write_storybook_model  # pyright: ignore[reportMissingImports]

    write_storybook_model(folder)


def native(path: Path, small: Path) -> None:
    """The original's flat file: connector and DiT."""
    import torch
    from safetensors.torch import load_file

    from deepgen.checkpoints.convert import convert

    convert(small, path.with_suffix(".folder"), layout="native", progress=False)
    (file,) = path.with_suffix(".folder").rglob("*.safetensors")
    torch.save(load_file(file), path)
    shutil.rmtree(path.with_suffix(".folder"))


def lora(path: Path, model: Path | None) -> None:
    """A LoRA of the DiT's attention, for a folder or for `tiny`."""
    import torch
    from peft import LoraConfig

    from deepgen import DeepGenPipeline

    pipe = DeepGenPipeline.from_pretrained(model or "tiny", dtype=torch.float32)
    config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian")
    pipe.transformer.add_adapter(config)
    for name, parameter in pipe.transformer.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)
    folder = path.with_suffix(".folder") if path.suffix else path
    pipe.save_lora_weights(folder)
    if path.suffix:
        (file,) = folder.glob("*.safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        file.rename(path)
        shutil.rmtree(folder)
