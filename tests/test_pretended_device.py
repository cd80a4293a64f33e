"""The pretended CUDA device itself: what raises on a real one raises, what waits is counted, the rest
computes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from deepgen.transfer import to_device, to_host
from pretended_device import DeviceTensor, PretendedDevice


@pytest.fixture
def device() -> Iterator[PretendedDevice]:
    with PretendedDevice() as made:
        yield made


def test_it_is_there_only_while_it_is_entered() -> None:
    with PretendedDevice():
        assert torch.cuda.is_available()
        assert torch.ones(2, device="cuda").device == torch.device("cuda", 0)
    assert not torch.cuda.is_available()
    assert torch.accelerator.current_accelerator() is None
    assert type(torch.ones(2)) is torch.Tensor


MIXED = {
    "add": lambda host, there: host + there,
    "in place": lambda host, there: host.add_(there),
    "cat": lambda host, there: torch.cat([host, there]),
    "stack of scalars": lambda host, there: torch.stack([host.sum(), there.sum()]),
    "matmul": lambda host, there: host[:3] @ there[:3, None],
    "where": lambda host, there: torch.where(there > 0, there, host),
    "linear": lambda host, there: nn.functional.linear(there[:2], torch.ones(2, 2)),
    "a device index of a host tensor": lambda host, there: host[there.long()],
    "numpy": lambda host, there: there.numpy(),
    "generator": lambda host, there: torch.randn(2, generator=torch.Generator(), device="cuda"),
    "generator of the device": lambda host, there: torch.randn(2, generator=torch.Generator("cuda")),
}


@pytest.mark.parametrize("name", MIXED)
def test_tensors_of_two_devices_do_not_meet(device: PretendedDevice, name: str) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"device|convert"):
        MIXED[name](torch.ones(4), torch.ones(4, device="cuda"))


def test_a_scalar_of_the_host_may_meet_the_device(device: PretendedDevice) -> None:
    there = torch.ones(4, device="cuda")
    device.forget()
    total = torch.tensor(2.0) * there + 1
    there[0] = 5.0
    assert isinstance(total, DeviceTensor)
    assert device.count() == 0
    assert total.tolist() == [3.0] * 4
    assert there.tolist() == [5.0, 1.0, 1.0, 1.0]


WAITS = {
    "item": lambda there: there.sum().item(),
    "bool": lambda there: bool((there > 0).all()),
    "tolist": lambda there: there.tolist(),
    "to the host": lambda there: there.cpu(),
    "boolean index": lambda there: there[there > 0],
    "nonzero": lambda there: there.nonzero(),
    "equal": lambda there: torch.equal(there, there),
    "a list as an index": lambda there: there[[0, 1]],
    "a new tensor from numbers": lambda there: there.new_tensor([1.0, 2.0]),
    "from ordinary memory": lambda there: torch.ones(2).to("cuda"),
    "from ordinary memory, though not blocking": lambda there: torch.ones(2).to("cuda", non_blocking=True),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_makes_the_host_wait_is_counted_by_line(device: PretendedDevice, name: str) -> None:
    there = torch.arange(4.0, device="cuda")
    device.forget()
    device.phase = "here"
    WAITS[name](there)
    assert device.count("here") == 1
    assert "test_pretended_device.py" in device.report()


def test_computing_does_not_wait(device: PretendedDevice) -> None:
    there = torch.arange(4.0, device="cuda")
    device.forget()
    torch.where(there > 1, there, -there).softmax(0)[1:].add_(1)
    there.to("cuda")
    to_device(torch.ones(3), "cuda")
    assert device.count() == 0, device.report()


def test_a_layer_learns_what_it_learns_on_the_cpu(device: PretendedDevice) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(3, 2)
    there = nn.Linear(3, 2)
    there.load_state_dict(plain.state_dict())
    weight = there.weight
    there.to("cuda")
    assert there.weight is weight, "as between real devices"
    assert isinstance(weight, nn.Parameter)
    x = torch.randn(5, 3)
    for layer, given in ((plain, x), (there, x.to("cuda"))):
        optimizer = torch.optim.AdamW(layer.parameters())
        layer(given).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(there.weight.cpu(), plain.weight)


def test_autocast_computes_in_the_narrow_format(device: PretendedDevice) -> None:
    layer, x = nn.Linear(3, 2).to("cuda"), torch.ones(1, 3, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        made = layer(x)
        assert made.dtype == torch.bfloat16
        assert nn.functional.layer_norm(made, (2,)).dtype == torch.float32
    made.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


def test_threads_see_the_device(device: PretendedDevice) -> None:
    made = []
    thread = threading.Thread(target=lambda: made.append(torch.ones(2, device="cuda") + 1))
    thread.start()
    thread.join()
    assert isinstance(made[0], DeviceTensor)


def test_all_that_is_read_comes_in_one_copy(device: PretendedDevice) -> None:
    given = [
        torch.arange(5, dtype=torch.uint8),
        torch.tensor([[1.5, -2.0]]),
        torch.tensor(True),
        torch.zeros(0, 3),
        torch.arange(3, dtype=torch.bfloat16),
    ]
    there = [to_device(one, "cuda") for one in given]
    device.forget()
    arrived = to_host([*there, given[0]])
    assert device.count() == 1
    for one, other in zip(arrived, [*given, given[0]], strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
