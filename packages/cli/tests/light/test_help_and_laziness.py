import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mlkit_core import CommandSpec, hookimpl

HEAVY = {
    "torch", "torchvision", "timm", "ultralytics", "transformers", "segment_anything", "sklearn",
    "cv2", "numpy", "accelerate", "pandas", "numba", "matplotlib",
}  # fmt: skip
VERBS = (
    "demo", "init", "check", "schema", "describe", "train", "eval", "predict", "export", "report",
    "doctor",
)  # fmt: skip
AFTER = (
    "import json, sys; from mlkit_cli.main import main; code = main(sys.argv[1:]);"
    "sys.stdout.flush(); print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)"
)


def modules_after(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", AFTER, *arguments], capture_output=True, text=True, check=True
    )
    code, modules = json.loads(done.stderr.splitlines()[-1])
    return code, set(modules)


@hookimpl
def one_verb():
    yield CommandSpec(
        group="acme", name="weigh", target="no_such_module:weigh", summary="Weigh an anvil."
    )


ACME = SimpleNamespace(MLKIT_API=1, mlkit_commands=one_verb)


def test_help_names_every_verb(mlkit):
    result = mlkit("--help")
    assert result.code == 0
    assert [line.split()[0] for line in result.out.split("Verbs:\n")[1].splitlines()[:11]] == list(
        VERBS
    )


def test_no_argument_shows_the_help_on_stderr_as_a_usage_error(mlkit):
    result = mlkit()
    assert result.code == 2
    assert result.out == ""
    assert "Usage: mlkit" in result.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_of_its_own(mlkit, verb):
    result = mlkit(verb, "--help")
    assert result.code == 0
    assert f"Usage: mlkit {verb} " in result.out


def test_help_takes_no_heavy_module_and_neither_typer_nor_pydantic():
    code, modules = modules_after("--help")
    assert code == 0
    assert not modules & {*HEAVY, "typer", "pydantic"}


def test_listing_plugins_takes_no_heavy_module():
    code, modules = modules_after("plugins", "list")
    assert code == 0
    assert not modules & HEAVY


@pytest.mark.parametrize("arguments", [["schema"], ["init"], ["plugins", "show", "fusion/film"]])
def test_light_verbs_take_no_heavy_module(arguments):
    code, modules = modules_after(*arguments)
    assert code == 0
    assert not modules & HEAVY


def test_check_takes_no_heavy_module_even_when_the_run_file_is_wrong(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("name: x\nmodel: {encoders: {image: {name: tim}}}\n")
    code, modules = modules_after("check", str(path))
    assert code == 2
    assert not modules & HEAVY


def test_a_domains_verbs_are_listed_without_importing_their_targets(mlkit):
    mlkit.plugins = {"acme": ACME}
    assert "acme     weigh" in mlkit("--help").out
    result = mlkit("acme", "--help")
    assert result.code == 0
    assert "weigh  Weigh an anvil." in result.out


def test_a_domain_verb_that_cannot_be_imported_is_one_error_line(mlkit):
    mlkit.plugins = {"acme": ACME}
    result = mlkit("acme", "weigh")
    assert result.code == 2
    assert result.err.startswith("error: no_such_module:weigh: needs module 'no_such_module'")


def test_a_domain_verb_gets_its_arguments(mlkit, tmp_path, monkeypatch):
    module = tmp_path / "acme_verbs.py"
    module.write_text("def weigh(kilos: int) -> None:\n    print(kilos * 2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = CommandSpec(group="acme", name="weigh", target="acme_verbs:weigh", summary="Weigh.")
    mlkit.plugins = {
        "acme": SimpleNamespace(MLKIT_API=1, mlkit_commands=hookimpl(lambda: iter([spec])))
    }
    assert mlkit("acme", "weigh", "21") == (0, "42\n", "")


def test_a_verb_that_two_plugins_bring_is_listed_with_its_owners(mlkit):
    mlkit.plugins = {"acme": ACME, "other": ACME}
    assert "acme     acme/weigh, other/weigh" in mlkit("--help").out


def test_the_module_form_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "mlkit_cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "mlkit 0.1.0\n"
