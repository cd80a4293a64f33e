"""What is wrong and what to do about it, from what was found. Nothing is asked of the machine here.

A problem makes the exit code 1: something does not work, or would draw wrong pictures, or the 5B model fits
nowhere. A note does not: something is slower or smaller than it could be, or not as it was tested.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

from deepgen.doctor.examination import Examination
from deepgen.doctor.packages import PackageFacts
from deepgen.extras import Extra, core_hint, install_hint

GB = 10**9
WEIGHTS_GB = 14  # of the published model, to download

Level = Literal["problem", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing to know: what it is, and what to do about it (empty where there is nothing to do)."""

    level: Level
    what: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level}: {self.what}{f'. {self.advice}' if self.advice else ''}"


def findings(found: Examination) -> list[Finding]:
    """Problems first, in the order in which one would mend them."""
    every = [
        *_of_torch(found),
        *_of_packages(found),
        *_of_devices(found),
        *_of_model(found),
        *_of_numbers(found),
        *_of_processes(found),
        *_of_picture(found),
        *_of_memory(found),
    ]
    return [one for one in every if one.level == "problem"] + [one for one in every if one.level == "note"]


_BUILD = "Install the build for it that https://pytorch.org/get-started/locally names, into this Python"


def _of_torch(found: Examination) -> Iterator[Finding]:
    """Missing, too old, broken, or built for something else than this machine."""
    package = found.version_of("torch")
    if package.version is None:
        yield Finding("problem", "PyTorch is not installed", _install(package))
        return
    if package.is_old:
        yield Finding(
            "problem",
            f"PyTorch {package.version} is too old: {package.least} or newer is needed",
            f"{_install(package)}; nothing was run with this one",
        )
        return
    if found.torch is None:
        reasons = [death.reason for death in found.deaths if death.job == "torch"]
        yield Finding(
            "problem",
            f"PyTorch {package.version} is installed and does not work: {'; '.join(reasons)}",
            "Install it again into this Python, with the build for this machine "
            "(https://pytorch.org/get-started/locally)",
        )
        return
    yield from _of_build(found)


def _of_build(found: Examination) -> Iterator[Finding]:
    """Whether PyTorch sees the cards that the drivers show."""
    assert found.torch is not None
    torch, machine = found.torch, found.machine
    has_cuda = any(device["name"].startswith("cuda") for device in found.devices)
    if machine.nvidia and torch["cuda"] is None and torch["hip"] is None:
        cards = ", ".join(machine.nvidia)
        yield Finding(
            "problem",
            f"this machine has {cards}, and PyTorch {torch['version']} is built without CUDA: pictures are "
            "drawn on the processor",
            _BUILD,
        )
    elif machine.amd and torch["hip"] is None and not machine.nvidia:
        yield Finding(
            "problem",
            f"this machine has an AMD card ({', '.join(machine.amd)}), and PyTorch {torch['version']} is "
            "built without ROCm: pictures are drawn on the processor",
            _BUILD,
        )
    elif (torch["cuda"] or torch["hip"]) and not has_cuda and not torch["broken"]:
        yield from _of_hidden_cards(found)
    if machine.apple_chip and not any(device["name"] == "mps" for device in found.devices):
        yield Finding(
            "problem",
            f"this is an Apple chip, and PyTorch {torch['version']} does not compute on it (MPS)",
            "Use macOS 14 or newer and a PyTorch for arm64, not one that runs under Rosetta",
        )
    for text in torch["broken"]:
        yield Finding(
            "problem",
            f"a card is there and does not answer PyTorch: {text}",
            "Look whether another program holds it, and start the machine anew",
        )
    for text in torch["warnings"]:
        yield Finding("note", f"PyTorch says: {text}")


def _of_hidden_cards(found: Examination) -> Iterator[Finding]:
    """A build for cards that finds none."""
    assert found.torch is not None
    cards = found.machine.nvidia or found.machine.amd
    build = f"CUDA {found.torch['cuda']}" if found.torch["cuda"] else f"ROCm {found.torch['hip']}"
    if not cards:
        yield Finding(
            "note",
            f"PyTorch is built for {build} and finds no card, and no driver shows one: pictures are drawn on "
            "the processor",
        )
        return
    hiding = [
        f"{name}={value!r}"
        for name, value in (found.machine.variables or {}).items()
        if name.endswith("VISIBLE_DEVICES")
    ]
    why = f"{' and '.join(hiding)} hides cards; unset it" if hiding else _driver_advice(found)
    yield Finding(
        "problem",
        f"this machine has {', '.join(cards)}, PyTorch {found.torch['version']} is built for {build} and "
        "finds none: pictures are drawn on the processor",
        why[0].upper() + why[1:],
    )


