"""JSON of strangers: what is read, and that what is written can be read by everybody."""

from __future__ import annotations

import json
import math

import pytest

from deepgen.json_values import json_text, read_json_text, unicode_fault


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"{",
            b"NaN",
            b"[Infinity]",
            b"[-Infinity]",
            b"[1e999]",
            b"-1e999",
            b"9" * 5000,
            b"\xff",
            b"\x00",
        ),
        *(b'"\xed\xa0\x80"', b"[" * 100_000, b'{"a":' * 100_000, b'{"a": 01}', b"[1,]", b"\xff\xfe"),
    ],
    ids=lambda body: ascii(body[:20]),
)
def test_what_is_no_json_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is Python's own
        read_json_text(body)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_every_encoding_of_json_is_read(encoding: str) -> None:
    assert read_json_text('{"a": ["é🦊", 1e3, 10]}'.encode(encoding)) == {"a": ["é🦊", 1000.0, 10]}


def test_what_is_written_is_strict_json_whatever_it_repeats() -> None:
    wrong = {"a\ud800": ["\udfff", math.nan, -math.inf, {"b": (1, "🦊\ud83d")}], "c": None, "d": 10**400}
    text = json_text(wrong)
    assert text.isascii()
    read = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert read == {"a?": ["?", None, None, {"b": [1, "🦊?"]}], "c": None, "d": 10**400}
    right = {"a": "é🦊\\ud", "b": [1.5, True]}
    assert json.loads(json_text(right)) == right


def test_the_first_half_of_a_pair_is_found() -> None:
    assert unicode_fault("ab\ud800") == 2
    assert unicode_fault("🦊") is None
