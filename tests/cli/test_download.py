"""`deepgen download` with the real huggingface_hub client, against a Hub on this machine (hub_server.py)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import constants

from deepgen.checkpoints import hub_files
from deepgen.checkpoints.published import (
    BASE_PIPELINE,
    BASE_VLM,
    PUBLISHED,
    PUBLISHED_NAME,
    PUBLISHED_REVISION,
)
from deepgen.cli.app import main
from hub_server import Hub, git_sha1, running, sha256

ROOT = Path(__file__).parents[2]
DIT = "transformer/diffusion_pytorch_model.safetensors"
RANDOM = np.random.default_rng(0)


def weights(nbytes: int = 300_000) -> bytes:
    return RANDOM.bytes(nbytes)


def published() -> dict[str, bytes]:
    """The files of the published repository, small and random."""
    files = {path: weights() for path in PUBLISHED}
    files |= {
        "model_index.json": b'{"_class_name": ["deepgen_pipeline", "DeepGenPipeline"]}',
        "README.md": b"# card",
    }
    files |= {"transformer/config.json": b"{}", "teaser.png": b"png"}
    return files


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with the published repository, and a client that knows only it and an empty cache."""
    # A commit of its own for each test, because the client keeps listings by commit in this process.
    served = Hub({PUBLISHED_NAME: published()}, commit=weights(20).hex())
    with running(served):
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield served


def cached(tmp_path: Path, hub: Hub, name: str = PUBLISHED_NAME) -> Path:
    return tmp_path / "cache" / f"models--{name.replace('/', '--')}" / "snapshots" / hub.commit


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deepgen: error")]
    assert len(lines) == 1
    return lines[0]


def test_all_files_lie_in_the_cache_with_their_sums_and_the_next_command_is_said(
    hub, tmp_path, capsys
) -> None:
    assert main(["download"]) == 0
    said = capsys.readouterr()
    folder = cached(tmp_path, hub)
    assert Path(said.out.strip()) == folder
    files = hub.repositories[PUBLISHED_NAME]
    for path in set(files) - {"teaser.png"}:
        assert (folder / path).read_bytes() == files[path]
    assert not (folder / "teaser.png").exists()
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    assert f'next: deepgen generate "a lighthouse in fog" --model {PUBLISHED_NAME} --memory auto' in said.err
    assert (folder.parents[1] / "refs/main").read_text() == hub.commit  # so the name works without a network


def test_a_second_call_compares_and_fetches_nothing(hub, capsys) -> None:
    assert main(["download"]) == 0
    asked = hub.asked(DIT)
    assert main(["download"]) == 0
    assert hub.asked(DIT) == asked
    assert "is there, 0.3 MB, sum right" in capsys.readouterr().err


def test_the_cache_serves_without_a_network_afterwards(hub, tmp_path, monkeypatch, capsys) -> None:
    assert main(["download"]) == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    capsys.readouterr()
    assert main(["download"]) == 0
    assert Path(capsys.readouterr().out.strip()) == cached(tmp_path, hub)
    spoilt = cached(tmp_path, hub) / DIT
    content = bytearray(spoilt.read_bytes())
    content[-1000:] = bytes(1000)
    spoilt.write_bytes(content)
    assert main(["download"]) == 2
    assert "was damaged and is removed" in one_line(capsys)
    assert not spoilt.exists()
    assert main(["download"]) == 2
    assert "does not hold all" in one_line(capsys)


def test_a_folder_for_another_machine_carries_its_sums(hub, tmp_path, capsys) -> None:
    assert main(["download", "--to", str(tmp_path / "weights")]) == 0
    folder, files = tmp_path / "weights", hub.repositories[PUBLISHED_NAME]
    assert (folder / DIT).read_bytes() == files[DIT]
    assert not (folder / DIT).is_symlink()
    lines = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert lines == {path: sha256(content) for path, content in files.items() if path != "teaser.png"}
    assert f"--model {folder} --memory auto" in capsys.readouterr().err
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


