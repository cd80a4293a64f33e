"""`deepgen rewards`: the rewards there are, what one says of a picture, and serving them elsewhere."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitSubcommandPrefixes, Positional, UseAppendAction, arg, subcommand

from deepgen.cli.listening import check_who_may_ask
from deepgen.cli.options import Device, Dtype, ModelOptions, PluginOptions, check_steps, needed_model
from deepgen.extras import missing_extra
from deepgen.http_access import AccessRules, AllowedHosts

if TYPE_CHECKING:
    from deepgen.rewards.reward import Reward


@dataclass(frozen=True, kw_only=True)
class ListRewards:
    """Show every reward: its name, kind, needed fields, range, and what it measures."""

    json: bool = False
    """Print JSON, for programs."""

    def run(self) -> int:
        """Exit code 0."""
        from deepgen.rewards.scorers import reward_class, reward_names

        rows = []
        for name in reward_names():
            made = reward_class(name)
            rows.append(
                {
                    "name": name,
                    "kind": made.kind,
                    "needs": list(made.needs),
                    "range": [b if math.isfinite(b) else None for b in (made.low, made.high)],
                    "about": (inspect.getdoc(made) or "").split("\n\n")[0].replace("\n", " "),
                }
            )
        if self.json:
            print(json.dumps(rows, indent=2))
            return 0
        print(f"{'name':22}  {'kind':9}  {'range':14}  {'needs':22}  measures")
        for row in rows:
            low, high = ("" if bound is None else f"{bound:.3g}" for bound in row["range"])
            span = f"{low or '-inf'} to {high or 'inf'}"
            needs = ", ".join(row["needs"]) or "-"
            print(f"{row['name']:22}  {row['kind']:9}  {span:14}  {needs:22}  {row['about']}")
        return 0


@dataclass(frozen=True, kw_only=True)
class ScoreImage:
    """Ask one reward about pictures of one prompt; a groupwise reward compares them."""

    name: Positional[Annotated[str, arg(metavar="NAME")]]
    """Which reward; `deepgen rewards list` shows them."""
    image: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="FILE")]
    """A picture; repeat for several."""
    prompt: str = ""
    """What was asked for, or the instruction of an edit."""
    reference: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="FILE")] = ()
    """What an edit started from; repeat for several."""
    metadata: Annotated[str, arg(metavar="JSON")] = "{}"
    """Other fields of the prompt's row, such as '{"targets": ["OPEN"]}'."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="OPTION=VALUE")] = ()
    """An option of the reward; repeat for several."""

    def run(self) -> int:
        """Exit code 0 when every picture has a score, 1 otherwise.

        Raises:
            ScoreOutOfRange: as in training, a score is outside the range that its reward declares.
        """
        from deepgen.data.images import open_image
        from deepgen.rewards.reward import Candidate, ask, check_declaration, check_range
        from deepgen.rewards.reward_batch import ScoreTally

        if not self.image:
            raise ValueError("--image FILE is missing")
        metadata = json.loads(self.metadata)
        if not isinstance(metadata, dict):
            raise ValueError(f"--metadata must be a JSON object, got {self.metadata!r}")
        references = tuple(open_image(path) for path in self.reference)
        candidates = [
            Candidate(
                image=open_image(path),
                prompt=self.prompt,
                references=references,
                metadata=metadata,
            )
            for path in self.image
        ]
        (reward,) = _make((self.name,), self.set).values()
        check_declaration(self.name, reward)
        verdicts = ask(reward, candidates)
        for path, verdict in zip(self.image, verdicts, strict=True):
            score = "no score" if verdict.score is None else f"{verdict.score:.4f}"
            print(f"{path}  {score}  {verdict.reason}".rstrip())
        tally = ScoreTally.of(verdicts)
        if tally.num_masked:
            print(f"{self.name}: {tally}", file=sys.stderr)
        check_range(self.name, reward, [verdict.score for verdict in verdicts])
        if len(tally.values) > 1 and len(set(tally.values)) == 1:
            print(
                f"{self.name}: all {len(tally.values)} scores are {tally.values[0]:.6g}; a group of equal "
                "scores teaches nothing",
                file=sys.stderr,
            )
        return int(tally.num_masked > 0)


