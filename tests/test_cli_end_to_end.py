"""The verbs on a real, tiny run: what each writes, prints and refuses."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlkit_cli import catalogue as seen
from mlkit_cli.main import main
from mlkit_core import ExampleSpec, hookimpl
from mlkit_core.plugins import Catalogue, load_catalogue, using

RUN_FILE = """\
name: tiny
seed: 3
data: {name: angio-frames, root: data, size: 64, augment: false}
model:
  encoders:
    image: {name: timm, model: test_resnet, weights: none}
    view: {name: view-angle, dim: 16}
  fusion: {name: film, "on": image, by: view}
  head: {name: conv-mask}
losses: [{name: dice}]
metrics: [{name: mask-overlap}]
trainer: {name: supervised, epochs: 1, batch_size: 4}
"""


def write_data(folder):
    from mlkit_angioseg.phantom import write_phantom

    split = (0.5, 0.25, 0.25)
    write_phantom(folder, trees=8, views_per_tree=1, size=64, split=split, layout="folder")


def write_demo(folder):
    write_data(folder / "data")
    frame = sorted((folder / "data" / "images").iterdir())[0].name
    plan = {"split": "test", "inputs": {"image": f"data/images/{frame}", "view": "30,-20"}}
    (folder / "demo.json").write_text(json.dumps(plan))
    (folder / "run.yaml").write_text(RUN_FILE)
    return folder / "run.yaml"


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "mlkit_cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder in which `mlkit train` has made `runs/tiny`."""
    folder = tmp_path_factory.mktemp("trained")
    write_data(folder / "data")
    (folder / "run.yaml").write_text(RUN_FILE)
    done = command("train", "run.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "runs/tiny\n"
    return folder


@pytest.fixture
def mlkit(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    return run


def test_a_run_that_exists_is_not_trained_again(mlkit):
    code, out, err = mlkit("train", "run.yaml")
    assert (code, out) == (2, "")
    assert "runs/tiny" in err
    assert "--resume" in err


def test_eval_prints_the_same_metrics_as_text_and_as_json(mlkit):
    code, out, _ = mlkit("eval", "runs/tiny", "--split", "test", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["metrics"]["mask-overlap.images"] == 2
    assert len(found["rows"]) == 2
    _, text, _ = mlkit("eval", "runs/tiny", "--split", "test")
    lines = dict(line.split() for line in text.splitlines())
    assert lines["mask-overlap.images"] == "2"
    assert lines["mask-overlap.auc"] == f"{found['metrics']['mask-overlap.auc']:.4f}"


def test_predict_prints_the_files_that_it_wrote(mlkit, trained, tmp_path):
    frame = sorted((trained / "data" / "images").iterdir())[0]
    given = ["--input", f"image={frame}", "--input", "view=30,-20"]
    code, out, _ = mlkit("predict", "runs/tiny", "--out", tmp_path / "seen", *given)
    assert code == 0
    written = [Path(line) for line in out.splitlines()]
    assert written
    assert all(path.is_file() for path in written)
    assert {path.suffix for path in written} >= {".json", ".png"}


def test_report_prints_the_path_of_a_page_without_links_to_elsewhere(mlkit):
    code, out, _ = mlkit("report", "runs/tiny", "--json")
    assert code == 0
    page = Path(json.loads(out)["path"]).read_text(encoding="utf-8")
    assert "tiny" in page
    assert 'src="http' not in page


def test_export_says_how_far_it_is_from_the_original(mlkit, tmp_path):
    code, out, err = mlkit("export", "runs/tiny", "--out", tmp_path / "m.onnx", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert Path(found["path"]).is_file()
    assert found["max_difference"] < 1e-3


def test_describe_names_the_parts_and_their_tensors(mlkit):
    code, out, _ = mlkit("describe", "run.yaml")
    assert code == 0
    assert "encoders.view" in out
    assert "core/film" in out
    code, out, _ = mlkit("describe", "run.yaml", "--json")
    assert json.loads(out)


def test_a_checkpoint_that_is_not_there_is_an_input_error(mlkit):
    code, _, err = mlkit("eval", "runs/tiny", "--checkpoint", "bset")
    assert code == 2
    assert err.startswith("error: ")


def test_two_processes_train_by_one_command(trained):
    line = ("train", "run.yaml", "--devices", "2", "--set", "name=two", "--json")
    done = command(*line, cwd=trained)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # printed once, not by every process
    assert found["folder"] == "runs/two"
    assert found["result"]["status"] == "finished"


def test_interrupting_leaves_a_run_that_resumes(trained):
    name = "name=stopped"
    line = [sys.executable, "-m", "mlkit_cli", "train", "run.yaml", "--set", name]
    long = [*line, "--set", "trainer.epochs=200"]
    with subprocess.Popen(
        long, cwd=trained, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        last = trained / "runs" / "stopped" / "last"
        deadline = time.monotonic() + 120
        while not last.exists():
            assert time.monotonic() < deadline
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=120)
    assert running.returncode == 1
    again = "mlkit train run.yaml --set name=stopped --set trainer.epochs=200 --resume"
    assert f"interrupted; resume with `{again}`" in err
    assert "Traceback" not in err
    shorter = ("--set", "trainer.epochs=1", "--resume", "--allow", "trainer")
    done = command("train", "run.yaml", "--set", name, *shorter, cwd=trained)
    assert "Traceback" not in done.stderr


@pytest.fixture
def demo(monkeypatch, capsys, tmp_path):
    """Return `mlkit` with one more example, whose data is tiny."""
    monkeypatch.setitem(sys.modules, "tiny_demo", SimpleNamespace(write=write_demo))
    spec = ExampleSpec(name="tiny", text="tiny_demo:text", summary="Tiny.", demo="tiny_demo:write")
    own = SimpleNamespace(MLKIT_API=1, mlkit_examples=hookimpl(lambda: iter([spec])))
    names = ("core", "angioseg")
    plugins = {"tiny": own} | {name: f"mlkit_{name}.plugin" for name in names}
    found = Catalogue.from_plugins(plugins)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        seen.installed.cache_clear()
        capsys.readouterr()
        with using(found):
            code = main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    yield run
    seen.installed.cache_clear()
    load_catalogue()


def test_demo_goes_from_data_to_report_and_says_where_all_is(demo, tmp_path):
    code, out, err = demo("demo", "tiny", "--out", "shown", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["metrics"]["mask-overlap.images"] == 2  # split test, as demo.json says
    assert Path(found["report"]).is_file()
    assert found["predictions"]
    assert (tmp_path / "shown" / "run" / "run.yaml").is_file()
    code, _, err = demo("demo", "tiny", "--out", "shown")
    assert code == 2
    assert "shown: exists already" in err
    assert "--resume" in err
    code, out, err = demo("demo", "tiny", "--out", "shown", "--resume")
    assert code == 0, err
    assert "shown/run/report.html" in out


def test_demo_without_a_domain_lists_them_where_there_are_several(demo):
    code, _, err = demo("demo")
    assert code == 2
    assert "tiny" in err
    assert "angioseg" in err
