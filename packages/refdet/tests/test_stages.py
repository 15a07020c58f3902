"""The example run files of stages 2 and 3, shrunk: what learns there, and from which loss."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from mlkit_core import load_run
from mlkit_core.build import input_needs
from mlkit_core.training.engine import Engine
from mlkit_core.training.objective import Objective, StepModule
from mlkit_core.training.optim import make_optimizer, parameter_groups, set_train_mode
from mlkit_core.training.sampling import seed_all
from mlkit_core.training.stages import build_stage
from mlkit_core.training.watch import gradient_table
from mlkit_core.types import Batch, Step
from mlkit_refdet.scenes.drone import write_drone_set

if TYPE_CHECKING:
    from mlkit_core.training.stages import Stage

EXAMPLES = Path(__file__).parents[3] / "examples"
# Sizes alone, and no published weights: parts, freezing and losses stay as the files have them.
SMALL = (
    "data.n_query=2",
    "data.shots=2",
    "data.query_size=64",
    "data.support_size=56",
    "model.encoders.support.weights=none",
)
WITHOUT_CONTRAST = "losses=[{name: box-iou, weight: 7.5}, {name: anchor-bce, weight: 0.5}, "
WITHOUT_CONTRAST += "{name: box-dfl, weight: 1.5}]"
VIT = r"encoders\.support\.trunk\.vit\.backbone\."
FROZEN = re.compile(VIT + r"(patch_embed\.|pos_embed$|cls_token$|blocks\.[0-5]\.)")
BLOCK = re.compile(VIT + r"blocks\.(\d+)\.")
BOXES = re.compile(r"head\.(standard|pairs)\.boxes\.")
ENCODERS = {"encoders.query", "encoders.support"}
DETECTION = {*ENCODERS, "fusions.fused", "head"}
REACHED = {
    "box-iou": DETECTION,
    "anchor-bce": DETECTION,
    "box-dfl": DETECTION,
    "region-supcon": {*ENCODERS, "fusions.fused", "losses.region-supcon"},
    "proposal-contrast": {*ENCODERS, "fusions.fused", "losses.proposal-contrast"},
    "region-triplet": ENCODERS,
}


@dataclass
class Training:
    """A stage as training has it before its first step, and the batches of that step."""

    stage: Stage
    module: StepModule
    batches: list[Batch]

    def nudge(self):
        """Move what learns by a little noise: the fusion's ways in for the photos start at 0."""
        seed_all(0)
        with torch.no_grad():
            for parameter in self.stage.named.values():
                if parameter.requires_grad:
                    parameter += 0.02 * torch.randn_like(parameter)


def step(turn=0):
    return Step(turn, 2, seed_all(turn))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Build the stage of an example on two generated objects and the photos of each."""
    root = tmp_path_factory.mktemp("drone")
    write_drone_set(root, videos=3, frames=16, size=(96, 160), object_px=(20, 40), seed=1)

    def build(name, *changes, carried=None):
        run = load_run(EXAMPLES / f"{name}.yaml", [*SMALL, f"data.root={root}", *changes])
        (config,) = run.config.stages
        stage = build_stage(config, run.config.seed, carried)
        stage.data.bind(input_needs(stage.model, config.encoders))
        unit = stage.data.units("train", run.config.seed)[0]
        batches = stage.data.collate([[stage.data.load(draw) for draw in unit]])
        module = StepModule(stage.model, stage.losses)
        set_train_mode(module)
        return Training(stage, module, batches)

    return build


@pytest.fixture(scope="module")
def stage_two(start):
    """Stage 2 after a nudge."""
    training = start("refdet-stage2")
    training.nudge()
    return training


def silent(named):
    """Return the names whose gradient is zero or not finite, of those that have one."""
    found = {
        name: parameter.grad for name, parameter in named.items() if parameter.grad is not None
    }
    return {n for n, g in found.items() if not g.isfinite().all() or g.abs().sum() == 0}


def test_detection_alone_teaches_every_free_parameter_of_stage_two_and_no_frozen_one(start):
    training = start("refdet-stage2", WITHOUT_CONTRAST)
    named, options = training.stage.named, training.stage.config.optimizer
    objective = Objective(training.module, training.module, Engine())
    optimizer = make_optimizer(parameter_groups(named, options), options)
    for _ in range(2):
        optimizer.zero_grad()
        objective.gradients([training.batches], step)
        # At first by prototypes alone: the fusion's ways in for tokens start at 0.
        assert not [name for name in silent(named) if name.startswith("encoders.")]
        optimizer.step()
    still = {name for name in named if FROZEN.match(name)}
    assert {name for name, parameter in named.items() if parameter.grad is None} == still
    blocks = {name: int(found[1]) for name in named if (found := BLOCK.match(name))}
    assert {number for name, number in blocks.items() if name not in still} == {*range(6, 12)}
    assert sum(name.startswith("encoders.support.projection.") for name in named) == 12
    # A level whose cells are near no object learns no boxes; everything else has its share.
    assert all(BOXES.match(name) for name in silent(named))


def check_table(training, losses):
    """Compare the table of gradients with what each loss may reach, entry by entry."""
    table = gradient_table(training.module, training.batches, step(), Engine())
    assert set(table) == losses
    for label, norms in table.items():
        assert all(math.isfinite(norm) for norm in norms.values()), label
        assert {part for part, norm in norms.items() if norm > 0} == REACHED[label], label


def test_contrast_of_stage_two_teaches_all_but_the_head(stage_two):
    check_table(stage_two, REACHED.keys() - {"region-triplet"})


def test_triplets_of_stage_two_teach_the_encoders_alone(start):
    training = start("refdet-stage2-triplet")
    training.nudge()
    check_table(training, REACHED.keys())


def test_stage_three_goes_on_from_stage_two_and_teaches_the_same_parts(start, stage_two):
    before = stage_two.stage.model.state_dict()
    carried = stage_two.stage.info(1), before
    training = start("refdet-stage3", "init_from=null", carried=carried)
    after = training.stage.model.state_dict()
    assert all(torch.equal(after[name], values) for name, values in before.items())
    check_table(training, REACHED.keys())
