"""Numbers: the recording is the embedded model's, this processor agrees with it, and what is wrong is named.

Wrong kernels are made by replacing one operation of PyTorch below everything that calls it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deepgen.cli.loading import choose_dtype
from deepgen.doctor import recorded
from deepgen.doctor.examination import MODEL, model_faults
from deepgen.doctor.kernels import KERNELS
from deepgen.doctor.measure import measure_device, uses_tf32
from deepgen.doctor.parts import PARTS
from deepgen.doctor.torch_facts import gather
from deepgen.pipeline import TINY_DIR

NAMES = {check.name for check in (*KERNELS, *PARTS)}


def measured(
    *formats: str, device: str = "cpu", model: Path = MODEL
) -> dict[tuple[str, str], dict[str, Any]]:
    found: list[dict[str, Any]] = []
    measure_device(device, formats, found.append, model=model)
    every = [one["measured"] for one in found if "measured" in one]
    return {(one["format"], one["part"]): one for one in every}


class Replaced(TorchDispatchMode):
    """Calls `change(result)` on what an operation returns in one number format."""

    def __init__(self, operation: Any, dtype: torch.dtype, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self.operation, self.dtype, self.change = operation, dtype, change

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        first = args[0] if args else None
        if func is self.operation and isinstance(first, torch.Tensor) and first.dtype == self.dtype:
            return self.change(result)
        return result


@contextmanager
def convolution(dtype: torch.dtype, change: Callable[[Any], Any]) -> Iterator[None]:
    with Replaced(torch.ops.aten.convolution.default, dtype, change):
        yield


def test_the_recording_is_of_the_model_in_the_package() -> None:
    assert MODEL == TINY_DIR
    assert recorded.read().facts["model"] == recorded.fingerprint(TINY_DIR), "run tools/record_doctor.py"
    assert recorded.RECORDED.stat().st_size < 200_000


def test_every_part_has_outputs_and_an_expected_error_in_each_format() -> None:
    recording = recorded.read()
    assert set(recording.outputs) == {check.name for check in PARTS}
    assert set(recording.expected) == NAMES
    for formats in recording.expected.values():
        assert set(formats) == set(recorded.FORMATS)


def test_an_input_is_the_same_number_in_every_format() -> None:
    for name, value in recorded.read().inputs.items():
        for dtype in (torch.bfloat16, torch.float16) if value.is_floating_point() else ():
            if name != "timesteps":
                torch.testing.assert_close(value.to(dtype).double(), value.double(), atol=0, rtol=0)


def test_this_processor_is_right_in_every_part_and_format() -> None:
    found = measured("float32", "bfloat16")
    assert {part for _, part in found} == NAMES
    assert [key for key, one in found.items() if one["state"] != "right"] == []
    for (name, part), one in found.items():
        assert one["error"] < one["limit"]
        if name == "bfloat16":  # half of what it may be is far above float32's rounding
            assert one["error"] > 100 * found["float32", part]["error"] or part == "solver"


def test_a_wrong_operation_is_named_in_the_format_it_is_wrong_in() -> None:
    with convolution(torch.bfloat16, lambda y: y * 1.1):
        found = measured("float32", "bfloat16")
    wrong = {key for key, one in found.items() if one["state"] == "wrong"}
    assert {("bfloat16", "convolution"), ("bfloat16", "VAE decoder")} <= wrong
    assert {name for name, _ in wrong} == {"bfloat16"}
    assert not wrong & {
        ("bfloat16", part) for part in ("matrix product", "attention, 64", "bridge", "VLM, text")
    }


def test_one_wrong_value_among_thousands_is_found() -> None:
    def spoiled(y: torch.Tensor) -> torch.Tensor:
        y = y.clone()
        y.view(-1)[7] += 100 * y.std()
        return y

    with convolution(torch.float32, spoiled):
        found = measured("float32")
    assert found["float32", "VAE decoder"]["state"] == "wrong"


def test_not_a_number_is_wrong_and_said() -> None:
    with convolution(torch.bfloat16, lambda y: y * float("nan")):
        found = measured("bfloat16")
    one = found["bfloat16", "VAE decoder"]
    assert (one["state"], one["error"], one["message"]) == ("wrong", None, "holds NaN or infinity")
    assert found["bfloat16", "VLM, text"]["state"] == "right"


def test_an_operation_that_a_device_lacks_is_missing_and_another_error_is_a_failure() -> None:
    def missing(y: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'")

    def fails(y: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nDevice-side")

    with convolution(torch.float32, missing):
        found = measured("float32")
    assert found["float32", "convolution"]["state"] == "missing"
    with convolution(torch.float32, fails):
        one = measured("float32")["float32", "VAE encoder"]
    assert one["state"] == "failed"
    assert one["message"] == "RuntimeError: CUDA error: an illegal memory access was encountered Device-side"


def test_a_device_that_answers_no_more_ends_the_process() -> None:
    def fails(y: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    broken = Replaced(torch.ops.aten.add.Tensor, torch.float32, fails)
    said: list[dict[str, Any]] = []
    with convolution(torch.float32, fails), broken, pytest.raises(RuntimeError, match="cpu answers no more"):
        measure_device("cpu", ("float32",), said.append, model=MODEL)
    assert said[-1]["measured"]["state"] == "failed"


def test_tf32_is_expected_where_a_card_may_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not uses_tf32("cpu", "VAE decoder")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    assert uses_tf32("cuda:0", "VAE decoder")
    assert uses_tf32("cuda:0", "convolution")
    assert not uses_tf32("cuda:0", "bridge")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert not uses_tf32("cuda:0", "VAE decoder")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert not uses_tf32("cuda:0", "convolution")


# --- files --------------------------------------------------------------------------------------------------


def test_a_damaged_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(recorded.RECORDED.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.safetensors is damaged, install the package again"):
        recorded.read(tmp_path / "cut.safetensors")


def test_the_embedded_model_is_whole_and_damage_is_named(tmp_path: Path) -> None:
    assert model_faults(MODEL) == []
    copy = tmp_path / "tiny"
    shutil.copytree(MODEL, copy)
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)
    (copy / "connector" / "config.json").unlink()
    assert model_faults(copy) == [
        "connector/config.json cannot be read: No such file or directory",
        "vae/diffusion_pytorch_model.safetensors is not as it was made: its sha256 differs",
    ]
    (copy / "SHA256SUMS").write_text("nonsense")
    assert "is no line of sha256sum" in model_faults(copy)[0]
    (copy / "SHA256SUMS").unlink()
    assert model_faults(copy) == ["tiny/SHA256SUMS is missing"]


def test_a_card_that_cannot_be_asked_hides_no_other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(number: int) -> None:
        raise RuntimeError("CUDA error: device is busy")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", fails)
    found = gather()
    assert found.broken == ("cuda:0: RuntimeError: CUDA error: device is busy",)
    assert [one.name for one in found.devices] == ["cpu"]


def test_the_doctor_draws_in_the_format_that_generate_takes() -> None:
    device = next(one for one in gather().devices if one.name == "cpu")
    assert f"torch.{device.drawn_in}" == str(choose_dtype("auto", "cpu", model_is_large=False))