def test_a_folder_takes_what_the_cache_has(hub, tmp_path) -> None:
    assert main(["download"]) == 0
    asked = hub.asked(DIT)
    assert main(["download", "--to", str(tmp_path / "weights")]) == 0
    assert hub.asked(DIT) == asked
    assert (tmp_path / "weights" / DIT).read_bytes() == hub.repositories[PUBLISHED_NAME][DIT]


@pytest.mark.parametrize("to", [(), ("--to", "weights")])
def test_a_damaged_file_that_is_there_is_replaced(hub, tmp_path, monkeypatch, capsys, to) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["download", *to]) == 0
    file = (Path("weights") if to else cached(tmp_path, hub)) / DIT
    right = file.read_bytes()
    file.write_bytes(right[:-1000] + bytes(1000))  # as an interrupted download leaves it
    assert main(["download", *to]) == 0
    assert "is there but damaged" in capsys.readouterr().err
    assert file.read_bytes() == right


@pytest.mark.parametrize("to", [(), ("--to", "weights")])
def test_a_file_with_another_sum_is_refused_and_gone(hub, tmp_path, monkeypatch, capsys, to) -> None:
    monkeypatch.chdir(tmp_path)
    right = hub.repositories[PUBLISHED_NAME][DIT]
    hub.other_bytes[DIT] = right[::-1]
    assert main(["download", *to]) == 2
    assert f"{DIT} of {PUBLISHED_NAME} came with another sum" in one_line(capsys)
    place = tmp_path / ("weights" if to else "cache")
    assert not [
        file for file in place.rglob("*") if file.is_file() and file.read_bytes() == hub.other_bytes[DIT]
    ]
    hub.other_bytes.clear()
    assert main(["download", *to]) == 0
    assert ((Path("weights") if to else cached(tmp_path, hub)) / DIT).read_bytes() == right


