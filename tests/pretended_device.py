"""A CUDA device that only pretends to be there, so that code for one is run on a machine without.

Its tensors say `cuda:0` and hold their numbers on the CPU. Two faults show that a CPU hides: tensors of two
devices meet, which raises as on a real device, and the host waits for the device, which is counted by the
line that asked.

    with PretendedDevice() as device:
        pipe = DeepGenPipeline.from_pretrained("tiny").to("cuda")
        pipe("a red circle")
    print(device.report())

How it works. A tensor is a shell that autograd and optimizers take for one of PyTorch's `meta` device; only
its `device` says cuda:0. Every operation on it arrives in `_run`, which checks, counts, and runs it on the
CPU. Functions that make tensors arrive there by a dispatch mode, and what PyTorch decides before it
dispatches (`torch.tensor`, `Tensor.to("cuda")`, `torch.cuda...`, autocast) is replaced while the device is
pretended, and only then. PyTorch's PrivateUse1 backend could carry the shells, too; but it is registered for
the whole life of a process, and before the first `backward`, while tests share a process.

A wait is what `torch.cuda.set_sync_debug_mode` warns of: reading a value (`item`, `tolist`, a boolean index),
a copy to the host, and a copy to the device that is not `non_blocking`. The device says nothing about speed,
memory or about kernels' own limits, and its random numbers are the CPU's.
"""

from __future__ import annotations

import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from diffusers.utils.torch_utils import TorchDeviceBackend
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
MEMORY = 80 << 30  # bytes, all of them free
_CARRIER = torch.device("lazy", 0)  # of the shells; no tensor says so
_SOURCE = str(Path(__file__).parents[1] / "src" / "deepgen")

# The host knows values of the device after these.
_READS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}
_COPIES = {aten.copy_.default, aten._to_copy.default}
_INDEXES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
_TAKES_HOST_SCALARS = {*_INDEXES, aten.fill_.Tensor}  # besides pointwise operations


@dataclass(frozen=True)
class Wait:
    """One wait of the host for the device.

    Attributes:
        what: the operation.
        line: `file:line function` of the package, or of the caller where no line of the package is under way.
        phase: what `PretendedDevice.phase` was.
    """

    what: str
    line: str
    phase: str


class DeviceTensor(torch.Tensor):
    """Says cuda:0; `held` has the numbers, on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value: Tensor, requires_grad: bool = False) -> Any:
        """A parameter, as libraries make one of the class that a parameter has."""
        return torch.nn.Parameter(value, requires_grad=requires_grad)

    @staticmethod
    def of(held: Tensor, requires_grad: bool = False) -> DeviceTensor:
        """These numbers on the device."""
        shell = torch.Tensor._make_wrapper_subclass(
            DeviceTensor,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=_CARRIER,
            requires_grad=requires_grad,
        )
        shell.held = held
        return shell

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_meta(self) -> bool:
        return False

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __repr__(self) -> str:
        return f"DeviceTensor({self.held!r})"

    def tolist(self) -> Any:
        _note("tolist")
        return self.held.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _on_device, (self.held.detach().clone(), self.requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceTensor:
        if id(self) not in memo:
            copied = DeviceTensor.of(self.held.detach().clone(), self.requires_grad)
            copied.__dict__.update({k: v for k, v in vars(self).items() if k != "held"})
            memo[id(self)] = copied
        return memo[id(self)]


def _on_device(held: Tensor, requires_grad: bool) -> DeviceTensor:
    return DeviceTensor.of(held, requires_grad)


class PretendedDevice:
    """Pretends a CUDA device while it is entered; one at a time.

    Attributes:
        waits: what the host waited for, in order.
        phase: a name that a test sets, kept with each wait from then on.
    """

    def __init__(self) -> None:
        self.waits: list[Wait] = []
        self.phase = ""
        self._stack = ExitStack()

    def __enter__(self) -> PretendedDevice:
        global _active
        if _active is not None:
            raise RuntimeError("a device is pretended already")
        for owner, name, value in _replacements():
            self._stack.enter_context(mock.patch.object(owner, name, value))
        self._stack.enter_context(_modules_keep_their_parameters())
        self._stack.enter_context(_modes())
        _active = self
        return self

    def __exit__(self, *error: Any) -> None:
        global _active
        _active = None
        self._stack.close()

    def count(self, phase: str | None = None) -> int:
        """Waits of a phase, or all."""
        return sum(phase in (None, wait.phase) for wait in self.waits)

    def forget(self) -> None:
        """Begin to count anew."""
        self.waits.clear()

    def report(self, phase: str | None = None) -> str:
        """The lines that waited, most first."""
        lines = Counter(f"{w.phase} {w.line}: {w.what}" for w in self.waits if phase in (None, w.phase))
        return "\n".join(f"{count:5d} x {line}" for line, count in lines.most_common())


_active: PretendedDevice | None = None


# --- operations ---------------------------------------------------------------------------------------------


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation: checked and counted as the device would, computed on the CPU."""
    if func is torch.ops.prim.device.default:
        return _CARRIER
    tensors = _tensors(args, kwargs)
    given = kwargs.get("device")
    is_on_device = any(isinstance(x, DeviceTensor) for x in tensors)
    if is_on_device:
        _check_devices(func, args, tensors)
        _count_reads(func, args)
    target = is_on_device if given is None else torch.device(given).type in ("cuda", _CARRIER.type)
    if func is aten.copy_.default:
        target = isinstance(args[0], DeviceTensor)
    if func in _COPIES:
        _count_copies(func, args, kwargs, target)
    if target or is_on_device:
        if given is not None and torch.device(given).type != "meta":
            kwargs = {**kwargs, "device": CPU}
        kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    result = func(*_mapped(_held, args), **_mapped(_held, kwargs))
    known = {id(x.held): x for x in tensors if isinstance(x, DeviceTensor)}  # in place, or out=

    def wrap(x: Tensor) -> Tensor:
        if isinstance(x, DeviceTensor):
            return x
        return known.get(id(x)) if id(x) in known else DeviceTensor.of(x) if target else x

    return _mapped(wrap, result)


