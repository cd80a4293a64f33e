from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_files import HEADS
from deepgen.checkpoints.convert import convert
from deepgen.checkpoints.published import PUBLISHED_REVISION
from deepgen.checkpoints.sums import SUMS, read_sums, write_sums
from deepgen.checkpoints.tensors import CheckpointError
from deepgen.checkpoints.verify import require_unchanged, verify
from deepgen.pipeline import TINY_DIR, DeepGenPipeline

ODD_NAMES = [
    "a b",
    "ü",
    "new\nline",
    "back\\slash",
    "*star",
    " first",
    "\\n",
    "re\rturn",
    "sub/x",
    "last ",
    "#x",
]
DIGEST = "0" * 64


def theirs(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["sha256sum", *arguments], cwd=folder, capture_output=True)


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {SUMS}


@pytest.fixture(scope="module")
def tiny() -> DeepGenPipeline:
    return DeepGenPipeline.from_pretrained("tiny", dtype=torch.float32)


@pytest.fixture(scope="module")
def saved(tiny: DeepGenPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny.save_pretrained(folder)
    return folder


def test_the_list_is_that_of_sha256sum_whatever_files_are_called(tmp_path: Path) -> None:
    for name in [*ODD_NAMES, os.fsdecode(b"raw\xff")]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(ascii(name))
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "note").touch()
    path = write_sums(tmp_path)
    assert theirs(tmp_path, "-c", "--strict", SUMS).returncode == 0
    assert set(read_sums(tmp_path)) == names_in(tmp_path) - {".cache/note"}
    written = theirs(tmp_path, "--", *sorted(read_sums(tmp_path))).stdout
    assert written == path.read_bytes()
    path.write_bytes(written.replace(b"\n", b"\r\n"))  # as some editors leave it
    assert len(read_sums(tmp_path)) == len(ODD_NAMES) + 1


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "..", "link"])
def test_a_list_that_names_files_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "link").symlink_to("/etc/passwd")
    (tmp_path / "model" / SUMS).write_text(f"{DIGEST}  {name}\n")
    with pytest.raises(CheckpointError, match=r"no file of its own folder|leads out"):
        read_sums(tmp_path / "model")


@pytest.mark.parametrize(
    "text", ["x  a", f"{DIGEST}a", f"{DIGEST[:-1]}  a", f"{DIGEST}  a\n{'1' * 64}  a", "\0" * 100]
)
def test_a_list_that_is_none_is_refused_with_its_line(text: str, tmp_path: Path) -> None:
    (tmp_path / SUMS).write_text(text + "\n")
    with pytest.raises(CheckpointError, match=r"SHA256SUMS line \d"):
        read_sums(tmp_path)


def test_files_added_to_a_folder_keep_what_is_known_of_the_others(tmp_path: Path) -> None:
    for name in ("old", "gone", "new"):
        (tmp_path / name).write_text(name)
    write_sums(tmp_path, ["old", "gone"])
    before = read_sums(tmp_path)
    (tmp_path / "gone").unlink()
    write_sums(tmp_path, ["new"])
    assert read_sums(tmp_path) == {"old": before["old"], "new": read_sums(tmp_path)["new"]}
    (tmp_path / SUMS).write_text("my own notes\n")
    write_sums(tmp_path, ["new"])
    assert (tmp_path / f"{SUMS}.old").read_text() == "my own notes\n"


def test_the_model_in_the_package_is_as_its_list_says() -> None:
    assert set(read_sums(TINY_DIR)) == names_in(TINY_DIR)
    assert theirs(TINY_DIR, "-c", "--strict", "--quiet", SUMS).returncode == 0
    require_unchanged(TINY_DIR)


def test_a_saved_pipeline_carries_its_sums_also_over_an_older_one(saved: Path, tiny: DeepGenPipeline) -> None:
    assert set(read_sums(saved)) == names_in(saved)
    before = (saved / SUMS).read_text()
    tiny.transformer.proj_out.bias.data += 1
    tiny.save_pretrained(saved)
    tiny.transformer.proj_out.bias.data -= 1
    assert (saved / SUMS).read_text() != before
    assert theirs(saved, "-c", "--strict", "--quiet", SUMS).returncode == 0


def test_a_damaged_model_is_refused_by_option_and_by_verify(saved: Path) -> None:
    DeepGenPipeline.from_pretrained(saved, verify=True)
    file = saved / "vae" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        DeepGenPipeline.from_pretrained(saved)  # nothing but the sum tells
        with pytest.raises(CheckpointError, match=r"vae/diffusion\S+: sha256 is .*SHA256SUMS says"):
            DeepGenPipeline.from_pretrained(saved, verify=True)
        file.write_bytes(whole)
        extra = file.with_name("diffusion_pytorch_model.fp16.safetensors")
        save_file({"a": torch.ones(2)}, extra)
        (problem,) = verify(saved, scan=False).problems
        assert (problem.severity, "is not listed" in problem.message) == ("warning", True)
        extra.unlink()
        (saved / "tokenizer" / "tokenizer_config.json").rename(saved / "away")
        assert "is listed in SHA256SUMS but missing" in str(verify(saved, scan=False))
        (saved / "away").rename(saved / "tokenizer" / "tokenizer_config.json")
        listed = (saved / SUMS).read_text()
        (saved / SUMS).write_text(
            "".join(line + "\n" for line in listed.splitlines() if "vae/diff" not in line)
        )
        (problem,) = verify(saved, scan=False).problems
        assert (problem.severity, "is not listed" in problem.message) == ("error", True)
        (saved / SUMS).unlink()
        with pytest.raises(CheckpointError, match="the right sum is not known of vlm/model"):
            DeepGenPipeline.from_pretrained(saved, verify=True)
    finally:
        file.write_bytes(whole)
        write_sums(saved)


def test_lora_files_and_single_files_are_listed_beside_them(
    tiny: DeepGenPipeline, native: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    from peft import LoraConfig

    tiny.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    tiny.save_lora_weights(tmp_path)
    tiny.transformer.delete_adapters("default")
    save_file(native, tmp_path / "native.safetensors")
    out = tmp_path / "out.safetensors"
    source = tmp_path / "native.safetensors"
    convert(source, out, layout="native", connector_config=HEADS, progress=False)
    assert set(read_sums(tmp_path)) == {"pytorch_lora_weights.safetensors", "out.safetensors"}
    report = verify(out)
    assert (report.ok, report.hashes) == (True, {"out.safetensors": SUMS})
    state = load_file(out)
    save_file({name: value + 1 for name, value in state.items()}, out)
    assert "SHA256SUMS says" in str(verify(out))


def test_what_is_uploaded_carries_its_sums(
    tiny: DeepGenPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import DiffusionPipeline

    seen = []
    monkeypatch.setattr(
        DiffusionPipeline,
        "_upload_folder",
        lambda self, folder, *a, **k: seen.append(read_sums(Path(folder))),
    )
    (tmp_path / "model_index.json").write_text("{}")
    tiny._upload_folder(tmp_path, "somebody/model")
    assert set(seen[0]) == {"model_index.json"}


def test_the_pinned_revision_is_a_commit() -> None:
    assert len(PUBLISHED_REVISION) == 40
