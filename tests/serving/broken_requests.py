"""Requests that are wrong in every way we could think of, made from a seed: JSON, multipart and HTTP itself.

Each starts from a request that is right and is then broken, so that it comes as far as possible before it
fails. A few come out right all the same; their answers are held to the same rules.
"""

from __future__ import annotations

import base64
import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
ADDRESS = "data:image/png;base64," + base64.b64encode(PIXEL).decode()


@dataclass
class BrokenRequest:
    """What is sent; `raw` is the whole of it where HTTP itself is broken."""

    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes | None = None

    def wire(self, host: str) -> bytes:
        """As bytes of a connection that closes after it."""
        if self.raw is not None:
            return self.raw.replace(b"{host}", host.encode())
        head = [f"POST {self.path} HTTP/1.1", f"host: {host}", "connection: close"]
        head += [f"{name}: {value}" for name, value in self.headers.items()]
        head += [f"content-length: {len(self.body)}", "", ""]
        return "\r\n".join(head).encode("latin-1") + self.body


def requests(seed: int, count: int) -> Iterator[BrokenRequest]:
    """So many, of every kind in turn."""
    chance = random.Random(seed)
    kinds: list[Callable[[random.Random], BrokenRequest]] = [
        json_request,
        form_request,
        json_text,
        wire_request,
    ]
    for number in range(count):
        yield kinds[number % len(kinds)](chance)


# --- JSON: right text, wrong values -------------------------------------------------------------------------

VALID: dict[str, Any] = {
    "/v1/images/generations": {
        "prompt": "a",
        "n": 1,
        "size": "32x32",
        "quality": "auto",
        "output_format": "png",
        "seed": 1,
        "guidance_scale": 2.0,
        "num_inference_steps": 1,
        "stream": False,
        "negative_prompt": "b",
        "response_format": "b64_json",
        "model": "m",
        "user": "u",
        "output_compression": 50,
    },
    "/v1/images/edits": {
        "prompt": "a",
        "size": "32x32",
        "num_inference_steps": 1,
        "images": [{"image_url": ADDRESS}],
        "mask": {"image_url": ADDRESS},
    },
    "/v1/chat/completions": {
        "model": "m",
        "num_inference_steps": 1,
        "size": "32x32",
        "messages": [
            {"role": "system", "content": "s"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "a"},
                    {"type": "image_url", "image_url": {"url": ADDRESS}},
                ],
            },
        ],
    },
}
REWARD: dict[str, Any] = {
    "reward": "grey",
    "candidates": [
        {
            "image": base64.b64encode(PIXEL).decode(),
            "prompt": "a",
            "references": [],
            "metadata": {"targets": ["OPEN"]},
        }
    ],
}


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


VALUES: list[Callable[[random.Random], Any]] = [
    lambda chance: chance.choice(
        [None, True, False, 0, -1, 2, 1.5, -0.0, "", " ", "2", [], {}, [None], {"": 0}]
    ),
    lambda chance: chance.choice([1, -1]) * 10 ** chance.choice([9, 18, 19, 30, 308, 309, 400, 4299]),
    lambda chance: chance.choice([2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 1e308, -1e308, 1e16, 5e-324]),
    lambda chance: chance.choice(
        ["\ud800", "a\udfff", "\udc00\ud800", "\ud83d", "\x00", "\uffff", "\u202e", "🦊"]
    ),
    lambda chance: (
        chance.choice(["\ud800", "x", "é", "🦊", "\n", "{", "%s", "\x7f"]) * chance.choice([1, 65, 9000])
    ),
    lambda chance: nested(chance.choice([1, 10, 100, 300, 800])),
    lambda chance: {f"k{n}\ud800": n for n in range(chance.choice([1, 3, 200]))},
    lambda chance: (
        [chance.choice([ADDRESS, "data:", "data:image/png;base64,", "http://[", "\ud800", 3])]
        * chance.choice([1, 3, 40])
    ),
    lambda chance: chance.choice(
        ["32x32", "0x0", "99999x99999", "auto", "32X32", "1e3x3", "٣x٣", "x", "32x32\n"]
    ),
    lambda chance: {
        "type": chance.choice(["text", "image_url", "\ud800", None]),
        "text": "\ud800",
        "image_url": 1,
    },
    lambda chance: {
        "image_url": chance.choice([ADDRESS, ADDRESS[:-9], "file:///etc/passwd", "\ud800", 1, None])
    },
    lambda chance: {
        "role": chance.choice(["user", "x", "\ud800", 1]),
        "content": chance.choice(["\ud800", 1, "a"]),
    },
]


