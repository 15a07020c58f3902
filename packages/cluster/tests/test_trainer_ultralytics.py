"""The trainer `ultralytics`: run files, records, resuming, and what the verbs then read."""

import json

import pytest

from mlkit_cluster.training.engine import weights_of
from mlkit_core import load_run
from mlkit_core.config import load_config
from mlkit_core.errors import BuildError, ConfigError, DataError, RunFolderError

RUN = """
name: shapes
seed: 3
data: {name: image-folder, source: SOURCE}
trainer:
  name: ultralytics
  model: yolov8n.yaml
  epochs: 2
  batch_size: 4
  image_size: 96
  device: cpu
  workers: 0
"""


@pytest.fixture
def run_file(painted_images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(RUN.replace("SOURCE", str(split_in_two(painted_images))))
    return path


def split_in_two(folder):
    """Name the last four images as the val split."""
    images = sorted((folder / "images").iterdir())
    (folder / "train.txt").write_text("\n".join(f"./images/{p.name}" for p in images[:8]))
    (folder / "val.txt").write_text("\n".join(f"./images/{p.name}" for p in images[8:]))
    path = folder / "data.yaml"
    text = path.read_text().replace("train: images", "train: train.txt")
    path.write_text(text.replace("val: images", "val: val.txt"))
    return path


def journal(run):
    text = (run.folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def trained(run_file):
    run = load_run(run_file)
    run.fit()
    return run


def test_training_writes_both_checkpoints_a_line_for_each_epoch_and_the_run_file(
    trained, painted_images
):
    assert weights_of(trained.folder, "best").is_file()
    assert weights_of(trained.folder, "last").is_file()
    lines = journal(trained)
    assert [(line["kind"], line["epoch"]) for line in lines] == [
        ("train", 1),
        ("val", 1),
        ("train", 2),
        ("val", 2),
    ]
    assert lines[0]["train/box_loss"] > 0
    assert "metrics/mAP50" in lines[1]
    assert "yolov8n.yaml" in (trained.folder / "run.yaml").read_text()
    assert json.loads((trained.folder / "environment.json").read_text())["status"] == "finished"
    # Ultralytics alone would leave a cache beside the user's labels.
    assert not list(painted_images.rglob("*.cache"))


def test_the_trained_model_is_a_detector_of_the_data_sets_classes(trained):
    from mlkit_cluster.yolo.adapter import load_detector

    detector = load_detector(weights_of(trained.folder, "best"), 96, "cpu")
    assert detector.names == ("square", "disc", "triangle")
    assert detector.fast


def test_evaluation_gives_the_metrics_of_the_chosen_checkpoint(trained):
    found = trained.evaluate("val", "best")
    assert {"metrics/mAP50", "metrics/recall"} <= found.metrics.keys()
    assert json.loads((trained.folder / "eval-val.json").read_text())["checkpoint"] == "best"
    with pytest.raises(RunFolderError, match=r"other\.pt: no such checkpoint"):
        trained.evaluate("val", "other")
    with pytest.raises(BuildError, match="evaluates val"):
        trained.evaluate("test")


def test_an_existing_run_is_refused_and_a_finished_one_resumes_to_nothing(trained, run_file):
    with pytest.raises(RunFolderError, match="the run exists"):
        load_run(run_file).fit()
    before = weights_of(trained.folder, "last").read_bytes()
    assert load_run(run_file).fit(resume=True).status == "finished"
    assert weights_of(trained.folder, "last").read_bytes() == before


def test_an_interrupted_run_goes_on_after_its_last_whole_epoch(run_file, monkeypatch):
    from mlkit_cluster.training import engine

    add = engine._Record.add

    def stop_after_first(self, epoch, train, val):
        add(self, epoch, train, val)
        if epoch == 1:
            raise KeyboardInterrupt

    run = load_run(run_file, ["trainer.epochs=3"])
    with monkeypatch.context() as patch:
        patch.setattr(engine._Record, "add", stop_after_first)
        assert run.fit().status == "interrupted"
    result = load_run(run_file, ["trainer.epochs=3"]).fit(resume=True)
    assert result.status == "finished"
    lines = journal(run)
    assert [line["epoch"] for line in lines if line["kind"] == "train"] == [1, 2, 3]


@pytest.mark.parametrize("key", ["losses: [{name: bce}]", "metrics: [{name: mask-overlap}]"])
def test_keys_that_this_trainer_would_ignore_are_refused(run_file, key):
    run_file.write_text(f"{run_file.read_text()}{key}\n")
    with pytest.raises(ConfigError, match="has a model of its own and would ignore this"):
        load_config(run_file)


def test_data_without_a_val_split_is_refused_before_a_folder_is_made(
    run_file, painted_images, tmp_path
):
    run_file.write_text(RUN.replace("SOURCE", str(painted_images / "images")))
    with pytest.raises(DataError, match="no images of split 'train'"):
        load_run(run_file).fit()
    assert not (tmp_path / "runs").exists()


def test_options_that_the_run_file_says_elsewhere_are_refused(run_file):
    run = load_run(run_file, ["trainer.options={epochs: 5}"])
    with pytest.raises(BuildError, match="says epochs elsewhere"):
        run.fit()


def test_polygons_and_boxes_are_written_as_ultralytics_reads_them(run_file):
    from mlkit_cluster.training.dataset import write_yolo_dataset

    run = load_run(run_file)
    path = write_yolo_dataset(run.config.stages[0].data, run_file.parent / "laid out")
    source = run.config.stages[0].data.options["source"].parent
    written = sorted((path.parent / "labels/train").iterdir())
    assert len(written) == 8
    for number, file in enumerate(written):
        ours = [[float(v) for v in line.split()] for line in file.read_text().splitlines()]
        given = (source / f"labels/{number:02d}.txt").read_text().splitlines()
        theirs = [[float(v) for v in line.split()] for line in given]
        assert ours == [pytest.approx(row, abs=2e-6) for row in theirs]
        link = path.parent / f"images/train/{file.stem}.png"
        assert link.resolve() == (source / f"images/{number:02d}.png").resolve()
