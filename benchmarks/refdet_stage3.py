"""What a full-size step of stage 3 costs on a CPU, and what its triplet branch adds.

`uv run python benchmarks/refdet_stage3.py` trains one optimiser step of
`examples/refdet-stage3.yaml` (DINOv2-S at 518, YOLOv8n at 640, random weights, generated clips)
after one that warms up, and prints seconds of forward, backward and update, and the peak of the
resident set. Arms:

- mixed: half of the step's items are triplets, which give detection losses, too;
- same frames: the same batch without the loss `region-triplet`;
- detection: episodes without triplets, of as many frames.

Every arm is a process of its own, as a peak never falls. With one thread seconds are those of the
processor, with more those of the clock. `--size 320 --photo 224 --steps 5 --rounds 3` compares the
arms more closely; rounds take turns, and the median counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mlkit_core import load_run
from mlkit_core.build import input_needs
from mlkit_core.training.objective import StepModule
from mlkit_core.training.optim import make_optimizer, parameter_groups, set_train_mode
from mlkit_core.training.sampling import seed_all
from mlkit_core.training.stages import build_stage
from mlkit_core.types import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from mlkit_core.training.stages import Stage
    from mlkit_core.types import Batch

    Clock = Callable[[], float]

RUN_FILE = Path(__file__).parents[1] / "examples" / "refdet-stage3.yaml"
ARMS = ("mixed", "same frames", "detection")


@dataclass(frozen=True)
class Cost:
    """What a step takes.

    Args:
        frames: Query images of a step.
        photos: Reference photos of it.
        forward: Seconds, losses with it.
        backward: Seconds.
        update: Seconds of the optimiser.
        peak_mib: Greatest resident set of the process.
        parameters: Millions, all of them.
        trainable: Millions.
    """

    frames: float
    photos: float
    forward: float
    backward: float
    update: float
    peak_mib: float
    parameters: float
    trainable: float

    @property
    def step(self) -> float:
        """Seconds of all three."""
        return self.forward + self.backward + self.update


def built(options: argparse.Namespace) -> Stage:
    """Return the arm's stage with fresh weights, its data bound."""
    triplets = options.arm != "detection"
    text = RUN_FILE.read_text(encoding="utf-8")
    if options.arm != "mixed":
        text = "\n".join(row for row in text.splitlines() if "region-triplet" not in row)
    path = Path(options.root).parent / f"{options.arm.replace(' ', '-')}.yaml"
    path.write_text(text, encoding="utf-8")
    changes = {
        "init_from": "null",
        "data.root": options.root,
        "data.query_size": options.size,
        "data.support_size": options.photo,
        "data.n_way": options.n_way,
        "data.n_query": options.n_query * (1 if triplets else 3),
        "data.backgrounds": 0,
        "data.triplet_ratio": 0.5 if triplets else 0.0,
        "model.encoders.support.weights": "none",
        "trainer.precision": "fp32",
    }
    run = load_run(path, [f"{name}={value}" for name, value in changes.items()])
    stage = build_stage(run.config.stages[0], 0)
    stage.data.bind(input_needs(stage.model, stage.config.encoders))
    return stage


def counts(loaded: Sequence[Batch]) -> tuple[int, int]:
    """Return query images and reference photos of a step."""
    photos = [batch.valid["support"] for batch in loaded]
    return sum(len(batch.meta) for batch in loaded), sum(int(valid.sum()) for valid in photos)


def one_step(
    module: StepModule, optimizer: torch.optim.Optimizer, loaded: Sequence[Batch], clock: Clock
) -> tuple[float, float, float]:
    """Return the seconds of forward with losses, backward, and update."""
    start = clock()
    parts = module(loaded, Step(1, 10, seed_all(0)))
    divisors: dict[str, float | Tensor] = dict(module.rows(loaded))
    divisors |= {key: part.count for key, part in parts.items() if part.count is not None}
    loss = module.total(parts, divisors, 1)
    if not torch.isfinite(loss):
        raise SystemExit(f"loss is {loss.item()}")
    seen = clock()
    loss.backward()
    back = clock()
    optimizer.step()
    optimizer.zero_grad()
    return seen - start, back - seen, clock() - back


