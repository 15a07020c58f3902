"""Run files with something wrong: the exact lines that a user sees."""

import pytest

from mlkit_core.config import load_config
from mlkit_core.errors import ConfigError
from mlkit_core.plugins import Catalogue

NO_NETT = (
    "run.yaml:6: model.encoders.image.name: no encoder named 'toy-nett'; did you mean 'toy-net'?"
)
# name: (text to replace in the good run file, replacement, lines)
BROKEN = {
    "misspelt encoder": (
        "name: toy-net,",
        "name: toy-nett,",
        [NO_NETT],
    ),
    "misspelt option": (
        "    depth: 3",
        "    depht: 3",
        ["run.yaml:11: model.head.depht: unknown field; did you mean 'depth'?"],
    ),
    "negative weight": (
        "weight: 0.5",
        "weight: -1",
        ["run.yaml:14: losses[0].weight: input should be greater than 0, got -1"],
    ),
    "misspelt reserved key": (
        "weight: 0.5",
        "wieght: 0.5",
        ["run.yaml:14: losses[0].wieght: unknown field; did you mean 'weight'?"],
    ),
    "misspelt frame key": (
        "metrics:",
        "metric:",
        ["run.yaml:16: metric: unknown field; did you mean 'metrics'?"],
    ),
    "misspelt key in model": (
        "  encoders:",
        "  encoder:",
        [
            "run.yaml:4: model.encoders: required field is missing",
            "run.yaml:5: model.encoder: unknown field; did you mean 'encoders'?",
        ],
    ),
    "no name": ("name: toy-run\n", "", ["run.yaml:1: name: required field is missing"]),
    "name with a slash": (
        "name: toy-run",
        "name: a/b",
        ["run.yaml:1: name: must be a folder's name: letters, digits, '.', '_', '-', got 'a/b'"],
    ),
    "no data": (
        "data: {name: toy-frames, root: frames}\n",
        "",
        ["run.yaml:1: data: required field is missing"],
    ),
    "empty model": (
        "model:\n",
        "model:\nmodel_:\n",
        [
            "run.yaml:1: model: required field is missing",
            "run.yaml:5: model_: unknown field; did you mean 'model'?",
        ],
    ),
    "no losses": (
        "losses:\n  - {name: toy-bce, weight: 0.5}\n  - {name: toy-dice}\n",
        "losses: []\n",
        ["run.yaml:13: losses: needs at least one"],
    ),
    "required option missing": (
        ", root: frames",
        "",
        ["run.yaml:3: data.root: required field is missing"],
    ),
    "component without a name": (
        "{name: toy-angle}",
        "{}",
        ["run.yaml:7: model.encoders.view.name: required field is missing"],
    ),
    "component that is a word": (
        "{name: toy-angle}",
        "toy-angle",
        ["run.yaml:7: model.encoders.view: input should be a mapping, got 'toy-angle'"],
    ),
    "options of a component that takes none": (
        "{name: toy-overlap}",
        "{name: toy-overlap, level: 1}",
        ["run.yaml:16: metrics[0].level: unknown field; it takes no options"],
    ),
    "wrong type": (
        "depth: 2",
        "depth: deep",
        [
            "run.yaml:6: model.encoders.image.depth: input should be a valid integer, "
            "unable to parse string as an integer, got 'deep'"
        ],
    ),
    "neither of two types": (
        "    depth: 3",
        "    width: wide",
        [
            "run.yaml:11: model.head.width: input should be a valid integer, unable to parse "
            "string as an integer or input should be 'auto', got 'wide'"
        ],
    ),
    "kind in the wrong place": (
        "{name: toy-dice}",
        "{name: toy-mask}",
        ["run.yaml:15: losses[1].name: no loss named 'toy-mask'; 'toy-mask' is a head"],
    ),
    "role with a dot": (
        "    view:",
        "    view.a:",
        [
            "run.yaml:7: model.encoders.view.a: must be letters, digits, '_' and '-' only, "
            "got 'view.a'"
        ],
    ),
    "two losses of one name": (
        "{name: toy-dice}",
        "{name: toy-bce}",
        ["run.yaml:15: losses[1]: two losses are called 'toy-bce'; give one an `as:`"],
    ),
    "two fusions of one role": (
        "fusion: {name: toy-film, on: image, by: view}",
        "fusion: [{name: toy-film}, {name: toy-film}]",
        [
            "run.yaml:8: model.fusion[1]: role 'fused' is taken by an encoder or another fusion; "
            "write another with `as:`"
        ],
    ),
    "fusion over an encoder's role": (
        "on: image, by: view",
        "as: view",
        [
            "run.yaml:8: model.fusion: role 'view' is taken by an encoder or another fusion; "
            "write another with `as:`"
        ],
    ),
    "metric twice": (
        "[{name: toy-overlap}]",
        "[{name: toy-overlap}, {name: toy/toy-overlap}]",
        ["run.yaml:16: metrics[1]: metric 'toy-overlap' is listed twice"],
    ),
    "freeze with an empty segment": (
        "[encoders.image]",
        "[encoders..image]",
        [
            "run.yaml:12: freeze[0]: must be dotted names such as encoders.image.blocks.[0-5], "
            "got 'encoders..image'"
        ],
    ),
    "freeze that is a word": (
        "[encoders.image]",
        "encoders.image",
        ["run.yaml:12: freeze: input should be a list, got 'encoders.image'"],
    ),
    "unknown optimizer": (
        "name: adamw",
        "name: adam",
        ["run.yaml:17: optimizer.name: input should be 'adamw' or 'sgd', got 'adam'"],
    ),
    "learning rate of zero": (
        "lr: 1e-3",
        "lr: 0",
        ["run.yaml:17: optimizer.lr: input should be greater than 0, got 0"],
    ),
    "lora without rank": (
        "depth: 2",
        "lora: {alpha: 4}",
        ["run.yaml:6: model.encoders.image.lora.rank: required field is missing"],
    ),
    "lora beside a cache": (
        "depth: 2",
        "lora: {rank: 4}, cache: true",
        [
            "run.yaml:6: model.encoders.image: cache needs a frozen encoder, and lora adapts it; "
            "drop one"
        ],
    ),
    "weights of no known form": (
        "depth: 2",
        "weights: best",
        [
            "run.yaml:6: model.encoders.image.weights: must be auto, none, a .safetensors, .pt or "
            ".pth file, or hf:owner/repository/file, got 'best'"
        ],
    ),
    "extractor beside losses": (
        "trainer: {name: supervised, epochs: 2}",
        "extractor: {name: toy-reader}",
        [
            "run.yaml:12: freeze: not allowed beside an extractor",
            "run.yaml:13: losses: not allowed beside an extractor",
            "run.yaml:17: optimizer: not allowed beside an extractor",
        ],
    ),
    "keys that a trainer ignores": (
        "trainer: {name: supervised, epochs: 2}",
        "trainer: {name: toy-engine}",
        [
            f"run.yaml:{line}: {key}: trainer 'toy-engine' has a model of its own and would "
            "ignore this; it honours name, trainer, data"
            for line, key in (
                (2, "seed"),
                (4, "model"),
                (12, "freeze"),
                (13, "losses"),
                (16, "metrics"),
                (17, "optimizer"),
            )
        ],
    ),
    "options that cannot be imported": (
        "    name: toy-mask\n    depth: 3",
        "    name: toy-lost",
        [
            "run.yaml:10: model.head.name: mlkit_toy_gone:X: needs module 'mlkit_toy_gone', "
            "which is not installed"
        ],
    ),
    "option that the run file reserves": (
        "name: toy-net, depth: 2",
        "name: toy-reserved",
        [
            "run.yaml:6: model.encoders.image.name: mlkit_toy_parts:ReservedConfig: option "
            "'weights' is reserved for the run file"
        ],
    ),
    "repeated key": (
        "seed: 7",
        "seed: 7\nseed: 8",
        ["run.yaml:3: seed: repeated key; it was set at run.yaml:2"],
    ),
    "unknown tag": (
        "seed: 7",
        "seed: !!python/object:os.system 7",
        ["run.yaml:2: seed: cannot be read as python/object:os.system, got '7'"],
    ),
    "unclosed bracket": (
        "[{name: toy-overlap}]",
        "[{name: toy-overlap}",
        [
            "run.yaml:17: not YAML: while parsing a flow sequence expected ',' or ']', "
            "but got '<scalar>'"
        ],
    ),
    "tab as indentation": (
        "    depth: 3",
        "\tdepth: 3",
        [
            "run.yaml:11: not YAML: while scanning for the next token found character '\\t' "
            "that cannot start any token"
        ],
    ),
}


