"""LoRAs of a server: mixed in a forward each draws what it draws alone; they come and go while it runs."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from starlette.testclient import TestClient

from deepgen.checkpoints.lora_settings import LoraError
from deepgen.cli import main
from deepgen.cli.loading import load_pipeline
from deepgen.cli.options import ModelOptions
from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.adapters import NameTaken
from deepgen.serving.app import make_app
from deepgen.serving.config import ApiKeys, ServeConfig
from deepgen.serving.engine import Engine, EngineConfig
from deepgen.serving.jobs import GenerationRequest, Progress
from deepgen.serving.pool import Pool
from deepgen.serving.row_adapters import row_adapters
from deepgen.serving.sampler import Sampler
from random_lora import write_lora
from serve_process import serving

# As between batches of any two sizes, see test_serve_engine.py.
LATENTS = 1e-4

ADMIN, USER = "sk-the-administrator", "sk-one-who-may-draw"
ASKED: dict[str, Any] = {"prompt": "a cat", "seed": 1, "num_inference_steps": 3}

# What adapters change: attention alone, every kind of linear layer of a block, and what stands around the
# blocks, where rows are vectors and not tokens.
ATTENTION = {"transformer": ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj"]}
BLOCKS = {"transformer": ["net.0.proj", "net.2", "norm1.linear", "norm1_context.linear"]}
AROUND = {
    "transformer": ["context_embedder", "proj_out", "norm_out.linear", "linear_1", "linear_2"],
    "connector": ["linear"],
}
PATCHES = {"transformer": ["pos_embed.proj"]}  # a convolution
VLM = {"vlm": ["q_proj"]}


@pytest.fixture(scope="module")
def written(_components: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of adapters by what they change."""
    folder, paths = tmp_path_factory.mktemp("adapters"), {}
    kinds = {"attention": ATTENTION, "blocks": BLOCKS, "around": AROUND, "patches": PATCHES, "vlm": VLM}
    pipe = DeepGenPipeline(**copy.deepcopy(_components))
    for number, (name, layers) in enumerate(kinds.items()):
        path = folder / f"{name}.safetensors"
        present = {
            part: found
            for part, ends in layers.items()
            if (found := [end for end in ends if any(n.endswith(end) for n in names(pipe, part))])
        }
        write_lora(pipe, path, number, present, rank=2 + number, alpha=8 * (2 + number))
        pipe.unload_lora_weights()
        paths[name] = str(path)
    return paths


@pytest.fixture
def files(written: dict[str, str]) -> Callable[..., dict[str, str]]:
    """Adapters of these kinds as a, b, ..."""
    return lambda *kinds: {name: written[kind] for name, kind in zip("abcdef", kinds, strict=False)}


def names(pipe: DeepGenPipeline, part: str) -> list[str]:
    kinds = torch.nn.Linear | torch.nn.Conv2d
    return [name for name, module in getattr(pipe, part).named_modules() if isinstance(module, kinds)]