def _driver_advice(found: Examination) -> str:
    if found.machine.nvidia:
        version = found.machine.nvidia_driver
        return (
            f"update NVIDIA's driver{f' (here {version})' if version else ''}, or take a PyTorch for an "
            "older CUDA; in a container, start it with the cards (docker run --gpus all)"
        )
    return (
        "check that ROCm's driver is installed, and that this user may open /dev/kfd (groups render, video)"
    )


def _of_packages(found: Examination) -> Iterator[Finding]:
    """What is missing, too old, or installed and broken."""
    for package in found.packages:
        if package.name == "torch":
            continue
        if not package.is_used:
            if package.error:
                yield Finding(
                    "problem",
                    f"{package.name} {package.version} is installed and cannot be imported, and transformers "
                    f"or diffusers take it up where it is: {package.error}",
                    f"Nothing here needs it: pip uninstall {package.name}; or install the version made for "
                    "this PyTorch",
                )
            continue
        is_core = package.extra is None
        if package.version is None:
            if is_core:
                yield Finding("problem", f"{package.name} is not installed", _install(package))
        elif package.error:
            yield Finding(
                "problem",
                f"{package.name} {package.version} is installed and cannot be imported: {package.error}",
                _install(package),
            )
        elif package.is_old:
            yield Finding(
                "problem" if is_core else "note",
                f"{package.name} {package.version} is too old: {package.least} or newer is needed",
                _install(package),
            )


def _install(package: PackageFacts) -> str:
    """What to type for it."""
    if package.name == "torch":
        return "Install the build for this machine: https://pytorch.org/get-started/locally"
    if package.extra is not None:
        return f"Install the extra again: {install_hint(cast(Extra, package.extra))}"
    return f"Install DeepGen's needs again: {core_hint()}"


def _of_devices(found: Examination) -> Iterator[Finding]:
    """Cards that this build has no kernels for, and number formats that are emulated."""
    if found.torch is None:
        return
    known = found.torch["architectures"]
    for device in found.devices:
        name, architecture = device["name"], device["architecture"]
        if name.startswith("cuda") and known and not _is_served(architecture, known):
            yield Finding(
                "problem",
                f"{name} ({device['hardware']}) is {architecture}, and PyTorch {found.torch['version']} has "
                f"kernels for {', '.join(known)}",
                "Install a build of PyTorch that has kernels for this card",
            )
        if name.startswith("cuda") and not device["has_bfloat16"]:
            yield Finding(
                "note",
                f"{name} ({device['hardware']}) does not compute in bfloat16, so pictures are drawn in "
                "float16, whose range some weights leave (black pictures)",
                "Where that happens, take --dtype float32",
            )


def _is_served(architecture: str, known: list[str]) -> bool:
    """A card runs kernels of its own generation up to its own version, or of an older one's portable code."""
    if not architecture.startswith("sm_"):
        return architecture in known
    own = int(architecture.removeprefix("sm_"))
    for one in known:
        kind, _, digits = one.partition("_")
        number = int("".join(filter(str.isdigit, digits)) or 0)
        if kind == "compute" and number <= own:
            return True
        if kind == "sm" and number // 10 == own // 10 and number <= own:
            return True
    return False


def _of_model(found: Examination) -> Iterator[Finding]:
    if found.model_faults:
        yield Finding(
            "problem",
            f"the embedded model `tiny` is damaged: {'; '.join(found.model_faults[:3])}",
            f"Install the package again ({core_hint(again=True)}, or git checkout in a clone); the checks of "
            "numbers were left out",
        )


def _of_numbers(found: Examination) -> Iterator[Finding]:
    """Parts that are wrong, failed or missing, together by device and format."""
    together: dict[tuple[str, str, str], list[dict]] = defaultdict(list)
    for one in found.measured:
        if one["state"] != "right":
            together[one["device"], one["format"], one["state"]].append(one)
    drawn_in = {device["name"]: device["drawn_in"] for device in found.devices}
    for (device, name, state), parts in together.items():
        told = ", ".join(_told(one) for one in parts[:4]) + (", ..." if len(parts) > 4 else "")
        if state == "missing" and drawn_in.get(device) != name:
            yield Finding(
                "note", f"{device} has no {name} for {told}", f"Do not ask for --dtype {name} there"
            )
        elif state == "wrong":
            yield Finding(
                "problem",
                f"{device} gives wrong numbers in {name}: {told}",
                "Pictures drawn so are not to be trusted; take another --dtype or --device, and report it",
            )
        else:
            yield Finding(
                "problem",
                f"{device} cannot run in {name}: {told}",
                "Take another --dtype or --device, and report it",
            )