def test_the_run_file_that_the_broken_ones_start_from_is_right(good_run, problems):
    assert problems(good_run) == []


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_run_file_names_line_path_and_reason(case, good_run, problems):
    old, new, lines = BROKEN[case]
    assert old in good_run
    assert problems(good_run.replace(old, new, 1)) == lines


def test_all_problems_of_frame_components_and_overrides_come_at_once_by_line(good_run, problems):
    text = good_run.replace("name: toy-net,", "name: toy-nett,").replace(
        "    depth: 3", "    depht: 3"
    )
    text = text.replace("weight: 0.5", "weight: -1").replace("{name: toy-dice}", "{name: toy-bce}")
    assert problems(text, "trainer.epochs=0") == [
        NO_NETT,
        "run.yaml:11: model.head.depht: unknown field; did you mean 'depth'?",
        "run.yaml:14: losses[0].weight: input should be greater than 0, got -1",
        "run.yaml:15: losses[1]: two losses are called 'toy-bce'; give one an `as:`",
        "--set trainer.epochs=0: trainer.epochs: input should be greater than 0, got 0",
    ]


def test_an_empty_file_says_what_is_required(problems):
    assert problems("# nothing yet\n") == [
        "run.yaml:1: name: required field is missing",
        "run.yaml:1: data: required field is missing",
        "run.yaml:1: model: required field is missing",
        "run.yaml:1: losses: required field is missing",
    ]


