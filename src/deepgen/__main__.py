"""`python -m deepgen` is the command line."""

import sys

from deepgen.cli.app import main

sys.exit(main())