@dataclass(frozen=True, kw_only=True)
class ServeRewards:
    """Serve rewards over HTTP, to this machine, to those who hold a key, or to anyone."""

    names: Positional[Annotated[tuple[str, ...], arg(metavar="NAME")]]
    """Which rewards."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 is every network this machine is on, and asks for keys."""
    port: int = 18080
    """The port to listen on."""
    api_key_file: Annotated[Path | None, arg(metavar="FILE")] = None
    """Who may ask: one NAME:KEY a line. Without it everybody who reaches the port may."""
    allow_anyone: bool = False
    """Listen beyond this machine without keys, because only those who may ask reach the port."""
    allowed_hosts: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME")] = ()
    """A name the server answers to, beside this machine's own; see `deepgen serve --help`."""
    max_connections: int = 1024
    """Connections at once; at the limit the one that was idle longest is closed."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME.OPTION=VALUE")] = ()
    """An option of a reward, such as ocr.min_confidence=0.3; with one reward, its name may be left out."""
    max_batch: int = 64
    """Candidates a request may hold."""
    max_body_mib: int = 256
    """MiB a request may hold."""
    drain: float = 600.0
    """Seconds that candidates are given to be judged once the server is told to stop (SIGTERM, Ctrl-C)."""
    max_bodies_mib: int = 768
    """MiB that all requests together may hold; each counts twice."""
    max_held_pixels: int = 160 * 2**20
    """Pixels that all requests together may hold, references included."""

    def run(self) -> int:
        """Exit code 0 once stopped, with every request answered that had come before."""
        if not self.names:
            raise ValueError("name at least one reward; `deepgen rewards list` shows them")
        if not self.drain >= 0:
            raise ValueError(f"--drain must be 0 or more seconds, got {self.drain}")
        try:
            import fastapi  # noqa: F401 - asked for before a model is loaded
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise missing_extra("serving rewards needs more packages", "serve", error) from error
        from deepgen.rewards.service import ServiceConfig, make_app
        from deepgen.serving.config import ApiKeys
        from deepgen.serving.connections import ConnectionLimits
        from deepgen.serving.draining import REASON, Ending, run
        from deepgen.serving.guard import guarded

        keys = ApiKeys() if self.api_key_file is None else ApiKeys.read(self.api_key_file)
        check_who_may_ask(self.host, keys, self.allow_anyone)
        hosts = AllowedHosts.of_server(self.host, self.allowed_hosts, not keys.is_open)
        rewards = _make(self.names, self.set)
        config = ServiceConfig(
            max_batch=self.max_batch,
            max_body_mib=self.max_body_mib,
            max_bodies_mib=self.max_bodies_mib,
            max_pixels=self.max_held_pixels,
        )

        def listening(host: str, port: int) -> None:
            for name, reward in rewards.items():
                print(f"{name}  {reward.version}  http://{host}:{port}", flush=True)

        run(
            guarded(make_app(rewards, config), keys, AccessRules(hosts=hosts)),
            Ending(refusal=json.dumps({"error": REASON}).encode(), drain=self.drain),
            on_listen=listening,
            on_hangup=None if keys.is_open else keys.reread,
            limits=ConnectionLimits(max_connections=self.max_connections),
            host=self.host,
            port=self.port,
        )
        return 0


@dataclass(frozen=True, kw_only=True)
class TuneGuidance(PluginOptions):
    """Find the guidance a model draws best with, by rewards; reinforcement learning may change it."""

    path: Positional[Annotated[str | None, arg(metavar="NAME|PATH")]] = None
    """`tiny`, `shapes`, a folder (of an exported run), a checkpoint file or a Hub name."""
    model: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """Another way to name it."""
    prompts: Annotated[Path, arg(metavar="FILE")]
    """A mix of prompts (.yaml), or a .txt, .jsonl or .parquet file with --rewards."""
    rewards: Annotated[tuple[str, ...], arg(metavar="NAME=WEIGHT")] = ()
    """What pictures are worth, where the file is no mix."""
    scales: Annotated[tuple[float, ...], arg(metavar="FLOAT")] = ()
    """Guidance scales to try; default 1, the model's own, and three between them."""
    num_prompts: int = 128
    """How many are drawn, with every scale."""
    batch_size: int = 16
    """Prompts drawn together."""
    num_inference_steps: Annotated[int | None, arg(aliases=["--steps"], metavar="INT")] = None
    """Solver steps; default the model's own."""
    write: bool = False
    """Make the best scales the model's own, in its folder."""
    device: Device = "auto"
    """Where to compute. auto: cuda, then mps, then cpu."""
    dtype: Dtype = "auto"
    """Number format. auto: bfloat16 where the device has it, float32 for small models on a CPU."""
    json: bool = False
    """Print JSON, for programs."""

    def run(self) -> int:
        """Exit code 0 when every scale was judged."""
        from dataclasses import asdict

        from deepgen.cli.loading import load_pipeline
        from deepgen.progress import progress_bar, write_line
        from deepgen.rewards.ensemble import RewardEnsembleConfig
        from deepgen.rl import guidance_search
        from deepgen.rl.judged_prompts import open_judged_prompts, refuse_unused_rewards

        refuse_unused_rewards(self.rewards, self.prompts)
        if min(self.num_prompts, self.batch_size) < 1:
            raise ValueError("--num-prompts and --batch-size are at least 1")
        model = needed_model(self.path, self.model, "rewards guidance")
        check_steps(self.num_inference_steps)
        if self.scales:
            guidance_search.check_scales(self.scales)
        if self.write:
            guidance_search.check_folder(Path(model))
        mix, ensemble = open_judged_prompts(self.prompts, self.rewards, RewardEnsembleConfig())
        pipe = load_pipeline(ModelOptions(model=model, device=self.device, dtype=self.dtype))
        pipe.set_progress_bar_config(disable=True)
        prompts = guidance_search.fixed_prompts(mix, self.num_prompts)
        scales = self.scales or _usual_scales(pipe.defaults)
        bar = progress_bar(len(prompts) * len(scales), "guidance", "pictures")

        def draw(texts: Sequence[str], **options: Any) -> Any:
            drawn = pipe(list(texts), **options)
            bar.update(len(texts))
            return drawn

        results = []
        for result in guidance_search.try_scales(
            draw,
            prompts,
            ensemble,
            scales,
            batch_size=self.batch_size,
            num_inference_steps=self.num_inference_steps,
        ):
            results.append(result)
            what = "edits" if result.is_edit else "pictures"
            write_line(
                f"guidance {result.scale:<6g} {what:9} reward {result.reward:.4f} (+- {result.error:.4f}, "
                f"{result.num_judged} judged)",
                to_stderr=self.json,
            )
        bar.close()
        best = guidance_search.best_scales(results, pipe.defaults)
        if self.write:
            guidance_search.write_scales(Path(model), best)
        if self.json:
            print(json.dumps({"best": best, "results": [asdict(one) for one in results]}, indent=2))
        else:
            words = ", ".join(f"{name} {scale:g}" for name, scale in best.items())
            print(f"{'written' if self.write else 'best'}: {words}")
        return 0


