"""`llm`: the command, with the model in its file of further OpenAI-compatible ones."""

import os
import subprocess
import sys
from pathlib import Path

from common import FOLDER, URL, done, save, shown

home = FOLDER / "llm"
home.mkdir(exist_ok=True)
(home / "extra-openai-models.yaml").write_text(
    f"- model_id: deepgen\n  model_name: tiny\n  api_base: {URL}/v1\n"
    "  api_key_name: deepgen\n  vision: true\n"
)


def llm(*arguments: str) -> str:
    """What the command prints."""
    environment = {**os.environ, "LLM_USER_PATH": str(home)}
    command = [str(Path(sys.executable).with_name("llm")), *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


llm("keys", "set", "deepgen", "--value", "any")
path = save("shows", shown(llm("-m", "deepgen", "-o", "seed", "1", "a cat")))
save("chat edits", shown(llm("-c", "-o", "seed", "1", "replace the cat with a dog")))
save(
    "edits",
    shown(
        llm("-m", "deepgen", "--no-stream", "-o", "seed", "1", "-a", str(path), "replace the cat with a dog")
    ),
)
done()
