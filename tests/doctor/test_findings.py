"""What is concluded from the facts of a machine: each thing that may be wrong, and where nothing is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepgen.doctor.examination import Death
from deepgen.extras import core_hint
from doctor.facts import (
    CARD,
    CPU,
    CPU_BUILD,
    CUDA_BUILD,
    GB,
    LINUX,
    MPS,
    ROCM_BUILD,
    examination,
    notes,
    only,
    problems,
)

NVIDIA = replace(LINUX, nvidia=("NVIDIA GeForce RTX 4090",), nvidia_driver="550.54.14")
AMD = replace(LINUX, amd=("gfx1100",))
RADEON = replace(CARD, hardware="AMD Radeon RX 7900 XTX", architecture="gfx1100")


@pytest.mark.parametrize(
    ("torch", "machine"),
    [
        (CPU_BUILD, LINUX),
        (CUDA_BUILD, NVIDIA),
        (replace(ROCM_BUILD, devices=(RADEON, CPU)), AMD),
        (replace(CPU_BUILD, has_mps=True, devices=(MPS, CPU)), replace(LINUX, apple_chip=True)),
        (CUDA_BUILD, LINUX),  # a container that shows the card and not the driver's files
    ],
)
def test_nothing_is_wrong_with_a_machine_as_it_should_be(torch, machine) -> None:
    found = examination(torch, machine)
    assert problems(found) == []
    assert notes(found) == []


# --- PyTorch ------------------------------------------------------------------------------------------------


def test_pytorch_that_is_missing_too_old_or_broken_is_the_first_problem() -> None:
    assert "PyTorch is not installed" in only(problems(examination(None, versions={"torch": None})))
    told = only(problems(examination(None, versions={"torch": "2.5.1+cu124"})))
    assert told.startswith("problem: PyTorch 2.5.1+cu124 is too old: 2.6 or newer is needed. Install")
    reason = "OSError: libtorch_cpu.so: cannot open shared object file"
    told = only(problems(examination(None, deaths=[Death(job="torch", reason=reason)])))
    assert f"PyTorch 2.13.0 is installed and does not work: {reason}" in told


def test_a_build_for_processors_beside_a_card_of_nvidia_is_a_problem() -> None:
    told = only(problems(examination(CPU_BUILD, NVIDIA)))
    assert "has NVIDIA GeForce RTX 4090, and PyTorch 2.13.0+cpu is built without CUDA" in told
    assert "pictures are drawn on the processor" in told
    assert "https://pytorch.org" in told


def test_a_build_without_rocm_beside_a_card_of_amd_is_a_problem() -> None:
    told = only(problems(examination(CPU_BUILD, AMD)))
    assert "an AMD card (gfx1100), and PyTorch 2.13.0+cpu is built without ROCm" in told
    both = replace(NVIDIA, amd=("gfx1036",))  # graphics in the processor beside a card of NVIDIA
    assert problems(examination(CUDA_BUILD, both)) == []


def test_a_build_for_cards_that_finds_none_says_why() -> None:
    blind = replace(
        CUDA_BUILD, devices=(CPU,), architectures=(), warnings=("the driver is too old (found 11040)",)
    )
    found = examination(blind, NVIDIA)
    assert "update NVIDIA's driver" not in only(problems(found)).split("Update")[0]
    assert "Update NVIDIA's driver (here 550.54.14), or take a PyTorch for an older CUDA" in only(
        problems(found)
    )
    assert notes(found) == ["note: PyTorch says: the driver is too old (found 11040)"]
    hidden = replace(NVIDIA, variables={"CUDA_VISIBLE_DEVICES": ""})
    assert "CUDA_VISIBLE_DEVICES='' hides cards; unset it" in only(problems(examination(blind, hidden)))
    rocm = replace(ROCM_BUILD, devices=(CPU,))
    assert "this user may open /dev/kfd" in only(problems(examination(rocm, AMD)))


def test_a_build_for_cards_on_a_machine_without_one_is_no_problem() -> None:
    found = examination(replace(CUDA_BUILD, devices=(CPU,), architectures=()), LINUX)
    assert problems(found) == []
    assert "finds no card, and no driver shows one" in only(notes(found))


def test_a_card_that_does_not_answer_is_a_problem() -> None:
    broken = replace(CUDA_BUILD, broken=("cuda:1: AcceleratorError: CUDA error: device unavailable",))
    assert "does not answer PyTorch: cuda:1: AcceleratorError" in only(problems(examination(broken, NVIDIA)))


def test_an_apple_chip_that_is_not_computed_on_is_a_problem() -> None:
    told = only(problems(examination(CPU_BUILD, replace(LINUX, apple_chip=True))))
    assert "does not compute on it (MPS)" in told
    assert "Rosetta" in told


@pytest.mark.parametrize(
    ("architecture", "is_served"),
    [
        ("sm_89", True),  # runs kernels of sm_86
        ("sm_90", True),
        ("sm_75", False),  # no older kernels of its generation, and portable code of newer ones only
        ("sm_61", False),
        ("sm_121", True),  # by sm_120's, or its portable code
        ("sm_130", True),  # by portable code, compiled when first used
    ],
)
def test_a_card_that_the_build_has_no_kernels_for_is_a_problem(architecture: str, is_served: bool) -> None:
    card = replace(CARD, architecture=architecture)
    told = problems(examination(replace(CUDA_BUILD, devices=(card, CPU)), NVIDIA))
    assert (told == []) == is_served
    if not is_served:
        assert f"is {architecture}, and PyTorch 2.13.0+cu130 has kernels for sm_80, sm_86" in only(told)


def test_a_card_of_amd_needs_its_own_kernels() -> None:
    card = replace(RADEON, architecture="gfx1201")
    told = problems(examination(replace(ROCM_BUILD, devices=(card, CPU)), AMD))
    assert "is gfx1201, and PyTorch 2.13.0+rocm7.0 has kernels for gfx90a, gfx1100" in only(told)


def test_a_card_without_bfloat16_is_noted() -> None:
    card = replace(CARD, hardware="Tesla V100", architecture="sm_80", has_bfloat16=False, drawn_in="float16")
    found = examination(replace(CUDA_BUILD, devices=(card, CPU)), NVIDIA)
    assert "does not compute in bfloat16, so pictures are drawn in float16" in only(notes(found))


# --- packages -----------------------------------------------------------------------------------------------


def test_packages_that_are_always_needed_are_problems_where_they_are_missing_or_old() -> None:
    told = problems(examination(versions={"peft": None, "diffusers": "0.35.1"}))
    assert [text.split(". ")[0] for text in told] == [
        "problem: diffusers 0.35.1 is too old: 0.42 or newer is needed",
        "problem: peft is not installed",
    ]


def test_an_absent_extra_is_nothing_an_old_one_a_note_and_a_broken_one_a_problem() -> None:
    assert "too old: 0.9 or newer" in only(notes(examination(versions={"torchao": "0.5.0"})))
    found = examination(versions={"bitsandbytes": "0.49.0"})
    reason = "OSError: libcusparse.so.12: cannot open shared object file"
    found.packages = [
        replace(one, error=reason) if one.name == "bitsandbytes" else one for one in found.packages
    ]
    told = only(problems(found))
    assert f"bitsandbytes 0.49.0 is installed and cannot be imported: {reason}" in told
    assert "[quant]" in told


def test_torchvision_may_be_absent_and_must_not_be_broken() -> None:
    found = examination(versions={"torchvision": "0.20.0"})
    assert problems(found) == []
    reason = "RuntimeError: operator torchvision::nms does not exist"
    found.packages = [
        replace(one, error=reason) if one.name == "torchvision" else one for one in found.packages
    ]
    told = only(problems(found))
    assert reason in told
    assert "Nothing here needs it: pip uninstall torchvision" in told


def test_a_package_that_kills_the_process_is_named() -> None:
    death = Death(job="packages", reason="the process was ended by SIGILL", begin="onnxruntime")
    told = only(problems(examination(deaths=[death])))
    assert told == (
        "problem: importing onnxruntime ended the process: the process was ended by SIGILL. "
        "Install onnxruntime again"
    )


# --- numbers ------------------------------------------------------------------------------------------------


def of(part: str, state: str, **changes) -> dict:
    made = {
        "device": "cuda:0",
        "format": "bfloat16",
        "part": part,
        "state": state,
        "error": 0.5,
        "largest": 3.0,
        "expected": 0.02,
        "limit": 0.1,
        "largest_limit": 1.0,
        "seconds": 0.1,
        "message": "",
    }
    return {**made, **changes}


def test_parts_with_wrong_numbers_are_named_with_device_and_format() -> None:
    measured = [of("bridge", "right"), of("VAE decoder", "wrong"), of("convolution", "wrong", error=0.05)]
    told = only(problems(examination(CUDA_BUILD, NVIDIA, measured=measured)))
    assert "cuda:0 gives wrong numbers in bfloat16: VAE decoder (error 5.0e-01, at most 1.0e-01), " in told
    assert "convolution (largest error 3.0e+00, at most 1.0e+00)" in told


def test_a_format_that_is_missing_is_a_problem_only_where_pictures_are_drawn_in_it() -> None:
    lacks = {"error": None, "message": "RuntimeError: not implemented for 'Half'"}
    other = of("convolution", "missing", format="float16", **lacks)
    found = examination(CUDA_BUILD, NVIDIA, measured=[other])
    assert problems(found) == []
    assert "cuda:0 has no float16 for convolution" in only(notes(found))
    used = of("convolution", "missing", **lacks)
    told = only(problems(examination(CUDA_BUILD, NVIDIA, measured=[used])))
    assert "cuda:0 cannot run in bfloat16: convolution" in told


def test_a_device_that_kills_or_hangs_its_process_is_named_with_what_it_did() -> None:
    died = {"job": "device", "device": "cuda:0", "format": "float16", "begin": "attention, 64"}
    for reason in ("the process was ended by SIGSEGV", "no answer for 300 s"):
        told = only(problems(examination(CUDA_BUILD, NVIDIA, deaths=[Death(reason=reason, **died)])))
        assert told.startswith(f"problem: cuda:0 failed at attention, 64 in float16: {reason}. ")
    lost = Death(job="memory", reason="MemoryError")
    assert "the check of memory could not be made: MemoryError" in only(problems(examination(deaths=[lost])))


def test_a_damaged_model_is_a_problem() -> None:
    told = only(problems(examination(model_faults=["vlm/model.safetensors is not as it was made"])))
    assert "the embedded model `tiny` is damaged: vlm/model.safetensors is not as it was made" in told
    assert core_hint(again=True) in told


# --- picture ------------------------------------------------------------------------------------------------


def test_a_picture_that_is_not_drawn_not_right_or_not_written_is_a_problem() -> None:
    made = {"device": "cpu", "format": "float32", "seconds": 1.0, "written": "", "message": ""}
    for change, told in (
        (
            {"is_right": None, "message": "RuntimeError: no"},
            "no picture could be drawn on cpu in float32: Run",
        ),
        ({"is_right": False, "written": "/a.png"}, "on cpu in float32 does not show a cat"),
        (
            {"is_right": True, "message": "OSError: [Errno 28] No space left on device"},
            "could not be written: OSE",
        ),
    ):
        assert told in only(problems(examination(picture={**made, **change})))
    assert problems(examination(picture={**made, "is_right": True, "written": "/a.png"})) == []


# --- memory -------------------------------------------------------------------------------------------------


def test_enough_memory_is_no_finding_and_less_is_said_with_what_would_be() -> None:
    assert problems(examination(CUDA_BUILD, NVIDIA, plans_memory=True)) == []
    held = replace(CUDA_BUILD, devices=(replace(CARD, free_bytes=9 * GB), CPU))
    found = examination(held, NVIDIA, plans_memory=True)
    assert problems(found) == []
    told = only(notes(found))
    assert "other programs hold 15.0 of 24.0 GB on cuda:0" in told
    assert "would be kept as 16 bits, all parts on the device" in told


def test_too_little_memory_everywhere_is_a_problem() -> None:
    small = replace(CPU, total_bytes=8 * GB, free_bytes=4 * GB)
    told = only(problems(examination(replace(CPU_BUILD, devices=(small,)), plans_memory=True)))
    assert "too little memory for the 5B model: it needs 9.6 GB on cpu, and 4.0 of 8.0 GB are free" in told
    assert "another machine" in told
    busy = replace(CPU, total_bytes=32 * GB, free_bytes=4 * GB)
    told = only(problems(examination(replace(CPU_BUILD, devices=(busy,)), plans_memory=True)))
    assert "End other programs and try again" in told


def test_a_card_that_is_too_small_beside_a_large_main_memory_is_noted() -> None:
    card = replace(CARD, total_bytes=2 * GB, free_bytes=GB)
    found = examination(replace(CUDA_BUILD, devices=(card, CPU)), NVIDIA, plans_memory=True)
    assert problems(found) == []
    assert "the 5B model does not fit on cuda:0: it needs 2.0 GB, 1.0 are free" in only(notes(found))


def test_weights_that_wait_in_a_main_memory_without_room_are_a_problem() -> None:
    machine = replace(NVIDIA, free_memory_bytes=6 * GB)
    cpu = replace(CPU, free_bytes=6 * GB, total_bytes=8 * GB)
    card = replace(CARD, total_bytes=12 * GB, free_bytes=11 * GB)
    found = examination(replace(CUDA_BUILD, devices=(card, cpu)), machine, plans_memory=True)
    assert "13.5 GB wait in main memory, and 6.0 are free" in only(problems(found))


def test_a_plan_that_needs_a_missing_package_is_noted() -> None:
    card = replace(CARD, total_bytes=8 * GB, free_bytes=int(7.5 * GB))
    torch = replace(CUDA_BUILD, devices=(card, CPU))
    told = only(notes(examination(torch, NVIDIA, plans_memory=True)))
    assert "8 bits (int8), one part at a time on the device, tiled VAE on cuda:0, which needs torchao" in told
    assert notes(examination(torch, NVIDIA, plans_memory=True, versions={"torchao": "0.20.0"})) == []


def test_apples_one_memory_is_planned_without_offloading() -> None:
    found = examination(
        replace(
            CPU_BUILD, has_mps=True, devices=(replace(MPS, total_bytes=16 * GB, free_bytes=10 * GB), CPU)
        ),
        replace(LINUX, apple_chip=True),
        plans_memory=True,
    )
    (mps, _) = found.memory
    assert mps["plan"] == "8 bits (int8), all parts on the device, tiled VAE"
    assert mps["waiting_bytes"] == 0


def test_a_disk_without_room_for_the_weights_is_noted() -> None:
    assert "5.0 GB are free where downloaded models are kept" in only(
        notes(examination(machine=replace(LINUX, models_free_bytes=5 * GB)))
    )
    assert notes(examination(machine=replace(LINUX, models_free_bytes=5 * GB, has_weights=True))) == []