Action = (
    Annotated[ListRewards, subcommand("list")]
    | Annotated[ScoreImage, subcommand("score")]
    | Annotated[ServeRewards, subcommand("serve")]
    | Annotated[TuneGuidance, subcommand("guidance")]
)


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """List rewards, try one on a picture, serve them to others, or choose a model's guidance by them."""

    action: OmitSubcommandPrefixes[Action]

    def run(self) -> int:
        """The action's exit code."""
        return self.action.run()


def _usual_scales(defaults: Mapping[str, Any]) -> tuple[float, ...]:
    """No guidance, the model's own for pictures and for edits, and three between none and the larger."""
    from deepgen.generation import GenerationSettings

    own = {GenerationSettings().resolve(defaults, is_edit).guidance_scale for is_edit in (False, True)}
    between = {round(1 + share * (max(own) - 1), 2) for share in (0, 0.25, 0.5, 0.75)}
    return tuple(sorted(own | between))


def _make(names: Sequence[str], settings: Sequence[str]) -> Mapping[str, Reward]:
    """The rewards with their options; everything wrong with any of them is said before one is made."""
    from deepgen.rewards.scorers import REWARDS, make_reward, option_problems, options_from_text

    texts: dict[str, dict[str, str]] = {name: {} for name in names}
    for setting in settings:
        key, equals, value = setting.partition("=")
        name, dot, option = key.partition(".")
        if not dot and len(texts) == 1:
            name, option = names[0], key
        if not equals or name not in texts or not option:
            raise ValueError(
                f"--set {setting!r} is not NAME.OPTION=VALUE with a NAME among {', '.join(names)}"
            )
        texts[name][option] = value
    for name in texts:
        if problem := REWARDS.problem(name):
            raise ValueError(problem)
    options: dict[str, dict[str, Any]] = {n: options_from_text(n, given) for n, given in texts.items()}
    problems = [f"{name}: {text}" for name, given in options.items() for text in option_problems(name, given)]
    if problems:
        raise ValueError("; ".join(problems))
    return {name: make_reward(name, **given) for name, given in options.items()}
