"""What is known of the published repositories: their names, and their files with sums, to recognise damage.

The sums were reported by people who downloaded one revision; of the other revisions, of the native `model.pt`
and of the stage checkpoints none are known.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

PUBLISHED_NAME = "deepgenteam/DeepGen-1.0-diffusers"
PUBLISHED_REVISION = "85c2ed257b9406d8531965c68e140dc7fdb81382"

# What a native checkpoint leaves out comes from these.
BASE_VLM = "Qwen/Qwen2.5-VL-3B-Instruct"
BASE_PIPELINE = "Skywork/UniPic2-SD3.5M-Kontext-2B"
# Of their repositories, what loading and converting read.
BASE_FILES = {
    BASE_VLM: ("*.json", "*.txt", "*.safetensors"),
    BASE_PIPELINE: ("model_index.json", "transformer/*", "vae/*", "scheduler/*"),
}

NOT_WEIGHTS = ("*.zip.part-*", "*.png", "*.jpg", "*.gguf")  # of a hub repository, not downloaded

_COMMIT = re.compile(r"^[0-9a-f]{40}$")


@dataclass(frozen=True)
class PublishedFile:
    """One file of the published repository, and the only revision its sum is known of."""

    name: str
    tensors: int
    elements: int
    sha256: str
    revision: str = PUBLISHED_REVISION

    @property
    def origin(self) -> str:
        return f"the published {self.name} of revision {self.revision[:7]}"


_FILES = (
    PublishedFile(
        "connector/model.safetensors",
        103,
        432_449_532,
        "425ce59f596eeb573f9cd52138b775df47ce69c60d2782fb32cac5498ed208f3",
    ),
    PublishedFile(
        "transformer/diffusion_pytorch_model.safetensors",
        909,
        2_469_663_936,
        "54078ee51ab477275e94b610249ea912d6f80d24256c4197fe48945eef706883",
    ),
    PublishedFile(
        "vae/diffusion_pytorch_model.safetensors",
        244,
        83_819_683,
        "5a170129752b4ad4ab98996d2e59097c8c693afc31a5964bd2ad60896686c1e2",
    ),
    PublishedFile(
        "vlm/model-00001-of-00002.safetensors",
        628,
        2_498_840_576,
        "d6f11cc9c30184ce92605f25ac1e6b6644ee217e7b86a28282b3c9b17de3e609",
    ),
    PublishedFile(
        "vlm/model-00002-of-00002.safetensors",
        196,
        1_255_782_400,
        "c675c19a231b0ead141d8d3a05fe930892ddf17f1324d75bb94d2a42a79f7ebc",
    ),
)
PUBLISHED = {file.name: file for file in _FILES}


def recognise(sizes: Collection[int]) -> PublishedFile | None:
    """The published file of as many tensors and elements, whatever it is called and wherever it lies.

    Args:
        sizes: elements of each of its tensors.
    """
    counts = (len(sizes), sum(sizes))
    return next((file for file in PUBLISHED.values() if (file.tensors, file.elements) == counts), None)


def revision_of(folder: Path) -> str | None:
    """The commit a folder of the Hub's cache, or one that its client filled, was downloaded at."""
    if folder.parent.name == "snapshots" and _COMMIT.match(folder.name):
        return folder.name
    for noted in sorted((folder / ".cache" / "huggingface" / "download").glob("*/*.metadata"))[:1]:
        commit = noted.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0].strip()
        return commit if _COMMIT.match(commit) else None
    return None