def places(value: Any, depth: int = 6) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a value that is not too deep in it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [
        place for key, one in items for place in [(value, key), *(places(one, depth - 1) if depth else [])]
    ]


def broken_values(chance: random.Random, right: Any) -> Any:
    """The same with one to three wrong places."""
    values = copy.deepcopy(right)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        container, key = chance.choice(places(values) or [(values, "prompt")])
        what = chance.randrange(10)
        if what == 0:
            del container[key]
        elif what <= 2 and isinstance(container, dict):
            name = chance.choice(
                ["\ud800", "x" * 300, "", "\x00", "prompt ", "extra_body", "__proto__", "n\udfff"]
            )
            container[name] = chance.choice(VALUES)(chance)
        else:
            container[key] = chance.choice(VALUES)(chance)
    return chance.choice(VALUES)(chance) if chance.randrange(30) == 0 else values


def json_request(chance: random.Random, path: str | None = None, right: Any = None) -> BrokenRequest:
    """Wrong values."""
    path = path or chance.choice(list(VALID))
    values = broken_values(chance, VALID[path] if right is None else right)
    text = json.dumps(values, ensure_ascii=chance.random() < 0.7, allow_nan=False)
    return BrokenRequest(path, {"content-type": "application/json"}, text.encode("utf-8", "surrogatepass"))


# --- JSON: wrong text ---------------------------------------------------------------------------------------

TOKENS = [
    *(
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"-1e999",
        b"9" * 5000,
        b"0x1",
        b"01",
        b"+1",
        b".5",
        b"1.",
    ),
    *(b"'a'", b"tru", b"nul", b"//", b"/* */", b",", b",,", b"\\", b'"', b'"\\ud800"', b'"\\u"', b'"\\x41"'),
    *(
        b"\x00",
        b"\xff",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\x1f",
        b"\xc0\x80",
    ),
]
ENCODINGS = ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7", "latin-1"]
TYPES = [
    *["application/json"] * 6,
    *(
        "application/json; charset=utf-16",
        "APPLICATION/JSON ; charset=x",
        "text/plain",
        "",
        "application/jsonp",
    ),
    *("application/x-www-form-urlencoded", "multipart/form-data", "text/plain; application/json", "\xff"),
]


def json_text(chance: random.Random, path: str | None = None, right: Any = None) -> BrokenRequest:
    """Wrong text."""
    path = path or chance.choice(list(VALID))
    right = VALID[path] if right is None else right
    text = json.dumps(right, ensure_ascii=False).encode(chance.choice(ENCODINGS), "replace")
    for _ in range(chance.choice([0, 1, 1, 2, 4])):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice([0, 1, 1, 3, 20]))
        new = chance.choice(TOKENS) if chance.random() < 0.7 else chance.randbytes(chance.randint(0, 8))
        text = text[:start] + new + text[end:]
    if chance.randrange(4) == 0:
        text = text[: chance.randrange(len(text) + 1)]
    if chance.randrange(8) == 0:  # the same name twice
        text = b'{"prompt": 1, ' + text.lstrip(b"{")
    return BrokenRequest(path, {"content-type": chance.choice(TYPES)}, text)


# --- multipart ----------------------------------------------------------------------------------------------