def begin(sampler: Sampler, number: int, **asked: Any) -> Any:
    plan = sampler.plan(GenerationRequest(**asked))
    return sampler.begin(plan, sampler.encode(plan), seed=number)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"guidance_scale": 1.0}, marks=pytest.mark.slow),
        pytest.param({"guidance_scale": 4.0}, marks=pytest.mark.slow),
        {"preset": "fast", "num_inference_steps": 4},
        pytest.param({"solver": "heun", "num_inference_steps": 3}, marks=pytest.mark.slow),
    ],
    ids=["plain", "guided", "fast", "heun"],
)
def test_rows_with_their_own_adapters_move_as_alone(
    pipe: DeepGenPipeline, files: Any, image: Image.Image, asked: dict[str, Any]
) -> None:
    sampler = Sampler(pipe, files("attention", "blocks", "around"))
    own = ["a", None, "b", "c", "a"]
    asked = {"prompt": "a red circle", "num_inference_steps": 4, "height": 64, "width": 64, **asked}
    for images in ((), (image,)):
        alone = []
        for seed, name in enumerate(own):
            sample = begin(sampler, seed, **asked, lora=name, images=images)
            while not sample.is_done:
                sampler.step([sample])
            alone.append(sample.latents)
        samples = [begin(sampler, seed, **asked, lora=n, images=images) for seed, n in enumerate(own)]
        assert len({sample.batch_key for sample in samples}) == 1
        while not samples[0].is_done:
            groups: dict[Any, list[Any]] = {}
            for sample in samples:
                groups.setdefault(sample.batch_key, []).append(sample)
            for group in groups.values():
                sampler.step(group)
        for sample, expected in zip(samples, alone, strict=True):
            torch.testing.assert_close(sample.latents, expected, atol=LATENTS, rtol=0)
        plain = begin(sampler, 0, **asked, images=images)
        while not plain.is_done:
            sampler.step([plain])
        assert (plain.latents - alone[0]).abs().max() > 100 * LATENTS, "the adapter can be seen"


def test_rows_at_other_steps_keep_the_vectors_of_their_own_adapter(pipe: DeepGenPipeline, files: Any) -> None:
    """A sample's vectors of many steps are made in one product, with its adapter and no other."""
    sampler = Sampler(pipe, files("blocks", "around"))
    alone = [begin(sampler, 0, **ASKED, lora="a"), begin(sampler, 1, **ASKED, lora="b")]
    for sample in alone:
        while not sample.is_done:
            sampler.step([sample])
    one, two = begin(sampler, 0, **ASKED, lora="a"), begin(sampler, 1, **ASKED, lora="b")
    sampler.step([one])
    sampler.step([two, one])
    sampler.step([two, one])
    sampler.step([two])
    for sample, expected in zip((one, two), alone, strict=True):
        torch.testing.assert_close(sample.latents, expected.latents, atol=LATENTS, rtol=0)


def test_what_cannot_be_added_row_by_row_goes_apart(pipe: DeepGenPipeline, files: Any) -> None:
    sampler = Sampler(pipe, files("patches", "attention", "vlm"))
    keys = {name: begin(sampler, 0, **ASKED, lora=name).batch_key for name in (None, "a", "b", "c")}
    assert keys["a"] not in (keys[None], keys["b"])
    assert keys[None] == keys["b"] == keys["c"], "an adapter of the VLM does not matter to the DiT"


def test_an_adapter_the_model_came_with_stays_under_all_others(pipe: DeepGenPipeline, files: Any) -> None:
    paths = files("attention", "blocks")
    pipe.load_lora_weights(paths["a"], adapter_name="own")
    sampler = Sampler(pipe, {"b": paths["b"]})
    one, other = begin(sampler, 0, **ASKED), begin(sampler, 0, **ASKED, lora="b")
    assert one.batch_key != other.batch_key  # a row has one adapter in a shared forward


def test_in_exact_batches_adapters_go_apart_and_nothing_depends_on_company(
    pipe: DeepGenPipeline, files: Any
) -> None:
    requests = [GenerationRequest(**ASKED, lora=name) for name in ("a", None, "b", "a")]
    with Engine(pipe, EngineConfig(max_batch=4, is_exact=True, loras=files("attention", "blocks"))) as engine:
        alone = [np.asarray(engine.submit(request).result(60)[0].image) for request in requests]
        jobs = [engine.submit(request) for request in requests]
        for job, expected in zip(jobs, alone, strict=True):
            assert np.array_equal(np.asarray(job.result(60)[0].image), expected)


