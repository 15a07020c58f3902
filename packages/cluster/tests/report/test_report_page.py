"""The file itself: nothing from outside, nothing that data could break."""

import base64
import hashlib
import json
import re
from html import unescape

import numpy as np
import pytest

from mlkit_cluster.report import write_report
from mlkit_cluster.report.packing import json_text, pack, pack_half, plain
from mlkit_core.errors import InputError


@pytest.fixture(scope="module")
def html(shared_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("html") / "deep" / "report.html"
    return write_report(shared_run.folder, out, title="Tom & <b>Jerry</b>").read_text("ascii")


def block(html: str, name: str) -> str:
    start = html.index(f'id="{name}">') + len(f'id="{name}">')
    return html[start : html.index("</script>", start)]


def test_page_names_no_other_place(html):
    without_data = html.replace(block(html, "data"), "").replace(block(html, "pictures"), "")
    assert not re.search(r"https?:|url\(|@import|\bsrc=|\bhref=", without_data)
    assert not re.search(r"""["'(=]//""", without_data)
    pictures = json.loads(block(html, "pictures"))
    uris = [*pictures["sheets"], *pictures["large"].values()]
    assert len(pictures["large"]) == 24
    assert all(uri.startswith("data:image/webp;base64,") for uri in uris)


def test_policy_allows_just_this_script_and_this_style(html):
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1])
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL)[1]
    style = re.search(r"<style>(.*)</style>", html, re.DOTALL)[1]
    for text in (script, style):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "img-src data:;" in policy
    assert "unsafe" not in policy


def test_hostile_names_are_in_the_data_and_nowhere_in_the_markup(html, hostile_names):
    assert html.count("</script>") == 3
    assert "<b>Jerry" not in html
    assert "onerror" not in html.replace(block(html, "data"), "")
    assert not set("<>&") & set(block(html, "data"))
    assert json.loads(block(html, "data"))["paths"][:5] == list(hostile_names)


def test_page_is_written_whole_and_anew(shared_run, tmp_path):
    out = tmp_path / "report.html"
    out.write_text("old")
    assert write_report(shared_run.folder / "run.db", out) == out
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_same_run_gives_the_same_bytes(shared_run, tmp_path):
    pages = [write_report(shared_run.folder, tmp_path / name).read_bytes() for name in "ab"]
    assert pages[0] == pages[1]


def test_no_run_is_a_clear_error(tmp_path):
    with pytest.raises(InputError, match=r"run\.db is missing"):
        write_report(tmp_path, tmp_path / "report.html")


def test_page_tells_what_was_measured(html):
    told = json.loads(block(html, "data"))["measured"]
    facts = dict(told["facts"])
    assert facts["images"] == 24
    assert facts["images that could not be read"] == 2
    assert facts["weights of a total"] == "box 7.5, cls 0.5, dfl 1.5"
    assert facts["distances table" if "distances table" in facts else "distance mode"]
    model = dict(told["models"][0]["facts"])
    assert model["sha256 of the weights"] == "ab" * 32
    assert model["confidence of targets, at least"] == 0.25
    assert "ultralytics 8.4.190" in model["versions"]
    assert told["evaluations"][0]["scores"]["knn"][0]["majority"] == 0.21
    assert told["failed"] == [[f"broken{n}.jpg", "cannot identify image file"] for n in range(2)]


def test_packed_arrays_come_back():
    packed = pack([1.5, np.nan, -2], "f4")
    np.testing.assert_array_equal(
        np.frombuffer(base64.b64decode(packed["b"]), "<f4"), [1.5, np.nan, -2]
    )


def test_halves_are_scaled_only_where_they_must():
    small, large = pack_half(np.float32([0.1, 9.0])), pack_half(np.float32([3.0, 130_000.0]))
    assert small["s"] == 1
    values = np.frombuffer(base64.b64decode(large["b"]), "<f2").astype(np.float64) * large["s"]
    np.testing.assert_allclose(values, [3, 130_000], rtol=1e-3)


def test_json_in_html_is_ascii_without_markup():
    value = {"</script>": "\u2028é\U0001f600\udcff&"}
    text = json_text(value)
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == value


def test_plain_values_have_no_nan_and_no_numpy():
    given = {1: np.float32(0.5), "a": [np.nan, np.int64(3), (None, True)], "b": np.bool_(True)}
    assert plain(given) == {"1": 0.5, "a": [None, 3, [None, True]], "b": True}