FORMS = ["/v1/images/edits", "/v1/images/variations"]
TEXTS = [
    *(
        b"a",
        b"",
        b"1",
        b"-1",
        b"1e5",
        b"9" * 5000,
        b"NaN",
        b"inf",
        b"0x10",
        b"true",
        b"null",
        b"\xff\xfe",
        b"\x00",
    ),
    *(
        b"\xed\xa0\x80",
        b"x" * 9000,
        b"[1]",
        "٣".encode(),
        b"1_000",
        b" 2 ",
        b"32x32",
        b"\r\n--b\r\n",
        b"\xf0\x9f",
    ),
]
NAMES = [
    *(
        b"prompt",
        b"n",
        b"seed",
        b"size",
        b"stream",
        b"guidance_scale",
        b"output_compression",
        b"lora",
        b"user",
    ),
    *(
        b"image",
        b"image[]",
        b"images[]",
        b"mask",
        b"quality",
        b"",
        b"\xff",
        b"\xed\xa0\x80",
        b"x" * 300,
        b"_charset_",
    ),
    *(
        b'a"; filename="b',
        b"pro\\mpt",
        b"prompt\x00",
        b"num_inference_steps",
        "é".encode(),
        b"messages",
        b"height",
    ),
]
PART_TYPES = [
    *(b"", b"", b"content-type: image/png\r\n", b"content-type: text/plain; charset=utf-16\r\n"),
    *(
        b"content-type: application/json\r\n",
        b"content-transfer-encoding: base64\r\n",
        b"x: " + b"y" * 5000 + b"\r\n",
    ),
    *(
        b"content-type: multipart/mixed; boundary=c\r\n",
        b"\xff: \xff\r\n",
        b"nocolon\r\n",
        b"content-type: \x00\r\n",
    ),
]


def part(chance: random.Random, name: bytes, content: bytes, is_file: bool) -> bytes:
    """One part of a form, mostly right."""
    names = [b"", b"a.png", b"\xff", b"../../a", b"a" * 5000, b'"', b"\xed\xa0\x80"]
    filename = b'; filename="%b"' % chance.choice([b"a.png", b"a.png", *names]) if is_file else b""
    disposition = (
        b"form-data" if chance.randrange(12) else chance.choice([b"", b"attachment", b"file", b"\xff"])
    )
    head = b'content-disposition: %b; name="%b"%b\r\n' % (disposition, name, filename)
    extra = chance.choice(PART_TYPES) if chance.randrange(3) == 0 else b""
    return (head if chance.randrange(15) else b"") + extra + b"\r\n" + content + b"\r\n"


def form_request(chance: random.Random) -> BrokenRequest:
    """Wrong fields, wrong parts, wrong boundaries."""
    path = chance.choice(FORMS)
    parts = [part(chance, b"image", PIXEL, True), part(chance, b"num_inference_steps", b"1", False)]
    if path.endswith("edits"):
        parts.append(part(chance, b"prompt", b"a", False))
    for _ in range(chance.choice([0, 1, 1, 2, 3, 70])):
        content = PIXEL[: chance.randrange(70)] if chance.randrange(3) == 0 else chance.choice(TEXTS)
        parts.append(part(chance, chance.choice(NAMES), content, chance.randrange(3) == 0))
    chance.shuffle(parts)
    boundary = chance.choice([b"b"] * 6 + [b"", b"b" * 71, b"\xff", b"b b", b"-" * 20])
    body = b"".join(b"--" + boundary + b"\r\n" + one for one in parts) + b"--" + boundary + b"--\r\n"
    what = chance.randrange(8)
    if what == 0:
        body = body[: chance.randrange(len(body))]
    elif what == 1:
        body = body.replace(b"\r\n", b"\n")
    elif what == 2:
        place = chance.randrange(len(body))
        body = body[:place] + chance.randbytes(chance.randint(1, 20)) + body[place + chance.randint(0, 9) :]
    said = (
        boundary.decode("latin-1")
        if chance.randrange(10)
        else chance.choice(["c", '"b', "", "b; boundary=c"])
    )
    kind = f"multipart/form-data; boundary={said}"
    return BrokenRequest(path, {"content-type": kind if chance.randrange(15) else chance.choice(TYPES)}, body)


