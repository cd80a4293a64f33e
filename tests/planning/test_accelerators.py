"""Cards: names people type, and the figures their makers give."""

from __future__ import annotations

import pytest

from deepgen.planning.accelerators import ACCELERATORS, accelerator, accelerator_of_chip


@pytest.mark.parametrize(
    "typed", ["rtx-4060", "RTX 4060", "rtx_4060", "RTX4060", "NVIDIA GeForce RTX 4060", "rtx-4060-8gb"]
)
def test_a_name_may_be_typed_as_people_write_it(typed: str) -> None:
    assert accelerator(typed) is ACCELERATORS["rtx-4060"]


def test_an_unknown_name_shows_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown card 'rtx-4065'; did you mean .*rtx-4060"):
        accelerator("rtx-4065")
    with pytest.raises(ValueError, match=r"unknown card 'abacus'; known: .*mi300x"):
        accelerator("abacus")


def test_a_name_without_its_memory_shows_those_with_it() -> None:
    with pytest.raises(ValueError, match=r"did you mean a100-40gb, a100-80gb\?$"):
        accelerator("a100")
    assert accelerator("h100-80gb") is ACCELERATORS["h100"]


def test_an_apple_chips_name_may_end_in_its_memory() -> None:
    small = accelerator("m2-max-32gb")
    assert (small.memory_gb, small.tflops) == (32, ACCELERATORS["m2-max"].tflops)
    assert not small.has_own_memory
    with pytest.raises(ValueError, match="unknown card 'rtx-4060-32gb'"):
        accelerator("rtx-4060-32gb")  # there is no such card


def test_a_chip_is_found_by_the_name_the_system_gives_it() -> None:
    found = accelerator_of_chip("Apple M2 Max", 96 * 10**9)
    assert found is not None
    assert (found.name, found.memory_gb) == ("m2-max", 96)
    assert accelerator_of_chip("Apple M9", 10**9) is None
    assert accelerator_of_chip("Intel(R) Core(TM) i7", 10**9) is None


def test_figures_are_in_the_units_they_say() -> None:
    for known in ACCELERATORS.values():
        assert 4 <= known.memory_gb < 2000, known
        assert known.name == "cpu" or 1 <= known.tflops < 5000, known
        assert 40 <= known.bandwidth < 20000, known
        assert known.link is None or known.link in (16, 32, 64), known
