"""What a run says while it trains."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from deepgen.planning.accelerators import ACCELERATORS, accelerator_of_device
from deepgen.training.log import RunLog
from deepgen.training.optim import OptimConfig, Optimizer
from deepgen.training.parallel import Processes
from deepgen.training.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Config:
    num_steps: int = 10
    trackers: tuple[str, ...] = ()
    global_batch_size: int = 6


class Remembering:
    def __init__(self) -> None:
        self.images: list[tuple[int, str, tuple[int, int]]] = []

    def log(self, step, metrics) -> None: ...

    def image(self, step, name, image) -> None:
        self.images.append((step, name, image.size))

    def close(self) -> None: ...


def test_the_log_counts_pictures_a_second(tmp_path: Path) -> None:
    with RunLog(tmp_path, Config(), Processes("cpu"), 0) as log:
        log.write(2)
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line["images_per_second"] == pytest.approx(6 * line["steps_per_second"], rel=1e-2)


def test_the_log_says_which_share_of_a_known_cards_peak_was_reached(tmp_path: Path) -> None:
    with RunLog(tmp_path, Config(), Processes("cpu"), 0) as log:
        log.write(1)
        log.peak_flops = 1e12
        log.computed(1e9)
        log.write(2)
    unknown, known = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert "mfu" not in unknown
    assert known["mfu"] == pytest.approx(1e-3 * known["steps_per_second"], rel=1e-2)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "rtx-4070-ti-super"),
        ("NVIDIA GeForce RTX 4060 Ti", "rtx-4060-ti"),
        ("AMD Radeon RX 7900 XTX", "rx-7900-xtx"),
    ],
)
def test_a_drivers_name_finds_its_card(device: str, name: str) -> None:
    assert accelerator_of_device(device) == ACCELERATORS[name]


@pytest.mark.parametrize("device", ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 PCIe", "Quadro M4000"])
def test_a_card_with_another_peak_is_not_taken_for_a_listed_one(device: str) -> None:
    assert accelerator_of_device(device) is None


def test_a_picture_of_validation_goes_to_the_trackers_at_its_step(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (4, 2)).save(tmp_path / "samples" / "step-00000003.png")
    tracker = Remembering()
    with RunLog(tmp_path, Config(), Processes("cpu"), 0) as log:
        log._trackers = [tracker]
        log.show(2)
        log.show(3)
    assert tracker.images == [(3, "samples", (4, 2))]


def test_gradient_norms_of_the_parts_add_up_to_the_whole() -> None:
    parts = nn.ModuleDict({"connector": nn.Linear(2, 3), "transformer": nn.Linear(3, 1)})
    parts["transformer"](parts["connector"](torch.ones(4, 2))).sum().backward()
    known = {
        name: torch.cat([p.grad.flatten() for p in part.parameters()]).norm() for name, part in parts.items()
    }
    norms = TrainState(parts, OptimConfig(), 10, None).update()
    for name, norm in known.items():
        assert norms[f"grad_norm/{name}"] == pytest.approx(float(norm))
    assert norms["grad_norm"] == pytest.approx(sum(float(norm) ** 2 for norm in known.values()) ** 0.5)


def test_the_norm_of_a_part_without_gradients_lies_where_its_weights_do() -> None:
    """PyTorch puts the norm of nothing on the CPU, and on a card that cannot be stacked with the others'."""
    part = nn.Linear(2, 3, device="meta")
    norm = Optimizer(part.named_parameters(), OptimConfig(muon_lr=None)).norm(list(part.parameters()))
    assert norm.device.type == "meta"
    own = nn.Linear(2, 3)
    assert float(Optimizer(own.named_parameters(), OptimConfig()).norm(list(own.parameters()))) == 0
