"""The log is one JSON object a line, whoever speaks, and usage is counted by the name of the key."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.app import make_app
from deepgen.serving.config import ApiKeys, ServeConfig
from deepgen.serving.engine import Engine
from deepgen.serving.hooks import Hooks, Refusal
from deepgen.serving.jobs import EngineStatus
from deepgen.serving.log import logging_to_stderr
from deepgen.serving.metrics import Metrics

KEY = "sk-a-long-enough-key"
HEADERS = {"authorization": f"Bearer {KEY}"}


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_whatever_is_said_on_stderr_is_one_object_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, before = io.StringIO(), list(logging.getLogger().handlers)
    monkeypatch.setattr(sys, "stderr", plain)
    with logging_to_stderr("json"):
        print("deepgen: loaded tiny", file=sys.stderr)
        print("two lines\nof a library", file=sys.stderr)
        sys.stderr.write("\r 50%|#####     |\r100%|##########|\n")
        (ours,) = (handler for handler in logging.getLogger().handlers if handler not in before)
        half = 'a "quoted"\nmessage \ud800'  # not by a logger: pytest would keep it, and xdist cannot send it
        ours.handle(logging.LogRecord("some.library", logging.WARNING, "", 0, half, None, None))
        late = logging.StreamHandler()  # as transformers and diffusers make theirs
        late.emit(logging.LogRecord("transformers", logging.WARNING, "", 0, "a warning", None, None))
        warnings.warn("an old name", stacklevel=1)
        try:
            raise ValueError("inside")
        except ValueError:
            logging.getLogger("deepgen.serving").exception("unexpected error")
        logging.getLogger("deepgen.serving.access").info("GET /", extra={"fields": {"status": 200}})
        sys.stderr.write("no end of line")
    assert sys.stderr is plain
    lines = lines_of(plain.getvalue())
    for line in lines:
        assert list(line)[:4] == ["time", "level", "logger", "message"]
    said = [line["message"] for line in lines]
    assert said[:3] == ["loaded tiny", "two lines", "of a library"]
    assert 'a "quoted"\nmessage \ud800' in said
    assert "a warning" in said
    assert any("an old name" in message for message in said)
    (failed,) = (line for line in lines if line["message"] == "unexpected error")
    assert failed["level"] == "error"
    assert failed["exception"].endswith("ValueError: inside")
    assert next(line for line in lines if line["message"] == "GET /")["status"] == 200
    assert said[-1] == "no end of line"


def test_threads_do_not_write_into_each_others_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", plain)
    with logging_to_stderr("json"):
        threads = [
            threading.Thread(target=lambda: [logging.getLogger("deepgen").info("x" * 500) for _ in range(50)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(lines_of(plain.getvalue())) == 400


class Served:
    """An application that is asked in this process, and what its log said."""

    def __init__(self, engine: Engine, caplog: pytest.LogCaptureFixture, **config: Any) -> None:
        self.metrics, self.caplog = Metrics(), caplog
        caplog.set_level(logging.INFO, "deepgen.serving.access")
        self.app = make_app(engine, ServeConfig(model_name="small", **config), self.metrics)

    def ask(self, body: Any, path: str = "/v1/images/generations", **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
                return await http.post(path, json=body, **options)

        return asyncio.run(ask())

    def line(self) -> dict[str, Any]:
        return self.caplog.records[-1].fields  # type: ignore[attr-defined]


@pytest.fixture
def engine(pipe: DeepGenPipeline) -> Iterator[Engine]:
    with Engine(pipe) as engine:
        yield engine


def test_a_line_says_who_asked_for_what_and_what_came_of_it(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(engine, caplog, keys=ApiKeys({"anna": KEY}))
    drawn = served.ask({"prompt": "a", "n": 2, "size": "32x64", "num_inference_steps": 3}, headers=HEADERS)
    assert drawn.status_code == 200
    line = served.line()
    about = {name: line[name] for name in ("model", "key", "status", "pictures", "drawn", "steps", "size")}
    assert about == {
        "model": "small",
        "key": "anna",
        "status": 200,
        "pictures": 2,
        "drawn": 2,
        "steps": 3,
        "size": "32x64",
    }
    assert 0 < line["model_seconds"] <= line["seconds"]
    assert line["job"].startswith("job-")
    assert (line["error_code"], line["error_message"]) == (None, None)

    fields = list(line)
    for body, headers, code in (
        ({"prompt": 3}, HEADERS, "invalid_type"),
        ({"prompt": "a"}, {}, "missing_api_key"),
        ({"prompt": "a", "n": 0}, HEADERS, "invalid_value"),
    ):
        refused = served.ask(body, headers=headers)
        line = served.line()
        assert list(line) == fields  # every line has every field
        assert line["error_code"] == code == refused.json()["error"]["code"]
        assert line["error_message"] == refused.json()["error"]["message"]
        assert line["pictures"] is line["drawn"] is None
    engine.drain()
    served.ask({"prompt": "a"}, headers=HEADERS)
    assert served.line()["error_code"] == "shutting_down"


def test_an_error_within_a_stream_is_in_the_line(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(asked: Any, image: Any) -> None:
        raise Refusal("not here")

    served = Served(engine, caplog, hooks=Hooks(after=[refuse]))
    streamed = served.ask({"prompt": "a", "stream": True})
    assert streamed.status_code == 200
    assert "event: error" in streamed.text
    assert served.line()["error_code"] == "content_policy_violation"
    assert served.line()["error_message"] == "not here"


def test_pictures_pixels_and_seconds_are_counted_by_the_name_of_the_key(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {"anna": KEY, "ben": "another-long-enough-key"}
    served = Served(engine, caplog, keys=ApiKeys(keys))
    for name, count in (("anna", 2), ("ben", 1), ("anna", 1)):
        answer = served.ask(
            {"prompt": "a", "n": count, "size": "32x64", "num_inference_steps": 1},
            headers={"authorization": f"Bearer {keys[name]}"},
        )
        assert answer.status_code == 200
    served.ask({"prompt": 3}, headers=HEADERS)  # is refused, and counts as nothing
    anna, ben = used(served)["anna"], used(served)["ben"]
    assert (anna["requests"], anna["pictures"], anna["pixels"]) == (2, 3, 3 * 32 * 64)
    assert (ben["requests"], ben["pictures"], ben["pixels"]) == (1, 1, 32 * 64)
    assert anna["model_seconds"] > ben["model_seconds"] > 0


def test_without_keys_all_usage_has_one_label_and_not_one_for_each_address(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(engine, caplog)
    served.ask({"prompt": "a", "num_inference_steps": 1})
    assert list(used(served)) == [""]
    assert (served.line()["key"], served.line()["client"]) == (None, "127.0.0.1")


def used(served: Served) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    text = served.metrics.show(lambda: EngineStatus(0, 0, True, True)).decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removeprefix("deepgen_key_").removesuffix("_total")
            if f"deepgen_key_{name}_total" == sample.name:
                found.setdefault(sample.labels["key"], {})[name] = sample.value
    return found


def test_keys_are_read_again_and_a_bad_file_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "keys.txt"
    path.write_text(f"anna:{KEY}\n")
    keys = ApiKeys.read(path)
    path.write_text("ben:another-long-enough-key\n")
    keys.reread()
    assert keys.owner("Bearer another-long-enough-key", "") == "ben"
    assert caplog.messages[-1].endswith("1 keys; new: ben; gone: anna")
    for text in ("", "ben:short\n", "ben:another-long-enough-key\nno colon\n"):
        path.write_text(text)
        keys.reread()
        assert "the keys stay as they were" in caplog.messages[-1]
        assert keys.owner("Bearer another-long-enough-key", "") == "ben"
    path.unlink()
    keys.reread()
    assert keys.owner("Bearer another-long-enough-key", "") == "ben"
    assert KEY not in caplog.text
    assert "another-long" not in caplog.text
    with pytest.raises(ValueError, match="from no file"):
        ApiKeys({"a": KEY}).reread()
