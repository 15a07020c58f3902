"""Who sees which unit when, what a pattern covers, and what the averages are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mlkit_core.config.frame import OptimizerOptions
from mlkit_core.errors import BuildError, DataError
from mlkit_core.training.optim import (
    WeightAverage,
    embedding_names,
    matching,
    parameter_groups,
    rate_factor,
    set_train_mode,
)
from mlkit_core.training.sampling import Deal, derive, seed_all

NAMES = [
    "encoders.image.blocks.1.attn.qkv.weight",
    "encoders.image.blocks.10.attn.qkv.weight",
    "encoders.image.head.weight",
    "head.cls.weight",
]


def test_a_segment_matches_whole_or_not_at_all():
    assert matching("blocks.1", NAMES) == {NAMES[0]}
    assert matching("encoders.im", NAMES) == set()


def test_a_range_of_numbers_is_a_range_of_numbers():
    assert matching("blocks.[0-9]", NAMES) == {NAMES[0]}
    assert matching("blocks.[2-11]", NAMES) == {NAMES[1]}


def test_a_pattern_that_matches_from_the_front_matches_only_there():
    assert matching("head", NAMES) == {NAMES[3]}
    assert matching("image.head", NAMES) == {NAMES[2]}


def test_every_unit_is_dealt_once_and_the_last_step_is_filled_from_the_start():
    deal = Deal(batch_size=4, ranks=2, accumulate=1)
    assert deal.steps(10) == 3
    dealt = [deal.chosen(10, step, micro) for step in range(3) for micro in range(2)]
    assert dealt == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [0, 1]]


def test_ranks_and_micro_steps_cut_a_step_into_the_same_pieces():
    pair, alone = Deal(batch_size=8, ranks=2, accumulate=2), Deal(8, ranks=1, accumulate=4)
    cut = {pair.micro_step(rank, turn) for rank in range(2) for turn in range(2)}
    assert cut == {alone.micro_step(0, turn) for turn in range(4)}
    assert all(pair.chosen(20, 1, m) == alone.chosen(20, 1, m) for m in range(4))


def test_a_step_that_cannot_be_cut_is_refused():
    with pytest.raises(DataError, match="6 does not divide by 2 ranks x 2 micro-steps"):
        Deal(batch_size=6, ranks=2, accumulate=2)


def test_seeds_depend_on_every_part_and_repeat():
    assert derive(7, 0, "units", 1) == derive(7, 0, "units", 1)
    others = {derive(7, 0, "units", 1), derive(8, 0, "units", 1), derive(7, 1, "units", 1)}
    assert len(others | {derive(7, 0, "step", 1), derive(7, 0, "units", 2)}) == 5


def test_seeding_gives_the_same_draws_in_every_generator():
    import random

    import numpy as np

    drawn = []
    for _ in range(2):
        own = seed_all(5)
        drawn.append(
            (
                random.random(),
                float(np.random.random()),
                float(torch.rand(())),
                float(torch.rand((), generator=own)),
            )
        )
    assert drawn[0] == drawn[1]


def test_the_narrower_pattern_sets_the_rate_and_vectors_do_not_decay():
    named = {
        "encoders.image.a.weight": nn.Parameter(torch.zeros(2, 2)),
        "encoders.image.b.weight": nn.Parameter(torch.zeros(2, 2)),
        "head.bias": nn.Parameter(torch.zeros(2)),
    }
    options = OptimizerOptions(
        lr=0.1, weight_decay=0.5, lr_scale={"encoders.image.b": 3.0, "encoders.image": 0.1}
    )
    groups = parameter_groups(named, options)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found[id(named["encoders.image.a.weight"])] == (pytest.approx(0.01), 0.5)
    assert found[id(named["encoders.image.b.weight"])] == (pytest.approx(0.3), 0.5)
    assert found[id(named["head.bias"])] == (pytest.approx(0.1), 0.0)


def test_nothing_to_train_is_refused():
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    with pytest.raises(BuildError, match="nothing is left to train"):
        parameter_groups({"head.bias": frozen}, OptimizerOptions())


def test_what_is_frozen_stays_in_eval_and_its_neighbour_trains():
    model = nn.ModuleDict(
        {
            "frozen": nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Dropout()),
            "live": nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Dropout()),
        }
    )
    model["frozen"].requires_grad_(False)
    set_train_mode(model)
    assert not any(module.training for module in model["frozen"].modules())
    assert all(module.training for module in model["live"].modules())


def test_a_constant_schedule_warms_up_and_stays():
    options = OptimizerOptions(schedule="constant", warmup=0.2)
    assert [rate_factor(options, i, 10) for i in (0, 1, 2, 9)] == [0.5, 1.0, 1.0, 1.0]


def test_a_step_schedule_falls_to_a_tenth_at_each_milestone():
    options = OptimizerOptions(schedule="step", milestones=(0.7, 0.9))
    rates = [rate_factor(options, i, 10) for i in (0, 6, 7, 8, 9)]
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])


def test_embedding_tables_do_not_decay():
    model = nn.ModuleDict({"table": nn.Embedding(3, 2), "layer": nn.Linear(2, 2, bias=False)})
    names = embedding_names(model)
    assert names == {"table.weight"}
    groups = parameter_groups(dict(model.named_parameters()), OptimizerOptions(), names)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(model["table"].weight)] == 0.0
    assert decay[id(model["layer"].weight)] == 0.01


def test_a_cosine_ends_at_its_final_scale():
    options = OptimizerOptions(final_scale=0.1)
    assert rate_factor(options, 0, 10) == 1.0
    assert rate_factor(options, 5, 10) == pytest.approx(0.55)
    assert rate_factor(options, 10, 10) == pytest.approx(0.1)


def test_the_average_follows_by_hand_worked_values():
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.0)
    average = WeightAverage(layer.state_dict, decay=0.5)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    average.update(steps=1)  # decay min(0.5, 2 / 11): 0 * 2/11 + 1 * 9/11
    assert float(average.values["weight"]) == pytest.approx(9 / 11)
    average.update(steps=1000)  # decay 0.5
    assert float(average.values["weight"]) == pytest.approx((9 / 11 + 1) / 2)
    raw = average.raw()
    average.put(average.values)
    assert layer.weight.item() == pytest.approx(10 / 11)
    average.put(raw)
    assert layer.weight.item() == 1.0
