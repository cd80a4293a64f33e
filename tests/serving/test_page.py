"""The page for people: its files, its policy, and what the model's card tells it. A browser drives it in
test_javascript.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from starlette.testclient import TestClient

from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.app import make_app
from deepgen.serving.config import ServeConfig
from deepgen.serving.engine import Engine
from deepgen.serving.routes import PAGE_DIR
from deepgen.shapes.vocabulary import words
from deepgen.tiny.preflight import check_prompt
from deepgen.worlds import describe, introduce

SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in PAGE_DIR.glob("*.js")}


class Elements(HTMLParser):
    """Ids, addresses and inline code of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.labels: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.labels |= {values["for"] or ""} if "for" in values else set()
        self.addresses += [values[name] or "" for name in ("src", "href") if name in values]
        self.inline += [name for name in values if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in values):
            self.inline.append(tag)


@pytest.fixture(scope="module")
def page() -> Elements:
    elements = Elements()
    elements.feed((PAGE_DIR / "index.html").read_text(encoding="utf-8"))
    return elements


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    pipe = DeepGenPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)
    with TestClient(make_app(Engine(pipe), ServeConfig(model_name="tiny"))) as client:
        yield client


def test_the_page_and_each_of_its_files_are_served(client: TestClient, page: Elements) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    imported = {name for text in SCRIPTS.values() for name in re.findall(r'"\./([\w.]+)"', text)}
    assert imported == set(SCRIPTS) - {"main.js"}  # which the page itself names
    named = {address for address in page.addresses if not address.startswith("data:")}
    for address in named | {f"page/{name}" for name in imported}:
        kind = "text/css" if address.endswith(".css") else "text/javascript"
        found = client.get(f"/{address}")
        assert found.status_code == 200, address
        assert found.headers["content-type"] == f"{kind}; charset=utf-8"
        assert found.content == (PAGE_DIR / address.removeprefix("page/")).read_bytes()


@pytest.mark.parametrize(
    "name", ["index.html", "routes.py", "..%2froutes.py", "%2e%2e/routes.py", "main.js%00", "MAIN.JS"]
)
def test_nothing_beside_the_files_of_the_page_is_served(client: TestClient, name: str) -> None:
    answer = client.get(f"/page/{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "bad_route")


def test_the_page_brings_no_inline_code_and_nothing_from_elsewhere(page: Elements) -> None:
    assert page.inline == []
    for path in PAGE_DIR.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|url\(", text), path.name
        made = re.search(r"\.(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(", text)
        assert not made, path.name  # prompts and errors stay text


def test_every_element_that_a_script_asks_for_is_there_once(page: Elements) -> None:
    assert len(set(page.ids)) == len(page.ids)
    asked = {name for text in SCRIPTS.values() for name in re.findall(r'\$\("([\w-]+)"\)', text)}
    assert asked - set(page.ids) == set()
    assert page.labels - set(page.ids) == set()


def test_the_card_of_the_embedded_model_says_what_it_can_draw(client: TestClient) -> None:
    (card,) = client.get("/v1/models").json()["data"]
    assert (card["id"], card["world"]) == ("tiny", "storybook")
    assert {name: card[name] for name in introduce("storybook")} == introduce("storybook")


def test_a_model_without_a_world_is_introduced_too() -> None:
    told = introduce(None)
    assert told["description"].startswith("Draws pictures of any subject")
    assert told["vocabulary"] == {}
    assert len(told["example_prompts"]) >= 3
    assert len(told["example_edits"]) >= 3


def test_the_examples_of_a_world_are_in_its_words() -> None:
    shapes, storybook = introduce("shapes"), introduce("storybook")
    for text in [*shapes["example_prompts"], *shapes["example_edits"]]:
        assert set(text.split()) <= set(words()), text
    for text in [*storybook["example_prompts"], *storybook["example_edits"]]:
        assert check_prompt(text) == [], text
    assert {"Shapes", "Colours"} <= set(shapes["vocabulary"])
    assert sum(map(len, storybook["vocabulary"].values())) > 87


def test_a_world_that_this_version_does_not_know_is_named() -> None:
    told = introduce("MoonBase")
    assert "'MoonBase'" in told["description"]
    assert (told["example_prompts"], told["example_edits"], told["vocabulary"]) == ([], [], {})
    assert "'MoonBase'" in describe("MoonBase")[1][0]
