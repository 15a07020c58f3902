"""The verbs of `mlkit cluster` as a user types them, and what wrong input is told."""

import csv
import json
import shutil
import sqlite3

import pytest

from mlkit_cli.main import main


@pytest.fixture(scope="module")
def made(_painted, tiny_detector_file):
    """Twelve painted images with labels, and a detector that sees something in them."""
    return _painted / "data.yaml", tiny_detector_file


SIZES = ("--image-size", "96", "--device", "cpu")


@pytest.fixture(scope="module")
def base(made, tmp_path_factory):
    data, model = made
    run = tmp_path_factory.mktemp("base") / "run"
    assert (
        main(["cluster", "extract", str(data), "--model", str(model), "-o", str(run), *SIZES]) == 0
    )
    assert main(["cluster", "distances", str(run), "--device", "cpu"]) == 0
    return run


@pytest.fixture
def run(base, tmp_path):
    return shutil.copytree(base, tmp_path / "run")


def says(capsys, *arguments):
    """Return exit code, stdout and stderr of a command."""
    capsys.readouterr()
    try:
        code = main(["cluster", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_losses_writes_one_row_for_each_image_and_keeps_the_run(made, tmp_path, capsys):
    data, model = made
    table = tmp_path / "losses.csv"
    code, out, _ = says(capsys, "losses", data, "--model", model, "-o", table, *SIZES, "--json")
    assert code == 0
    said = json.loads(out)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert said["images"] == len(rows) == 12
    assert len({row["cls_loss"] for row in rows}) == 12
    # Images 0, 4 and 8 hold no object: an empty cell, never 0.
    assert [row["img_id"] for row in rows if not row["box_loss"]] == ["0", "4", "8"]
    assert (tmp_path / "losses.run" / "run.db").is_file()
    mean = sum(float(row["cls_loss"]) for row in rows) / 12
    assert said["mean cls_loss"] == pytest.approx(mean, rel=1e-6)


def test_losses_without_labels_is_an_input_error_that_says_what_to_do(made, tmp_path, capsys):
    data, model = made
    images = shutil.copytree(data.parent / "images", tmp_path / "plain")
    code, _, err = says(
        capsys, "losses", images, "--model", model, "-o", tmp_path / "l.csv", *SIZES
    )
    assert code == 2
    assert "no labels were found" in err
    assert "hint: `--labels FILE.json`" in err


def test_the_road_from_images_to_a_validated_run(run, tmp_path, capsys):
    code, out, _ = says(
        capsys, "cluster", run, "--method", "k-medoids", "--set", "num_clusters=2", "--json"
    )
    assert code == 0
    assert sum(json.loads(out)["sizes"]) == 12
    code, out, _ = says(capsys, "project", run, "--model", "pca", "--on", "yolo", "--json")
    assert (code, json.loads(out)["images"]) == (0, 12)
    code, out, _ = says(capsys, "evaluate", run, "--json")
    assert code == 0
    row = json.loads(out)[0]
    assert row["against"] == "flag_cat"
    assert {"nmi", "nmi_permuted", "nmi_p", "majority"} <= row["noise_as_singletons"].keys()
    page = tmp_path / "report.html"
    assert says(capsys, "report", run, "-o", page)[0] == 0
    assert "<script" in page.read_text()
    code, out, _ = says(capsys, "validate", run, "--device", "cpu", "--json")
    found = json.loads(out)
    assert (code, found["ok"]) == (0, True), [one for one in found["checks"] if not one["ok"]]
    names = {one["check"] for one in found["checks"]}
    assert {"images again", "pairs again", "distance files", "row digests"} <= names


@pytest.mark.parametrize("kind", ["labels", "hard", "duplicates", "contradictions", "asymmetry"])
def test_findings_are_listed(run, capsys, kind):
    code, out, _ = says(capsys, "findings", run, "--kind", kind, "--json", "--top", "3")
    assert code == 0
    assert len(json.loads(out)) <= 3


def test_a_subset_that_covers_everything_is_everything(run, capsys):
    code, out, _ = says(capsys, "coverage", run, "-n", "12", "--json")
    rows = json.loads(out)
    assert (code, len({row["path"] for row in rows})) == (0, 12)
    assert rows[-1]["covered"] == pytest.approx(1)


def test_the_same_images_are_no_drift(run, made, capsys):
    data, _ = made
    code, out, _ = says(capsys, "drift", run, data, "--device", "cpu", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["images"] == found["reference"] == 12
    names = {row["path"] for row in found["images_farthest_first"]}
    assert names == {f"images/{index:02d}.png" for index in range(12)}


def test_sql_reads_and_never_writes(run, capsys):
    code, out, _ = says(capsys, "sql", run, "SELECT COUNT(*) AS n FROM distances", "--json")
    assert (code, json.loads(out)) == (0, [{"n": 432}])
    code, _, err = says(capsys, "sql", run, "DELETE FROM images")
    assert code == 2
    assert "error:" in err
    with sqlite3.connect(run / "run.db") as db:
        assert db.execute("SELECT COUNT(*) FROM images").fetchone() == (12,)
    db.close()


@pytest.mark.parametrize("form", ["csv", "parquet", "coco", "fiftyone", "seed-sqlite"])
def test_every_form_of_export_is_written(run, tmp_path, capsys, form):
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="mlkit-cluster[parquet] is not installed")
    target = tmp_path / (f"out.{form}" if form in ("csv", "parquet") else "out")
    code, out, _ = says(capsys, "export", run, "--format", form, "-o", target, "--json")
    assert code == 0
    written = json.loads(out)["written"]
    assert written
    if form == "seed-sqlite":
        _, out, _ = says(capsys, "validate", *written, "--json")
        wrong = [one for one in json.loads(out)["checks"] if not one["ok"]]
        # A detector with random weights matches no label.
        said = "mean_iou is 0 in all 12 images with objects"
        assert [(one["check"], one["detail"]) for one in wrong] == [("losses", said)]


def test_a_corrupted_byte_ends_validation_with_exit_code_1(run, capsys):
    shard = next((run / "dist").glob("cls-*.npy"))
    raw = bytearray(shard.read_bytes())
    raw[-3] ^= 1
    shard.write_bytes(raw)
    code, out, _ = says(capsys, "validate", run, "--images", "0", "--pairs", "0", "--json")
    assert code == 1
    wrong = [one["check"] for one in json.loads(out)["checks"] if not one["ok"]]
    assert "distance files" in wrong


WRONG = {
    "no such source": (["extract", "{gone}", "--model", "{model}"], "no such image, folder, list"),
    "no model": (["extract", "{data}"], "--model: expected a checkpoint"),
    "missing model": (["extract", "{data}", "--model", "{gone}"], "no such weights file"),
    "model is text": (["extract", "{data}", "--model", "{data}"], "not a readable checkpoint"),
    "odd size": (
        ["extract", "{data}", "--model", "{model}", "--image-size", "50"],
        "expected a multiple of 32 pixels, got 50",
    ),
    "unknown labels": (
        ["extract", "{data}", "--model", "{model}", "--labels", "voc"],
        "expected auto, none, yolo or a COCO file, got 'voc'",
    ),
    "no run": (["distances", "{gone}"], "no run of mlkit cluster here"),
    "bad shard": (["distances", "{run}", "--shard", "3/2"], "expected k/n"),
    "bad weights": (["cluster", "{run}", "--weights", "big"], "expected gains, robust or"),
    "unknown method": (["cluster", "{run}", "--method", "dbscan"], "expected one of hdbscan"),
    "k-means on losses": (["cluster", "{run}", "--method", "k-means"], "is not a metric"),
    "unknown parameter": (["cluster", "{run}", "--set", "eps=1"], "no parameter 'eps'"),
    "unknown encoder": (["cluster", "{run}", "--on", "clip"], "no embeddings of 'clip'"),
    "unknown device": (["extract", "{data}", "--model", "{model}", "--device", "tpu9"], "device"),
    "no encoder of that name": (["embed", "{run}", "--encoder", "tim"], "no encoder named 'tim'"),
    "weights offline": (
        ["embed", "{run}", "--encoder", "timm:test_resnet", "--weights", "gone.pt"],
        "gone.pt",
    ),
    "no parts": (["merge", "{gone}"], "no run and no parts of one"),
    "not two databases": (["validate", "{data}", "{data}"], "data.yaml"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_clear_error_and_leaves_nothing(case, made, base, tmp_path, capsys):
    data, model = made
    words, expected = WRONG[case]
    places = {"data": data, "model": model, "run": base, "gone": tmp_path / "gone"}
    arguments = [word.format(**places) for word in words]
    if words[0] == "extract":
        arguments += ["-o", str(tmp_path / "new")]
    code, out, err = says(capsys, *arguments)
    assert code == 2, err
    assert expected in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "new").exists()


def test_unreadable_images_fail_the_call_after_the_others_are_done(made, tmp_path, capsys):
    data, model = made
    folder = shutil.copytree(data.parent, tmp_path / "data")
    (folder / "images" / "01.png").write_bytes(b"no image")
    call = ["extract", folder / data.name, "--model", model, "-o", tmp_path / "run", *SIZES]
    code, _, err = says(capsys, *call)
    assert code == 1
    assert "1 of 12 images cannot be read; the others are done" in err
    assert "images/01.png" in err
    code, out, _ = says(capsys, *call, "--skip-bad", "--json")
    assert code == 0
    assert json.loads(out)["unreadable"] == 1


def test_debug_says_what_each_chunk_and_block_did(made, tmp_path, capsys):
    data, model = made
    out = tmp_path / "run"
    call = ["extract", data, "--model", model, "-o", out, *SIZES, "--log-level", "debug"]
    assert "images 0 to 11" in says(capsys, *call)[2]
    err = says(capsys, "distances", out, "--device", "cpu", "--log-level", "debug")[2]
    assert "rows 0 to 12: 12 passes" in err
    assert "agree on" in err


def test_a_run_file_names_data_and_extractor(made, tmp_path, capsys, monkeypatch):
    data, model = made
    monkeypatch.chdir(tmp_path)
    text = (
        "name: tiny\n"
        f"data: {{name: image-folder, source: {data}, image_size: 96}}\n"
        f"extractor: {{name: yolo, model: {model}, image_size: 96, device: cpu}}\n"
    )
    (tmp_path / "run.yaml").write_text(text)
    code, out, _ = says(capsys, "extract", "run.yaml", "--json")
    assert code == 0
    assert json.loads(out)["extracted now"] == 12
    assert (tmp_path / "runs" / "tiny" / "run.db").is_file()


def test_a_user_who_stops_is_told_that_the_same_command_goes_on(
    made, tmp_path, capsys, monkeypatch
):
    from mlkit_cluster.steps import extraction

    write = extraction._write

    def stop(*arguments, **options):
        write(*arguments, **options)
        raise KeyboardInterrupt

    data, model = made
    call = ["extract", data, "--model", model, "-o", tmp_path / "run", *SIZES]
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "CHUNK", 4)
        patch.setattr(extraction, "_write", stop)
        code, _, err = says(capsys, *call)
    assert code == 1
    assert "the same command goes on from there" in err
    code, out, _ = says(capsys, *call, "--json")
    assert (code, json.loads(out)["extracted now"]) == (0, 8)
