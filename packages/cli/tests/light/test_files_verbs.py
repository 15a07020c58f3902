import json
from types import SimpleNamespace

import pytest

from mlkit_core import ExampleSpec, hookimpl

GOOD = """\
name: x
model:
  encoders:
    image: {name: timm, model: resnet18}
  fusion: {name: none}
  head: {name: dot}
"""


@pytest.fixture
def examples(tmp_path, monkeypatch):
    (tmp_path / "acme_examples.py").write_text("def text(): return 'name: anvil\\n'\n")
    monkeypatch.syspath_prepend(tmp_path)
    specs = [
        ExampleSpec(name="anvil", text="acme_examples:text", summary="An anvil."),
        ExampleSpec(name="rocket", text="acme_examples:text", summary="A rocket."),
    ]
    return {"acme": SimpleNamespace(MLKIT_API=1, mlkit_examples=hookimpl(lambda: iter(specs)))}


def test_init_prints_the_run_file_and_nothing_else(mlkit, examples):
    mlkit.plugins = examples
    assert mlkit("init", "anvil") == (0, "name: anvil\n", "")


def test_init_without_a_name_lists_what_there_is(mlkit, examples):
    mlkit.plugins = examples
    assert mlkit("init").out == "anvil   An anvil.\nrocket  A rocket.\n"


def test_init_names_the_nearest_example(mlkit, examples):
    mlkit.plugins = examples
    result = mlkit("init", "anvli")
    assert result.code == 2
    assert "no example named 'anvli'; did you mean 'anvil'?" in result.err


def test_check_lists_every_problem_and_exits_2(mlkit, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "name: x\nmodel:\n  encoders:\n    image: {name: tim}\n  fusion: {name: flim}\n"
    )
    result = mlkit("check", str(path))
    assert result.code == 2
    assert result.out == ""
    assert f"error: {path}:4: model.encoders.image.name: no encoder named 'tim'" in result.err
    assert f"error: {path}:5: model.fusion.name: no fusion named 'flim'" in result.err


def test_check_as_json_holds_the_problems(mlkit, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("name: x\nmodle: {}\n")
    found = json.loads(mlkit("check", str(path), "--json").out)
    assert found["ok"] is False
    assert any("modle" in problem for problem in found["problems"])


def test_check_of_a_missing_file_is_one_line(mlkit):
    result = mlkit("check", "no/such.yaml")
    assert result.code == 2
    assert result.err.startswith("error: no/such.yaml: ")


def test_schema_is_json(mlkit):
    found = json.loads(mlkit("schema").out)
    assert "model" in found["properties"]


def test_demo_refuses_a_folder_that_exists(mlkit, examples, tmp_path, monkeypatch):
    specs = [ExampleSpec(name="anvil", text="a:t", summary="An anvil.", demo="a:d")]
    mlkit.plugins = {
        "acme": SimpleNamespace(MLKIT_API=1, mlkit_examples=hookimpl(lambda: iter(specs)))
    }
    result = mlkit("demo", "--out", str(tmp_path))
    assert result.code == 2
    assert f"{tmp_path}: exists already" in result.err


def test_demo_of_an_example_without_data_points_to_init(mlkit, examples):
    mlkit.plugins = examples
    assert "hint: `mlkit init anvil`" in mlkit("demo", "anvil").err


def test_allow_without_resume_is_refused(mlkit):
    result = mlkit("train", "run.yaml", "--allow", "data")
    assert result.code == 2
    assert "add --resume" in result.err