def test_rows_that_do_not_fit_the_batch_are_an_error_and_leave_the_layers_as_they_were(
    pipe: DeepGenPipeline, files: Any
) -> None:
    sampler = Sampler(pipe, files("attention"))
    sample = begin(sampler, 0, **ASKED, lora="a")
    wrong = row_adapters(pipe.transformer, [["a"], [], ["a"]])
    with pytest.raises(RuntimeError, match="has 2 rows in a forward of 3"), torch.no_grad(), wrong:
        sampler._velocity([sample])
    assert not any(module._forward_hooks for module in pipe.transformer.modules())
    sampler.step([sample])
    assert sample.step == 1


# --- coming and going ---------------------------------------------------------------------------------------


def drawn(engine: Any, **asked: Any) -> np.ndarray:
    return np.asarray(engine.submit(GenerationRequest(**{**ASKED, **asked})).result(60)[0].image)


def wait(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_an_adapter_comes_and_goes_and_leaves_the_model_as_it_was(pipe: DeepGenPipeline, files: Any) -> None:
    paths = files("attention", "blocks")
    layers = [(n, type(m)) for part in (pipe.transformer, pipe.vlm) for n, m in part.named_modules()]
    with Engine(pipe, EngineConfig(max_batch=1)) as engine:
        before = drawn(engine)
        engine.add_adapter("style", paths["a"])
        assert engine.model.loras == ("style",)
        styled = drawn(engine, lora="style")
        assert not np.array_equal(styled, before)
        assert engine.remove_adapter("style") == 0
        assert engine.model.loras == ()
        with pytest.raises(ValueError, match="lora 'style' is not known; this server has none"):
            drawn(engine, lora="style")
        wait(lambda: not engine.sampler.loras.leaving())
        assert np.array_equal(drawn(engine), before)
        assert layers == [
            (n, type(m)) for part in (pipe.transformer, pipe.vlm) for n, m in part.named_modules()
        ]
        engine.add_adapter("style", paths["b"])  # another one of that name: nothing old is kept
        assert not np.array_equal(drawn(engine, lora="style"), styled)
        # Beside an adapter of the feed-forward, that is not joined with its activation: it rounds otherwise.
        assert np.abs(drawn(engine).astype(int) - before).max() <= 1


def test_a_loaded_adapter_needs_its_file_no_more(pipe: DeepGenPipeline, files: Any, tmp_path: Path) -> None:
    path = Path(shutil.copy(files("attention")["a"], tmp_path))
    with Engine(pipe, EngineConfig(max_batch=1)) as engine:
        engine.add_adapter("a", str(path))
        path.unlink()
        assert not np.array_equal(drawn(engine, lora="a"), drawn(engine))


def test_requests_that_were_accepted_are_drawn_with_an_adapter_that_is_removed(
    pipe: DeepGenPipeline, files: Any
) -> None:
    paths = files("attention", "blocks")
    with Engine(pipe, EngineConfig(max_batch=1, max_running=2, loras=paths)) as engine:
        expected = drawn(engine, lora="a", num_inference_steps=9)
        go = threading.Event()
        step = engine.sampler.step

        def wait_and_step(*arguments: Any) -> None:
            assert go.wait(30)
            step(*arguments)

        engine.sampler.step = wait_and_step  # type: ignore[method-assign]
        asked = GenerationRequest(**{**ASKED, "num_inference_steps": 9}, lora="a")
        jobs = [engine.submit(asked) for _ in range(3)]  # the last one waits to be begun
        assert engine.remove_adapter("a") == 3
        assert engine.model.loras == ("b",)
        go.set()
        with pytest.raises(NameTaken, match="'a' is being removed and still drawn with"):
            engine.add_adapter("a", paths["b"])
        for job in jobs:
            assert np.array_equal(np.asarray(job.result(60)[0].image), expected)
        wait(lambda: not engine.sampler.loras.leaving())
        engine.add_adapter("a", paths["b"])
        assert np.array_equal(drawn(engine, lora="a"), drawn(engine, lora="b"))


def test_a_wrong_file_is_refused_by_name_and_changes_nothing(
    pipe: DeepGenPipeline, files: Any, tmp_path: Path
) -> None:
    paths = files("attention")
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x02.")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    misfit = {f"blocks.0.to_q.lora_{side}.weight": torch.ones(2, 2) + (side == "B") for side in "AB"}
    save_file(misfit, tmp_path / "other.safetensors")
    with Engine(pipe, EngineConfig(max_batch=1)) as engine:
        before = drawn(engine)
        for name in ("pickle.pt", "empty.safetensors", "other.safetensors"):
            with pytest.raises(LoraError, match=f"LoRA x: .*{name}"):
                engine.add_adapter("x", str(tmp_path / name))
        for name in ("", "a.b", "a/b", "a\n", "x" * 101):
            with pytest.raises(ValueError, match="give it a name of at most 100"):
                engine.add_adapter(name, paths["a"])
        engine.add_adapter("a", paths["a"])
        with pytest.raises(NameTaken, match="an adapter 'a' exists"):
            engine.add_adapter("a", paths["a"])
        assert engine.model.loras == ("a",)
        assert np.array_equal(drawn(engine), before)


# --- over HTTP ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(written: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with adapters, and beside it what must not be read."""
    folder = tmp_path_factory.mktemp("outside") / "adapters"
    (folder / "more").mkdir(parents=True)
    shutil.copy(written["attention"], folder.parent / "a.safetensors")
    shutil.copy(written["attention"], folder / "a.safetensors")
    shutil.copy(written["blocks"], folder / "more/b.safetensors")
    (folder / "bad.safetensors").write_bytes(b"no weights")
    (folder / "link.safetensors").symlink_to(written["attention"])
    (folder / "ring").symlink_to(folder / "ring")
    return folder


@pytest.fixture(scope="module")
def running(_components: dict[str, Any], folder: Path) -> Iterator[TestClient]:
    keys = {"keys": ApiKeys({"user": USER}), "admin_keys": ApiKeys({"admin": ADMIN})}
    pipe = DeepGenPipeline(**copy.deepcopy(_components), defaults={"height": 64, "width": 64})
    pipe.set_progress_bar_config(disable=True)
    with TestClient(make_app(Engine(pipe), ServeConfig(**keys, adapter_dir=folder))) as client:
        client.headers["authorization"] = f"Bearer {ADMIN}"
        yield client


@pytest.fixture
def http(running: TestClient) -> Iterator[TestClient]:
    """A server without adapters."""
    yield running
    for card in running.get("/v1/adapters").json()["data"]:
        running.delete(f"/v1/adapters/{card['id']}")


def user(http: TestClient) -> dict[str, str]:
    return {"authorization": f"Bearer {USER}"}


def test_adapters_are_added_listed_used_and_removed(http: TestClient) -> None:
    def ask(lora: str) -> Any:
        body = {"prompt": "a cat", "lora": lora, "num_inference_steps": 1}
        return http.post("/v1/images/generations", json=body, headers=user(http))

    assert ask("a").status_code == 400
    answer = http.post("/v1/adapters", json={"name": "a", "path": "a.safetensors"})
    assert (answer.status_code, answer.json()) == (201, {"id": "a", "object": "adapter"})
    assert http.post("/v1/adapters", json={"name": "b", "path": "more"}).status_code == 201
    assert [card["id"] for card in http.get("/v1/adapters").json()["data"]] == ["a", "b"]
    assert http.get("/v1/models", headers=user(http)).json()["data"][0]["loras"] == ["a", "b"]
    assert '"enum": ["a", "b"]' in http.get("/openapi.json").text.replace('","', '", "').replace(":[", ": [")
    assert ask("a").status_code == 200
    deleted = http.delete("/v1/adapters/a")
    assert deleted.json() == {"id": "a", "object": "adapter", "deleted": True, "requests": 0}
    refused = ask("a")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "lora")
    assert http.delete("/v1/adapters/a").status_code == 404
    assert http.get("/v1/models", headers=user(http)).json()["data"][0]["loras"] == ["b"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../a.safetensors", "../a.safetensors is not below the server's folder for adapters"),
        ("/etc/passwd", "/etc/passwd is not below"),
        ("link.safetensors", "link.safetensors is not below"),
        ("more/../../a.safetensors", "is not below"),
        (".", ". is not below"),
        ("ring", "ring"),
        ("x" * 900, "x is not below"),
        ("absent.safetensors", "there is nothing at absent.safetensors"),
        ("Org/name", "there is nothing at Org/name"),
        ("bad.safetensors", "LoRA x: bad.safetensors"),
    ],
)
def test_no_path_leads_out_of_the_folder_and_a_wrong_file_is_named(
    http: TestClient, folder: Path, path: str, message: str
) -> None:
    answer = http.post("/v1/adapters", json={"name": "x", "path": path})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "path")
    assert message in error["message"]
    assert str(folder) not in error["message"]
    assert http.get("/v1/adapters").json()["data"] == []


