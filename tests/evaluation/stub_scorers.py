"""Stub judge, OCR engine and detector behind one real web server on loopback, slow enough to be killed."""

from __future__ import annotations

import time
from typing import Any

from evaluation.benchmark_files import judge_answer

VERSION = "stub-scorers-1"


def stub_scorers(pause: float = 0.0):
    """An answer for `reward_server.serving`: a chat endpoint under /v1, /read, /detect and /colors.

    The engine reads two words and the detector sees one red cat, in whatever is shown.
    """
    judge = judge_answer()

    def answer(path: str, document: Any) -> tuple[int, Any]:
        if path == "/health":
            return 200, {"version": VERSION}
        time.sleep(pause)
        if path == "/v1/chat/completions":
            return judge(path, document)
        fields = {
            "/read": lambda: {"lines": ["Word0 the", ""]},
            "/detect": lambda: {"objects": {"cat": [[0, 0, 9, 9, 0.2], [0, 0, 9, 9, 0.95]]}},
            "/colors": lambda: {"colors": ["red"] * len(document["boxes"])},
        }
        return 200, {"version": VERSION, **fields[path]()}

    return answer
