"""What the scripts of the clients share: where the server is, and where their pictures go.

Each script runs in an environment that has its client and nothing of deepgen. test_real_clients.py opens the
pictures: what a script draws is a cat, what it edits is that cat turned into a dog.
"""

from __future__ import annotations

import base64
import os
import re
import urllib.request
from pathlib import Path

URL = os.environ["DEEPGEN_URL"]
FOLDER = Path(os.environ["DEEPGEN_PICTURES"])


def save(what: str, content: bytes) -> Path:
    """Keep a picture under the name of what the client did."""
    path = FOLDER / f"{what}.png"
    path.write_bytes(content)
    return path


def fetched(address: str) -> bytes:
    """The file at an address, as a front end that shows it gets it."""
    if address.startswith("data:"):
        return base64.b64decode(address.partition(",")[2])
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address) as answer:
        return answer.read()


def shown(text: str) -> bytes:
    """The one picture that a text shows as a Markdown image."""
    (address,) = re.findall(r"!\[[^\]\n]+\]\(([^)\s]+)\)", text)
    return fetched(address)


def done() -> None:
    """The script came to its end."""
    (FOLDER / "done").touch()
