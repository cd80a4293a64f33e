"""`deepgen serve`: what it refuses before a model is loaded, and that a signal costs nobody his picture."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from safetensors.torch import save_file

from deepgen.cli import loading, main
from deepgen.serving.config import ApiKeys
from deepgen.serving.errors import ApiError
from lora_cases import write_case

SOURCE = Path(__file__).parents[2] / "src"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "can be reached from other machines"),
        (["--host", "::"], "can be reached from other machines"),
        (["--scheduler", "heun"], "euler only"),
        (["--port", "70000"], "between 0 and 65535"),
        (["--max-connections", "0"], "--max-connections must be at least 1"),
        (["--allowed-hosts", "http://images.example.org"], r"without http://"),
        (["--max-batch", "0"], "--max-batch must be at least 1"),
        (["--api-key-file", "nowhere.txt"], r"nowhere\.txt"),
    ],
)
def test_a_bad_option_is_refused_before_a_model_is_loaded(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading, "load_pipeline", lambda options: pytest.fail("the model was loaded"))
    assert main(["serve", "tiny", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("name", ["nan", "one_factor_missing"])
def test_a_damaged_adapter_is_refused_before_a_model_is_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading, "load_pipeline", lambda options: pytest.fail("the model was loaded"))
    path = write_case(f"{name}.safetensors", tmp_path)
    assert main(["serve", "tiny", "--adapter", f"style={path}"]) == 1
    assert re.fullmatch(rf"deepgen: error: LoRA style: {path}: [^\n]+\n", capsys.readouterr().err)


def test_an_adapter_of_another_model_ends_the_start_with_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state = {f"blocks.0.to_q.lora_{side}.weight": torch.ones(2, 2) + (side == "B") for side in "AB"}
    save_file(state, tmp_path / "other.safetensors")
    asked = ["serve", "tiny", "--port", "0", "--workers", "0", "--adapter", str(tmp_path)]
    assert main(asked) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert re.match(r"deepgen: error: LoRA other: .* 2 of its 2 keys have no place.*blocks\.0\.to_q", last)


def test_keys_are_read_and_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("# who may ask\nanna:0123456789abcdef\n\nben:fedcba9876543210\n")
    keys = ApiKeys.read(path)
    assert keys.owner("Bearer fedcba9876543210", "1.2.3.4") == "ben"
    assert ApiKeys().owner(None, "1.2.3.4") == "1.2.3.4"
    for header in (None, "", "Bearer", "Basic 0123456789abcdef", "Bearer 0123456789abcdeF", "Bearer \udcff"):
        with pytest.raises(ApiError) as refused:
            keys.owner(header, "1.2.3.4")
        assert refused.value.status == 401


@pytest.mark.parametrize(
    "text",
    ["", "# nobody\n", "short:key\n", "0123456789abcdef\n", "a:0123456789abcdef\na:fedcba9876543210\n"],
)
def test_a_bad_key_file_is_refused_without_showing_a_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match="NAME:KEY") as refused:
        ApiKeys.read(path)
    assert "0123456789abcdef" not in str(refused.value)


@pytest.mark.slow
def test_sigterm_answers_what_was_accepted_and_then_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deepgen", "serve", "tiny", "--port", "0", "--max-running", "2"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stderr is not None
            url = None
            for line in server.stderr:
                if match := re.search(r"serving on (http://\S+)", line):
                    url = match[1]
                    break
            assert url is not None
            threading.Thread(
                target=server.stderr.read, daemon=True
            ).start()  # so that its log never blocks it
            answers: list[Any] = []

            def ask(seed: int) -> None:
                with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
                    extra = {"seed": seed, "num_inference_steps": 12}
                    answers.append(client.images.generate(prompt="a red circle", extra_body=extra))

            threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(5)]
            for thread in threads:
                thread.start()
            with httpx.Client(trust_env=False, timeout=30) as http:
                while sum(http.get(f"{url}/ready").json()[name] for name in ("waiting", "running")) < 5:
                    assert server.poll() is None
                    assert not answers, "the machine is too fast for this test: ask for more steps"
            server.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join(120)
            assert sorted(answer.data[0].seed for answer in answers) == [0, 1, 2, 3, 4]
            assert server.wait(120) == 0  # on a busy machine even the end of an interpreter takes its time
        finally:
            server.kill()
