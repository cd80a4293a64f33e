"""Old import path of `deepgen.evaluation`, for one release; its modules warn and say where they are now."""

from __future__ import annotations

from typing import Any

from deepgen.moved import keep_modules

_BENCHMARKS = (
    *("corebench", "cvtg2k", "dpg", "gedit", "geneval", "imgedit"),
    *("risebench", "unigenbench", "unireditbench", "wise"),
)
_UNCHANGED = (
    *("benchmark", "benchmarks", "drawing", "judge", "models", "published", "report", "report_page"),
    *("run_config", "runner", "scorers", "seeds", "statistics", "store", "text_files", "vqa"),
)
_NEW = "deepgen.evaluation"

keep_modules(
    {
        **{f"{__name__}.{name}": f"{_NEW}.{name}" for name in _UNCHANGED},
        **{f"{__name__}.benchmarks.{name}": f"{_NEW}.benchmarks.{name}" for name in (*_BENCHMARKS, "shapes")},
        **{f"{__name__}.scoring.{name}": f"{_NEW}.benchmarks.{name}" for name in _BENCHMARKS},
        f"{__name__}.scoring": f"{_NEW}.benchmark",
        f"{__name__}.scoring.cases": f"{_NEW}.recorded_cases",
        f"{__name__}.scoring.final_score": f"{_NEW}.final_score",
        f"{__name__}.detection": "deepgen.rewards.detector",
        f"{__name__}.forms": f"{_NEW}.response_schema",
        f"{__name__}.judged": f"{_NEW}.judge_benchmark",
        f"{__name__}.remote": "deepgen.rewards.remote_scorers",
        f"{__name__}.verdicts": f"{_NEW}.scoring",
        f"{__name__}.wordings": f"{_NEW}.judge_prompts",
    },
    {
        f"{__name__}.detection": {
            "Likeness": "deepgen.rewards.clip.ClipImageTextScorer",
            "ObjectFinder": "deepgen.eval.object_finder",
        },
        f"{__name__}.forms": {"Form": f"{_NEW}.response_schema.ResponseSchema"},
        f"{__name__}.judge": {
            "Judge": f"{_NEW}.judge.PromptedJudge",
            "JudgeChanged": "deepgen.rewards.judge.JudgeChanged",
            "Query": f"{_NEW}.judge.image_query",
        },
        f"{__name__}.judged": {"Judged": f"{_NEW}.judge_benchmark.JudgeBenchmark"},
        f"{__name__}.remote": {
            "Box": "deepgen.rewards.interfaces.Box",
            "RemoteEyes": "deepgen.rewards.remote_scorers.RemoteScorer",
        },
        f"{__name__}.scorers": {
            "AnswersQuestions": "deepgen.rewards.interfaces.QuestionAnswerer",
            "FindsObjects": "deepgen.rewards.interfaces.ObjectDetector",
            "LikensTexts": "deepgen.rewards.interfaces.ImageTextScorer",
            "ScorerConfig": f"{_NEW}.make_scorers.ScorerConfig",
            "is_address": "deepgen.rewards.remote_scorers.is_address",
            "make_scorers": f"{_NEW}.make_scorers.make_scorers",
        },
        f"{__name__}.wordings": {
            "Wording": f"{_NEW}.judge_prompts.JudgePrompt",
            "Wordings": f"{_NEW}.judge_prompts.JudgePrompts",
        },
    },
)


def object_finder(model: str, clip: str, device: str = "auto") -> Any:
    """The call of the former ObjectFinder; now `deepgen.rewards.detector.make_detector`."""
    from deepgen.rewards.clip import TowerOptions
    from deepgen.rewards.detector import make_detector

    return make_detector(model, TowerOptions(model=clip, device=device))
