"""Compare this implementation with tensors recorded from the original.

    python tools/parity.py GOLDENS

GOLDENS is any folder with a manifest.json, a tiny model and recorded tensors; names, sizes and prompts are
read from the manifest. Prints the largest error of each section and exits with 1 if one is outside its
tolerance.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from parity import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
