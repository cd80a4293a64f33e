"""The client of a remote reward, which calls a service started with `deepgen rewards serve`.

What it declares (kind, needs, range) is what the service says at the start. The version seen then is kept for
good: a service that comes back with another one would mix two scales in one run, so its verdicts are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepgen.rewards.http import Connection
from deepgen.rewards.reward import Candidate, Kind, RewardResult, RewardUnavailable
from deepgen.rewards.wire import ImageFormat, candidate_to_json, result_from_json

_USUAL_CONCURRENCY = 4


@dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """Where the service is and how it is asked.

    Attributes:
        url: of the service, such as http://gpu7:18080.
        reward: which of its rewards; needed where it has several.
        expected_version: refuse to start with another one.
        image_format: png without loss, or jpeg of quality 95, a fifth of the size.
        batch_size: candidates of one request; a groupwise reward gets its group in one.
        timeout, retries: seconds of silence in a try, and tries after the first.
        api_key_path: a file that holds the service's key, where it asks for one; a key itself would end up in
            the run's saved configuration.
        concurrency: requests at once; default as many as the service judges at once, and one on its way.
    """

    url: str
    reward: str | None = None
    expected_version: str | None = None
    image_format: ImageFormat = "png"
    batch_size: int = 32
    timeout: float = 60.0
    retries: int = 3
    concurrency: int | None = None
    api_key_path: str | None = None

    def __post_init__(self) -> None:
        """Refuse batches and requests of nothing."""
        for name in ("batch_size", "concurrency"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class RemoteReward:
    """Asks a service. Making one asks for its health, so a service that is not there is known at once.

    Raises:
        RewardUnavailable: no answer, or an answer that is not of such a service.
        ValueError: the reward is not among those served, or not of the expected version or declaration.
    """

    kind: Kind = "pointwise"
    needs: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    _declares = (
        False  # a subclass that says what it is sets this, and a service that says otherwise is refused
    )

    def __init__(self, options: RemoteOptions, connection: Connection | None = None) -> None:
        self.options = options
        self._connection = connection or Connection(
            url=options.url,
            timeout=options.timeout,
            retries=options.retries,
            headers=_key_header(options.api_key_path),
        )
        self._name, card = self._find(self._connection.get("/health"))
        kind, needs, low, high = _declaration(card)
        own = (self.kind, self.low, self.high)
        if self._declares and own != (kind, low, high):
            raise ValueError(f"{options.url} serves {self._name} as {(kind, low, high)}, expected {own}")
        self.kind, self.low, self.high = kind, low, high
        self.needs = tuple(dict.fromkeys((*self.needs, *needs)))
        self.concurrency = options.concurrency or _concurrency(card)
        self.precision = _precision(card)
        self._version = str(card["version"])
        if options.expected_version not in (None, self._version):
            raise ValueError(
                f"{options.url} serves version {self._version} of {self._name}, and "
                f"{options.expected_version} was expected"
            )

    @property
    def version(self) -> str:
        """The service's own, as it was at the start."""
        return self._version

    def __call__(self, candidates: Sequence[Candidate]) -> list[RewardResult]:
        """One verdict each; RewardUnavailable where the service fails or answers with something else."""
        size = self.options.batch_size if self.kind == "pointwise" else max(1, len(candidates))
        batches = [candidates[i : i + size] for i in range(0, len(candidates), size)]
        return [verdict for batch in batches for verdict in self._ask(batch)]

    def _ask(self, batch: Sequence[Candidate]) -> list[RewardResult]:
        sent = [candidate_to_json(candidate, self.options.image_format) for candidate in batch]
        reply = self._connection.post("/score", {"reward": self._name, "candidates": sent})
        if not isinstance(reply, Mapping) or not isinstance(reply.get("verdicts"), list):
            raise RewardUnavailable(f"{self.options.url} did not answer with verdicts: {str(reply)[:120]!r}")
        if reply.get("version") != self._version:
            raise RewardUnavailable(
                f"{self.options.url} now answers as version {reply.get('version')!r} and was "
                f"{self._version!r} at the start; scores of two versions are not mixed, so restart either"
            )
        if len(reply["verdicts"]) != len(batch):
            raise RewardUnavailable(
                f"{self.options.url} gave {len(reply['verdicts'])} verdicts for {len(batch)} candidates"
            )
        return [result_from_json(values) for values in reply["verdicts"]]

    def _find(self, health: Any) -> tuple[str, Mapping[str, Any]]:
        """The reward's name at the service and what the service declares of it."""
        served = health.get("rewards") if isinstance(health, Mapping) else None
        if not isinstance(served, Mapping) or not served:
            raise RewardUnavailable(f"{self.options.url} is no reward service: {str(health)[:120]!r}")
        name = self.options.reward or (next(iter(served)) if len(served) == 1 else None)
        if name is None or name not in served:
            wanted = "say which reward" if name is None else f"there is no reward {name!r}"
            raise ValueError(f"{self.options.url}: {wanted}; it serves: {', '.join(served)}")
        return name, served[name]


def _key_header(path: str | None) -> dict[str, str]:
    """What names whose key it is; nothing where the service asks for none."""
    if path is None:
        return {}
    key = Path(path).expanduser().read_text(encoding="utf-8").strip()
    return {"Authorization": f"Bearer {key}"}


def _concurrency(card: Mapping[str, Any]) -> int:
    """Requests at once that keep a service busy; one that does not say what it takes gets a few."""
    declared = card.get("concurrency", _USUAL_CONCURRENCY - 1)
    if not isinstance(declared, int) or declared < 1:
        raise RewardUnavailable(f"the service declares a concurrency of {declared!r}")
    return declared + 1


def _precision(card: Mapping[str, Any]) -> float:
    """Differences of scores that mean nothing; 0 where the service does not say."""
    declared = card.get("precision", 0.0)
    if isinstance(declared, bool) or not isinstance(declared, int | float) or not 0 <= declared < math.inf:
        raise RewardUnavailable(f"the service declares a precision of {declared!r}")
    return float(declared)


def _declaration(card: Any) -> tuple[Kind, tuple[str, ...], float, float]:
    try:
        low, high = card["range"]
        if card["kind"] not in ("pointwise", "groupwise") or not card["version"]:
            raise ValueError(f"kind {card['kind']!r}, version {card['version']!r}")
        return (
            card["kind"],
            tuple(str(name) for name in card["needs"]),
            -math.inf if low is None else float(low),
            math.inf if high is None else float(high),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RewardUnavailable(f"the service does not say what its reward is: {error!r}") from error
