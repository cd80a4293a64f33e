"""`deepgen eval`: draw the prompts of benchmarks, score the pictures, report, compare."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tyro.conf import OmitSubcommandPrefixes, Positional, arg, subcommand

from deepgen.cli.loading import load_pipeline, read_sizes
from deepgen.cli.options import (
    Device,
    Dtype,
    NamedModelOptions,
    PluginOptions,
    Preset,
    check_guidance,
    check_steps,
)
from deepgen.cli.outputs import check_folder
from deepgen.text_lines import read_text

if TYPE_CHECKING:
    from deepgen.evaluation.benchmark import Benchmark, Settings
    from deepgen.evaluation.models import Model
    from deepgen.evaluation.scorers import BenchmarkJudge, Scorers
    from deepgen.image_sizes import SizeRules


_OWN_WORLDS = ("shapes", "storybook")  # benchmarks without a published negative prompt
OTHER_MODELS = ("diffusers", "openai", "images")  # NAME of NAME:..., where pictures are drawn by others


def _default_model() -> str:
    return os.environ.get("DEEPGEN_MODEL") or "tiny"


@dataclass(frozen=True, kw_only=True)
class EvalShapes(NamedModelOptions):
    """Score a model on the world of flat shapes."""

    usual_model: ClassVar[str] = "shapes"

    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")] = Path("outputs/eval")
    """Where scores and pictures go."""
    limit: int = 48
    """Items of each kind."""
    preset: Preset = "exact"
    """Fewer steps for about the same picture: balanced and fast choose solver and steps."""
    num_inference_steps: Annotated[int | None, arg(aliases=["--steps"], metavar="INT")] = None
    """Solver steps; default the preset's, or the model's own."""
    seed: int = 0
    """Of the items and of the noise."""
    seeds: int = 1
    """Pictures of each item, each from noise of its own; publish the means of 3."""

    def run(self) -> int:
        """Exit code 0 once the scores are printed."""
        from deepgen.evaluation.benchmarks.shapes import evaluate

        self.check_model()
        check_steps(self.num_inference_steps)
        for name in ("limit", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        check_folder(self.output)
        pipe = load_pipeline(self)
        pipe.set_progress_bar_config(disable=True)
        report = evaluate(
            pipe,
            limit_per_kind=self.limit,
            num_steps=self.num_inference_steps,
            seed=self.seed,
            num_seeds=self.seeds,
            output_dir=self.output,
            preset=self.preset,
        )
        print(report)
        return 0


@dataclass(frozen=True, kw_only=True)
class EvalStorybook(NamedModelOptions):
    """Score a model on the small model's own world, a storybook: five abilities by level, twelve edits in a
    row; goes on where it was stopped.
    """

    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")] = Path("outputs/storybook")
    """Where pictures, table, page and sheet go."""
    limit: int = 96
    """Held-out prompts of each kind."""
    seeds: int = 1
    """Pictures of each prompt, each from noise of its own."""
    abilities: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    """Only these of: generation, text, editing, reasoning, reasoning-editing."""
    preset: Preset = "exact"
    """Fewer steps for about the same picture: balanced and fast choose solver and steps."""
    num_inference_steps: Annotated[int | None, arg(aliases=["--steps"], metavar="INT")] = None
    """Solver steps; default the preset's, or the model's own."""
    guidance_scale: Annotated[float | None, arg(aliases=["--guidance"], metavar="FLOAT")] = None
    """Weight of the prompt; default the model's own."""
    batch_size: int = 16
    """Pictures in a call of the model."""
    seed: int = 0
    """Of the noise."""

    def run(self) -> int:
        """Exit code 0 once the table is printed."""
        from deepgen.evaluation.runner import workers
        from deepgen.tiny.evaluation.evaluate import StorybookConfig, evaluate
        from deepgen.tiny.evaluation.table import brief

        self.check_model()
        check_steps(self.num_inference_steps)
        check_guidance(self.guidance_scale)
        for name in ("limit", "seeds", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        chosen = {"abilities": self.abilities} if self.abilities else {}
        config = StorybookConfig(
            output_dir=self.output,
            num_prompts=self.limit,
            num_seeds=self.seeds,
            seed=self.seed,
            num_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            batch_size=self.batch_size,
            **chosen,
        )
        check_folder(self.output)
        team = workers(self.device)

        def say(text: str) -> None:
            if team.rank == 0:
                print(f"deepgen: {text}", file=sys.stderr)

        report = evaluate(self._model(), config, say, team)
        if report is None:  # the first process adds up
            return 0
        print(brief(report))
        for ending in ("md", "json", "html", "png"):
            print(self.output / f"storybook.{ending}")
        return 0

    def _model(self) -> Model:
        """The pipeline of these options, as the runner draws with it."""
        from deepgen.embedded import model_source
        from deepgen.evaluation.models import PipelineModel, weights_hash

        pipe = load_pipeline(self)
        fingerprint = weights_hash(Path(model_source(self.model)).expanduser(), self.model)
        if self.lora is not None:
            fingerprint += f"+{weights_hash(Path(self.lora).expanduser(), self.lora)}"
        if self.preset != "exact":
            fingerprint += f"+preset {self.preset}"
        return PipelineModel(self.model, pipe, fingerprint, is_deepgen=True, preset=self.preset)


@dataclass(frozen=True, kw_only=True)
class EvalRun(PluginOptions):
    """Draw the prompts of benchmarks with any model and score the pictures; start again to go on."""

    names: Positional[Annotated[tuple[str, ...], arg(metavar="NAME[:VARIANT]")]]
    """Which benchmarks, see `deepgen eval list`; or the path of a .py or .yaml file of your own."""
    model: Annotated[str, arg(metavar="NAME")] = field(default_factory=_default_model)
    """`tiny`, `shapes`, folder, Hub name, diffusers:NAME, openai:URL#MODEL, images:FOLDER; $DEEPGEN_MODEL."""
    data: Annotated[Path, arg(metavar="FOLDER")] = Path("data")
    """Official files, one folder for each benchmark; see `deepgen eval fetch`."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")] = Path("outputs/eval")
    """Where the run goes; one folder holds one model's run."""
    limit: Annotated[int | None, arg(metavar="INT")] = None
    """Items of each benchmark, spread over its categories; default all."""
    preset: Preset = "exact"
    """Of a DeepGen model: balanced and fast choose solver and steps, where exact takes the published ones."""
    num_inference_steps: Annotated[int | None, arg(aliases=["--steps"], metavar="INT")] = None
    """Solver steps; default the preset's, or the published ones."""
    guidance_scale: Annotated[float | None, arg(aliases=["--guidance"], metavar="FLOAT")] = None
    """Weight of the prompt; default the published one."""
    size: Annotated[int | None, arg(metavar="INT")] = None
    """Height and width; default the published ones, or the model's own where it cannot draw those."""
    samples: Annotated[int | None, arg(metavar="INT")] = None
    """Pictures of each item; default the published number."""
    negative_prompt: Annotated[str | None, arg(aliases=["--negative"], metavar="TEXT|@FILE")] = None
    """What to steer away from, or @ and a file that says it. Editing benchmarks need a choice; "" is none."""
    seed: Annotated[int | None, arg(metavar="INT")] = None
    """The base seed; default the published one."""
    seeds: Literal["each", "sequential"] = "each"
    """each: every picture has its own seed; sequential: one generator a process, as the original scripts."""
    batch_size: int = 4
    """Items in a call of the model."""
    protocol: Literal["official", "fixed"] = "official"
    """official repeats known faults of official scorers, fixed does what was meant."""
    min_coverage: Annotated[float | None, arg(metavar="FLOAT")] = None
    """Share of pictures that need a verdict; default the benchmark's own."""
    allow_partial: bool = False
    """Give scores below that, marked as partial."""
    allow_altered_data: bool = False
    """Read files that are not the official ones."""
    draw_only: bool = False
    """Draw and do not score."""
    lora: Annotated[str | None, arg(metavar="PATH")] = None
    """LoRA weights for a DeepGen model."""
    device: Device = "auto"
    """Where to compute."""
    dtype: Dtype = "auto"
    """Number format of the model."""
    detector: Annotated[str, arg(metavar="NAME|PATH")] = "facebook/mask2former-swin-small-coco-instance"
    """GenEval's detector: a Mask2Former, or the http:// address of a service."""
    ocr: Annotated[str, arg(metavar="NAME|URL")] = "rapidocr"
    """What reads text: rapidocr, or the http:// address of a service."""
    clip: Annotated[str, arg(metavar="NAME|PATH")] = "openai/clip-vit-large-patch14"
    """CLIP for GenEval's colors and CLIPScore."""
    vqa: Annotated[str, arg(metavar="NAME|PATH")] = "Salesforce/blip-vqa-base"
    """What answers the questions of dpg:vqa: a BLIP or ViLT."""
    judge_url: Annotated[str | None, arg(metavar="URL")] = None
    """A chat endpoint, up to and with /v1; its key is read from $DEEPGEN_JUDGE_KEY."""
    judge_model: Annotated[str, arg(metavar="NAME")] = ""
    """The name the endpoint serves the judge under."""
    judge_prompts: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Judge prompts: FOLDER/BENCHMARK is a checkout of the official repository, or holds QUESTION.txt files;
    default our own wording, whose scores are not comparable with published ones."""
    judge_cache: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Where replies are kept; default judge_cache in the output folder."""
    judge_concurrency: int = 8
    """Questions that the judge answers at the same time."""
    judge_per_minute: float = 0.0
    """Most questions a minute; 0 is no limit."""
    judge_prices: Annotated[tuple[float, float], arg(metavar="IN OUT")] = (0.0, 0.0)
    """Price of a million tokens in and out, for the estimate and the bill."""
    judge_replies: Literal["json", "words"] = "json"
    """json: replies to our own wording are held to a schema where the server knows such; words: never."""
    judge_extra: Annotated[str, arg(metavar="JSON")] = ""
    """Further fields of each request, such as {"chat_template_kwargs": {"enable_thinking": false}}."""
    judge_max_tokens: int = 4096
    """Most tokens of a reply; one that is cut off is asked for again with four times as many."""

    def run(self) -> int:
        """Exit code 0 once every benchmark has its table."""
        from deepgen.evaluation.benchmarks import load_benchmark
        from deepgen.evaluation.models import ModelConfig, load_model
        from deepgen.evaluation.runner import RunConfig, run, workers

        if not self.names:
            raise ValueError("name at least one benchmark; `deepgen eval list` shows them")
        check_steps(self.num_inference_steps)
        check_guidance(self.guidance_scale)
        benchmarks = [load_benchmark(name, self.protocol) for name in self.names]
        settings = [self._settings(benchmark) for benchmark in benchmarks]
        config = RunConfig(
            output_dir=self.output,
            data_dir=self.data,
            batch_size=self.batch_size,
            seeds=self.seeds,
            limit=self.limit,
            min_coverage=self.min_coverage,
            allow_partial=self.allow_partial,
            allow_altered=self.allow_altered_data,
            has_scoring=not self.draw_only,
        )
        problems = []
        for benchmark in benchmarks:  # everything that is missing, before anything is drawn
            try:
                benchmark.items(self.data, allow_altered=self.allow_altered_data)
            except (OSError, ValueError) as error:
                problems.append(str(error))
        if problems:
            raise ValueError("; ".join(problems))
        if self.size is not None and (rules := self._sizes()) is not None:
            rules.check(self.size, self.size)
        check_folder(self.output)
        scorers = self._scorers(benchmarks)
        if self.size is None:
            settings = self._with_sizes_of_the_model(settings)
        team = workers(self.device)
        key = os.environ.get("DEEPGEN_MODEL_KEY", "")
        model = load_model(
            self.model,
            ModelConfig(
                device=self.device, dtype=self.dtype, lora=self.lora, preset=self.preset, api_key=key
            ),
        )
        for benchmark, chosen in zip(benchmarks, settings, strict=True):
            if team.rank == 0:
                self._say_cost(benchmark, chosen, scorers.judge)
            result = run(benchmark, model, chosen, config, scorers, team)
            if result is not None:
                print(_in_words(result))
        if scorers.judge is not None and team.rank == 0:
            print(_bill(scorers.judge))
        return 0

    def _settings(self, benchmark: Benchmark) -> Settings:
        from deepgen.evaluation.benchmark import settings_with
        from deepgen.sampling.presets import get_preset

        preset = get_preset(self.preset)
        negative, is_distilled = self.negative_prompt, preset.is_distilled
        # A published number of steps gives way to the preset's; where there is none, the model decides.
        has_steps = benchmark.settings.num_inference_steps is not None
        preset_steps = preset.num_steps if has_steps or is_distilled else None
        if is_distilled:
            negative = negative or ""  # there is no negative branch
        if negative is None and benchmark.is_edit and _is_published(benchmark):
            raise ValueError(
                f"{benchmark.name}: the published setting is a long negative prompt, which is not part of "
                'this package; give it with --negative-prompt @FILE, or --negative-prompt "" to draw '
                "without"
            )
        if negative is not None and negative.startswith("@"):
            negative = read_text(Path(negative[1:]).expanduser()).strip()
        return settings_with(
            benchmark.settings,
            num_inference_steps=self.num_inference_steps or preset_steps,
            guidance_scale=1.0 if is_distilled and self.guidance_scale is None else self.guidance_scale,
            height=self.size,
            width=self.size,
            num_samples=self.samples,
            seed=self.seed,
            negative_prompt=negative,
        )

    def _sizes(self) -> SizeRules | None:
        """What the model can draw; None where its files do not tell, or where it is not ours."""
        return None if self.model.partition(":")[0] in OTHER_MODELS else read_sizes(self.model)

    def _with_sizes_of_the_model(self, settings: Sequence[Settings]) -> list[Settings]:
        """Published sizes that the model cannot draw become its own, which is said once."""
        rules = self._sizes()
        if rules is None:
            return list(settings)
        wrong = {(one.width, one.height) for one in settings if not rules.can_draw(one.height, one.width)}
        if wrong:
            published = ", ".join(f"{width}x{height}" for width, height in sorted(wrong))
            print(
                f"deepgen: {self.model} cannot draw the published size {published}; its own "
                f"{rules.width}x{rules.height} is drawn instead, and the result says so; --size chooses",
                file=sys.stderr,
            )
        return [
            replace(one, height=rules.height, width=rules.width) if (one.width, one.height) in wrong else one
            for one in settings
        ]

    def _scorers(self, benchmarks: Sequence[Benchmark]) -> Scorers:
        from deepgen.evaluation.judge import JudgeConfig
        from deepgen.evaluation.make_scorers import ScorerConfig, make_scorers
        from deepgen.evaluation.scorers import Scorers

        if self.draw_only:
            return Scorers()
        judge = None
        if self.judge_url is not None:
            judge = JudgeConfig(
                url=self.judge_url,
                model=self.judge_model,
                api_key=os.environ.get("DEEPGEN_JUDGE_KEY", ""),
                concurrency=self.judge_concurrency,
                per_minute=self.judge_per_minute,
                price_in=self.judge_prices[0],
                price_out=self.judge_prices[1],
                replies=self.judge_replies,
                max_tokens=self.judge_max_tokens,
                extra=_json_object("--judge-extra", self.judge_extra),
            )
        config = ScorerConfig(
            detector=self.detector,
            clip=self.clip,
            vqa=self.vqa,
            ocr=self.ocr,
            device=self.device,
            judge=judge,
            prompts_dir=self.judge_prompts,
            cache_dir=self.judge_cache or self.output / "judge_cache",
        )
        return make_scorers(config, [need for benchmark in benchmarks for need in benchmark.needs])

    def _say_cost(self, benchmark: Benchmark, settings: Settings, judge: BenchmarkJudge | None) -> None:
        """How much a judge will be asked and what that may cost, before it is."""
        from deepgen.evaluation.judge_benchmark import JudgeBenchmark
        from deepgen.evaluation.runner import select

        if judge is None or not isinstance(benchmark, JudgeBenchmark) or "judge" not in benchmark.needs:
            return
        items = select(benchmark.items(self.data, allow_altered=self.allow_altered_data), self.limit)
        guess = benchmark.estimate(items, settings)
        price = judge.price(guess.tokens_in, guess.tokens_out)
        print(
            f"deepgen: {benchmark.label}: up to {guess.questions} questions to {self.judge_model}, about "
            f"{guess.tokens_in:,.0f} tokens in and {guess.tokens_out:,.0f} out"
            f"{'' if price is None else f', {price:.2f} by the prices given'}; replies kept from before are "
            "not asked for again",
            file=sys.stderr,
        )


def _json_object(option: str, text: str) -> dict[str, Any]:
    """The object of an option; none where it was not given."""
    try:
        value = json.loads(text) if text else {}
    except ValueError as error:
        raise ValueError(f"{option} is to be a JSON object, got {text!r} ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{option} is to be a JSON object, got {text!r}")
    return value


def _is_published(benchmark: Benchmark) -> bool:
    """Whether its numbers were published with a negative prompt that is not ours to choose."""
    return benchmark.name not in _OWN_WORLDS and benchmark.source_file is None


def _bill(judge: BenchmarkJudge) -> str:
    """What the judge was asked in the end."""
    bill = judge.bill()
    cost = "" if bill["cost"] is None else f", {bill['cost']:.2f} by the prices given"
    refused = "" if not bill["schema_refused"] else f"; asked in words, since {bill['schema_refused']}"
    return (
        f"judge: {bill['asked']} questions asked, {bill['cached']} from the cache; {bill['tokens_in']:,} "
        f"tokens in and {bill['tokens_out']:,} out{cost}{refused}"
    )


def _in_words(result: dict[str, Any]) -> str:
    """The number of a benchmark, and what is missing for it."""
    from deepgen.evaluation.report import number
    from deepgen.evaluation.scoring import open_questions

    mark = "  PARTIAL" if result["is_partial"] else ""
    value = result["table"].get(result["headline"])
    shown = "not given for a part of it" if value is None else number(value)
    pictures = f"({result['num_judged']} of {result['num_expected']} pictures){mark}"
    left = open_questions(result)
    more = f"\n  {left}" if left else ""
    return f"{result['benchmark']}  {result['headline']} {shown}  {pictures}{more}"


_SCORERS = {"reader": "OCR", "tower": "CLIP", "vqa": "a VQA model", "detector": "a detector"}


@dataclass(frozen=True, kw_only=True)
class EvalList:
    """Show every benchmark: what it draws, what scores it, and its main number."""

    json: bool = False
    """Print JSON, for programs."""

    def run(self) -> int:
        """Exit code 0."""
        import json

        from deepgen.evaluation.benchmarks import benchmark_names, load_benchmark

        rows = [_about(load_benchmark(name)) for name in benchmark_names()]
        if self.json:
            print(json.dumps(rows, indent=2))
            return 0
        print(f"{'name':13}  {'draws':8}  {'samples':7}  {'scored by':14}  {'number':14}  variants")
        for row in rows:
            print(
                f"{row['name']:13}  {row['draws']:8}  {row['samples']:<7}  {row['scored_by']:14}  "
                f"{row['number']:14}  {', '.join(row['variants']) or '-'}"
            )
        print("One of your own is named by its path, as signs.yaml or signs.py; see docs/evaluation.md.")
        return 0


def _about(benchmark: Benchmark) -> dict[str, Any]:
    """What `deepgen eval list` says of a benchmark."""
    module = sys.modules[type(benchmark).__module__]
    return {
        "name": benchmark.name,
        "variants": [variant for variant in benchmark.variants if variant],
        "draws": "edits" if benchmark.is_edit else "pictures",
        "samples": benchmark.settings.num_samples,
        "scored_by": " and ".join(_SCORERS.get(need, f"a {need}") for need in benchmark.needs) or "pixels",
        "number": benchmark.headline,
        "about": (module.__doc__ or "").split("\n\n")[0].replace("\n", " "),
    }


@dataclass(frozen=True, kw_only=True)
class EvalFetch:
    """Say which official files a benchmark needs and where to get them, and check those that are there."""

    names: Positional[Annotated[tuple[str, ...], arg(metavar="NAME[:VARIANT]")]] = ()
    """Which benchmarks; default all."""
    data: Annotated[Path, arg(metavar="FOLDER")] = Path("data")
    """Where they are, or will be."""

    def run(self) -> int:
        """Exit code 0 when everything is there and as it should be, 1 otherwise."""
        from deepgen.evaluation.benchmarks import benchmark_names, load_benchmark

        is_complete = True
        for name in self.names or benchmark_names():
            first = load_benchmark(name)
            variants = [first.variant] if name.endswith(f":{first.variant}") else first.variants
            for benchmark in (replace(first, variant=variant) for variant in variants):
                is_complete &= _check(benchmark, self.data)
        return 0 if is_complete else 1


def _check(benchmark: Benchmark, data_dir: Path) -> bool:
    """Print what there is of one benchmark; whether it is complete."""
    missing, altered = benchmark.check_files(data_dir)
    lines, ok = [*missing, *altered], False
    if not missing:
        try:
            items = benchmark.items(data_dir, allow_altered=bool(altered))
            lines += benchmark.check_scoring(items)
            ok = not lines
            lines.append(f"{len(items)} items")
        except (ValueError, OSError, ImportError) as error:
            lines.append(str(error))
    for file in (*benchmark.files(), *benchmark.scoring_files()):
        target = benchmark.locate(data_dir, file.path, *file.aliases)
        print(f"  {target}  {'' if file.num_rows is None else f'{file.num_rows} rows, '}from {file.origin}")
    print(f"{benchmark.label}: {'complete' if ok else 'not complete'}: {'; '.join(lines)}")
    return ok


@dataclass(frozen=True, kw_only=True)
class EvalReport(PluginOptions):
    """Make one page of runs: tables, bars, pictures and how everything was made."""

    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN")]]
    """Folders of `deepgen eval run`."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FILE.html")] = Path("outputs/report.html")
    """The page; a Markdown file is written beside it."""
    draws: int = 200
    """Bootstrap samples for the intervals; 0 gives none."""

    def run(self) -> int:
        """Exit code 0 once both files are written."""
        from deepgen.evaluation.report import read_results
        from deepgen.evaluation.report_page import write_report

        if not self.runs:
            raise ValueError("name at least one folder of `deepgen eval run`")
        for path in write_report(read_results(self.runs, num_draws=self.draws), self.output):
            print(path)
        return 0


@dataclass(frozen=True, kw_only=True)
class EvalCompare(PluginOptions):
    """Compare two runs item by item."""

    first: Positional[Annotated[Path, arg(metavar="RUN")]]
    """The folder of one run."""
    second: Positional[Annotated[Path, arg(metavar="RUN")]]
    """The folder of the other; differences are second minus first."""

    def run(self) -> int:
        """Exit code 0 once the comparison is printed."""
        from deepgen.evaluation.report import compare, read_results

        first, second = (read_results([path], num_draws=0) for path in (self.first, self.second))
        for label, test, differ in compare(first, second):
            low, high = test.interval
            sure = f"[{low:+.4f}, {high:+.4f}], p = {test.p_value:.4f}"
            print(f"{label}  difference {test.difference:+.4f} {sure}")
            print(f"  better {test.wins}, worse {test.losses}, equal {test.ties} of {test.num_items} items")
            print(f"  drawn differently: {', '.join(differ) or 'nothing'}")
        return 0


Action = (
    Annotated[EvalRun, subcommand("run")]
    | Annotated[EvalList, subcommand("list")]
    | Annotated[EvalFetch, subcommand("fetch")]
    | Annotated[EvalReport, subcommand("report")]
    | Annotated[EvalCompare, subcommand("compare")]
    | Annotated[EvalShapes, subcommand("shapes")]
    | Annotated[EvalStorybook, subcommand("storybook")]
)


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Score models on benchmarks, report and compare."""

    action: OmitSubcommandPrefixes[Action]

    def run(self) -> int:
        """The action's exit code."""
        return self.action.run()
