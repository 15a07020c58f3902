import re
import subprocess
import sys

import pytest

from mlkit_cli.launch import launcher_arguments
from mlkit_cli.lazy import load
from mlkit_cli.tree import verbs


def launcher_options():
    run = pytest.importorskip("torch.distributed.run")
    return [o for action in run.get_args_parser()._actions for o in action.option_strings]


def own_options():
    return [o for parameter in load(verbs()["train"]).params for o in parameter.opts if o[0] == "-"]


def test_no_option_of_train_is_a_prefix_of_the_launchers():
    # The launcher's parser takes an unambiguous prefix for its own option, even behind the script.
    theirs = launcher_options()
    own = set(own_options())
    assert {"--set", "--resume", "--devices", "--watch-grads"} <= own
    for option in own:
        assert not [o for o in theirs if o.startswith(option)], option


def test_the_launcher_hands_the_command_on_as_it_is():
    run = pytest.importorskip("torch.distributed.run")
    given = ["train", "run.yaml", "--set=a.b=1", "--allow=data", "--resume", "--watch-grads=5"]
    parsed = run.parse_args(launcher_arguments(3, given))
    assert parsed.nproc_per_node == "3"
    assert parsed.standalone
    assert parsed.module
    assert [parsed.training_script, *parsed.training_script_args] == ["mlkit_cli", *given]


def test_a_wrong_run_file_is_told_once_and_starts_no_process(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("name: x\nmodle: {}\n")
    command = [sys.executable, "-m", "mlkit_cli", "train", str(path), "--devices", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert len(re.findall(r"error: .*run\.yaml:2: modle", done.stderr)) == 1
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs"))


def test_a_process_that_fails_gives_its_exit_code_without_a_traceback(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("name: x\nmodle: {}\n")
    script = (
        "import sys; from mlkit_cli.launch import relaunch; sys.exit(relaunch(2, sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "check", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(r"\[rank [01]\] error: .*run\.yaml:2: modle", done.stderr)
    assert "Traceback" not in done.stderr
