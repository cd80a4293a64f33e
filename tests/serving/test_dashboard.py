"""The Grafana dashboard and the documentation name the metrics that there are, all of them."""

from __future__ import annotations

import json
import re
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from deepgen.serving.jobs import EngineStatus, WorkerStatus
from deepgen.serving.metrics import Metrics
from serve_process import ROOT

NAME = r"\b(?:deepgen|process)_\w+"


def shown() -> dict[str, set[str]]:
    """What `/metrics` shows: name of each sample -> its labels."""
    metrics = Metrics()
    metrics.measure("batch", 1)
    metrics.measure("step", 0.1)
    metrics.answered("/v1/images/generations", 200, 0.1)
    metrics.used("anna", [])
    status = EngineStatus(0, 0, True, True, workers=(WorkerStatus(True),))
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.show(lambda: status).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> list[str]:
    dashboard = json.loads((ROOT / "examples/grafana.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_every_metric_of_the_dashboard_is_there_with_its_labels() -> None:
    there, named = shown(), set[str]()
    for expression in expressions():
        for name, chosen in re.findall(rf"({NAME})\{{(.*?)\}}", expression):
            assert name in there, expression
            named.add(name)
            labels = set(re.findall(r"(\w+)=", chosen)) - {"job"}  # which is Prometheus' own
            for by in re.findall(r"by \((.*?)\)", expression):
                labels |= set(by.split(", "))
            assert labels <= there[name], expression
        assert len(re.findall(NAME, expression)) == len(re.findall(rf"{NAME}\{{", expression)), expression
    ours = {
        name for name in there if name.startswith("deepgen_") and not name.endswith(("_created", "_bucket"))
    }
    missing = {name for name in ours if not any(is_same(name, other) for other in named)}
    assert not missing


def is_same(name: str, other: str) -> bool:
    """Whether two samples are of one metric."""
    return re.sub("_(sum|count|bucket)$", "", name) == re.sub("_(sum|count|bucket)$", "", other)


def test_panels_do_not_lie_on_each_other_and_have_a_source() -> None:
    dashboard: dict[str, Any] = json.loads((ROOT / "examples/grafana.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["datasource"]["uid"] == "${source}"
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(dashboard["panels"])))
    assert used <= names
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_documentation_says_what_each_metric_means() -> None:
    page = (ROOT / "docs/deploy.md").read_text()
    there = {re.sub("_(sum|count|bucket)$", "", name) for name in shown() if name.startswith("deepgen_")}
    told = set(re.findall(rf"^\| `({NAME})", page, re.MULTILINE))
    assert told == {name for name in there if not name.endswith("_created")}
