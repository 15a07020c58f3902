import json
import re
import tomllib
from types import SimpleNamespace

import pytest

from mlkit_cli.option_table import type_text
from mlkit_cli.skeleton import core_bounds
from mlkit_core import CheckResult, CheckSpec, ComponentSpec, hookimpl


def broken() -> object:
    def explode():
        raise RuntimeError("no\nlicence")
        yield

    return SimpleNamespace(MLKIT_API=1, mlkit_components=hookimpl(explode))


def test_list_shows_plugins_with_status_and_components(mlkit):
    result = mlkit("plugins", "list")
    assert result.code == 0
    assert re.search(r"^  core +mlkit-core 0\.1\.0 +ok$", result.out, re.MULTILINE)
    assert re.search(r"^  fusion/film +core ", result.out, re.MULTILINE)


def test_list_as_json_holds_plugins_components_and_failures(mlkit):
    mlkit.plugins = {"bad": broken()}
    found = json.loads(mlkit("plugins", "list", "--json").out)
    assert found["components"] == []
    assert found["plugins"][0]["status"] == "failed"
    assert found["failures"][0]["stage"] == "hooks"


def test_list_with_timings_shows_milliseconds(mlkit):
    assert re.search(
        r"core +mlkit-core \S+ +\d+\.\d ms +ok", mlkit("plugins", "list", "--timings").out
    )


def test_a_broken_plugin_is_one_line_on_stderr_and_the_rest_goes_on(mlkit):
    mlkit.plugins = {"bad": broken(), "good": SimpleNamespace(MLKIT_API=1)}
    result = mlkit("plugins", "list")
    assert result.code == 0
    assert result.err == (
        "warning: plugin bad ((local) 0) is left out: hooks: RuntimeError: no licence\n"
    )
    assert re.search(r"^  good .* ok$", result.out, re.MULTILINE)


def test_show_lists_options_with_type_default_and_description(mlkit):
    found = json.loads(mlkit("plugins", "show", "trainer/supervised", "--json").out)
    assert found["plugin"] == "core"
    epochs = next(option for option in found["options"] if option["name"] == "epochs")
    assert epochs["type"] == "int >= 1"
    assert epochs["default"] == "10"
    assert epochs["description"]


def test_show_takes_the_owner_before_the_name(mlkit):
    assert mlkit("plugins", "show", "fusion/core/film").code == 0


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("film", "expected KIND/NAME, got 'film'"),
        ("fusoin/film", "no kind 'fusoin'; did you mean 'fusion'?"),
        ("fusion/flim", "no fusion named 'flim'; did you mean 'film'?"),
    ],
)
def test_show_names_the_nearest_match(mlkit, typed, said):
    result = mlkit("plugins", "show", typed)
    assert result.code == 2
    assert said in result.err


def test_a_component_without_options_says_so(mlkit):
    spec = ComponentSpec(kind="loss", name="plain", target="acme:Plain", summary="Plain.")
    mlkit.plugins = {
        "acme": SimpleNamespace(MLKIT_API=1, mlkit_components=hookimpl(lambda: iter([spec])))
    }
    assert "no options" in mlkit("plugins", "show", "loss/plain").out


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "number", "exclusiveMinimum": 0}, "float > 0"),
        ({"type": "integer", "minimum": 1, "maximum": 3}, "int >= 1 <= 3"),
        ({"enum": ["a", "b"]}, "a | b"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "str | null"),
        ({"type": "array", "items": {"type": "integer"}}, "list of int"),
        (
            {"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}]},
            "[float, float]",
        ),
        ({"type": "object", "x-mlkit-component": "encoder"}, "encoder component"),
        ({"$ref": "#/$defs/Inner"}, "mapping"),
    ],
)
def test_types_read_as_people_write_them(schema, said):
    assert type_text(schema, {"Inner": {"type": "object"}}) == said


def test_doctor_is_unhealthy_where_a_plugin_failed(mlkit):
    mlkit.plugins = {"bad": broken()}
    result = mlkit("doctor")
    assert result.code == 3
    assert "RuntimeError: no licence" in result.out


def test_doctor_runs_checks_and_shows_the_hint_of_one_that_fails(mlkit, tmp_path, monkeypatch):
    (tmp_path / "acme_checks.py").write_text(
        "from mlkit_core import CheckResult\n"
        "def good(): return CheckResult(ok=True, detail='all there')\n"
        "def bad(): return CheckResult(ok=False, detail='gone', hint='fetch it')\n"
        "def worse(): raise ValueError('oops')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = ("good", "bad", "worse")
    specs = [CheckSpec(name=n, target=f"acme_checks:{n}", summary=n) for n in names]
    mlkit.plugins = {
        "acme": SimpleNamespace(MLKIT_API=1, mlkit_checks=hookimpl(lambda: iter(specs)))
    }
    result = mlkit("doctor")
    assert result.code == 3
    assert "ok      good: all there" in result.out
    assert "FAILED  bad: gone (fetch it)" in result.out
    assert "FAILED  worse: ValueError: oops" in result.out


def test_doctor_is_content_where_all_is_well(mlkit):
    mlkit.plugins = {"good": SimpleNamespace(MLKIT_API=1)}
    result = mlkit("doctor", "--json")
    assert result.code == 0
    assert json.loads(result.out)["ok"] is True
    assert isinstance(CheckResult(ok=True, detail=""), CheckResult)


def test_new_writes_a_package_that_names_itself_throughout(mlkit, tmp_path):
    result = mlkit("plugins", "new", "acme-vision", "--out", str(tmp_path))
    assert result.code == 0
    folder = tmp_path / "mlkit-acme-vision"
    said = tomllib.loads((folder / "pyproject.toml").read_text())
    assert said["project"]["name"] == "mlkit-acme-vision"
    assert said["project"]["dependencies"] == ["mlkit-core[torch]>=0.1,<0.2"]
    assert said["project"]["entry-points"]["mlkit"] == {"acme-vision": "mlkit_acme_vision.plugin"}
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == {
        "README.md",
        "pyproject.toml",
        "src/mlkit_acme_vision/__init__.py",
        "src/mlkit_acme_vision/config.py",
        "src/mlkit_acme_vision/net.py",
        "src/mlkit_acme_vision/plugin.py",
        "src/mlkit_acme_vision/py.typed",
        "tests/test_contract.py",
    }
    assert not [path for path in folder.rglob("*.*") if "$" in path.read_text()]


def test_new_does_not_overwrite(mlkit, tmp_path):
    (tmp_path / "mlkit-acme").mkdir()
    result = mlkit("plugins", "new", "acme", "--out", str(tmp_path))
    assert result.code == 2
    assert "exists already" in result.err
    assert not list((tmp_path / "mlkit-acme").iterdir())


@pytest.mark.parametrize(
    "name", ["Acme", "a_b", "1a", "a--b", "-a", "", "../x", "mlkit-acme", "mlkit"]
)
def test_new_refuses_names_that_cannot_serve(mlkit, tmp_path, name):
    result = mlkit("plugins", "new", "--out", str(tmp_path), "--", name)
    assert result.code == 2
    assert "plugin name" in result.err
    assert not list(tmp_path.iterdir())


def test_a_new_plugin_is_bound_to_the_minor_version_it_was_written_for():
    assert core_bounds("1.9.3") == ">=1.9,<1.10"
