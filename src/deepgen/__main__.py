"""`python -m deepgen` is the command line."""

import sys

from deepgen.cli import main

sys.exit(main())
