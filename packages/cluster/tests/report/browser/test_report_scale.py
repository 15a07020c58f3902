"""The page in a real browser: runs with parts missing, large runs, other homes for pictures."""

import json
import threading

import numpy as np
import pytest

from mlkit_cluster.report import write_report
from mlkit_cluster.report.server import ReportServer

REPORT = "window.mlkitReport"


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (1, {}),
        (2, {"labels": False}),
        (9, {"distances": "none", "clusters": False, "projections": False, "labels": False}),
        (9, {"distances": "edges", "failed": 2}),
    ],
)
def test_page_copes_with_missing_parts(browser, make_run, tmp_path, count, parts):
    run = make_run(tmp_path / "run", count, **parts)
    page = write_report(run.folder, tmp_path / "report.html", title="A <b>title</b>")
    browser.open(page.as_uri())
    for tab in browser.js("[...document.querySelectorAll('[role=tab]')].map((t) => t.id.slice(4))"):
        browser.js(f"{REPORT}.showTab('{tab}')")
    browser.js(f"{REPORT}.openImage(0)")
    assert browser.errors == []
    assert browser.js("document.querySelector('h1').textContent") == "A <b>title</b>"


def test_beyond_700_images_known_pairs_are_told_and_others_admitted(browser, make_run, tmp_path):
    run = make_run(tmp_path / "run", 720)
    page = write_report(run.folder, tmp_path / "report.html")
    browser.open(page.as_uri())
    near = browser.js(f"[...{REPORT}.losses.table.keys()].slice(0, 40)")
    pairs = [divmod(key, 720) for key in near]
    found = browser.js(f"{json.dumps(pairs)}.map(([i, j]) => {REPORT}.pairLoss(i, j))")
    true = [[m[i, j] for m in run.matrix.values()] for i, j in pairs]
    np.testing.assert_allclose(np.array(found, float), true, rtol=1e-6)
    sampled = set(browser.js(f"[...{REPORT}.losses.positions]"))
    assert len(sampled) == 500
    i, j = sorted(set(range(719)) - sampled)[:2]
    if browser.js(f"{REPORT}.pairLoss({i}, {j})") is None:
        browser.js(f"{REPORT}.openPair({i}, {j})")
        assert "not among them" in browser.js(
            "document.querySelector('#part-pair .note').textContent"
        )
    assert browser.errors == []


def test_beyond_the_limit_thumbnails_lie_beside_the_page(browser, make_run, tmp_path):
    run = make_run(tmp_path / "run", 8, distances="none", clusters=False, labels=False)
    page = write_report(run.folder, tmp_path / "out" / "report.html", max_embedded=5)
    assert (tmp_path / "out" / "report-pictures" / "sheet-00000.webp").is_file()
    browser.open(page.as_uri())
    browser.wait("document.querySelectorAll('.grid .card').length === 8")
    files = [url for url in browser.requests if not url.startswith("data:")]
    assert files[0] == page.as_uri()
    assert all(url.startswith((tmp_path / "out").as_uri()) for url in files)
    assert browser.errors == []


def test_served_page_makes_its_pictures_on_request(browser, shared_run):
    with ReportServer(shared_run.folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        browser.open(server.url)
        browser.wait("document.querySelectorAll('.grid .card').length === 24")
        wanted = f"{server.url}large/5.webp"
        browser.wait("performance.getEntriesByType('resource').length >= 24")
        assert all(url.startswith(server.url) for url in browser.requests)
        assert wanted in browser.requests
        assert browser.errors == []
        browser.send("Page.navigate", url="about:blank")
        server.shutdown()
        thread.join()


def test_five_thousand_images_fit_and_start_quickly(browser, make_run, tmp_path):
    run = make_run(tmp_path / "run", 5000)
    page = write_report(run.folder, tmp_path / "report.html")
    megabytes = page.stat().st_size / 1e6
    browser.open(page.as_uri())
    seconds = browser.js(f"{REPORT}.startedAfterMs") / 1000
    browser.js("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))")
    points = browser.places()
    low, high = points[:40:10].min(0) - 2.5, points[:40:10].max(0) + 2.5
    browser.drag([tuple(low), (high[0], low[1]), tuple(high), (low[0], high[1])])
    inside = np.flatnonzero(((points > low) & (points < high)).all(1))
    assert browser.selected() == set(inside.tolist())
    assert megabytes < 16
    assert seconds < 10  # 0.4 s on an idle core
    assert browser.errors == []
    print(f"5,000 images: {megabytes:.1f} MB, interactive after {seconds:.2f} s")
