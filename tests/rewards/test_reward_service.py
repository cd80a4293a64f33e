"""Rewards over HTTP: what travels, what is refused, and what a client makes of a bad service."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from reward_fakes import FakeReward, candidate
from reward_server import serving

from deepgen.cli.app import main
from deepgen.http_access import AccessRules, AllowedHosts
from deepgen.rewards import wire
from deepgen.rewards.client import RemoteOptions, RemoteReward
from deepgen.rewards.ensemble import RewardEnsemble
from deepgen.rewards.http import Connection
from deepgen.rewards.reward import Candidate, RewardResult, RewardUnavailable
from deepgen.rewards.scorers import make_reward
from deepgen.rewards.service import Host, RequestRefusal, ServiceConfig, _read_body, make_app
from deepgen.rewards.wire import candidate_to_json, describe
from deepgen.serving.config import ApiKeys
from deepgen.serving.connections import server_config
from deepgen.serving.guard import guarded

CARD = {"reward": "grey", "version": "7", "kind": "pointwise", "needs": [], "range": [0, None]}


def remote(url: str, **options: Any) -> RemoteReward:
    connection = Connection(url=url, timeout=5, retries=2, sleep=lambda seconds: None)
    return RemoteReward(RemoteOptions(url=url, **options), connection)


def service_that(verdicts: Any, version: str = "7", status: int = 200):
    """Answers health as it should, and every request for scores with this."""

    def answer(path: str, document: Any) -> tuple[int, Any]:
        if path == "/health":
            return 200, {"status": "ok", "rewards": {"grey": CARD}}
        return status, {**CARD, "version": version, "verdicts": verdicts}

    return answer


@contextmanager
def hosted(rewards: dict[str, Any]) -> Iterator[str]:
    """The real service, on a port of its own."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(make_app(rewards), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


# --- both ends ---


def test_a_hosted_reward_gives_the_verdicts_of_a_local_one() -> None:
    local = FakeReward()
    candidates = [candidate(grey) for grey in (0, 51, 255)]
    with hosted({"grey": local, "pairs": FakeReward(kind="groupwise", needs=("targets",))}) as url:
        reward = remote(url, reward="grey", batch_size=2)
        assert reward(candidates) == [
            RewardResult(0.0, "grey"),
            RewardResult(0.2, "grey"),
            RewardResult(1.0, "grey"),
        ]
        assert [len(call) for call in local.calls] == [2, 1]
        assert (reward.kind, reward.low, reward.high, reward.version) == ("pointwise", 0, 1, "fake-1")
        pairs = remote(url, reward="pairs")
        assert (pairs.kind, pairs.needs) == ("groupwise", ("targets",))
        with pytest.raises(ValueError, match="say which reward; it serves: grey, pairs"):
            remote(url)
        with pytest.raises(ValueError, match="serves version fake-1 of grey, and 2 was expected"):
            remote(url, reward="grey", expected_version="2")


def test_pixels_arrive_unchanged_and_jpeg_nearly_so() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    sent = Candidate(
        image=Image.fromarray(noise),
        prompt="日本",
        references=(Image.new("RGB", (4, 4), "red"),),
        metadata={"k": [1]},
    )
    text = json.loads(json.dumps(candidate_to_json(sent, "png")))
    got = wire.candidate_from_json(text)
    assert np.array_equal(np.asarray(got.image), noise)
    assert (got.prompt, got.metadata, got.references[0].getpixel((0, 0))) == ("日本", {"k": [1]}, (255, 0, 0))
    lossy = wire.candidate_from_json(candidate_to_json(sent, "jpeg"))
    assert 0 < np.abs(np.asarray(lossy.image).astype(int) - noise).mean() < 8


# --- the service ---


def ask(host: Host, document: Any) -> dict[str, Any]:
    return host.score(document if isinstance(document, bytes) else json.dumps(document).encode())


