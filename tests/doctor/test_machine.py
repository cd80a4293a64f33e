"""Facts without PyTorch, read from files and programs as drivers and systems write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepgen.doctor.machine import VARIABLES, gather, hub_folder

# As the driver 550 writes them.
INFORMATION = """\
Model: \t\t NVIDIA GeForce RTX 4090
IRQ:   \t\t 123
GPU UUID: \t GPU-11111111-2222-3333-4444-555555555555
Video BIOS: \t 95.02.18.80.87
Bus Type: \t PCIe
"""
VERSION = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\nGCC version:\n"
)
# As amdgpu writes a node of an RX 7900 XTX, and the processor's.
NODE = "cpu_cores_count 0\nsimd_count 192\ngfx_target_version 110000\nvendor_id 4098\n"
PROCESSOR_NODE = "cpu_cores_count 16\nsimd_count 0\ngfx_target_version 0\n"


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_card_of_nvidia_is_found_in_the_drivers_files(tmp_path: Path, no_programs: Path) -> None:
    write(tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0/information", INFORMATION)
    write(tmp_path / "proc/driver/nvidia/version", VERSION)
    found = gather(tmp_path, {})
    assert found.nvidia == ("NVIDIA GeForce RTX 4090",)
    assert found.nvidia_driver == "550.54.14"
    assert "UUID" not in repr(found)


def test_a_card_of_nvidia_is_found_by_its_program(tmp_path: Path, no_programs: Path) -> None:
    program = no_programs / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 580.159.04'\n")
    program.chmod(0o755)
    found = gather(tmp_path, {})
    assert found.nvidia == ("NVIDIA H200 (143771 MiB)",)
    assert found.nvidia_driver == "580.159.04"


def test_a_driver_that_does_not_answer_shows_no_card(tmp_path: Path, no_programs: Path) -> None:
    program = no_programs / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because it couldn’t communicate'; exit 9\n")
    program.chmod(0o755)
    assert gather(tmp_path, {}).nvidia == ()


def test_a_card_of_amd_is_found_and_the_processor_is_none(tmp_path: Path, no_programs: Path) -> None:
    write(tmp_path / "sys/class/kfd/kfd/topology/nodes/0/properties", PROCESSOR_NODE)
    write(tmp_path / "sys/class/kfd/kfd/topology/nodes/1/properties", NODE)
    write(
        tmp_path / "sys/class/kfd/kfd/topology/nodes/2/properties", NODE.replace("110000", "90010")
    )  # MI200: step 10 is a
    assert gather(tmp_path, {}).amd == ("gfx1100", "gfx90a")


def test_a_machine_without_cards_has_none(tmp_path: Path, no_programs: Path) -> None:
    found = gather(tmp_path, {})
    assert (found.nvidia, found.nvidia_driver, found.amd) == ((), "", ())
    assert found.memory_bytes > found.free_memory_bytes > 0


def test_the_processor_is_named_as_its_maker_does(tmp_path: Path, no_programs: Path) -> None:
    write(tmp_path / "proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD EPYC 9754\n")
    assert gather(tmp_path, {}).processor.startswith("AMD EPYC 9754, ")


def test_of_the_environment_only_harmless_variables_are_kept(tmp_path: Path) -> None:
    given = {"HF_TOKEN": "hf_secret", "CUDA_VISIBLE_DEVICES": "", "HOME": "/home/someone"}
    assert gather(tmp_path, given).variables == {"CUDA_VISIBLE_DEVICES": ""}
    assert not [name for name in VARIABLES if "TOKEN" in name or "KEY" in name or "HOME" in name]


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ({"HF_HUB_CACHE": "/data/hub", "HF_HOME": "/x"}, "/data/hub"),
        ({"HF_HOME": "/data/hf"}, "/data/hf/hub"),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/huggingface/hub"),
    ],
)
def test_weights_are_looked_for_where_the_hubs_client_keeps_them(given: dict[str, str], folder: str) -> None:
    assert hub_folder(given) == Path(folder)


def test_weights_that_were_downloaded_are_seen(tmp_path: Path) -> None:
    assert not gather(tmp_path, {"HF_HUB_CACHE": str(tmp_path)}).has_weights
    (tmp_path / "models--deepgenteam--DeepGen-1.0-diffusers").mkdir()
    assert gather(tmp_path, {"HF_HUB_CACHE": str(tmp_path)}).has_weights
