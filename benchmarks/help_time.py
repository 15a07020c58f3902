"""Measures what light verbs cost in CPU time beyond a bare Python.

python benchmarks/help_time.py
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from pathlib import Path

RUNS = 15
RUN_FILE = Path(__file__).parents[1] / "examples" / "angioseg-real.yaml"
VERBS = (
    ["--help"],
    ["plugins", "list"],
    ["check", str(RUN_FILE)],
    ["init"],
    ["train", "--help"],
)


def cpu_ms(command: list[str]) -> list[float]:
    """Return user and system time of each run, sorted, in ms."""
    spent: list[float] = []
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        spent.append(1000 * (user + system))
    return sorted(spent)


def main() -> None:
    """Print the least and the median, and what lies above a bare Python."""
    bare = statistics.median(cpu_ms([sys.executable, "-c", "pass"]))
    print(f"{'bare python':32} median {bare:4.0f} ms")
    for verb in VERBS:
        spent = cpu_ms([sys.executable, "-m", "mlkit_cli", *verb])
        middle = statistics.median(spent)
        line = f"mlkit {' '.join(word.rpartition('/')[2] for word in verb)}"
        print(
            f"{line:32} median {middle:4.0f} ms, least {spent[0]:4.0f}, above {middle - bare:4.0f}"
        )


if __name__ == "__main__":
    main()
