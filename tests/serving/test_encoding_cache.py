"""What was read is not read again, and every picture is bit for bit what it is without the cache."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deepgen.models.bounded_cache import BoundedCache
from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.adapters import read_loras
from deepgen.serving.encoding_cache import EncodingCache, Reader, digest
from deepgen.serving.engine import Engine, EngineConfig
from deepgen.serving.jobs import GenerationRequest
from deepgen.serving.metrics import Metrics
from random_lora import write_lora


@contextmanager
def counted(pipe: DeepGenPipeline) -> Iterator[Counter[str]]:
    """How often each of the parts that read is run."""
    calls: Counter[str] = Counter()

    def count(name: str) -> Any:
        return lambda *_: calls.update([name])

    hooks = [
        pipe.vlm.register_forward_pre_hook(count("vlm")),
        pipe.vlm.visual.register_forward_pre_hook(count("vision")),
        pipe.vae.encoder.register_forward_pre_hook(count("vae")),
    ]
    yield calls
    for hook in hooks:
        hook.remove()


def drawn(engine: Engine, **asked: Any) -> list[np.ndarray]:
    return [np.asarray(done.image) for done in engine.submit(GenerationRequest(**asked)).result(60)]


def session(image: Image.Image) -> list[dict[str, Any]]:
    """Edits of one picture as somebody tries them out, and prompts in between."""
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (8, 8, 40, 40))
    other = image.transpose(Image.Transpose.ROTATE_90)
    return [
        {"prompt": "make it blue", "images": (image,), "seed": 1, "num_images": 2},
        {"prompt": "make it red", "images": (image.copy(),), "seed": 2},
        {"prompt": "make it red", "images": (image,), "seed": 3, "guidance_scale": 1.0},
        {"prompt": "make it red", "images": (image,), "seed": 3, "negative_prompt": "a long word or two"},
        {"prompt": "a star", "images": (image,), "mask": mask, "seed": 4},
        {"prompt": "both", "images": (image, other), "seed": 5},
        {"prompt": "both", "images": (other, image), "seed": 5},
        {"prompt": "a red circle", "seed": 6},
        {"prompt": "a red circle", "seed": 7},
        {"prompt": "a red circle", "seed": 7, "guidance_scale": 1.0},
    ]


def test_a_session_of_edits_is_bit_equal_with_and_without_the_cache(
    pipe: DeepGenPipeline, image: Image.Image
) -> None:
    with Engine(pipe, EngineConfig(max_batch=1, max_encoding_bytes=0)) as engine:
        expected = [drawn(engine, **asked) for asked in session(image)]
        assert engine.status().encoding_memory == 0
    with Engine(pipe, EngineConfig(max_batch=1)) as engine:
        for _ in range(2):  # the second time all is kept
            for asked, before in zip(session(image), expected, strict=True):
                for made, one in zip(drawn(engine, **asked), before, strict=True):
                    assert np.array_equal(made, one), asked
        assert engine.status().encoding_memory > 0
    assert not np.array_equal(expected[5][0], expected[6][0]), "the order of references matters"


def test_a_picture_is_read_once_however_often_it_is_edited(pipe: DeepGenPipeline, image: Image.Image) -> None:
    with Engine(pipe) as engine, counted(pipe) as calls:
        drawn(engine, prompt="make it blue", images=(image,), seed=1, num_images=3)
        assert calls == {"vlm": 1, "vision": 1, "vae": 1}
        drawn(engine, prompt="make it red", images=(image.copy(),), seed=1)
        assert calls == {"vlm": 2, "vision": 1, "vae": 1}, "another instruction reads the prompt alone"
        drawn(engine, prompt="make it red", images=(image,), seed=9)
        assert calls == {"vlm": 2, "vision": 1, "vae": 1}
        other = image.copy()
        other.putpixel((0, 0), (1, 2, 3))
        drawn(engine, prompt="make it red", images=(other,), seed=9)
        assert calls == {"vlm": 3, "vision": 2, "vae": 2}, "one pixel makes another picture"


def test_what_is_kept_is_of_the_adapter_that_read_it(
    pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline, image: Image.Image, tmp_path: Path
) -> None:
    for number, name in enumerate(("one", "two")):
        write_lora(fresh_pipe, tmp_path / f"{name}.safetensors", number)
    config = EngineConfig(max_batch=1, loras=read_loras([str(tmp_path)]))
    asked = {"prompt": "a cat", "images": (image,), "seed": 1}
    fresh_pipe.unload_lora_weights()
    with Engine(fresh_pipe, EngineConfig(max_batch=1, loras=config.loras, max_encoding_bytes=0)) as engine:
        expected = {name: drawn(engine, **asked, lora=name)[0] for name in ("one", "two")}
    with Engine(pipe, config) as engine, counted(pipe) as calls:
        for name in ("one", "two", "one"):
            assert np.array_equal(drawn(engine, **asked, lora=name)[0], expected[name])
        assert calls == {"vlm": 2, "vision": 2, "vae": 1}
    assert not np.array_equal(expected["one"], expected["two"])


def test_lookups_and_bytes_are_counted_in_the_metrics(pipe: DeepGenPipeline, image: Image.Image) -> None:
    metrics = Metrics()
    with Engine(pipe, on_measure=metrics.measure) as engine:
        assert 'deepgen_encodings_total{kind="features",result="kept"} 0.0' in shown(metrics, engine)
        for prompt in ("make it blue", "make it red", "make it red"):
            drawn(engine, prompt=prompt, images=(image,), seed=1)
        text = shown(metrics, engine)
        nbytes = engine.status().encoding_memory
    for kind, computed, kept in (("conditions", 2, 1), ("features", 1, 1), ("posteriors", 1, 2)):
        assert f'deepgen_encodings_total{{kind="{kind}",result="computed"}} {computed}.0' in text
        assert f'deepgen_encodings_total{{kind="{kind}",result="kept"}} {kept}.0' in text
    assert f"deepgen_encoding_memory_bytes {float(nbytes)}" in text


def shown(metrics: Metrics, engine: Engine) -> str:
    return metrics.show(engine.status).decode()


def test_encodings_make_room_where_memory_is_short(pipe: DeepGenPipeline, image: Image.Image) -> None:
    with Engine(pipe) as engine:
        drawn(engine, prompt="a cat", seed=1)
        begin, calls = engine.sampler.begin, []

        def short(*arguments: Any) -> Any:
            calls.append(engine.sampler.encodings.nbytes)
            if calls[-1]:
                raise MemoryError
            return begin(*arguments)

        engine.sampler.begin = short  # type: ignore[method-assign]
        drawn(engine, prompt="a cat", seed=2)
    assert [nbytes > 0 for nbytes in calls] == [True, False]


def test_a_digest_knows_pixels_shape_and_number_format() -> None:
    pixels = torch.linspace(-1, 1, 12).view(3, 2, 2)
    assert digest(pixels) == digest(pixels.clone())
    assert digest(pixels.transpose(1, 2)) == digest(pixels.transpose(1, 2).contiguous())
    others = [pixels.view(3, 4, 1), pixels.transpose(1, 2), pixels + 1e-6, pixels.view(torch.int32)]
    assert len({digest(other) for other in [pixels, *others]}) == 5
    assert digest(pixels.bfloat16()) != digest(pixels)


def test_encodings_of_an_adapter_that_is_gone_are_let_go() -> None:
    cache = EncodingCache(2**20)
    for number in (None, 1, 2):
        cache.features([b"a"], Reader(number, number), lambda: [torch.zeros(4)])
    assert cache.nbytes == 48
    cache.forget(1)
    assert cache.nbytes == 32
    assert cache.clear()
    assert not cache.clear()


def test_bytes_stay_below_the_limit_with_many_threads() -> None:
    cache: BoundedCache[bytes] = BoundedCache(100, len)
    failed: list[str] = []

    def work(number: int) -> None:
        for key in range(200):
            size = 1 + (key * 7 + number) % 40
            if cache.get((key % 13, size), lambda size=size: bytes(size)) != bytes(size):
                failed.append(f"{key} of {number}")
            if cache.nbytes > 140:  # one more than the limit while it is put in
                failed.append(f"{cache.nbytes} bytes")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert cache.hits + cache.misses == 8 * 200
    assert cache.nbytes == sum(len(cache.get(key, bytes)) for key in list(cache._kept)) <= 100


def test_what_is_larger_than_the_limit_is_not_kept() -> None:
    cache: BoundedCache[bytes] = BoundedCache(10, len)
    cache.get("small", lambda: bytes(5))
    cache.get("large", lambda: bytes(11))
    assert (len(cache), cache.nbytes) == (1, 5)


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="max_encoding_bytes must be 0 or more, got -1"):
        EngineConfig(max_encoding_bytes=-1)