def test_one_bad_picture_does_not_cost_its_neighbours_their_scores() -> None:
    host = Host({"grey": FakeReward()}, ServiceConfig())
    good = candidate_to_json(candidate(255), "png")
    sent = [good, {**good, "image": "!!"}, {**good, "image": base64.b64encode(b"GIF89a").decode()}, 7, good]
    sent.append({**good, "references": "none"})
    reply = ask(host, {"reward": "grey", "candidates": sent})
    assert [verdict["score"] for verdict in reply["verdicts"]] == [1, None, None, None, 1, None]
    reasons = [verdict["words"] for verdict in reply["verdicts"]]
    assert "not base64" in reasons[1]
    assert "cannot be read" in reasons[2]
    assert "a candidate is an object, got int" in reasons[3]
    assert "references has the wrong type" in reasons[5]
    assert (reply["version"], reply["kind"], reply["range"]) == ("fake-1", "pointwise", [0, 1])
    assert reply["concurrency"] == 1


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "MAX_PIXELS", 100)
    monkeypatch.setattr(Image.Image, "convert", lambda *a: pytest.fail("decoded"))
    buffer = BytesIO()
    Image.new("RGB", (11, 10)).save(buffer, "PNG")
    with pytest.raises(ValueError, match="11x10 pixels, more than the 100 allowed"):
        wire.decode_image(base64.b64encode(buffer.getvalue()).decode())


@pytest.mark.parametrize(
    ("document", "status", "words"),
    [
        (b"{", 400, "no JSON"),
        (b'{"candidates": [NaN]}', 400, "NaN is no JSON"),
        ([], 400, "an object with a list of candidates"),
        ({"reward": "beauty", "candidates": []}, 404, "no reward 'beauty' here; there are: grey"),
        ({"reward": "grey", "candidates": [{}] * 3}, 413, "3 candidates in one request; the limit is 2"),
    ],
)
def test_a_request_that_is_none_is_refused(document: Any, status: int, words: str) -> None:
    with pytest.raises(RequestRefusal, match=words) as caught:
        ask(Host({"grey": FakeReward()}, ServiceConfig(max_batch=2)), document)
    assert caught.value.status == status


