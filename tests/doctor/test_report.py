"""The report: a table for people, JSON for programs, and a block without secrets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deepgen.doctor.report import DoctorReport, redacted
from doctor.facts import CARD, CPU, CUDA_BUILD, LINUX, examination
from doctor.test_findings import NVIDIA, of


def test_secrets_and_the_home_folder_are_taken_out() -> None:
    given = {"HF_TOKEN": "hf_abcdef", "OPENAI_API_KEY": "sk-12345678", "SHELL": "/bin/bash", "X_KEY": "1"}
    text = (
        "/home/ada/models/a 1 with hf_abcdef and sk-12345678 from https://ada:pw@example.org/x in /bin/bash"
    )
    assert redacted(text, given, Path("/home/ada")) == (
        "~/models/a 1 with [$HF_TOKEN] and [$OPENAI_API_KEY] from https://[...]@example.org/x in /bin/bash"
    )
    assert redacted("a / b", {}, Path("/")) == "a / b"


def test_neither_the_text_nor_the_json_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    home = str(Path("~").expanduser())
    faults = [f"{home}/tiny/vlm cannot be read: hf_secretsecret"]
    report = DoctorReport.of(examination(model_faults=faults))
    whole = str(report)
    assert f"{home}/tiny/vlm cannot be read: [$HF_TOKEN]" in whole, "commands to type keep their paths"
    assert "hf_secretsecret" not in whole
    for text in (whole[whole.index("```") :], json.dumps(report.to_dict())):
        assert "hf_secretsecret" not in text
        assert f"{home}/tiny" not in text
        assert "~/tiny/vlm cannot be read: [$HF_TOKEN]" in text


def test_each_device_has_a_table_with_errors_beside_the_expected_ones() -> None:
    measured = [
        of("bridge", "right", error=0.021),
        of("VAE decoder", "wrong"),
        of("VAE encoder", "wrong", error=None, message="holds NaN or infinity"),
        of("convolution", "missing", error=None, format="float16", message="no"),
    ]
    found = examination(CUDA_BUILD, NVIDIA, measured=measured)
    lines = str(DoctorReport.of(found)).splitlines()
    rows = {line.strip()[:18].strip(): line for line in lines if line.startswith("  ")}
    assert rows["bridge"].split() == ["bridge", "-", "2.1e-02", "2.0e-02", "-"]
    assert rows["VAE decoder"].split() == ["VAE", "decoder", "-", "5.0e-01", "2.0e-02", "WRONG", "-"]
    assert rows["VAE encoder"].split() == ["VAE", "encoder", "-", "NaN", "-"]
    assert rows["convolution"].split() == ["convolution", "-", "-", "missing"]
    assert (
        "cuda:0      NVIDIA GeForce RTX 4090, sm_89: 24.0 GB, 23.0 free; float32, float16, bfloat16"
        in str(DoctorReport.of(found))
    )
    assert "float32 convolutions may be rounded to TF32" in str(DoctorReport.of(found))


def test_the_block_ends_the_report_and_says_all_that_matters() -> None:
    machine = replace(NVIDIA, variables={"CUDA_VISIBLE_DEVICES": "0"})
    measured = [of("bridge", "right", error=0.021), of("VAE decoder", "wrong")]
    picture = {
        "device": "cuda:0",
        "format": "bfloat16",
        "seconds": 0.3,
        "is_right": True,
        "written": "/tmp/doctor.png",
        "message": "",
    }
    found = examination(CUDA_BUILD, machine, plans_memory=True, measured=measured, picture=picture)
    text = str(DoctorReport.of(found))
    block = text[text.index("```") :]
    assert block.endswith("\n```")
    for told in (
        "torch 2.13.0, transformers 5.23.0",
        "PyTorch 2.13.0+cu130, built for CUDA 13.0",
        "driver NVIDIA 550.54.14: NVIDIA GeForce RTX 4090",
        "variables CUDA_VISIBLE_DEVICES=0",
        "cuda:0 bfloat16: 1 of 2 parts right: worst VAE decoder 5.0e-01 (expected 2.0e-02, at most 1.0e-01)",
        "drawn on cuda:0 in bfloat16 in 0.3 s: a cat, as asked; /tmp/doctor.png",
        "cuda:0: 23.0 GB free: no option is needed",
        "problem: cuda:0 gives wrong numbers in bfloat16",
    ):
        assert told in block


def test_memory_suggests_what_to_type() -> None:
    card = replace(CARD, total_bytes=12 * 10**9, free_bytes=11 * 10**9)
    found = examination(replace(CUDA_BUILD, devices=(card, CPU)), NVIDIA, plans_memory=True)
    told = (
        "11.0 GB free: --memory auto; 16 bits, one part at a time on the device, which needs 8.2 GB, 13.5 GB"
    )
    assert f"cuda:0: {told}" in str(DoctorReport.of(found))


def test_the_json_is_whole_and_says_whether_anything_is_wrong() -> None:
    report = DoctorReport.of(examination(measured=[of("bridge", "wrong", error=float("nan"))], machine=LINUX))
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert told["ok"] is False
    assert told["measured"][0]["error"] is None
    assert told["packages"][0]["name"] == "torch"
    assert DoctorReport.of(examination()).to_dict()["ok"] is True
