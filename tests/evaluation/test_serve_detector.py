"""The example of a detector service speaks with `RemoteDetector`, and reads what mmdetection 2.x answers."""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from deepgen.rewards.clip import TowerOptions
from deepgen.rewards.remote_scorers import RemoteDetector
from deepgen.rewards.reward import RewardUnavailable

PATH = Path(__file__).parents[2] / "examples" / "serve_detector.py"


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("serve_detector", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TwoCats:
    """A red cat on the left and a blue one on the right."""

    version = "two-cats-1"

    def __call__(self, image):
        return {"cat": [(0.25, 0, 10, 10, 0.9), (20, 0, 30, 10, 0.5)]}

    def colors(self, image, name, indices):
        return [("red", "blue")[index] for index in indices]


def test_the_service_answers_as_the_detector_itself(example) -> None:
    server = example.make_server(TwoCats(), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        remote = RemoteDetector(f"http://127.0.0.1:{server.server_port}")
        image = Image.new("RGB", (32, 16))
        assert remote.version.endswith("two-cats-1")
        assert remote(image) == TwoCats()(image)
        assert remote.colors(image, "cat", [1, 0]) == ["blue", "red"]
        with pytest.raises(RewardUnavailable, match="unknown path"):
            remote._ask("/other", image, "objects")
        with pytest.raises(RewardUnavailable, match="no such box"):
            remote._ask("/colors", image, "colors", **{"class": "cat", "boxes": [[5, 5, 9, 9]]})
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_answers_of_mmdetection_become_boxes_and_masks(example, tmp_path, monkeypatch) -> None:
    """Its form of 2.x: for each class an array (N, 5), and a list of masks."""
    seen = []

    def inference_detector(model, pixels):
        seen.append(pixels)
        mask = np.zeros((4, 6), bool)
        boxes = [np.zeros((0, 5)), np.array([[0, 0, 2, 2, 0.4], [1, 1, 5, 3, 0.8]], np.float32)]
        return boxes, [[], [mask, ~mask]]

    apis = SimpleNamespace(init_detector=lambda *given, device: given, inference_detector=inference_detector)
    monkeypatch.setitem(sys.modules, "mmdet", SimpleNamespace(apis=apis))
    monkeypatch.setitem(sys.modules, "mmdet.apis", apis)
    monkeypatch.setattr(example, "ClipTower", lambda options: None)
    named = []
    monkeypatch.setattr(
        example, "ColorNamer", lambda tower: lambda image, masks, name: named.append(masks) or ["red"]
    )
    (tmp_path / "names.txt").write_text("person\nbicycle\n")
    (tmp_path / "weights.pth").write_bytes(b"weights")
    tower = TowerOptions(model="clip", device="cpu")
    detector = example.MMDetection("c.py", str(tmp_path / "weights.pth"), tmp_path / "names.txt", tower)
    found = detector(Image.new("RGB", (6, 4), (1, 2, 3)))
    assert [round(box[4], 3) for box in found["bicycle"]] == [0.8, 0.4]
    assert list(found) == ["bicycle"]
    assert seen[0][0, 0].tolist() == [3, 2, 1]
    assert detector.colors(Image.new("RGB", (6, 4)), "bicycle", [0]) == ["red"]
    assert named[0][0].all(), "the mask of the surest box"
