"""Cut a goldens folder down to what is committed under tests/goldens.

    python tools/compact_goldens.py GOLDENS tests/goldens

Keeps the tiny model, and of each section the smallest cases that still cover it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

SECTIONS = {
    "references": (),
    "prompts": (),
    "vision": ("patches.0", "downscaled.0"),
    "encode": ("t2i.", "inputs_embeds", "position_ids", "last_hidden", ".connector", ".projected"),
    "transformer": (),
    "vae": (),
    "scheduler": (),
    "generate": ("velocity", "raw_step0", "t2i_nocfg.", "edit."),
    "losses": ("t2i_truncated.", "t2i_sigma_sqrt.", "t2i_pixels.", "edit."),
    "lora": ("features.", "t2i."),
    "last_hidden": ("velocity", "raw_step0", "edit."),
    "rl_sde": (),
    "rl_adv": (),
    "rl_loss": (),
    "rl_nft": (),
    "rl_rollout": ("dance_sde.", "cps_sde.cfg2.5."),
}
FOLDERS = ("vlm", "tokenizer", "vae", "scheduler")


def matches(key: str, part: str) -> bool:
    """A part that ends in a dot is a case's name, any other a piece of the key."""
    return key.startswith(part) if part.endswith(".") else part in key


def main(source: Path, target: Path) -> None:
    """Write the compact folder, replacing what is there."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    manifest = json.loads((source / "manifest.json").read_text())
    files = manifest["files"]
    for name in FOLDERS:
        shutil.copytree(source / files[name], target / files[name])
    (target / files["transformer"]).mkdir()
    shutil.copy(source / files["transformer"] / "config.json", target / files["transformer"])
    for name in ("original_pth_layout", "lora", "last_hidden", "config"):
        shutil.copy(source / files[name], target / files[name])

    manifest["sections"] = {name: entry for name, entry in manifest["sections"].items() if name in SECTIONS}
    for name, dropped in SECTIONS.items():
        entry = manifest["sections"][name]
        tensors = load_file(source / entry["file"])
        kept = {
            key: value for key, value in tensors.items() if not any(matches(key, part) for part in dropped)
        }
        save_file(kept, target / entry["file"])
        entry["tensors"] = {key: value for key, value in entry["tensors"].items() if key in kept}
        if "cases" in entry:
            entry["cases"] = {k: v for k, v in entry["cases"].items() if f"{k}." not in dropped}
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    for path in target.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
    print(f"{sum(p.stat().st_size for p in target.rglob('*') if p.is_file()) / 1e6:.1f} MB in {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
