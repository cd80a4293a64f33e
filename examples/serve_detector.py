"""GenEval's detector as a service of its own, so that its packages stay in an environment of their own.

    python examples/serve_detector.py --port 8111
    deepgen eval run geneval --detector http://127.0.0.1:8111 ...

serves the Mask2Former of transformers. Published numbers were made with the same network in mmdetection 2.x
and another checkpoint; where mmdet 2.x is installed, its files are given as in GenEval's own script:

    python examples/serve_detector.py --config mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py \
        --checkpoint mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.pth --classes object_names.txt

Colors are named by CLIP in both. There is no authentication: keep it on a loopback or private network.
"""

from __future__ import annotations

import argparse
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deepgen.checkpoints.file_hash import hash_file
from deepgen.rewards.clip import ClipTower, TowerOptions
from deepgen.rewards.detector import ColorNamer, make_detector
from deepgen.rewards.interfaces import Box, ObjectDetector
from deepgen.rewards.reward import CannotJudge
from deepgen.rewards.wire import decode_image

DETECTOR = "facebook/mask2former-swin-small-coco-instance"
CLIP = "openai/clip-vit-large-patch14"


class MMDetection:
    """A model of mmdetection 2.x; an `ObjectDetector`."""

    def __init__(self, config: str, checkpoint: str, classes: Path, tower: TowerOptions) -> None:
        from mmdet.apis import init_detector  # pyright: ignore[reportMissingImports]

        device = "cuda" if tower.device == "auto" else tower.device
        self._model = init_detector(config, checkpoint, device=device)
        self._classes = classes.read_text(encoding="utf-8").split("\n")
        self._name_colors = ColorNamer(ClipTower(tower))
        self.version = f"mmdet-{hash_file(Path(checkpoint))[:12]}+{tower.model}"

    def __call__(self, image: Image.Image) -> dict[str, list[Box]]:
        """By class, the surest box first."""
        return {name: [box for box, _ in pairs] for name, pairs in self._found(image).items()}

    def colors(self, image: Image.Image, name: str, indices: Any) -> list[str]:
        """Of some of the boxes of a class, in the order of `__call__`."""
        pairs = self._found(image).get(name, [])
        return self._name_colors(image, [pairs[index][1] for index in indices], name)

    def _found(self, image: Image.Image) -> dict[str, list[tuple[Box, np.ndarray]]]:
        from mmdet.apis import inference_detector  # pyright: ignore[reportMissingImports]

        boxes, masks = inference_detector(self._model, np.asarray(image)[:, :, ::-1])  # BGR, as OpenCV
        found = {}
        for name, rows, shapes in zip(self._classes, boxes, masks, strict=False):  # a file may end in a blank
            pairs = [
                (tuple(float(v) for v in row), np.asarray(mask))
                for row, mask in zip(rows, shapes, strict=True)
            ]
            if pairs:
                found[name] = sorted(pairs, key=lambda pair: -pair[0][4])
        return found


def make_server(detector: ObjectDetector, host: str, port: int) -> ThreadingHTTPServer:
    """The service; port 0 takes a free one."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200 if self.path == "/health" else 404, {"version": detector.version})

        def do_POST(self) -> None:
            try:
                asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                with lock:
                    self._answer(200, {"version": detector.version, **answer(detector, self.path, asked)})
            except (ValueError, KeyError, TypeError, CannotJudge) as error:
                self._answer(400, {"error": f"{type(error).__name__}: {error}"})

        def _answer(self, status: int, document: Any) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are many; errors are in the answers."""

    return ThreadingHTTPServer((host, port), Handler)


def answer(detector: ObjectDetector, path: str, asked: Any) -> dict[str, Any]:
    """The fields of an answer to /detect or /colors, see `deepgen.rewards.remote_scorers`."""
    image = decode_image(asked["image"])
    if path == "/detect":
        return {"objects": detector(image)}
    if path != "/colors":
        raise ValueError(f"unknown path {path}; known: /detect, /colors")
    boxes = [box[:4] for box in detector(image)[asked["class"]]]
    indices = [_nearest(boxes, box) for box in asked["boxes"]]
    return {"colors": detector.colors(image, asked["class"], indices)}


def _nearest(boxes: Any, box: Any) -> int:
    """The number of the box that was sent; numbers may have lost digits on the way."""
    distances = np.abs(np.asarray(boxes, float) - np.asarray(box, float)).max(axis=1)
    if distances.min() > 0.5:  # pixels
        raise ValueError(f"no such box: {box}")
    return int(distances.argmin())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8111)
    parser.add_argument("--model", default=DETECTOR, help="a Mask2Former of transformers")
    parser.add_argument("--clip", default=CLIP)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--config", help="of mmdetection 2.x, instead of --model")
    parser.add_argument("--checkpoint", help="its weights")
    parser.add_argument("--classes", type=Path, help="GenEval's object_names.txt")
    given = parser.parse_args()
    tower = TowerOptions(model=given.clip, device=given.device)
    if given.config and not (given.checkpoint and given.classes):
        parser.error("--config needs --checkpoint and --classes")
    if given.config:
        detector = MMDetection(given.config, given.checkpoint, given.classes, tower)
    else:
        detector = make_detector(given.model, tower)
    server = make_server(detector, given.host, given.port)
    print(f"{detector.version}  http://{given.host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
