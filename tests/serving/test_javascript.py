"""The official JavaScript client, and the page in headless Chromium, against a real server process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import javascript
from serve_process import serving

pytestmark = javascript.needs("openai", "puppeteer-core", "axe-core")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as url:
        yield url


def test_the_official_javascript_client_works_unmodified(url: str) -> None:
    javascript.run("client.test.mjs", DEEPGEN_URL=url)


def test_the_page_does_what_people_ask_of_it_and_is_accessible(url: str) -> None:
    javascript.run("page.test.mjs", DEEPGEN_URL=url)