def test_who_may_change_adapters(http: TestClient) -> None:
    asked = {"name": "a", "path": "a.safetensors"}
    for headers, status, code in (
        ({"authorization": ""}, 401, "missing_api_key"),
        ({"authorization": "Bearer sk-somebody-else-12"}, 401, "invalid_api_key"),
        (user(http), 403, "not_an_admin"),
    ):
        for answer in (
            http.get("/v1/adapters", headers=headers),
            http.post("/v1/adapters", json=asked, headers=headers),
            http.delete("/v1/adapters/a", headers=headers),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    drawing = http.post("/v1/images/generations", json={"prompt": "a cat"})
    assert drawing.status_code == 401, "an administrator's key is for adapters alone"


def test_a_server_without_administrators_changes_nothing(pipe: DeepGenPipeline) -> None:
    with TestClient(make_app(Engine(pipe))) as http:
        answer = http.post("/v1/adapters", json={"name": "a", "path": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "no_admin_keys")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "a"}, 400, None),
        ({"name": "a", "path": "a.safetensors", "strength": 1}, 400, "unknown_parameter"),
        ({"name": "a.b", "path": "a.safetensors"}, 400, "invalid_value"),
        ({"name": "x" * 101, "path": "a.safetensors"}, 400, None),
        ({"name": "a\x00", "path": "a.safetensors"}, 400, None),
        ({"name": ["a"], "path": "a.safetensors"}, 400, None),
    ],
)
def test_a_wrong_body_is_refused(http: TestClient, body: Any, status: int, code: str | None) -> None:
    answer = http.post("/v1/adapters", json=body)
    assert answer.status_code == status
    assert code is None or answer.json()["error"]["code"] == code
    assert http.get("/v1/adapters").json()["data"] == []