def test_a_file_that_is_a_list_is_refused(problems):
    assert problems("- 1\n") == ["run.yaml:1: a run file must be a mapping of keys"]


def test_two_documents_in_one_file_are_refused(problems):
    assert problems("a: 1\n---\nb: 2\n") == [
        "run.yaml:2: not YAML: expected a single document in the stream but found another document"
    ]


def test_an_alias_that_holds_itself_is_refused(good_run, problems):
    found = problems(good_run.replace("seed: 7", "seed: &loop [*loop]"))
    assert found == ["run.yaml:2: seed[0]: an alias must not hold itself"]


def test_a_missing_file_is_a_config_error(tmp_path, toy):
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read: No such file") as caught:
        load_config(tmp_path / "gone.yaml", catalogue=toy)
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_text_is_a_config_error(tmp_path, toy):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(
        ConfigError, match=r"run\.yaml: not UTF-8 text: invalid start byte at byte 6"
    ):
        load_config(path, catalogue=toy)


def test_a_failed_plugin_is_named_where_a_component_is_unknown(tmp_path, good_run):
    path = tmp_path / "run.yaml"
    path.write_text(good_run)
    catalogue = Catalogue.from_plugins({"broken": "mlkit_toy_gone.plugin"})
    with pytest.raises(ConfigError, match="no head named 'toy-mask'") as caught:
        load_config(path, catalogue=catalogue)
    assert caught.value.hint.startswith("plugin 'broken' failed to load: ModuleNotFoundError: ")
