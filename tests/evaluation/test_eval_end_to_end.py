"""Every benchmark from the command line to the page, in processes that are killed twice at random moments.

Official prompt files where they are (see `test_official_files`), pictures to edit made up; the judge, the OCR
engine and the detector are stubs behind real HTTP.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepgen.cli.app import main
from deepgen.evaluation.benchmarks import benchmark_names, load_benchmark
from deepgen.evaluation.store import Lines
from evaluation.benchmark_files import hashes, image, table, write_all, write_gedit
from evaluation.stub_scorers import stub_scorers
from evaluation.test_official_files import FOLDER
from rewards.reward_server import serving

# Whether the prompt files are official ones; of the others none are at hand, and rows are made up.
RUNS = {
    "geneval": True,
    "dpg": True,
    "unigenbench:en": True,
    "unigenbench:zh_long": True,
    "wise:legacy": True,
    "wise:verified": True,
    "corebench:all": True,
    "cvtg2k": True,
    "imgedit": True,
    "risebench:64": True,
    "gedit:en": False,
    "unireditbench": False,
}
SOURCE = Path(__file__).parents[2] / "src"


def official_data(name: str, data: Path) -> None:
    """The official files of a benchmark in a folder of our own, with what is not at hand made up."""
    kind = name.partition(":")[0]
    folder = {"dpg": "dpg_bench"}.get(kind, kind)
    shutil.copytree(FOLDER / folder, data / kind)
    if kind == "imgedit":
        for row in json.loads((data / kind / "basic_edit.json").read_text()).values():
            image(data / kind / row["id"])
    if kind == "risebench":
        for row in json.loads((data / kind / "data_total_64.json").read_text()):
            for path in (row["image"], row.get("reference_img")):
                if path:
                    image(data / kind / path)
    if kind == "dpg":
        texts = [json.loads(line) for line in (data / kind / "prompts.jsonl").read_text().splitlines()]
        (data / kind / "dpg_bench.csv").write_text(questions([row["name"] for row in texts]))


def questions(names: list[str]) -> str:
    """Two questions about each prompt of DPG, the second depending on the first."""
    return table(
        *(
            {
                "item_id": name,
                "proposition_id": number,
                "dependency": parent,
                "tuple": "entity - whole (it)",
                "question_natural_language": f"Is it there ({number})?",
            }
            for name in names
            for number, parent in ((1, 0), (2, 1))
        )
    )


def made_up_data(name: str, data: Path) -> None:
    write_all(data)
    if name.startswith("gedit"):
        write_gedit(data)


class Killed:
    """Starts the same command and kills it once something was done and a random moment has passed."""

    def __init__(self, arguments: list[str], folder: Path, log: Path, seed: str) -> None:
        self.command = [sys.executable, "-m", "deepgen", "eval", "run", *arguments]
        self.folder, self.log, self.random = folder, log, random.Random(seed)
        self.environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as file:
            return subprocess.Popen(self.command, env=self.environment, stdout=file, stderr=file)

    def kill_after(self, is_reached) -> None:
        process = self.start()
        try:
            until = time.monotonic() + 600
            while not is_reached():
                assert process.poll() is None, f"ended too early: {self.log.read_text()[-2000:]}"
                assert time.monotonic() < until, f"nothing happened: {self.log.read_text()[-2000:]}"
                time.sleep(0.02)
            time.sleep(self.random.uniform(0, 0.6))
        finally:
            process.send_signal(signal.SIGKILL)
            code = process.wait()
        assert code == -signal.SIGKILL, f"{code}, it was through before it could be killed: make it slower"

    def finish(self) -> None:
        process = self.start()
        try:
            assert process.wait(timeout=900) == 0, self.log.read_text()[-3000:]
        finally:
            process.kill()


def test_every_published_benchmark_is_tried_here():
    assert {name.partition(":")[0] for name in RUNS} == set(benchmark_names()) - {"shapes", "storybook"}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_survives_two_kills_and_a_second_scoring_asks_nothing(name, tmp_path):
    if RUNS[name] and not FOLDER.is_dir():
        pytest.skip(f"no official files in {FOLDER}; the made-up ones are tried in test_eval_runs")
    data = tmp_path / "data"
    (official_data if RUNS[name] else made_up_data)(name, data)
    benchmark = load_benchmark(name)
    run, report = tmp_path / "run", tmp_path / "report.html"
    folder = run / benchmark.label
    with serving(stub_scorers(pause=0.4)) as server:
        options = [name, "--data", str(data), "-o", str(run), "--model", "tiny", "--limit", "4"]
        options += ["--steps", "2", "--size", "96", "--negative", "", "--allow-altered-data"]
        options += ["--ocr", server.url, "--detector", server.url, "--batch-size", "1"]
        options += ["--judge-url", f"{server.url}/v1", "--judge-model", "stub", "--judge-concurrency", "2"]
        killed = Killed(options, folder, tmp_path / "log.txt", name)
        killed.kill_after(lambda: bool(recorded(folder)))
        first = recorded(folder)
        killed.kill_after(lambda: any(path != "/health" for path, _ in server.requests))
        second = recorded(folder)
        killed.finish()
        assert first.items() <= second.items(), "a picture that was recorded is not drawn again"
        assert second.items() <= recorded(folder).items()
        result = json.loads((folder / "result.json").read_text())
        check_images(folder, result, benchmark.settings.num_samples)
        asked = len(server.requests)
        if "judge" in benchmark.needs:  # what was cut off before its reply was kept is asked once more
            assert result["judge"]["asked"] + result["judge"]["cached"] > 0
            for file in folder.glob("scores-*.jsonl"):
                file.unlink()
        assert main(["eval", "run", *options]) == 0
        again = [path for path, _ in server.requests[asked:]]
        assert set(again) <= {"/health"}, "a second scoring asks nothing"
        assert json.loads((folder / "result.json").read_text())["table"] == result["table"]
    assert main(["eval", "report", str(run), "-o", str(report), "--draws", "5"]) == 0
    assert f"<h2>{benchmark.label}" in report.read_text()


def recorded(folder: Path) -> dict[tuple[str, int], str]:
    """The hash of each picture on record; a picture is recorded once."""
    rows = [] if not folder.is_dir() else list(Lines(folder, "pictures", 0))
    found = {(row["item"], row["sample"]): row["sha256"] for row in rows}
    assert len(found) == len(rows)
    return found


def check_images(folder: Path, result: dict, num_samples: int) -> None:
    assert result["coverage"] == 1
    assert result["num_expected"] == num_samples * len(result["items"])
    assert len(result["items"]) <= 4
    assert result["problems"] == []
    on_disk = hashes(folder)
    for digest in recorded(folder).values():
        assert digest in on_disk.values()
