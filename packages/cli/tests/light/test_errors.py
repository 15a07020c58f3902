import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mlkit_core import CommandSpec, hookimpl
from mlkit_core.errors import ConfigError, DataError, TrainingError


def raising(monkeypatch, tmp_path, error):
    """Return a plugin whose verb `acme fail` raises the error."""
    module = tmp_path / "acme_fail.py"
    module.write_text("error = None\ndef fail() -> None:\n    raise error\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "acme_fail", raising=False)
    import acme_fail

    acme_fail.error = error
    spec = CommandSpec(group="acme", name="fail", target="acme_fail:fail", summary="Fail.")
    return {"acme": SimpleNamespace(MLKIT_API=1, mlkit_commands=hookimpl(lambda: iter([spec])))}


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            DataError("a.csv:3: no angle", hint="add one"),
            2,
            "error: a.csv:3: no angle\nhint: add one\n",
        ),
        (TrainingError("loss is NaN"), 1, "error: loss is NaN\n"),
        (
            ConfigError(["r.yaml:1: a", "r.yaml:2: b"]),
            2,
            "error: r.yaml:1: a\nerror: r.yaml:2: b\n",
        ),
        (OSError(errno.EACCES, "Permission denied", "out"), 1, "error: out: permission denied\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "last.part"),
            1,
            "error: last.part: no space left on device\nhint: free some space; what was written "
            "before is whole, so a run goes on with --resume\n",
        ),
        (KeyboardInterrupt(), 1, "interrupted\n"),
    ],
)
def test_every_error_is_a_line_and_an_exit_code(mlkit, monkeypatch, tmp_path, error, code, said):
    mlkit.plugins = raising(monkeypatch, tmp_path, error)
    assert mlkit("acme", "fail") == (code, "", said)


def test_a_verb_of_two_plugins_is_an_error_that_names_both(mlkit, monkeypatch, tmp_path):
    both = raising(monkeypatch, tmp_path, DataError("no angle"))
    mlkit.plugins = {"one": both["acme"], "two": both["acme"]}
    said = "error: mlkit acme: several plugins have a verb 'fail'; say 'one/fail' or 'two/fail'\n"
    assert mlkit("acme", "fail") == (2, "", said)
    assert mlkit("acme", "two/fail") == (2, "", "error: no angle\n")


def test_a_bug_is_one_line_without_a_traceback(mlkit, monkeypatch, tmp_path):
    mlkit.plugins = raising(monkeypatch, tmp_path, KeyError("spam"))
    result = mlkit("acme", "fail")
    assert result.code == 1
    assert result.err.startswith("error: KeyError: 'spam'\nhint: ")
    assert "--debug" in result.err


def test_debug_shows_the_traceback_and_keeps_the_exit_code(mlkit, monkeypatch, tmp_path):
    mlkit.plugins = raising(monkeypatch, tmp_path, DataError("a.csv: empty"))
    result = mlkit("acme", "fail", "--debug")
    assert result.code == 2
    assert "Traceback" in result.err
    assert "in fail" in result.err


def test_errors_name_their_rank_where_several_processes_speak(mlkit, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    mlkit.plugins = raising(monkeypatch, tmp_path, DataError("a.csv: empty"))
    assert mlkit("acme", "fail").err == "[rank 1] error: a.csv: empty\n"


def test_an_interrupted_training_says_how_to_resume(mlkit, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlkit_cli.main._run", interrupt)
    said = mlkit("train", "my run.yaml", "--set", "seed=1").err
    assert said == "interrupted; resume with `mlkit train 'my run.yaml' --set seed=1 --resume`\n"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(["trian"], "train"), (["chekc", "run.yaml"], "check"), (["plugins", "lst"], "list")],
)
def test_an_unknown_verb_names_the_nearest(mlkit, typed, meant):
    result = mlkit(*typed)
    assert result.code == 2
    assert f"hint: did you mean {meant!r}?" in result.err


def test_an_unknown_option_is_a_usage_error(mlkit):
    result = mlkit("train", "run.yaml", "--resum")
    assert result.code == 2
    assert result.err.startswith("error: no such option: --resum (Possible options: --resume)\n")
    assert "`mlkit train --help`" in result.err


def test_a_missing_argument_is_a_usage_error(mlkit):
    result = mlkit("check")
    assert result.code == 2
    assert "run_file" in result.err.lower()


def test_a_reader_that_leaves_early_is_no_error():
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m mlkit_cli schema | head -c 1",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert done.stdout == "{"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (["frames"], "expected role=path, got 'frames'"),
        (["image="], "expected role=path, got 'image='"),
        (["image=a", "image=b"], "role 'image' is given twice"),
    ],
)
def test_inputs_that_do_not_read_role_and_path_are_refused(mlkit, inputs, said):
    options = [word for item in inputs for word in ("--input", item)]
    result = mlkit("predict", "runs/x", "--out", "out", *options)
    assert result.code == 2
    assert said in result.err


def test_export_knows_its_formats(mlkit):
    assert "no format 'coreml'" in mlkit("export", "runs/x", "--format", "coreml").err


def test_a_verb_that_needs_torch_says_so_where_it_is_missing(mlkit, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlkit_core.run", None)
    result = mlkit("report", "runs/x")
    assert result.code in (1, 2)
    assert "Traceback" not in result.err
