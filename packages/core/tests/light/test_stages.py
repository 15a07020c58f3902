"""Stages: partial run files, merged over the file and over all stages before them."""

import pytest

STAGED = """\
stages:
  - name: first
    trainer: {epochs: 5}
  - name: second
    freeze: []
    trainer: {clip: null}
    model: {encoders: {image: {depth: 4, lora: {rank: 8}}}}
    losses: [{name: toy-dice, smooth: 2.0}]
"""


@pytest.fixture
def staged(good_run):
    return good_run + STAGED


def test_a_file_without_stages_has_one_named_main(good_run, load):
    assert [stage.name for stage in load(good_run).stages] == ["main"]


def test_mappings_merge_over_all_stages_before(staged, load):
    first, second = load(staged).stages
    assert first.trainer.options == {"epochs": 5, "clip": 1.0}
    assert second.trainer.options == {"epochs": 5, "clip": None}
    assert (first.encoders["image"].options, first.encoders["image"].lora) == ({"depth": 2}, None)
    assert second.encoders["image"].options == {"depth": 4}
    assert second.encoders["image"].lora.rank == 8
    assert second.encoders["view"].spec.name == "toy-angle"


def test_lists_are_replaced(staged, load):
    first, second = load(staged).stages
    assert first.freeze == ("encoders.image",)
    assert second.freeze == ()
    assert [loss.label for loss in first.losses] == ["toy-bce", "toy-dice"]
    assert [(loss.label, loss.weight) for loss in second.losses] == [("toy-dice", 1.0)]


def test_a_part_of_another_name_inherits_no_options(good_run, load):
    image = "{name: toy-wrap, backbone: {name: toy-net}}"
    stage = f"stages: [{{name: one, model: {{encoders: {{image: {image}}}}}}}]"
    (one,) = load(good_run + stage).stages
    assert one.encoders["image"].spec.name == "toy-wrap"
    assert set(one.encoders["image"].options) == {"backbone", "others"}


def test_a_part_of_the_same_name_keeps_its_options(good_run, load):
    stage = "stages: [{name: one, model: {head: {name: toy-mask, width: 4}}}]"
    (one,) = load(good_run + stage).stages
    assert one.head.options == {"depth": 3, "width": 4}


def test_null_removes_a_key_of_the_frame(good_run, load):
    stage = "stages: [{name: one, metrics: null, model: {fusion: null, encoders: {view: null}}}]"
    (one,) = load(good_run + stage).stages
    assert (one.fusions, one.metrics, list(one.encoders)) == ((), (), ["image"])


def test_a_removed_part_comes_back_without_its_old_options(good_run, load):
    stages = """\
stages:
  - {name: one, model: {head: null}}
  - {name: two, model: {head: {name: toy-mask}}}
"""
    one, two = load(good_run + stages).stages
    assert one.head is None
    assert two.head.options == {"depth": 3, "width": 8}


def test_lora_null_removes_it_again(good_run, load):
    stages = """\
stages:
  - {name: one, model: {encoders: {image: {lora: {rank: 4}}}}}
  - {name: two, model: {encoders: {image: {lora: null}}}}
"""
    one, two = load(good_run + stages).stages
    assert one.encoders["image"].lora.rank == 4
    assert two.encoders["image"].lora is None


def test_an_extractor_takes_the_place_of_losses_and_trainer_in_a_stage(good_run, load):
    stages = """\
stages:
  - {name: one}
  - name: two
    extractor: {name: toy-reader}
    losses: null
    trainer: null
    optimizer: null
    freeze: null
"""
    one, two = load(good_run + stages).stages
    assert (one.trainer.name, one.extractor) == ("supervised", None)
    assert (two.trainer, two.extractor.name) == (None, "toy-reader")


def test_a_trainer_without_a_name_is_supervised(good_run, load):
    text = good_run.replace("trainer: {name: supervised, epochs: 2}\n", "")
    assert load(text).stages[0].trainer.options == {"epochs": 10, "clip": 1.0}
    (one,) = load(text + "stages: [{name: one, trainer: {epochs: 3}}]").stages
    assert (one.trainer.name, one.trainer.options["epochs"]) == ("supervised", 3)


def test_a_trainer_that_knows_no_stages_refuses_them(problems):
    text = "name: a\ndata: {name: toy-frames, root: f}\ntrainer: {epochs: 3}\n"
    found = problems(text + "stages: [{name: one, trainer: {name: toy-engine}}]")
    assert found == [
        "run.yaml:4: stages: trainer 'toy-engine' has a model of its own and would ignore this; "
        "it honours name, trainer, data"
    ]


def test_a_problem_in_a_stage_names_the_stages_own_line(staged, problems):
    text = staged.replace("depth: 4", "depth: 0").replace("smooth: 2.0", "smoth: 2.0")
    assert problems(text) == [
        "run.yaml:25: stages[1].model.encoders.image.depth: input should be greater than or equal "
        "to 1, got 0",
        "run.yaml:26: stages[1].losses[0].smoth: unknown field; did you mean 'smooth'?",
    ]


def test_a_problem_of_the_file_is_told_once_for_all_stages(staged, problems):
    assert problems(staged.replace("depth: 3", "depth: 0")) == [
        "run.yaml:11: model.head.depth: input should be greater than or equal to 1, got 0"
    ]


def test_a_file_that_only_stages_complete_is_right(good_run, load):
    text = good_run.replace("losses:\n  - {name: toy-bce, weight: 0.5}\n  - {name: toy-dice}\n", "")
    (one,) = load(text + "stages: [{name: one, losses: [{name: toy-bce}]}]").stages
    assert [loss.label for loss in one.losses] == ["toy-bce"]


@pytest.mark.parametrize("key", ["seed", "stages", "init_from"])
def test_what_holds_for_the_run_cannot_change_in_a_stage(key, good_run, problems):
    found = problems(f"{good_run}stages:\n  - name: one\n    {key}: 3\n")
    assert found == [
        f"run.yaml:21: stages[0].{key}: a stage cannot change this; it holds for the whole run"
    ]


def test_stages_need_names_of_their_own(good_run, problems):
    stages = "stages:\n  - {name: one}\n  - {name: one}\n  - {freeze: []}\n  - {name: a.b}\n  - 3\n"
    assert problems(good_run + stages) == [
        "run.yaml:21: stages[1]: two stages are named 'one'",
        "run.yaml:22: stages[2].name: required field is missing",
        "run.yaml:23: stages[3].name: must be letters, digits, '_' and '-' only, got 'a.b'",
        "run.yaml:24: stages[4]: input should be a mapping, got 3",
    ]


def test_an_empty_list_of_stages_is_refused(good_run, problems):
    assert problems(good_run + "stages: []\n") == ["run.yaml:19: stages: needs at least one"]


def test_a_misspelt_key_of_a_stage_has_a_hint(good_run, problems):
    assert problems(good_run + "stages: [{name: one, freez: []}]") == [
        "run.yaml:19: stages[0].freez: unknown field; did you mean 'freeze'?"
    ]