def _told(one: dict) -> str:
    if one["message"]:
        return f"{one['part']} ({one['message']})"
    if one["error"] > one["limit"]:
        return f"{one['part']} (error {one['error']:.1e}, at most {one['limit']:.1e})"
    return f"{one['part']} (largest error {one['largest']:.1e}, at most {one['largest_limit']:.1e})"


def _of_processes(found: Examination) -> Iterator[Finding]:
    for death in found.deaths:
        if death.job == "torch" or death.begin == "torch":
            continue  # see `_of_torch`
        if death.job == "packages":
            where = f"importing {death.begin}" if death.begin else "importing packages"
            yield Finding(
                "problem", f"{where} ended the process: {death.reason}", f"Install {death.begin} again"
            )
        elif death.begin:
            yield Finding(
                "problem",
                f"{death.device} failed at {death.begin} in {death.format}: {death.reason}",
                "Take another --dtype or --device, and report it",
            )
        else:
            yield Finding("problem", f"the check of {death.job} could not be made: {death.reason}")


def _of_picture(found: Examination) -> Iterator[Finding]:
    picture = found.picture
    if picture is None:
        return
    where = f"on {picture['device']} in {picture['format']}"
    if picture["is_right"] is None:
        yield Finding("problem", f"no picture could be drawn {where}: {picture['message']}")
    elif not picture["is_right"]:
        yield Finding("problem", f"the picture drawn {where} does not show a cat", "Report it")
    if picture["is_right"] is not None and not picture["written"]:
        yield Finding(
            "problem",
            f"a picture was drawn and could not be written: {picture['message']}",
            "Choose a file elsewhere with --output, or give --no-picture",
        )


def _of_memory(found: Examination) -> Iterator[Finding]:
    """Whether the 5B model fits anywhere, and what stands in the way where it could."""
    if found.memory and all(one["plan"] is None for one in found.memory):
        least = min(found.memory, key=lambda one: one["least_bytes"])
        has_room = any(one["with_all"] is not None for one in found.memory)
        yield Finding(
            "problem",
            f"too little memory for the 5B model: it needs {least['least_bytes'] / GB:.1f} GB on "
            f"{least['device']}, and {least['free_bytes'] / GB:.1f} of {least['total_bytes'] / GB:.1f} GB "
            "are free",
            "End other programs and try again"
            if has_room
            else "Draw with it on another machine; `tiny` runs",
        )
    else:
        for one in found.memory:
            yield from _of_one_memory(found, one)
    free = found.machine.models_free_bytes
    if free is not None and free < WEIGHTS_GB * GB and not found.machine.has_weights:
        yield Finding(
            "note",
            f"{free / GB:.1f} GB are free where downloaded models are kept, and the 5B model takes "
            f"{WEIGHTS_GB} GB",
            "Free some, or let HF_HOME name a folder on another disk",
        )


def _of_one_memory(found: Examination, one: dict) -> Iterator[Finding]:
    if one["plan"] is None:
        yield Finding(
            "note",
            f"the 5B model does not fit on {one['device']}: it needs {one['least_bytes'] / GB:.1f} GB, "
            f"{one['free_bytes'] / GB:.1f} are free",
        )
        return
    if one["plan"] != one["with_all"]:
        yield Finding(
            "note",
            f"other programs hold {(one['total_bytes'] - one['free_bytes']) / GB:.1f} of "
            f"{one['total_bytes'] / GB:.1f} GB on {one['device']}; without them the 5B model would be "
            f"kept as {one['with_all']}",
        )
    free_memory = found.machine.free_memory_bytes
    if free_memory and one["waiting_bytes"] > free_memory:
        yield Finding(
            "problem",
            f"with {one['plan']}, {one['waiting_bytes'] / GB:.1f} GB wait in main memory, and "
            f"{free_memory / GB:.1f} are free",
            "End other programs, or draw with it on another machine",
        )
    if one["package"] and found.version_of(one["package"]).version is None:
        yield Finding(
            "note",
            f"--memory auto will keep the 5B model as {one['plan']} on {one['device']}, which needs "
            f"{one['package']}",
            install_hint("quant"),
        )