# --- HTTP ---------------------------------------------------------------------------------------------------

_GOOD = json.dumps(VALID["/v1/images/generations"]).encode()
_HEAD = b"host: {host}\r\nconnection: close\r\ncontent-type: application/json\r\n"
LINES = [
    *(
        b"content-length: -1",
        b"content-length: 1e3",
        b"content-length: 5, 6",
        b"content-length: " + b"9" * 400,
    ),
    *(
        b"content-length: 0x10",
        b"transfer-encoding: gzip",
        b"transfer-encoding: chunked, chunked",
        b"a" * 70_000,
    ),
    *(
        b"transfer-encoding: chunked\r\ncontent-length: 4",
        b"expect: 100-continue",
        b"expect: x",
        b": empty",
        b"a b: c",
    ),
    *(
        b"upgrade: websocket\r\nconnection: upgrade",
        b"x: \xff\xfe",
        b"x: \x00",
        b"x: a\rb",
        b" folded: 1",
        b"\xff: 1",
    ),
    *(
        b"host: other.example",
        b"origin: http://[",
        b"origin: \xff",
        b"authorization: Bearer \xff",
        b"traceparent: \xff",
    ),
    *(
        b"x-request-id: \xff",
        b"content-encoding: gzip",
        b"sec-fetch-site: cross-site",
        b"cookie: " + b"c" * 9000,
    ),
    *(b"content-length: 0", b"content-type: text/plain", b"content-length: 999999999999"),
]
STARTS = [
    *(
        b"POST /v1/images/generations HTTP/1.1",
        b"POST /v1/images/generations HTTP/1.1",
        b"GET /v1/models HTTP/1.1",
    ),
    *(
        b"POST /v1/images/generations HTTP/1.0",
        b"POST /v1/images/generations HTTP/9.9",
        b"POST /v1/images/generations",
    ),
    *(
        b"GET /v1/models/%00%ff%ed%a0%80 HTTP/1.1",
        b"GET /v1/images/%ff/content HTTP/1.1",
        b"GET //////../.. HTTP/1.1",
    ),
    *(
        b"GET http://evil.example/v1/models HTTP/1.1",
        b"CONNECT a:1 HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"\x16\x03\x01",
    ),
    *(
        b"G\xffT / HTTP/1.1",
        b"GET / /x HTTP/1.1",
        b"get /v1/models HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"GET /" + b"a" * 70_000,
    ),
    *(
        b"TRACE / HTTP/1.1",
        b"HEAD /v1/models HTTP/1.1",
        b"GET /v1/models?\xff HTTP/1.1",
        b"",
        b"PUT /v1/models HTTP/1.1",
    ),
]
CHUNKS = [
    b"zz\r\n",
    b"-1\r\n",
    b"5\r\nab",
    b"fffffffffffffffff\r\n",
    b"5;x=\xff\r\nabcde\r\n",
    b"0\r\nx: \xff\r\n\r\n",
    b"3\r\nabcd\r\n",
]


def wire_request(chance: random.Random) -> BrokenRequest:
    """Wrong start lines, headers, lengths and chunks."""
    raw = chance.choice(STARTS[:2]) if chance.random() < 0.6 else chance.choice(STARTS)
    raw += chance.choice([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]) + (_HEAD if chance.randrange(12) else b"")
    if chance.randrange(3) == 0:
        chunks = b"".join(chance.choice(CHUNKS) for _ in range(chance.randint(1, 3)))
        raw += b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(_GOOD), _GOOD) + chunks
    else:
        for _ in range(chance.choice([0, 1, 1, 2])):
            raw += chance.choice(LINES) + b"\r\n"
        length = len(_GOOD) + chance.choice([0, 0, 0, -5, 5])
        raw += b"content-length: %d\r\n\r\n" % length + _GOOD
    if chance.randrange(10) == 0:
        raw = raw[: chance.randrange(1, len(raw))]
    if chance.randrange(15) == 0:
        raw = chance.randbytes(chance.randint(1, 200))
    return BrokenRequest("", raw=raw)