def measure(options: argparse.Namespace) -> Cost:
    """Return the cost of the median step, the first one left out."""
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    stage = built(options)
    module = StepModule(stage.model, stage.losses)
    set_train_mode(module)
    config = stage.config.optimizer
    optimizer = make_optimizer(parameter_groups(stage.named, config), config)
    spent, sizes = [], (0, 0)
    for number, unit in enumerate(stage.data.units("train", 0)[: options.steps + 1]):
        loaded = stage.data.collate([[stage.data.load(draw) for draw in unit]])
        sizes = counts(loaded)
        taken = one_step(module, optimizer, loaded, clock)
        if number:
            spent.append(taken)
    forward, backward, update = (statistics.median(part) for part in zip(*spent, strict=True))
    weights = list(stage.model.parameters())
    return Cost(
        *sizes,
        forward=forward,
        backward=backward,
        update=update,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        parameters=sum(p.numel() for p in weights) / 1e6,
        trainable=sum(p.numel() for p in weights if p.requires_grad) / 1e6,
    )


def in_process(options: argparse.Namespace, arm: str, root: str) -> Cost:
    """Return an arm's cost, measured in a process of its own."""
    names = ("size", "photo", "n_way", "n_query", "steps", "threads")
    given = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in names]
    command = [sys.executable, __file__, *given, f"--arm={arm}", f"--root={root}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def median(costs: Sequence[Cost]) -> Cost:
    """Return the median of every number."""
    rows = [asdict(cost) for cost in costs]
    return Cost(**{name: statistics.median(row[name] for row in rows) for name in rows[0]})


def report(costs: dict[str, Cost]) -> None:
    """Print a table of the arms, and what the triplet branch adds."""
    mixed = costs["mixed"]
    print(f"{mixed.parameters:.2f} M parameters, {mixed.trainable:.2f} M of them trained")
    head = ("arm", "frames", "photos", "forward s", "backward s", "update s", "step s", "peak MiB")
    print(" ".join(f"{text:>12}" for text in head))
    for arm, cost in costs.items():
        row = [arm, f"{cost.frames:.0f}", f"{cost.photos:.0f}"]
        row += [f"{v:.2f}" for v in (cost.forward, cost.backward, cost.update, cost.step)]
        print(" ".join(f"{text:>12}" for text in [*row, f"{cost.peak_mib:.0f}"]))
    for arm in ARMS[1:]:
        slower = mixed.step / costs[arm].step - 1
        larger = mixed.peak_mib / costs[arm].peak_mib - 1
        print(f"mixed against {arm}: {slower:+.1%} seconds, {larger:+.1%} memory")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=640, help="of frames")
    parser.add_argument("--photo", type=int, default=518, help="size of photos")
    parser.add_argument("--n-way", type=int, default=2)
    parser.add_argument("--n-query", type=int, default=1, help="detection frames of a class")
    parser.add_argument("--steps", type=int, default=1, help="after the first one")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--arm", choices=ARMS, help="measure one in this process")
    parser.add_argument("--root", default="", help="of generated clips")
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(asdict(measure(options))))
        return
    from mlkit_refdet.scenes.drone import write_drone_set

    with tempfile.TemporaryDirectory() as folder:
        root = str(Path(folder) / "clips")
        write_drone_set(Path(root), videos=7, frames=24, size=(360, 640), object_px=(24, 80))
        found: dict[str, list[Cost]] = {arm: [] for arm in ARMS}
        for _ in range(options.rounds):
            for arm, costs in found.items():
                costs.append(in_process(options, arm, root))
    report({arm: median(costs) for arm, costs in found.items()})


if __name__ == "__main__":
    main()
