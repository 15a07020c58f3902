"""`python -m mlkit_cli`: the same command, as torchrun and Slurm start it."""

from __future__ import annotations

import sys

from mlkit_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
