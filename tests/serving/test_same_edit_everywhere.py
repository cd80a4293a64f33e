"""One edit through every door: the same size, the same mask, and the same word about the size drawn."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_host import beside_a_host
from deepgen.cli import drawing, main, prompt_file
from deepgen.client import Client, RequestFailed
from deepgen.data.masks import open_mask
from deepgen.data.png import read_record
from deepgen.masking import KeptPixels, UnchangedPixels
from deepgen.pipeline import DeepGenPipeline
from deepgen.sampling.solvers import make_scheduler
from deepgen.serving.gradio_app import draw
from deepgen.serving.local import serve_locally
from deepgen.serving.mcp_tools import Folders, Painter

Given = tuple[str, tuple[int, int], str]  # door, size of the picture it gives, what it says of it
ROOT = Path(__file__).parents[2]
PROMPT, STEPS = "make it blue", 2
# (width, height) of sources, what of it the model of 64 pixels draws, and whether it is told of
SOURCES = {
    "odd": ((61, 35), "64x64", ""),
    "large": ((200, 100), "64x32", "drawn at 64x32, enlarged to 200x100"),
}
TURNED = ((170, 50), "32x64", "drawn at 32x64, enlarged to 50x170")  # EXIF says it stands on its side


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPGEN_MODEL", raising=False)


@pytest.fixture
def client(pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    for module in (drawing, prompt_file):
        monkeypatch.setattr(module, "load_pipeline", lambda options: pipe)
    with serve_locally(pipe) as client:
        yield client


def source(size: tuple[int, int], is_turned: bool = False) -> bytes:
    content, exif = io.BytesIO(), Image.Exif()
    if is_turned:
        exif[0x0112] = 6
    Image.effect_noise(size, 90).convert("RGB").save(content, "PNG", exif=exif)
    return content.getvalue()


def post(client: Client, route: str, **request: Any) -> Any:
    headers = {"authorization": f"Bearer {client._key}"}
    answer = httpx.post(client.url + route, headers=headers, timeout=60, trust_env=False, **request)
    assert answer.status_code == 200, answer.text
    return answer.json()


def opened(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def edits(
    content: bytes, client: Client, pipe: DeepGenPipeline
) -> Iterator[tuple[str, tuple[int, int], str]]:
    """(door, size of the picture it gives, what it says of it)."""
    Path("s.png").write_bytes(content)
    address = "data:image/png;base64," + base64.b64encode(content).decode()
    fields: dict[str, Any] = {"prompt": PROMPT, "seed": 1, "num_inference_steps": STEPS}

    output: Any = pipe(PROMPT, image="s.png", seed=1, num_inference_steps=STEPS)
    height, width = output.drawn_sizes[0]
    yield "pipeline", output.images[0].size, f"{width}x{height}"

    assert main(["edit", PROMPT, "s.png", "--seed", "1", "--steps", str(STEPS)]) == 0
    yield "command line", *recorded(Path("out.png"))
    Path("p.jsonl").write_text(f'{{"prompt": "{PROMPT}", "references": ["s.png"]}}')
    assert main(["generate", "--file", "p.jsonl", "-o", ".", "--steps", str(STEPS)]) == 0
    yield "file of prompts", *recorded(Path("000001.png"))

    answer = post(client, "/v1/images/edits", data={**fields, "seed": "1"}, files={"image": content})
    Path("server.png").write_bytes(base64.b64decode(answer["data"][0]["b64_json"]))
    assert recorded(Path("server.png")) == (Image.open("server.png").size, answer["drawn_size"])
    yield "form", Image.open("server.png").size, answer["drawn_size"]
    answer = post(client, "/v1/images/edits", json={**fields, "images": [{"image_url": address}]})
    yield "JSON", opened(answer["data"][0]["b64_json"]).size, answer["drawn_size"]
    answer = post(client, "/v1/images/variations", data={"seed": "1"}, files={"image": content})
    yield "variation", opened(answer["data"][0]["b64_json"]).size, answer["drawn_size"]

    parts = [{"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": address}}]
    chat = {**fields, "messages": [{"role": "user", "content": parts}]}
    message = post(client, "/v1/chat/completions", json={k: v for k, v in chat.items() if k != "prompt"})
    message = message["choices"][0]["message"]
    said = message["content"].partition("![")[0].strip()  # before the picture itself
    yield "chat", opened(message["images"][0]["image_url"]["url"].partition(",")[2]).size, said

    image = client.edit(PROMPT, content, seed=1, num_inference_steps=STEPS)[0]
    yield "client", image.image.size, image.drawn_size
    painter = Painter(lambda: client, Folders(read_from=[Path()]))
    asked = {"n": 1, "num_inference_steps": STEPS}
    [(image, said)] = painter.draw(PROMPT, ["s.png"], asked, lambda *_: None, threading.Event())
    yield "tools for agents", image.image.size, said.partition("seed ")[2].partition(", ")[2]

    given = [(Image.open("s.png"), None)]
    shown = list(draw(client, client.model(), PROMPT, given, seed="1", num_inference_steps=str(STEPS)))[-1][0]
    yield "Gradio", shown[0][0].image.size, shown[0][1].partition(", ")[2]


def recorded(path: Path) -> tuple[tuple[int, int], str]:
    record = read_record(path)
    assert record is not None
    assert Image.open(path).size == (record.width, record.height)
    return (record.width, record.height), (
        f"{record.drawn_width or record.width}x{record.drawn_height or record.height}"
    )


@pytest.mark.parametrize("name", [*SOURCES, "turned"])
def test_every_door_gives_one_size_and_says_at_what_size_it_was_drawn(
    name: str, client: Client, pipe: DeepGenPipeline, capsys: Any
) -> None:
    (width, height), drawn_size, notice = TURNED if name == "turned" else SOURCES[name]
    size = (height, width) if name == "turned" else (width, height)
    found = list(edits(source((width, height), name == "turned"), client, pipe))
    assert {door: got for door, got, _ in found} == dict.fromkeys([door for door, *_ in found], size)
    in_words = {"chat", "tools for agents", "Gradio"}
    for door, _, said in found:
        assert said == (notice if door in in_words else drawn_size), door
    assert capsys.readouterr().out.count(notice or "nothing") == (2 if notice else 0)


def test_an_asked_size_is_given_by_every_door(client: Client, pipe: DeepGenPipeline) -> None:
    content = source((200, 100))
    Path("s.png").write_bytes(content)
    assert main(["edit", PROMPT, "s.png", "--size", "32x64", "--steps", "2"]) == 0
    made = client.edit(PROMPT, content, size="32x64", num_inference_steps=2)[0]
    assert pipe(PROMPT, image="s.png", width=32, height=64).images[0].size == (32, 64)
    assert (Image.open("out.png").size, made.image.size, made.drawn_size, made.notice) == (
        *((32, 64), (32, 64)),
        "32x64",
        "",
    )


def test_comfyui_gives_the_size_of_its_input(pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = beside_a_host(monkeypatch, "nodes_of_a_test")
    for (width, height), _, _ in SOURCES.values():
        image = torch.rand(1, height, width, 3)
        made, _ = nodes.DeepGenEdit().edit(nodes.Model(pipe), image, PROMPT, 1, STEPS, 0.0, 0, 0)
        assert made.shape == image.shape


def test_comfyui_s_mask_means_what_a_transparent_one_means(
    pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = beside_a_host(monkeypatch, "nodes_of_a_test")
    picture, mask = masked()
    image = torch.from_numpy(np.asarray(picture, np.float32) / 255)[None]
    marks = 1 - torch.from_numpy(np.asarray(mask.getchannel("A"), np.float32) / 255)[None]
    edit = nodes.DeepGenEdit().edit
    made, _ = edit(nodes.Model(pipe), image, PROMPT, 1, STEPS, 0.0, 0, 0, mask=marks)
    alone: Any = pipe(PROMPT, image=picture, mask=mask, seed=1, num_inference_steps=STEPS, output_type="np")
    torch.testing.assert_close(made, torch.from_numpy(alone.images), atol=1e-3, rtol=0)
    two = torch.cat([marks, 1 - marks])
    with pytest.raises(ValueError, match="mask: one for all pictures of a batch, got 2"):
        edit(nodes.Model(pipe), image, PROMPT, 1, STEPS, 0.0, 0, 0, mask=two)


# --- masks ---

BOX = (20, 10, 60, 40)


def masked() -> tuple[Image.Image, Image.Image]:
    """A picture of 90 x 50 and its mask, transparent in `BOX`."""
    image = Image.effect_noise((90, 50), 90).convert("RGB")
    mask = image.convert("RGBA")
    mask.paste((0, 0, 0, 0), BOX)
    return image, mask


def changed(made: Image.Image, image: Image.Image) -> np.ndarray:
    return (np.asarray(made.convert("RGB"), int) != np.asarray(image, int)).any(axis=-1)


def test_a_mask_means_the_same_at_every_door(client: Client, pipe: DeepGenPipeline) -> None:
    picture, mask = masked()
    picture.save("s.png")
    mask.save("m.png")
    asked: dict[str, Any] = {"seed": 1, "num_inference_steps": 3}
    drawn = {"pipeline": pipe(PROMPT, image=picture, mask=mask, **asked).images[0]}
    assert main(["edit", PROMPT, "s.png", "--mask", "m.png", "--seed", "1", "--steps", "3"]) == 0
    drawn["command line"] = Image.open("out.png")
    drawn["client"] = client.edit(PROMPT, picture, mask=mask, **asked)[0].image
    painter = Painter(lambda: client, Folders(read_from=[Path()]))
    [(made, _)] = painter.draw(
        PROMPT, ["s.png"], {"n": 1, **asked}, lambda *_: None, threading.Event(), "m.png"
    )
    drawn["tools for agents"] = made.image
    left, top, right, bottom = BOX
    for door, image in drawn.items():
        changes = changed(image, picture)
        assert changes[top:bottom, left:right].mean() > 0.5, door
        changes[top:bottom, left:right] = False
        assert not changes.any(), door
        difference = np.abs(np.asarray(image, int) - np.asarray(drawn["pipeline"], int))
        assert difference.max() <= 1, door  # the pipeline computes the modulation of all its steps at once


@pytest.mark.parametrize(("preset", "size"), [("exact", None), ("balanced", (64, 32))])
def test_the_server_s_steps_and_the_pipeline_s_keep_the_same(
    preset: str, size: tuple[int, int] | None, client: Client, pipe: DeepGenPipeline
) -> None:
    image, mask = masked()
    asked: dict[str, Any] = {"seed": 1, "num_inference_steps": 3, "preset": preset}
    sides = {} if size is None else {"width": size[0], "height": size[1]}
    alone: Any = pipe([PROMPT, PROMPT], image=[image, image], mask=mask, **{**asked, "seed": [7, 1]}, **sides)
    served = client.edit(PROMPT, image, mask=mask, size=size and "64x32", **asked)[0].image
    assert np.abs(np.asarray(served, int) - np.asarray(alone.images[1], int)).max() <= 1


def test_a_mask_changes_what_is_drawn_inside_it(pipe: DeepGenPipeline) -> None:
    """The steps keep the source outside the mask, so the inside differs from that of a whole edit."""
    image, mask = masked()
    whole = pipe(PROMPT, image=image, seed=1).images[0]
    inside = pipe(PROMPT, image=image, mask=mask, seed=1).images[0]
    assert changed(inside.crop(BOX), whole.crop(BOX)).any()
    everything = Image.new("RGBA", image.size, (0, 0, 0, 0))
    assert not changed(pipe(PROMPT, image=image, mask=everything, seed=1).images[0], whole).any()


@pytest.mark.parametrize("solver", ["heun", "dpm++", "unipc"])
def test_every_solver_keeps_what_a_mask_does_not_free(solver: str, pipe: DeepGenPipeline) -> None:
    pipe.scheduler = make_scheduler(solver, pipe.scheduler)
    image, mask = masked()
    with torch.no_grad():
        pixels = KeptPixels.of(image, open_mask(mask), (48, 96))
        kept = pixels.latents(pipe.vae, (48, 96), torch.float32, torch.device("cpu"))
    noise = torch.randn(1, *kept.clean.shape, generator=torch.Generator().manual_seed(0))
    outside, seen = ~kept.may_change, []

    def note(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(tensors["latents"][0][:, outside])
        return {}

    drawn: Any = pipe(
        PROMPT,
        image=image,
        mask=mask,
        latents=noise,
        num_inference_steps=4,
        height=48,
        width=96,
        output_type="latent",
        callback_on_step_end=note,
    ).images[0]
    assert 0 < outside.sum() < outside.numel()
    torch.testing.assert_close(drawn[:, outside], kept.clean[:, outside])
    for latents in seen:  # on the straight line between noise and source, ever nearer to the source
        way = (latents - kept.clean[:, outside]) / (noise[0] - kept.clean)[:, outside]
        torch.testing.assert_close(way, way.median().expand_as(way), atol=1e-2, rtol=0)
    distances = [float((x - kept.clean[:, outside]).abs().mean()) for x in seen]
    assert distances == sorted(distances, reverse=True)


def test_a_wrong_mask_is_refused_in_the_same_words(
    client: Client, pipe: DeepGenPipeline, capsys: Any
) -> None:
    image, _ = masked()
    image.save("s.png")
    for mask, message in (
        (Image.new("RGB", (90, 50)), "mask has no transparency"),
        (Image.new("RGBA", (50, 90)), "mask is 50x90 and the first picture 90x50"),
        (Image.new("RGBA", (90, 50), "red"), "mask allows no pixel to change"),
    ):
        mask.save("m.png")
        with pytest.raises(ValueError, match=message):
            pipe(PROMPT, image=image, mask=mask)
        with pytest.raises(RequestFailed, match=message) as refused:
            client.edit(PROMPT, image, mask=mask)
        assert (refused.value.status, refused.value.param) == (400, "mask")
        assert main(["edit", PROMPT, "s.png", "--mask", "m.png"]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="give the picture as image"):
        pipe(PROMPT, mask=mask)


# --- what an edit leaves as it was ---


@pytest.mark.parametrize("size", [(90, 50), (300, 170)])
def test_what_an_edit_leaves_as_it_was_is_kept_at_every_door(
    size: tuple[int, int], client: Client, pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of the tests draws noise; the finder is told that the left half of it is no change. A large
    picture keeps the pixels that the model itself never sees.
    """

    def left_half(drawn: torch.Tensor, copy: torch.Tensor, unit: int) -> torch.Tensor:
        assert drawn.shape == copy.shape
        assert unit == pipe.vae_scale_factor
        weight = torch.ones(drawn.shape[1:])
        weight[:, : weight.shape[1] // 2] = 0
        return weight

    monkeypatch.setattr("deepgen.masking.changed_weight", left_half)
    picture = Image.effect_noise(size, 90).convert("RGB")
    picture.save("s.png")
    half = size[0] // 2
    asked: dict[str, Any] = {"seed": 1, "num_inference_steps": 3}
    keep = {**asked, "keep_unchanged": True}
    plain: Any = pipe(PROMPT, image=picture, **asked).images[0]
    drawn: dict[str, Any] = {"pipeline": pipe(PROMPT, image=picture, **keep).images[0]}
    assert main(["edit", PROMPT, "s.png", "--keep-unchanged", "on", "--seed", "1", "--steps", "3"]) == 0
    drawn["command line"] = Image.open("out.png")
    assert read_record(Path("out.png")).keep_unchanged is True
    Path("p.jsonl").write_text(
        f'{{"prompt": "{PROMPT}", "image": ["s.png"], "seed": 1, "keep_unchanged": true}}'
    )
    assert main(["generate", "--file", "p.jsonl", "-o", ".", "--steps", "3"]) == 0
    drawn["file of prompts"] = Image.open("000001.png")
    drawn["client"] = client.edit(PROMPT, picture, **keep)[0].image
    content = Path("s.png").read_bytes()
    form = {"prompt": PROMPT, **{name: str(value).lower() for name, value in keep.items()}}
    answer = post(client, "/v1/images/edits", data=form, files={"image": content})
    drawn["form"] = opened(answer["data"][0]["b64_json"])
    painter = Painter(lambda: client, Folders(read_from=[Path()]))
    [(made, _)] = painter.draw(PROMPT, ["s.png"], {"n": 1, **keep}, lambda *_: None, threading.Event())
    drawn["tools for agents"] = made.image
    boxes = {"seed": "1", "num_inference_steps": "3", "keep_unchanged": True}
    given = [(Image.open("s.png"), None)]
    drawn["Gradio"] = list(draw(client, client.model(), PROMPT, given, **boxes))[-1][0][0][0].image
    nodes = beside_a_host(monkeypatch, "nodes_of_a_test")
    tensor = torch.from_numpy(np.asarray(picture, np.float32) / 255)[None]
    (made, _) = nodes.DeepGenEdit().edit(nodes.Model(pipe), tensor, PROMPT, 1, 3, keep_unchanged="on")
    drawn["ComfyUI"] = Image.fromarray((made[0] * 255).round().to(torch.uint8).numpy())
    for door, image in drawn.items():
        assert not changed(image, picture)[:, : half - 4].any(), door
        assert np.abs(np.asarray(image, int) - np.asarray(plain, int))[:, half + 4 :].max() <= 1, door
    assert changed(plain, picture)[:, : half - 4].any()


def test_the_model_s_own_word_on_what_is_kept_is_for_edits_alone(
    client: Client, pipe: DeepGenPipeline, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepgen.masking.changed_weight", lambda drawn, *_: torch.zeros_like(drawn[0]))
    picture = Image.effect_noise((64, 64), 90).convert("RGB")
    picture.save("s.png")
    message = "keep_unchanged keeps what an edit leaves as it was; give the picture as image"
    with pytest.raises(ValueError, match=message):
        pipe(PROMPT, keep_unchanged=True)
    with pytest.raises(RequestFailed, match=message) as refused:
        client.generate(PROMPT, keep_unchanged=True)
    assert (refused.value.status, refused.value.param) == (400, "keep_unchanged")
    assert main(["generate", PROMPT, "--keep-unchanged", "on"]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="keep_unchanged must be true or false, got 1"):
        pipe(PROMPT, image=picture, keep_unchanged=1)
    usual = {**pipe.defaults, "keep_unchanged": True}
    monkeypatch.setattr(DeepGenPipeline, "defaults", property(lambda self: usual))
    pipe(PROMPT, num_inference_steps=1)
    assert not changed(pipe(PROMPT, image=picture, num_inference_steps=1).images[0], picture).any()
    whole = {"pipeline": pipe(PROMPT, image=picture, num_inference_steps=1, keep_unchanged=False).images[0]}
    edit = ["edit", PROMPT, "s.png", "--steps", "1"]
    assert main(edit) == 0
    assert not changed(Image.open("out.png"), picture).any()
    assert main([*edit, "--keep-unchanged", "off"]) == 0
    whole["command line"] = Image.open("out.png")
    Path("p.jsonl").write_text(f'{{"prompt": "{PROMPT}", "image": ["s.png"], "keep_unchanged": false}}')
    assert main(["generate", "--file", "p.jsonl", "-o", ".", "--steps", "1"]) == 0
    whole["file of prompts"] = Image.open("000001.png")
    whole["client"] = client.edit(PROMPT, picture, num_inference_steps=1, keep_unchanged=False)[0].image
    tensor = torch.from_numpy(np.asarray(picture, np.float32) / 255)[None]
    nodes = beside_a_host(monkeypatch, "nodes_of_a_test")
    made, _ = nodes.DeepGenEdit().edit(nodes.Model(pipe), tensor, PROMPT, 1, 1, keep_unchanged="off")
    whole["ComfyUI"] = Image.fromarray((made[0] * 255).round().to(torch.uint8).numpy())
    for door, image in whole.items():
        assert changed(image, picture).any(), door


def test_the_source_of_several_pictures_is_decoded_once(
    client: Client, pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    of = UnchangedPixels.of
    monkeypatch.setattr(UnchangedPixels, "of", staticmethod(lambda *args: made.append(1) or of(*args)))
    picture = Image.effect_noise((64, 64), 90).convert("RGB")
    images = client.edit(PROMPT, picture, n=3, num_inference_steps=1, keep_unchanged=True)
    assert (len(images), len(made)) == (3, 1)