def test_a_name_that_is_taken_is_a_conflict(http: TestClient) -> None:
    asked = {"name": "a", "path": "a.safetensors"}
    assert http.post("/v1/adapters", json=asked).status_code == 201
    again = http.post("/v1/adapters", json=asked)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "adapter_exists")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--adapter-folder", "."], "needs both --admin-key-file and --adapter-folder"),
        (["--admin-key-file", "keys", "--adapter-folder", "absent"], "--adapter-folder absent is no folder"),
        (["--admin-key-file", "keys", "--adapter-folder", "."], "keys, line 1: expected NAME:KEY"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("keys").write_text("no key\n")
    assert main(["serve", "tiny", *options]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# --- in worker processes ------------------------------------------------------------------------------------


@pytest.fixture
def of_tiny(tmp_path: Path) -> Path:
    """A folder with an adapter of the embedded model."""
    pipe = load_pipeline(ModelOptions(model="tiny", device="cpu"))
    folder = tmp_path / "of_tiny"
    folder.mkdir()
    write_lora(pipe, folder / "style.safetensors", 0)
    (folder / "bad.safetensors").write_bytes(b"")
    return folder


@pytest.mark.slow
def test_all_workers_take_an_adapter_and_those_that_start_later_too(of_tiny: Path) -> None:
    load = partial(load_pipeline, ModelOptions(model="tiny", device="cpu"))
    with Pool(load, EngineConfig(max_batch=1), num_workers=2) as pool:
        before = drawn(pool)
        with pytest.raises(ValueError, match=r"LoRA bad: .*bad.safetensors"):
            pool.add_adapter("bad", str(of_tiny / "bad.safetensors"))
        pool.add_adapter("style", str(of_tiny / "style.safetensors"))
        assert pool.model.loras == ("style",)
        jobs = [pool.submit(GenerationRequest(**ASKED, lora="style")) for _ in range(4)]
        made = [np.asarray(job.result(60)[0].image) for job in jobs]
        assert all(np.array_equal(one, made[0]) for one in made)
        assert not np.array_equal(made[0], before)
        for worker in list(pool._workers):
            os.kill(worker.process.pid, signal.SIGKILL)
        wait(lambda: sum(w.is_ready and w.num_starts > 1 for w in pool.status().workers) == 2, 120)
        for _ in range(4):
            assert np.array_equal(drawn(pool, lora="style"), made[0])
        job = pool.submit(GenerationRequest(**{**ASKED, "num_inference_steps": 40}, lora="style"))
        next(event for event in job.events(30) if isinstance(event, Progress))
        assert pool.remove_adapter("style") == 1
        with pytest.raises(ValueError, match="lora 'style' is not known"):
            drawn(pool, lora="style")
        with pytest.raises(NameTaken, match="is being removed"):
            pool.add_adapter("style", str(of_tiny / "style.safetensors"))
        assert len(job.result(60)) == 1
        pool.add_adapter("style", str(of_tiny / "style.safetensors"))
        assert np.array_equal(drawn(pool, lora="style"), made[0])
        assert np.array_equal(drawn(pool), before)


@pytest.mark.slow
def test_an_adapter_whose_file_is_gone_when_a_worker_starts_anew_is_dropped(of_tiny: Path) -> None:
    load = partial(load_pipeline, ModelOptions(model="tiny", device="cpu"))
    with Pool(load, EngineConfig(max_batch=1)) as pool:
        pool.add_adapter("style", str(of_tiny / "style.safetensors"))
        (of_tiny / "style.safetensors").unlink()
        drawn(pool, lora="style")
        os.kill(pool._workers[0].process.pid, signal.SIGKILL)
        wait(lambda: pool.status().workers[0].num_starts > 1 and pool.status().is_accepting, 120)
        assert pool.model.loras == ()
        drawn(pool)


@pytest.mark.slow
def test_a_server_process_takes_adapters_from_its_folder(of_tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "admins").write_text(f"admin:{ADMIN}\n")
    options = ["--admin-key-file", str(tmp_path / "admins"), "--adapter-folder", str(of_tiny)]
    with serving(*options, "--workers", "2") as url, httpx.Client(base_url=url, trust_env=False) as http:
        http.timeout, admin = 60, {"authorization": f"Bearer {ADMIN}"}
        assert http.get("/v1/adapters").status_code == 401
        added = http.post("/v1/adapters", json={"name": "s", "path": "style.safetensors"}, headers=admin)
        assert added.status_code == 201
        asked = {"prompt": "a cat", "seed": 1, "num_inference_steps": 2}
        pictures = {}
        for lora in (None, "s"):
            answer = http.post("/v1/images/generations", json={**asked, "lora": lora})
            pictures[lora] = answer.json()["data"][0]["b64_json"]
        assert pictures[None] != pictures["s"]
        assert http.delete("/v1/adapters/s", headers=admin).json()["deleted"]
        assert http.post("/v1/images/generations", json={**asked, "lora": "s"}).status_code == 400
        text = http.get("/metrics").text
        assert 'deepgen_encodings_total{kind="conditions",result="computed"} 2.0' in text