@contextmanager
def hosted_with_a_key(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The service as the command puts it up on a network: (its address, a file with its key)."""
    import uvicorn

    path = tmp_path / "key.txt"
    path.write_text("0123456789abcdef\n")
    keys = ApiKeys({"anna": "0123456789abcdef"})
    app = guarded(make_app({"grey": FakeReward()}), keys, AccessRules(hosts=AllowedHosts()))
    server = uvicorn.Server(server_config(app, host="127.0.0.1", port=0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", path
    server.should_exit = True
    thread.join(10)


def test_a_service_with_a_key_judges_for_those_who_hold_it(tmp_path: Path) -> None:
    with hosted_with_a_key(tmp_path) as (url, path):
        judged = RemoteReward(RemoteOptions(url=url, api_key_path=str(path)))([candidate(255)])
        assert judged == [RewardResult(1.0, "grey")]
        stranger = RemoteReward(RemoteOptions(url=url, retries=0))  # health tells no secret
        with pytest.raises(RewardUnavailable, match="answered 401"):
            stranger([candidate(255)])


def test_a_web_page_cannot_use_a_service(tmp_path: Path) -> None:
    body = json.dumps({"reward": "grey", "candidates": []}).encode()
    typed = {"content-type": "application/json", "authorization": "Bearer 0123456789abcdef"}
    with hosted_with_a_key(tmp_path) as (url, _), httpx.Client(base_url=url, trust_env=False) as http:
        for headers, status in (
            ({}, 200),
            ({"content-type": "text/plain"}, 415),
            ({"content-type": "text/plain; application/json"}, 415),
            ({"host": "evil.example"}, 421),
            ({"origin": "http://evil.example"}, 403),
            ({"sec-fetch-site": "cross-site"}, 403),
        ):
            answer = http.post("/score", content=body, headers={**typed, **headers})
            assert answer.status_code == status, answer.text
            assert answer.headers["content-type"] == "application/json"
            assert ("error" in answer.json()) == (status != 200)


def test_a_body_is_read_no_further_than_the_limit() -> None:
    num_read = 0

    class Request:
        async def stream(self):
            nonlocal num_read
            while True:
                num_read += 1
                yield b"x" * 40

    with pytest.raises(RequestRefusal, match="larger than") as caught:
        asyncio.run(_read_body(Request(), 100))  # pyright: ignore
    assert (caught.value.status, num_read) == (413, 3)


def test_pictures_are_counted_once_and_refused_with_how_many_candidates_would_fit() -> None:
    config = ServiceConfig(max_pixels=2500)
    shared = Image.new("RGB", (30, 30), "red")
    images = [Image.new("RGB", (20, 20), (index, 0, 0)) for index in range(5)]
    sent = [
        candidate_to_json(Candidate(image=image, prompt="", references=(shared,)), "png") for image in images
    ]
    host = Host({"grey": FakeReward()}, config)
    assert len(ask(host, {"reward": "grey", "candidates": sent[:4]})["verdicts"]) == 4  # 4 * 400 + 900
    with pytest.raises(RequestRefusal, match="4 candidates would fit") as caught:
        ask(host, {"reward": "grey", "candidates": sent})
    assert caught.value.status == 413
    assert host.budget.pixels.used == 0
    held = host.budget.pixels.lease()
    held.add(1000)
    with pytest.raises(RequestRefusal, match="send it again later") as caught:
        ask(host, {"reward": "grey", "candidates": sent[:4]})
    assert (caught.value.status, int(caught.value.headers["retry-after"]) >= 1) == (429, True)


def test_references_are_limited_and_large_pictures_are_scaled_down_with_a_warning() -> None:
    host = Host({"grey": FakeReward()}, ServiceConfig(max_kept_pixels=100))
    good = candidate_to_json(candidate(255), "png")
    large = candidate_to_json(Candidate(image=Image.new("RGB", (40, 10)), prompt=""), "png")
    reply = ask(host, {"reward": "grey", "candidates": [{**good, "references": [good["image"]] * 17}, large]})
    assert reply["verdicts"][0]["words"] == "17 references; the limit is 16"
    assert reply["verdicts"][1]["score"] is not None
    assert reply["warnings"] == ["a picture of 40x10 was read at 20x5"]


def test_a_reward_that_fails_is_an_answer_with_its_error(caplog) -> None:
    def broken(candidates):
        raise KeyError("weights")

    document = {"reward": "grey", "candidates": [candidate_to_json(candidate(), "png")]}
    with pytest.raises(RequestRefusal, match="grey failed with KeyError") as caught:
        ask(Host({"grey": FakeReward(broken)}, ServiceConfig()), document)
    assert caught.value.status == 500


# --- the client ---


def test_a_service_that_is_not_there_is_known_at_the_start() -> None:
    with pytest.raises(RewardUnavailable, match=r"does not answer .*3 tries"):
        remote("http://127.0.0.1:9")
    with pytest.raises(ValueError, match="must start with http"):
        make_reward("remote", url="localhost:18080")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (service_that([{"score": 1}] * 2), "gave 2 verdicts for 1 candidates"),
        (service_that("many"), "did not answer with verdicts"),
        (service_that([0.5]), "a verdict is an object with a score"),
        (service_that([{"score": "high"}]), "a score is a number or null"),
        (service_that([{"score": True}]), "a score is a number or null"),
        (service_that([{"score": 1}], version="8"), "now answers as version '8' and was '7' at the start"),
        (service_that([], status=404), "answered 404"),
        (service_that([], status=503), "answered 503"),
    ],
)
def test_an_answer_that_is_no_answer_is_refused(answer, words: str) -> None:
    with serving(answer) as server:
        reward = remote(server.url)
        with pytest.raises(RewardUnavailable, match=words):
            reward([candidate()])


def test_a_score_that_is_nan_is_a_verdict_without_a_score() -> None:
    with serving(service_that([{"score": float("nan"), "words": "?"}])) as server:
        (verdict,) = remote(server.url)([candidate()])
    assert (verdict.score, verdict.reason) == (None, "the service answered nan")


def test_a_busy_service_is_asked_again_after_growing_pauses_and_a_refusal_is_final() -> None:
    pauses: list[float] = []
    answers = iter([(503, "busy"), (429, "slow down"), (200, {"fine": 1}), (400, "never")])
    with serving(lambda path, document: next(answers)) as server:
        connection = Connection(url=server.url, backoff=1, longest_backoff=1.5, sleep=pauses.append)
        assert connection.get("/x") == {"fine": 1}
        with pytest.raises(RewardUnavailable, match="answered 400: never"):
            connection.get("/x")
        assert len(server.requests) == 4
    assert 0.5 <= pauses[0] <= 1
    assert 0.75 <= pauses[1] <= 1.5


def test_a_service_that_is_silent_is_given_up() -> None:
    with serving(lambda path, document: (time.sleep(1), (200, {}))[1]) as server:
        connection = Connection(url=server.url, timeout=0.1, retries=1, sleep=lambda seconds: None)
        with pytest.raises(RewardUnavailable, match=r"does not answer .*2 tries"):
            connection.get("/x")


@pytest.mark.parametrize(
    ("declared", "options", "expected"),
    [({"concurrency": 8}, {}, 9), ({}, {}, 4), ({"concurrency": 8}, {"concurrency": 2}, 2)],
)
def test_a_service_gets_as_many_calls_as_it_judges_at_once_and_one_on_its_way(
    declared: dict[str, int], options: dict[str, int], expected: int
) -> None:
    health = {"status": "ok", "rewards": {"grey": {**CARD, **declared}}}
    with serving(lambda path, document: (200, health)) as server:
        assert remote(server.url, **options).concurrency == expected


def test_a_service_with_an_impossible_concurrency_is_refused() -> None:
    health = {"status": "ok", "rewards": {"grey": {**CARD, "concurrency": "many"}}}
    with (
        serving(lambda path, document: (200, health)) as server,
        pytest.raises(RewardUnavailable, match="concurrency of 'many'"),
    ):
        remote(server.url)


def test_a_service_says_which_differences_of_its_scores_mean_nothing() -> None:
    reward = FakeReward()
    reward.precision = 0.004  # pyright: ignore[reportAttributeAccessIssue]
    assert describe("grey", reward)["precision"] == 0.004
    assert describe("grey", FakeReward())["precision"] == 0
    for declared, expected in (({"precision": 0.004}, 0.004), ({}, 0.0)):
        health = {"status": "ok", "rewards": {"grey": {**CARD, **declared}}}
        with serving(lambda path, document, health=health: (200, health)) as server:
            assert RewardEnsemble({"grey": remote(server.url)}).precisions == (expected,)
    health = {"status": "ok", "rewards": {"grey": {**CARD, "precision": -1}}}
    with (
        serving(lambda path, document: (200, health)) as server,
        pytest.raises(RewardUnavailable, match="precision of -1"),
    ):
        remote(server.url)


def test_what_is_no_json_is_refused() -> None:
    with (
        serving(lambda path, document: (200, "<html>")) as server,
        pytest.raises(RewardUnavailable, match="<html>"),
    ):
        remote(server.url)


def test_a_service_that_declares_another_reward_is_refused() -> None:
    health = {"rewards": {"deqa": {**CARD, "range": [0, 5]}}}
    with serving(lambda path, document: (200, health)) as server, pytest.raises(ValueError, match="expected"):
        make_reward("deqa", url=server.url)


# --- the command ---


def test_rewards_are_listed_with_what_they_declare(capsys) -> None:
    assert main(["rewards", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (shapes,) = (line.split() for line in lines if line.startswith("shapes "))
    assert shapes[:6] == ["shapes", "pointwise", "0", "to", "1", "shapes"]
    assert main(["rewards", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["editreward"]["needs"] == ["references"]
    assert all(row["about"] for row in rows.values())


def test_a_picture_is_scored_from_the_command_line(tmp_path, capsys) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert main(["rewards", "score", "shapes", "--image", str(tmp_path / "a.png"), "--prompt", "x"]) == 1
    assert "no score  the candidate has no shapes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "beauty"], "unknown reward 'beauty'"),
        (["serve", "shapes", "--host", "0.0.0.0"], "give --api-key-file, or --allow-anyone"),
        (["serve", "shapes", "--allowed-hosts", "a b"], "no host name"),
        (["serve", "shapes", "remote", "--set", "shapes.credit=half"], "remote: url is missing"),
        (["serve", "shapes", "--set", "deqa.url=x"], "is not NAME.OPTION=VALUE with a NAME among shapes"),
    ],
)
def test_what_cannot_be_served_is_said_at_once(arguments: list[str], words: str, capsys) -> None:
    assert main(["rewards", *arguments]) == 2
    assert words in capsys.readouterr().err