def _held(x: Tensor) -> Tensor:
    return x.held if isinstance(x, DeviceTensor) else x


def _mapped(change: Callable[[Tensor], Tensor], x: Any) -> Any:
    """Arguments or results with their tensors changed; as `tree_map`, in a quarter of its time."""
    if isinstance(x, Tensor):
        return change(x)
    if isinstance(x, (list, tuple)):
        return type(x)([_mapped(change, one) for one in x])
    return {name: _mapped(change, one) for name, one in x.items()} if isinstance(x, dict) else x


def _tensors(args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    found: list[Tensor] = []
    _mapped(lambda x: found.append(x) or x, (args, kwargs))
    return found


def _check_devices(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Tensors of two devices meet only where a real device lets them."""
    if func in _COPIES:
        return
    host = [x for x in tensors if not isinstance(x, DeviceTensor)]
    if func in _INDEXES and isinstance(args[0], DeviceTensor):
        values = [x for x in args[2:3] if isinstance(x, Tensor)]
        if any(x.dim() for x in values if not isinstance(x, DeviceTensor)):
            raise _mixed(func, tensors)
        if any(isinstance(x, Tensor) and not isinstance(x, DeviceTensor) for x in args[1]):
            _note("a CPU tensor as an index")  # is copied to the device
        return
    is_pointwise = torch.Tag.pointwise in func.tags or "foreach" in str(func)
    allows_scalars = (is_pointwise or func in _TAKES_HOST_SCALARS) and isinstance(
        args[0], (DeviceTensor, list, tuple)
    )
    if is_pointwise and not allows_scalars:  # `cpu_scalar * device_tensor`, and never in place
        allows_scalars = not str(func).split(".")[1].endswith("_")
    if any(x.dim() or not allows_scalars for x in host):
        raise _mixed(func, tensors)


def _mixed(func: Any, tensors: list[Tensor]) -> RuntimeError:
    shapes = ", ".join(
        f"{tuple(x.shape)} on {'cuda:0' if isinstance(x, DeviceTensor) else 'cpu'}" for x in tensors
    )
    return RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, in {func}: {shapes}"
    )


def _check_generator(generator: torch.Generator, is_on_device: bool) -> None:
    if isinstance(generator, _DeviceGenerator) != is_on_device:
        wanted, found = ("cuda", "cpu") if is_on_device else ("cpu", "cuda")
        raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{found}'")


def _count_reads(func: Any, args: Any) -> None:
    if func in _READS:
        _note(str(func).split(".")[1])
    if func in _INDEXES:
        masks = [x for x in args[1] if isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8)]
        is_fill = func is not aten.index.Tensor and len(args[1]) == 1 and args[2].numel() == 1
        if masks and not is_fill:  # one value at a mask is a masked_fill
            _note("boolean index")


def _count_copies(func: Any, args: Any, kwargs: dict[str, Any], to_device: bool) -> None:
    source = args[1] if func is aten.copy_.default else args[0]
    was_on_device = isinstance(source, DeviceTensor)
    if was_on_device and not to_device:
        _note("copy to the host")
    if to_device and not was_on_device and source.numel():
        is_queued = kwargs.get("non_blocking", func is aten.copy_.default and args[2:3] == (True,))
        if not (is_queued and getattr(source, "is_page_locked", False)):
            _note("copy to the device")


def _note(what: str) -> None:
    """Count a wait, by the innermost line of the package, or of its caller."""
    if _active is None:
        return
    frame, found = sys._getframe(1), None
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_SOURCE):
            found = frame
            break
        if found is None and "site-packages" not in name and name != __file__ and "/lib/python" not in name:
            found = frame
        frame = frame.f_back
    line = "?"
    if found is not None:
        code = found.f_code
        line = f"{code.co_filename.removeprefix(_SOURCE + '/')}:{found.f_lineno} {code.co_name}"
    _active.waits.append(Wait(what, line, _active.phase))


# --- what PyTorch decides before it dispatches --------------------------------------------------------------


class _Operations(TorchDispatchMode):
    """Functions that make tensors come here, as they have no tensor to tell the device by."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind.__torch_dispatch__ is not _plain and kind is not DeviceTensor for kind in types):
            return NotImplemented  # a quantised tensor, which holds tensors of the device, knows what to do
        return _run(func, args, kwargs or {})


_plain = torch._C._disabled_torch_dispatch_impl


class _Functions(TorchFunctionMode):
    """Functions that would ask CUDA's driver."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.is_autocast_enabled("cuda"):
            args, kwargs = _autocast(func, args, kwargs)
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            place = kwargs.pop("device", None)
            made = func(*args, **kwargs)
            return made if place is None else made.to(place)
        if func in (torch.Tensor.new_tensor,) and isinstance(args[0], DeviceTensor):
            place = kwargs.pop("device", None) or CUDA
            kwargs.setdefault("dtype", args[0].dtype)
            return torch.tensor(*args[1:], **kwargs).to(place)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            tensor, index, *value = args
            several = index if isinstance(index, tuple) else (index,)
            args = tensor, tuple(torch.tensor(x) if isinstance(x, list) else x for x in several), *value
        if func is torch.Tensor.cuda:
            return args[0].to(CUDA, **{k: v for k, v in kwargs.items() if k == "non_blocking"})
        if func is torch.Tensor.pin_memory:
            pinned = args[0].detach().clone()
            pinned.is_page_locked = True
            return pinned
        if func is torch.Tensor.is_pinned:
            return getattr(args[0], "is_page_locked", False)
        if func is torch.Tensor.to:
            wanted = _to_arguments(*args, **kwargs)
            return func(args[0], **wanted) if wanted else args[0]
        if kwargs.get("generator") is not None:
            place = kwargs.get("device") or (args[0].device if isinstance(args[0], Tensor) else CPU)
            _check_generator(kwargs["generator"], torch.device(place).type == "cuda")
        return func(*args, **kwargs)


def _to_arguments(tensor: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """What `Tensor.to` is asked to change, by name; nothing where the tensor is as it is wanted."""
    names = ["device", "dtype", "non_blocking", "copy"]
    if args and isinstance(args[0], Tensor):
        args = args[0].device, args[0].dtype, *args[1:]
    elif args and isinstance(args[0], torch.dtype):
        names = names[1:]
    wanted = {**dict(zip(names, args, strict=False)), **kwargs}
    wanted = {name: value for name, value in wanted.items() if value is not None and value is not False}
    if "device" in wanted:
        wanted["device"] = _with_index(wanted["device"])
        if isinstance(tensor, DeviceTensor) and torch.device(wanted["device"]) == CUDA:
            del wanted["device"]
    if wanted.get("dtype") == tensor.dtype and "copy" not in wanted:
        del wanted["dtype"]
    is_same = not set(wanted) - {"non_blocking"}
    return {} if is_same else wanted


def _with_index(place: Any) -> Any:
    """`cuda:0` for `cuda`: PyTorch would ask which device is the current one."""
    is_device = isinstance(place, (str, torch.device)) and str(place) == "cuda"
    return CUDA if is_device or (isinstance(place, int) and not isinstance(place, bool)) else place


@contextmanager
def _modes() -> Iterator[None]:
    """Both modes, which a thread has for itself, here and in threads that begin meanwhile."""
    run = threading.Thread.run

    def run_with_modes(thread: threading.Thread) -> None:
        with _Functions(), _Operations():
            run(thread)

    with mock.patch.object(threading.Thread, "run", run_with_modes), _Functions(), _Operations():
        yield


@contextmanager
def _modules_keep_their_parameters() -> Iterator[None]:
    """`module.to` leaves the parameters the objects they were, as between real devices."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


class _AnyGenerator(type(torch.Generator)):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _HostGenerator)


_HostGenerator = torch.Generator


class _DeviceGenerator(_HostGenerator):
    """Says cuda:0; its numbers are the CPU's."""

    @property
    def device(self) -> torch.device:
        return CUDA


class _Generator(_HostGenerator, metaclass=_AnyGenerator):
    def __new__(cls, device: Any = "cpu") -> Any:
        return (_DeviceGenerator if torch.device(device).type == "cuda" else _HostGenerator)()


class _Stream:
    """Of CUDA's work; all of it is done when it is asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def _replacements() -> list[tuple[Any, str, Any]]:
    """(owner, name, value) of what asks CUDA's driver."""
    properties = types.SimpleNamespace(
        name="Pretended", total_memory=MEMORY, major=9, minor=0, multi_processor_count=132
    )
    answers = {
        "_lazy_init": None,
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "mem_get_info": (MEMORY, MEMORY),
        "get_device_name": "Pretended",
        "get_device_properties": properties,
        "get_device_capability": (9, 0),
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "memory_allocated": 0,
        "memory_reserved": 0,
        "max_memory_allocated": 0,
        "max_memory_reserved": 0,
        "reset_peak_memory_stats": None,
        "empty_cache": None,
        "manual_seed": None,
        "manual_seed_all": None,
        "set_device": None,
        "get_rng_state_all": [],
        "set_rng_state_all": None,
    }
    replaced = [(torch.cuda, name, lambda *a, value=value, **k: value) for name, value in answers.items()]
    return [
        *replaced,
        (torch.cuda, "synchronize", lambda *a, **k: _note("synchronize")),
        (torch.cuda, "get_rng_state", lambda *a: torch.get_rng_state()),
        (torch.cuda, "set_rng_state", lambda state, *a: torch.set_rng_state(state)),
        (torch.cuda, "Stream", _Stream),
        (torch.cuda, "Event", _Stream),
        (torch.cuda, "current_stream", lambda *a: _Stream()),
        (torch.cuda, "stream", lambda *a: nullcontext()),
        (torch, "Generator", _Generator),
        (torch.Tensor, "data", _data()),
        (torch.accelerator, "current_accelerator", lambda *a, **k: torch.device("cuda")),
        (torch.accelerator, "is_available", lambda *a, **k: True),
        (torch.accelerator, "current_device_index", lambda *a, **k: 0),
        (torch.accelerator, "current_stream", lambda *a, **k: _Stream()),
        (TorchDeviceBackend, "_detect_device_type", lambda *a: "cuda"),  # remembers the first answer
    ]


def _data() -> property:
    """`parameter.data = value`, also from one device to the other, which PyTorch refuses for a shell."""
    plain = torch.Tensor.__mro__[1].__dict__["data"]

    def assign(tensor: Tensor, value: Tensor) -> None:
        if isinstance(tensor, DeviceTensor) and isinstance(value, DeviceTensor):
            plain.__set__(tensor, value)
            tensor.held = value.held
        elif isinstance(tensor, DeviceTensor) or isinstance(value, DeviceTensor):
            twin = value.detach()
            if isinstance(tensor, torch.nn.Parameter):
                twin = torch.nn.Parameter(twin, requires_grad=tensor.requires_grad)
            torch.utils.swap_tensors(tensor, twin)
        else:
            plain.__set__(tensor, value)

    return property(plain.__get__, assign)


# --- autocast -----------------------------------------------------------------------------------------------

_functional = torch.nn.functional
_NARROWED = {
    *(_functional.linear, _functional.conv1d, _functional.conv2d, _functional.conv_transpose2d, torch.conv2d),
    *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum),
    *(
        torch.Tensor.matmul,
        torch.Tensor.__matmul__,
        torch.Tensor.__rmatmul__,
        torch.Tensor.mm,
        torch.Tensor.bmm,
    ),
    _functional.scaled_dot_product_attention,
}
_WIDENED = {
    *(_functional.softmax, torch.softmax, torch.Tensor.softmax, _functional.log_softmax, torch.log_softmax),
    *(_functional.layer_norm, torch.layer_norm, _functional.group_norm, torch.group_norm),
    *(torch.sum, torch.Tensor.sum, torch.cumsum, torch.Tensor.cumsum, torch.prod, torch.Tensor.prod),
    *(torch.exp, torch.Tensor.exp, torch.log, torch.Tensor.log, torch.rsqrt, torch.Tensor.rsqrt),
    *(torch.pow, torch.Tensor.pow, torch.Tensor.__pow__, torch.norm, torch.Tensor.norm),
    *(_functional.mse_loss, _functional.l1_loss, _functional.cross_entropy, _functional.nll_loss),
}


def _autocast(func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Arguments as autocast of CUDA hands them to a function (PyTorch's `autocast_mode.h`)."""
    if func not in _NARROWED and func not in _WIDENED:
        return args, kwargs
    dtype = torch.get_autocast_dtype("cuda") if func in _NARROWED else torch.float32

    def cast(x: Tensor) -> Tensor:
        is_meant = isinstance(x, DeviceTensor) and x.is_floating_point() and x.dtype != torch.float64
        return x.to(dtype) if is_meant else x

    return _mapped(cast, args), _mapped(cast, kwargs)