def test_a_small_file_with_another_sum_is_refused(hub, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(hub_files, "git_blob_id", lambda path: git_sha1(path.read_bytes() + b"?"))
    assert main(["download", "--to", str(tmp_path / "weights")]) == 2
    assert "came with another sum" in one_line(capsys)


def test_ctrl_c_keeps_what_was_fetched_and_the_next_call_continues(hub, tmp_path) -> None:
    """Two processes with the environment a user sets, the first stopped in the middle of a file."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT / "src"),
    }
    command = [sys.executable, "-m", "deepgen", "download"]
    hub.repositories[PUBLISHED_NAME][DIT] = weights(25_000_000)
    hub.stalls_after[DIT] = 22_000_000  # the client writes 10 MiB at a time
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert hub.stalled.wait(60)
        written = 0
        while process.poll() is None and written < 2 * 10 * 2**20:
            partial = (tmp_path / "home").rglob("*.incomplete")
            written = max((file.stat().st_size for file in partial), default=0)
            hub.closing.wait(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "what was fetched is kept" in said
    assert "Traceback" not in said
    (partial_file,) = (tmp_path / "home").rglob("*.incomplete")
    kept = partial_file.stat().st_size
    assert kept in (10 * 2**20, 20 * 2**20)  # one or both whole writes, by how fast this machine is just now

    hub.stalls_after.clear()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert hub.asked(DIT)[-1] == f"bytes={kept}-"
    assert (Path(done.stdout.strip()) / DIT).read_bytes() == hub.repositories[PUBLISHED_NAME][DIT]


def test_a_lost_connection_is_one_line_and_resumes(hub, tmp_path, monkeypatch, capsys) -> None:
    from huggingface_hub import file_download

    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.ends_after[DIT] = 70_000
    assert main(["download"]) == 2
    assert "give the same command again" in one_line(capsys)
    hub.ends_after.clear()
    assert main(["download"]) == 0
    assert hub.asked(DIT)[-1] == "bytes=70000-"
    assert (cached(tmp_path, hub) / DIT).read_bytes() == hub.repositories[PUBLISHED_NAME][DIT]


def test_a_model_that_is_not_there_and_one_that_wants_a_token(hub, monkeypatch, capsys) -> None:
    assert main(["download", "someone/else"]) == 2
    assert "shows no model someone/else (status 404)" in one_line(capsys)
    assert main(["download", "--revision", "v9"]) == 2
    assert "has no revision 'v9'" in one_line(capsys)
    hub.token = "hf_right"
    assert main(["download"]) == 2
    assert "HF_TOKEN" in one_line(capsys)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert main(["download"]) == 0
    assert not hub.tokens_seen_by_storage  # which is another host


def test_no_network_is_one_line(hub, monkeypatch, capsys) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert main(["download"]) == 2
    assert "http://127.0.0.1:9 cannot be reached" in one_line(capsys)


def test_offline_without_the_files_says_what_to_do(hub, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["download"]) == 2
    assert "does not hold all of" in one_line(capsys)
    assert main(["download", "--to", str(tmp_path / "weights")]) == 2
    assert "unset it to download" in one_line(capsys)
    assert not hub.requests


def test_a_full_disk_is_known_before_anything_is_fetched(hub, monkeypatch, capsys) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=10**6))
    for arguments in (["download"], ["download", "--plan"]):
        assert main(arguments) == 2
        assert "are to be fetched and" in (line := one_line(capsys))
        assert "1.0 MB free" in line
    assert not hub.asked(DIT)


def test_a_disk_that_fills_up_is_one_line(hub, monkeypatch, capsys) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device", "blobs/x")

    monkeypatch.setattr(hub_files, "_complete", full)
    assert main(["download"]) == 2
    assert "the disk is full; make room, then give the same command again" in one_line(capsys)


def test_a_plan_fetches_nothing(hub, tmp_path, capsys) -> None:
    assert main(["download", "--plan"]) == 0
    assert "8 files, 0.00 GB" in capsys.readouterr().err
    assert not hub.asked(DIT)
    assert not (tmp_path / "cache").exists()


def test_the_transformer_can_be_left_out_for_a_gguf_file(hub, tmp_path, capsys) -> None:
    assert main(["download", "--without-transformer"]) == 0
    said = capsys.readouterr()
    assert (cached(tmp_path, hub) / "transformer/config.json").exists()
    assert not (cached(tmp_path, hub) / DIT).exists()
    assert f"--model {cached(tmp_path, hub)} --transformer-gguf FILE.gguf" in said.err


def test_a_mirror_that_offers_other_files_as_the_published_revision_is_refused(hub, capsys) -> None:
    hub.commit = PUBLISHED_REVISION
    assert main(["download"]) == 2
    assert f"offers another connector/model.safetensors, {DIT}" in one_line(capsys)
    assert not hub.asked(DIT)


def test_base_models_of_a_native_checkpoint(hub, tmp_path, capsys) -> None:
    hub.repositories |= {
        "deepgenteam/DeepGen-1.0": {
            "model.pt": weights(),
            "DeepGen_CKPT.zip.part-aa": weights(),
            "config.json": b"{}",
        },
        BASE_VLM: {
            "config.json": b"{}",
            "model.safetensors": weights(),
            "merges.txt": b"a b",
            "LICENSE": b"text",
        },
        BASE_PIPELINE: {
            "model_index.json": b"{}",
            "vae/config.json": b"{}",
            "text_encoder/model.safetensors": weights(),
        },
    }
    assert main(["download", "deepgenteam/DeepGen-1.0", "--bases"]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 3
    assert "next: deepgen convert deepgenteam/DeepGen-1.0 my-model" in said.err
    assert not hub.asked("DeepGen_CKPT.zip.part-aa")
    assert not hub.asked("model.safetensors")[1:]  # the VLM's, not a text encoder that is never read
    assert main(["download", "--bases", "--to", str(tmp_path / "bases")]) == 0
    vlm, pipeline = (tmp_path / "bases" / name.split("/")[1] for name in (BASE_VLM, BASE_PIPELINE))
    assert (vlm / "model.safetensors").exists()
    assert f"--vlm {vlm} --transformer {pipeline} --vae {pipeline}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tiny"], "is inside this package"),
        (["nonsense"], "is no name on the Hub"),
        (["--to", "file"], "is a file"),
    ],
)
def test_what_cannot_be_downloaded_is_refused_at_once(arguments, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(["download", *arguments]) == 2
    assert said in one_line(capsys)
