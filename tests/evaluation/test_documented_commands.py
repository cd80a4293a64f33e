"""Every documented `deepgen eval` command runs with the embedded model, page by page, in the page's order.

What is changed: few items and one step, a model or LoRA that the page makes becomes `tiny`, made-up rows
stand for official files, and stubs for detector, OCR and judge.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from deepgen.cli.app import main
from evaluation.benchmark_files import write_all, write_gedit
from evaluation.stub_scorers import stub_scorers
from rewards.reward_server import serving

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FAST = ROOT / "docs/evaluation.md"  # the others are left to `make test-slow`
WRITTEN = re.compile(r"<!-- run: write (\S+) -->\n```\w*\n(.*?)```", re.DOTALL)
DRAWING = ("run", "shapes", "storybook")


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("deepgen eval ")]


def adapted(line: str, server: str) -> list[str]:
    """The command's words, smaller."""
    line = re.sub(r"--limit \d+", "", line)
    line = re.sub(r"--lora \S+", "", line)
    line = re.sub(r"--model (?!tiny|images:)\S+", "--model tiny", line)
    line = re.sub(r"http://\S+?/v1\b", f"{server}/v1", line)
    line = re.sub(r"--(detector|ocr|judge-prompts) \S+", "", line)
    line = line.replace("@negative.txt", '""')
    words = shlex.split(line, comments=True)[1:]
    if words[1] in DRAWING:
        words += ["--limit", "1" if words[1] == "storybook" else "2", "--steps", "1"]
    if words[1] == "run":
        words += ["--allow-altered-data", "--detector", server, "--ocr", server]
    if words[1] == "report":
        words += ["--draws", "2"]
    return words


DOCUMENTED = [
    pytest.param(page, id=str(page.relative_to(ROOT)), marks=() if page == FAST else pytest.mark.slow)
    for page in PAGES
    if commands(page)
]


@pytest.mark.parametrize("page", DOCUMENTED)
def test_the_eval_commands_of_a_page_run(page: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("data", "benchdata"):
        write_all(tmp_path / folder)
        rise = tmp_path / folder / "risebench"
        shutil.copy(rise / "data_total.json", rise / "datav2_total_w_subtask.json")
    if "gedit" in page.read_text() and page != FAST:
        write_gedit(tmp_path / "data")
    for name, content in WRITTEN.findall(page.read_text()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    with serving(stub_scorers()) as server:
        for line in commands(page):
            expected = {0, 1} if "eval fetch" in line else {0}  # made-up files are not complete
            code = main(adapted(line, server.url))
            assert code in expected, f"{line}: {capsys.readouterr().err}"


def test_the_pages_of_evaluation_have_commands() -> None:
    assert {ROOT / "docs/evaluation.md", ROOT / "docs/tutorials/evaluate.md"} <= {
        page.values[0] for page in DOCUMENTED
    }
