"""`--set key.path=value`."""

import pytest


def test_a_value_is_read_as_yaml(good_run, load):
    run = load(
        good_run, "model.head.depth=5", "optimizer.lr=1e-2", "freeze=[]", "trainer.clip=null"
    )
    (stage,) = run.stages
    assert stage.head.options["depth"] == 5
    assert stage.optimizer.lr == 0.01
    assert stage.freeze == ()
    assert stage.trainer.options["clip"] is None


@pytest.mark.parametrize("path", ["losses.1.weight", "losses[1].weight"])
def test_an_item_of_a_list_is_named_by_its_index(path, good_run, load):
    assert [loss.weight for loss in load(good_run, f"{path}=2").stages[0].losses] == [0.5, 2.0]


def test_a_mapping_replaces_what_stood_there(good_run, load):
    run = load(good_run, "model.head={name: toy-mask, width: auto}")
    assert run.stages[0].head.options == {"depth": 3, "width": "auto"}


def test_missing_mappings_on_the_way_are_made(good_run, load):
    run = load(good_run, "model.encoders.image.lora.rank=4")
    assert run.stages[0].encoders["image"].lora.rank == 4


def test_null_removes_a_part(good_run, load):
    assert list(load(good_run, "model.encoders.view=null").stages[0].encoders) == ["image"]


def test_the_last_of_two_wins(good_run, load):
    assert load(good_run, "seed=1", "seed=2").seed == 2


def test_a_stage_is_reached_by_its_index(good_run, load):
    stages = "stages: [{name: one, trainer: {epochs: 1}}, {name: two}]"
    run = load(good_run + stages, "stages[0].trainer.epochs=9", "stages.1.name=last")
    assert [(stage.name, stage.trainer.options["epochs"]) for stage in run.stages] == [
        ("one", 9),
        ("last", 9),
    ]


def test_an_override_that_every_stage_replaces_is_refused(good_run, problems):
    stages = "stages: [{name: one, trainer: {epochs: 1}}]"
    assert problems(good_run + stages, "trainer.epochs=9") == [
        "--set trainer.epochs=9: trainer.epochs: every stage sets its own; say "
        "stages.0.trainer.epochs=…"
    ]


def test_an_override_that_one_stage_takes_is_right(good_run, load):
    stages = "stages: [{name: one, trainer: {epochs: 1}}, {name: two, model: {head: {depth: 9}}}]"
    first, second = load(good_run + stages, "model.head.depth=5").stages
    assert (first.head.options["depth"], second.head.options["depth"]) == (5, 9)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "model.haed.depth=5",
            "--set model.haed.depth=5: model.haed: unknown field; did you mean 'head'?",
        ),
        (
            "losses[2].weight=1",
            "--set losses[2].weight=1: losses[2].weight: no item 2; the list at 'losses' has 2",
        ),
        ("seed.x=1", "--set seed.x=1: seed.x: 'seed' holds no options, got 7"),
        (
            "losses.first.weight=1",
            "--set losses.first.weight=1: losses.first.weight: no item first; the list at "
            "'losses' has 2",
        ),
        (
            "model.head.depth",
            "--set model.head.depth: expected key.path=value, for example model.head.depth=5",
        ),
        ("=5", "--set =5: expected key.path=value, for example model.head.depth=5"),
        ("a..b=5", "--set a..b=5: expected key.path=value, for example model.head.depth=5"),
        (
            "seed=[",
            "--set seed=[: not YAML: while parsing a flow node expected the node content, but "
            "found '<stream end>'",
        ),
    ],
)
def test_a_wrong_override_names_itself_instead_of_a_line(override, line, good_run, problems):
    assert problems(good_run, override) == [line]
