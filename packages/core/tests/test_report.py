"""The report: one file, nothing from data becomes markup, and it says where weights came from."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image

from mlkit_core.errors import PluginError, RunFolderError
from mlkit_core.report import write_report

EVIL = "<script>alert(1)</script>"
ROWS = [
    {"key": "a", "mask_source": "manual", "dice": 0.9},
    {"key": "b", "mask_source": "pseudo", "dice": 0.2},
    {"key": EVIL, "mask_source": "manual", "dice": 0.5},
    {"key": "d", "mask_source": "manual", "dice": float("nan")},
]


class Page(HTMLParser):
    """What a browser would see: elements, scripts, table cells, attributes that fetch."""

    def __init__(self, path):
        super().__init__()
        self.scripts, self.rows, self.fetched, self.handlers = [], [], [], []
        self._in = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, name, attributes):
        given = dict(attributes)
        self.fetched += [given[key] for key in ("src", "href") if key in given]
        self.handlers += [key for key in given if key.startswith("on")]
        if name in ("script", "td", "tr"):
            self._in.append(name)
        if name == "script":
            self.scripts.append((given, ""))
        if name == "tr":
            self.rows.append([])
        if name == "td":
            self.rows[-1].append("")

    def handle_endtag(self, name):
        if self._in and self._in[-1] == name:
            self._in.pop()

    def handle_data(self, data):
        if self._in and self._in[-1] == "script":
            given, before = self.scripts[-1]
            self.scripts[-1] = (given, before + data)
        elif "td" in self._in:
            self.rows[-1][-1] += data

    def data(self):
        return [json.loads(text) for given, text in self.scripts if "type" in given]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run.yaml").write_text(
        f"name: 'x{EVIL}'\ntrainer: {{monitor: overlap.dice}}\nstages: [{{name: main}}]\n"
    )
    lines = [
        {"kind": "train", "stage": "main", "step": 1, "lr": 0.1, "loss": 2.0, f"bce.{EVIL}": 2.0},
        {"kind": "train", "stage": "main", "step": 2, "lr": 0.05, "loss": float("nan")},
        {"kind": "val", "stage": "main", "step": 2, "overlap.dice": 0.75},
        {"kind": "gradients", "stage": "main", "step": 2, "table": {"bce": {"head": 0.5}}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tra'
    (tmp_path / "metrics.jsonl").write_text(text)
    record = {
        "split": "test",
        "checkpoint": "step-00000002-end",
        "stage": "main",
        "weights": {"encoders.image": "sha256:12ab (w.pt)", "encoders.hint": "random weights"},
        "metrics": {"overlap.dice": 0.75, "overlap.dice_low": 0.5, "overlap.dice_high": 1.0},
        "rows": ROWS,
    }
    (tmp_path / "eval-test.json").write_text(json.dumps(record))
    book = tmp_path / "pictures" / "test"
    book.mkdir(parents=True)
    Image.new("RGB", (4, 2), (255, 0, 0)).save(book / "000.png")
    entry = {"file": "000.png", "key": EVIL, "caption": '"><img src=x onerror=alert(1)>'}
    (book / "index.json").write_text(json.dumps([entry]))
    (tmp_path / "tables").mkdir()
    table = {"title": f"T {EVIL}", "columns": [EVIL], "rows": [["</script>" + EVIL], [1.5]]}
    (tmp_path / "tables" / "own.json").write_text(json.dumps(table))
    return tmp_path


def test_nothing_from_data_becomes_markup(folder):
    page = Page(write_report(folder))
    assert not [text for _, text in page.scripts if text.startswith("alert")]
    assert len([given for given, _ in page.scripts if not given]) == 2  # plotly and our own
    assert not page.handlers
    assert [EVIL in "".join(row) for row in page.rows].count(True) >= 2  # shown, as text


def test_nothing_is_loaded_from_anywhere(folder):
    page = Page(write_report(folder))
    assert page.fetched
    assert all(address.startswith(("#", "data:image/")) for address in page.fetched)


def test_the_content_policy_allows_the_pages_own_scripts_alone(folder):
    path = write_report(folder)
    policy = re.search(r'Policy" content="([^"]*)"', path.read_text(encoding="utf-8"))[1]
    own = [text for given, text in Page(path).scripts if not given]
    for script in own:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"sha256-{digest}" in policy
    assert policy.count("sha256-") == 2
    assert policy.startswith("default-src &#x27;none&#x27;")


def test_the_worst_samples_come_first_and_no_score_is_the_worst(folder):
    rows = [
        row for row in Page(write_report(folder)).rows if row and row[0] in {"d", "b", "a", EVIL}
    ]
    assert [row[0] for row in rows] == ["d", "b", EVIL, "a"]


def test_where_less_is_better_the_largest_is_the_worst(folder):
    with (folder / "run.yaml").open("a") as file:
        file.write("\n")
    text = (
        (folder / "run.yaml").read_text().replace("overlap.dice", "overlap.dice, monitor_mode: min")
    )
    (folder / "run.yaml").write_text(text)
    rows = [
        row for row in Page(write_report(folder)).rows if row and row[0] in {"d", "b", "a", EVIL}
    ]
    assert [row[0] for row in rows] == ["d", "a", EVIL, "b"]


def test_shares_and_mean_scores_of_mask_sources_are_shown(folder):
    rows = Page(write_report(folder)).rows
    assert ["manual", "3", "75 %", "0.7"] in rows  # of 0.9 and 0.5; the third has no score
    assert ["pseudo", "1", "25 %", "0.2"] in rows


def test_the_interval_stands_beside_its_metric(folder):
    assert ["overlap.dice", "0.75", "0.5", "1"] in Page(write_report(folder)).rows


def test_provenance_of_weights_is_said(folder):
    page = Page(write_report(folder))
    assert ["encoders.image", "sha256:12ab (w.pt)"] in page.rows
    assert ["encoders.hint", "random weights"] in page.rows


def test_curves_hold_the_values_of_the_journal(folder):
    figures = {
        figure["layout"]["title"]["text"]: figure for figure in Page(write_report(folder)).data()
    }
    loss = figures["Loss and its parts"]["data"]
    assert (loss[0]["name"], loss[0]["x"], loss[0]["y"]) == ("loss", [1, 2], [2.0, None])
    assert loss[1]["name"] == "bce.&lt;script&gt;alert(1)&lt;/script&gt;"
    assert figures["Learning rate"]["data"][0]["y"] == [0.1, 0.05]
    assert figures["overlap.dice"]["data"][0]["y"] == [0.75]
    assert ["head", "0.5"] in Page(folder / "report.html").rows


def test_pictures_are_embedded_whole(folder):
    page = Page(write_report(folder))
    (source,) = [address for address in page.fetched if address.startswith("data:")]
    content = base64.b64decode(source.partition("base64,")[2])
    assert content == (folder / "pictures" / "test" / "000.png").read_bytes()


def test_a_picture_outside_its_folder_is_refused(folder):
    (folder / "secret.png").write_bytes(b"secret")
    index = folder / "pictures" / "test" / "index.json"
    index.write_text(json.dumps([{"file": "../../secret.png"}]))
    with pytest.raises(
        RunFolderError, match=r"expected a picture beside it, got '../../secret.png'"
    ):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_a_table_with_a_short_row_is_named(folder):
    table = {"columns": ["a", "b"], "rows": [[1, 2], [3]]}
    (folder / "tables" / "own.json").write_text(json.dumps(table))
    with pytest.raises(RunFolderError, match=r"own.json: rows\[1\]: expected 2 values, got 1"):
        write_report(folder)


def test_a_line_of_the_journal_that_is_no_json_is_named(folder):
    path = folder / "metrics.jsonl"
    path.write_text("{}\nnot json\n{}\n")
    with pytest.raises(RunFolderError, match=r"metrics.jsonl:2: not a line of JSON"):
        write_report(folder)


def test_a_folder_without_a_run_file_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"holds no run.yaml"):
        write_report(tmp_path)


def test_a_run_that_has_only_begun_has_a_report_too(tmp_path):
    (tmp_path / "run.yaml").write_text("name: new\n")
    assert "metrics.jsonl holds no line yet" in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_missing_extra_is_named_with_its_installation(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(PluginError, match="plotly is not installed") as caught:
        write_report(folder)
    assert caught.value.hint == "pip install 'mlkit-core[report]'"


def test_a_real_run_reports_stages_pictures_and_weights_of_its_checkpoint(make_run):
    run = make_run("stages=[{name: warm},{name: fine}]", "trainer.epochs=1", "data.count=4")
    run.fit()
    early = Page(write_report(run.folder))
    assert ["encoders.image", "random weights"] in early.rows  # from the checkpoint
    marks = early.data()[0]["layout"]["annotations"]
    assert [(mark["text"], mark["x"]) for mark in marks] == [("warm", 0.0), ("fine", 1)]
    run.evaluate("val")
    page = Page(write_report(run.folder))
    assert len([a for a in page.fetched if a.startswith("data:image/png")]) == 4
