"""Where pictures come from: an endpoint over HTTP, folders, DeepGen, pipelines of diffusers."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from deepgen.cli.app import main
from deepgen.evaluation.benchmark import Item, Settings, settings_with
from deepgen.evaluation.benchmarks import load_benchmark
from deepgen.evaluation.models import CannotDraw, Endpoint, ModelConfig, PipelineModel, form, load_model
from deepgen.evaluation.runner import RunConfig, run
from deepgen.evaluation.scorers import Scorers
from deepgen.shapes.vocabulary import MAX_TOKENS, write_tokenizer
from evaluation.benchmark_files import NoiseModel, hashes, write_all
from evaluation.stub_scorers import stub_scorers
from rewards.reward_server import serving

SMALL = Settings(num_inference_steps=2, height=96, width=96)


def png(color: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (96, 96), color).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


class Words:
    """Reads the same line in everything."""

    version = "words-1"

    def __call__(self, image):
        return ["word0"]


def test_an_endpoint_goes_through_two_benchmarks(tmp_path):
    data = write_all(tmp_path / "data")

    def answer(path, document):
        assert path == "/v1/images/generations"
        return 200, {"data": [{"b64_json": png("red")}]}

    with serving(answer) as server:
        model = load_model(f"openai:{server.url}/v1#their-model", ModelConfig(api_key="secret"))
        for name, limit in (("cvtg2k", None), ("shapes", 3)):
            benchmark = load_benchmark(name)
            config = RunConfig(output_dir=tmp_path, data_dir=data, allow_altered=True, limit=limit)
            settings = settings_with(benchmark.settings, height=96, width=96)
            result = run(benchmark, model, settings, config, Scorers(reader=Words()))
            assert result["coverage"] == 1
        sent = server.requests[0][1]
        assert sent["size"] == "96x96"
        assert sent["model"] == "their-model"
        assert sent["prompt"].startswith("a sign with")
        assert server.headers[0]["Authorization"] == "Bearer secret"
        assert "secret" not in (tmp_path / "cvtg2k/manifest.json").read_text()


def test_an_endpoint_is_tried_again_and_its_refusal_is_of_the_item():
    replies = iter(
        [(503, "busy"), (200, {"data": [{"b64_json": png("blue")}]}), (400, "not allowed"), (200, {})]
    )
    item = Item(id="1", category="", prompt="a cat")
    with serving(lambda *asked: next(replies)) as server:
        model = Endpoint("openai", f"{server.url}/v1", ModelConfig(retries=1))
        (image,) = model.draw([item], [1], SMALL)
        assert image.getpixel((0, 0)) == (0, 0, 255)
        with pytest.raises(CannotDraw, match="not allowed"):
            model.draw([item], [1], SMALL)
        with pytest.raises(CannotDraw, match="no picture"):
            model.draw([item], [1], SMALL)
        assert len(server.requests) == 4


def test_an_edit_is_sent_as_a_form():
    body, kind = form({"prompt": "add a hat"}, {"image": b"PNG"})
    boundary = kind.split("boundary=")[1].encode()
    assert body.count(b"--" + boundary) == 3
    assert b'name="prompt"\r\n\r\nadd a hat\r\n' in body
    assert b'filename="image.png"\r\nContent-Type: image/png\r\n\r\nPNG\r\n' in body


def test_pictures_of_a_folder_score_as_those_that_were_drawn(tmp_path):
    data = write_all(tmp_path / "data")
    benchmark = load_benchmark("cvtg2k")
    settings = settings_with(benchmark.settings, height=16, width=16)

    def go(model, output):
        config = RunConfig(output_dir=tmp_path / output, data_dir=data, allow_altered=True)
        return run(benchmark, model, settings, config, Scorers(reader=Words()))

    drawn = go(NoiseModel(), "drawn")
    taken = go(load_model(f"images:{tmp_path / 'drawn'}"), "taken")
    assert taken["table"] == drawn["table"]
    assert hashes(tmp_path / "drawn") == hashes(tmp_path / "taken")


@pytest.fixture
def sd3(tmp_path):
    """A Stable Diffusion 3 of the smallest size, with random weights."""
    import torch
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import (
        AutoTokenizer,
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        T5Config,
        T5EncoderModel,
    )

    torch.manual_seed(0)
    write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.model_max_length = 77
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": MAX_TOKENS, "eos_token_id": 1}
    clip = CLIPTextConfig(**small, hidden_size=16, intermediate_size=16, projection_dim=16)
    t5 = T5Config(
        vocab_size=MAX_TOKENS, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0
    )
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=48,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKL(
            **blocks,
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            shift_factor=0.0,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=CLIPTextModelWithProjection(clip),
        text_encoder_2=CLIPTextModelWithProjection(clip),
        text_encoder_3=T5EncoderModel(t5),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=tokenizer,
    )


def test_a_pipeline_that_is_not_ours_goes_through_two_benchmarks(sd3, tmp_path):
    data = write_all(tmp_path / "data")
    model = PipelineModel("diffusers:sd3", sd3, "random", is_deepgen=False)
    for name in ("cvtg2k", "shapes"):
        benchmark = load_benchmark(name)
        config = RunConfig(output_dir=tmp_path, data_dir=data, allow_altered=True, limit=2)
        settings = settings_with(benchmark.settings, num_inference_steps=1, height=96, width=96)
        result = run(benchmark, model, settings, config, Scorers(reader=Words()))
        assert result["coverage"] == 1
    item = Item(id="1", category="", prompt="a red circle")
    (first,), (again,), (other,) = (model.draw([item], [seed], SMALL) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    edit = Item(id="1", category="", prompt="edit", references=(lambda: Image.new("RGB", (8, 8)),))
    with pytest.raises(ValueError, match="takes no picture to edit"):
        model.draw([edit], [1], SMALL)


@pytest.mark.slow
def test_a_folder_of_diffusers_goes_through_two_benchmarks_from_the_command_line(sd3, tmp_path):
    data = write_all(tmp_path / "data")
    sd3.save_pretrained(tmp_path / "sd3")
    with serving(stub_scorers()) as server:
        options = ["--model", f"diffusers:{tmp_path / 'sd3'}", "--data", str(data), "--limit", "4"]
        options += ["--allow-altered-data", "--steps", "2", "--size", "96", "--batch-size", "2"]
        options += ["--ocr", server.url, "--judge-url", f"{server.url}/v1", "--judge-model", "stub"]
        assert main(["eval", "run", "cvtg2k", "wise", *options, "-o", str(tmp_path / "run")]) == 0
    for label in ("cvtg2k", "wise-legacy"):
        result = json.loads((tmp_path / "run" / label / "result.json").read_text())
        assert result["num_judged"] == len(hashes(tmp_path / "run" / label)) == 4
        assert len(result["manifest"]["drawing"]["fingerprint"]) == 64


@pytest.fixture
def our_server(tmp_path):
    """`deepgen serve` with the small model, in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    source = str(Path(__file__).parents[2] / "src")
    command = [sys.executable, "-m", "deepgen", "serve", "tiny", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    log = tmp_path / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        until = time.monotonic() + 600
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_our_own_server_goes_through_a_benchmark_of_pictures_and_one_of_edits(our_server, tmp_path):
    pytest.importorskip(
        "fastapi", reason="the server is in the serve extra: pip install 'deepgen-image[serve]'"
    )
    data = write_all(tmp_path / "data")
    with serving(stub_scorers()) as server:
        options = ["--model", f"openai:{our_server}", "--data", str(data), "--limit", "2"]
        options += ["--allow-altered-data", "--steps", "2", "--size", "96", "--negative", ""]
        options += ["--ocr", server.url, "--judge-url", f"{server.url}/v1", "--judge-model", "stub"]
        assert main(["eval", "run", "cvtg2k", "imgedit", *options, "-o", str(tmp_path / "run")]) == 0
        asked = [document for path, document in server.requests if path == "/v1/chat/completions"]
    assert len(asked) == 2
    for label in ("cvtg2k", "imgedit"):
        result = json.loads((tmp_path / "run" / label / "result.json").read_text())
        assert result["num_judged"] == len(set(hashes(tmp_path / "run" / label).values())) == 2
        assert result["manifest"]["drawing"]["fingerprint"] == f"endpoint {our_server}"


@pytest.mark.parametrize(
    ("name", "message"), [("openai:", "names nothing"), ("images:/nowhere/at/all", "no folder of pictures")]
)
def test_a_model_that_is_not_there_is_said_before_anything_is_drawn(name, message):
    with pytest.raises((ValueError, OSError), match=message):
        load_model(name)


def test_tiny_draws_and_edits_the_same_from_the_same_seeds():
    model = load_model("tiny")
    item = Item(id="1", category="", prompt="a red circle on a white background")
    source = Image.new("RGB", (60, 40), "white")
    edit = Item(id="2", category="", prompt="make the background blue", references=(lambda: source,))
    for one in (item, edit):
        (first,), (again,), (other,) = (model.draw([one], [seed], SMALL) for seed in (1, 1, 2))
        assert first.size == (96, 96)
        assert first.tobytes() == again.tobytes()
        assert first.tobytes() != other.tobytes()
    assert len(model.fingerprint) == 64
