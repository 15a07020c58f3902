"""Reserved keys, nested components, paths, and what a validated run holds."""

from pathlib import Path

from mlkit_core.config import RunPath
from mlkit_core.config.fields import Config
from mlkit_core.config.frame import LoraOptions, Part


def test_reserved_keys_are_parted_from_the_options(good_run, load):
    text = good_run.replace("depth: 2", "depth: 2, input: frame, lora: {rank: 2, targets: [qkv]}")
    text = text.replace("fusion: {name: toy-film,", "fusion: {name: toy-film, as: joint,")
    text = text.replace("{name: toy-dice}", "{name: toy-dice, as: soft, weight: 2, smooth: 3}")
    (stage,) = load(text).stages
    image = stage.encoders["image"]
    assert (image.input, image.cache, image.weights) == ("frame", False, None)
    assert image.lora == LoraOptions(rank=2, targets=("qkv",))
    assert image.options == {"depth": 2}
    assert stage.encoders["view"].input == "view"
    assert [(f.writes, f.options) for f in stage.fusions] == [
        ("joint", {"on": "image", "by": "view"})
    ]
    soft = stage.losses[1]
    assert (soft.label, soft.weight, soft.options) == ("soft", 2.0, {"smooth": 3.0})


def test_a_fusion_writes_fused_by_default(good_run, load):
    assert load(good_run).stages[0].fusions[0].writes == "fused"


def test_fusions_may_be_a_list(good_run, load):
    fusions = "fusion: [{name: toy-film}, {name: toy-film, as: twice}]"
    text = good_run.replace("fusion: {name: toy-film, on: image, by: view}", fusions)
    assert [fusion.writes for fusion in load(text).stages[0].fusions] == ["fused", "twice"]


def test_two_losses_of_one_name_live_under_labels(good_run, load):
    text = good_run.replace("{name: toy-dice}", "{name: toy/toy-bce, as: second}")
    assert [loss.label for loss in load(text).stages[0].losses] == ["toy-bce", "second"]


def test_an_option_that_is_a_component_becomes_a_part(good_run, load):
    nested = "name: toy-wrap, backbone: {name: toy-net, depth: 7}, others: [{name: toy-angle}]"
    (stage,) = load(good_run.replace("name: toy-net, depth: 2", nested)).stages
    options = stage.encoders["image"].options
    assert isinstance(options["backbone"], Part)
    assert (options["backbone"].name, options["backbone"].options) == ("toy-net", {"depth": 7})
    assert [part.name for part in options["others"]] == ["toy-angle"]


def test_problems_of_nested_components_name_their_own_lines(good_run, problems):
    nested = """{
      name: toy-wrap,
      backbone: {name: toy-wrap,
        backbone: {name: toy-nett}},
      others: [{name: toy-net,
        dept: 2}, {name: toy-net,
        depth: 0}]}"""
    assert problems(good_run.replace("{name: toy-net, depth: 2}", nested)) == [
        "run.yaml:9: model.encoders.image.backbone.backbone.name: no encoder named 'toy-nett'; "
        "did you mean 'toy-net'?",
        "run.yaml:11: model.encoders.image.others[0].dept: unknown field; did you mean 'depth'?",
        "run.yaml:12: model.encoders.image.others[1].depth: input should be greater than or equal "
        "to 1, got 0",
    ]


def test_a_nested_component_of_another_kind_is_refused(good_run, problems):
    nested = "name: toy-wrap, backbone: {name: toy-mask}"
    assert problems(good_run.replace("name: toy-net, depth: 2", nested)) == [
        "run.yaml:6: model.encoders.image.backbone.name: no encoder named 'toy-mask'; 'toy-mask' "
        "is a head"
    ]


def test_relative_paths_start_at_the_run_files_folder(good_run, load, tmp_path):
    text = good_run.replace("depth: 2", "weights: w/a.safetensors") + "init_from: old/last\n"
    run = load(text)
    (stage,) = run.stages
    assert stage.data.options["root"] == tmp_path / "frames"
    assert stage.encoders["image"].weights == str(tmp_path / "w/a.safetensors")
    assert run.init_from == tmp_path / "old/last"


def test_absolute_paths_and_names_of_weights_stay(good_run, load):
    text = good_run.replace("root: frames", "root: /data/frames")
    for weights in ("auto", "none", "hf:facebook/dinov2/model.safetensors"):
        (stage,) = load(text.replace("depth: 2", f"weights: {weights}")).stages
        assert stage.encoders["image"].weights == weights
    assert stage.data.options["root"] == Path("/data/frames")


def test_a_path_outside_a_run_file_stays_as_it_is():
    class Options(Config):
        root: RunPath

    assert Options(root="frames").root == Path("frames")


def test_defaults_are_in_the_options_but_not_in_the_resolved_file(good_run, load):
    run = load(good_run)
    assert run.stages[0].head.options == {"depth": 3, "width": 8}
    assert run.resolved["model"]["head"] == {"name": "toy-mask", "depth": 3}


def test_a_trainer_of_its_own_needs_no_model(load):
    run = load("name: a\ndata: {name: toy-frames, root: f}\ntrainer: {name: toy-engine}\n")
    (stage,) = run.stages
    assert (stage.trainer.spec.own_model, stage.encoders, stage.head) == (True, {}, None)


def test_an_extractor_needs_only_data(load):
    run = load("name: a\ndata: {name: toy-frames, root: f}\nextractor: {name: toy-reader}\n")
    assert (run.stages[0].extractor.name, run.stages[0].trainer) == ("toy-reader", None)
