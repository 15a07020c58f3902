"""The page in a real browser: pointer, keyboard, colours, numbers."""

import csv
import io
import json

import numpy as np
import pytest

from mlkit_cluster.report import write_report

REPORT = "window.mlkitReport"


@pytest.fixture(scope="session")
def page(shared_run, tmp_path_factory):
    return write_report(shared_run.folder, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def opened(browser, page):
    browser.open(page.as_uri())
    return browser


def around(points: np.ndarray, margin: float = 6) -> list[tuple[float, float]]:
    (x0, y0), (x1, y1) = points.min(0) - margin, points.max(0) + margin
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def inside(points: np.ndarray, box: list[tuple[float, float]]) -> set[int]:
    (x0, y0), (x1, y1) = box[0], box[2]
    x, y = points.T
    return set(np.flatnonzero((x > x0) & (x < x1) & (y > y0) & (y < y1)).tolist())


def test_page_loads_without_errors_and_asks_for_nothing_else(opened, page):
    assert opened.js("document.querySelectorAll('.plot canvas').length") == 4
    opened.wait("document.querySelectorAll('.grid .card').length === 24")
    assert opened.errors == []
    others = {url for url in opened.requests if not url.startswith("data:image/webp;base64,")}
    assert others == {page.as_uri()}


def test_lasso_selects_the_images_inside_it(opened):
    points = opened.places()
    middle = points.mean(0)
    corners = [middle + d for d in ((-150, 10), (20, -160), (130, 0), (0, 140))]
    opened.drag([tuple(c) for c in corners])
    sides = np.roll(corners, -1, 0) - corners
    # Inside a convex polygon every side has the point on the same hand.
    hands = [
        sides[k, 0] * (points[:, 1] - corners[k][1]) - sides[k, 1] * (points[:, 0] - corners[k][0])
        for k in range(4)
    ]
    expected = set(np.flatnonzero((np.array(hands) > 0).all(0)).tolist())
    assert 0 < len(expected) < 24
    assert opened.selected() == expected
    heading = f"{len(expected)} selected of 24 shown"
    opened.wait(f"document.querySelector('.panel h2').textContent === '{heading}'")


def test_selection_in_one_map_dims_the_others_in_both(opened):
    ink = f"""{REPORT}.views.map((v) => {{
        const c = v.base.getContext('2d').getImageData(0, 0, v.base.width, v.base.height).data;
        let sum = 0; for (let k = 3; k < c.length; k += 4) sum += c[k]; return sum; }})"""
    before = np.array(opened.js(ink))
    opened.js(f"{REPORT}.setSelection([3])")
    assert (np.array(opened.js(ink)) < 0.5 * before).all()


def test_box_selects_shift_adds_and_alt_removes(opened):
    opened.js("document.querySelector('[title=\"key b\"]').click()")
    points = opened.places(view=1)
    first, second = around(points[:2]), around(points[[7]])
    opened.drag([first[0], first[1], first[2]])
    assert opened.selected() == inside(points, first) >= {0, 1}
    opened.drag([second[0], second[1], second[2]], modifiers=8)
    both = inside(points, first) | inside(points, second)
    assert opened.selected() == both
    opened.drag([second[0], second[1], second[2]], modifiers=1)
    assert opened.selected() == both - inside(points, second)


def test_hover_shows_thumbnail_name_and_numbers(opened):
    x, y = opened.places()[9]
    opened.hover(x, y)
    tip = opened.js("document.getElementById('tip').textContent")
    near = opened.js(f"{REPORT}.state.hovered")
    assert opened.js(f"{REPORT}.data.paths[{near}]").split("/")[-1] in tip
    assert "cls loss" in tip
    assert opened.js("document.querySelector('#tip canvas') !== null")


def test_click_opens_the_image_and_arrow_keys_go_on(opened):
    points = opened.places()
    lonely = max(range(24), key=lambda p: np.sort(np.hypot(*(points - points[p]).T))[1])
    opened.drag([tuple(points[lonely])])
    opened.wait("document.querySelector('dialog[open]') !== null")
    path = "document.querySelector('dialog .facts tr:nth-child(2) td').textContent"
    assert opened.js(path) == opened.js(f"{REPORT}.data.paths[{lonely}]")
    opened.press("ArrowLeft" if lonely else "ArrowRight")
    assert opened.js(path) == opened.js(f"{REPORT}.data.paths[{lonely - 1 if lonely else 1}]")


def test_keyboard_alone_moves_selects_and_opens(opened):
    opened.js(f"{REPORT}.views[0].top.focus()")
    for key in ("ArrowRight", "ArrowUp"):
        opened.press(key)
    at = opened.js(f"{REPORT}.views[0].cursor")
    opened.press(" ", " ")
    assert opened.selected() == {at}
    assert "1 images selected" in opened.js("document.getElementById('said').textContent")
    opened.press("Enter", "\r")
    opened.wait("document.querySelector('dialog[open]') !== null")


def test_hostile_names_stay_text(opened, hostile_names):
    opened.js(f"{REPORT}.setSelection([0, 1, 2, 3, 4])")
    for tab in ("clusters", "findings", "measured", "pair", "explore"):
        opened.js(f"{REPORT}.showTab('{tab}')")
    opened.click("table")
    opened.js(f"{REPORT}.openImage(0)")
    shown = opened.js("[...document.querySelectorAll('.rows .link')].map((b) => b.textContent)")
    assert set(hostile_names) <= set(shown)
    assert opened.js("document.querySelectorAll('img, main script, iframe').length") == 0
    assert opened.errors == []


def table(browser) -> dict[str, list[float]]:
    rows = browser.js(
        "[...document.querySelectorAll('#losses tbody tr')].map((r) => "
        "[...r.children].map((c) => c.textContent))"
    )
    return {row[0].split(" ")[0]: [float(row[k]) for k in (1, 3, 4, 5)] for row in rows}


def test_pair_shows_the_true_losses_in_both_directions(opened, shared_run):
    i, j = 6, 15
    opened.js(f"{REPORT}.openPair({i}, {j})")
    shown = table(opened)
    gains = {"box": 7.5, "cls": 0.5, "dfl": 1.5}
    total = sum(gains[n] * m.astype(np.float64) for n, m in shared_run.matrix.items())
    for name, matrix in {**shared_run.matrix, "total": total}.items():
        true = [matrix[i, j], matrix[j, i], matrix[i, i], matrix[j, j]]
        assert shown[name] == pytest.approx(true, rel=6e-3)  # three digits are shown
    assert abs(shown["total"][0] - shown["total"][1]) > 1
    opened.click("Swap")
    swapped = table(opened)
    assert swapped["total"] == [shown["total"][k] for k in (1, 0, 3, 2)]


def test_losses_in_the_page_are_those_of_the_run(opened, shared_run):
    pairs = [(0, 1), (1, 0), (23, 4), (4, 4)]
    found = opened.js(f"{json.dumps(pairs)}.map(([i, j]) => {REPORT}.pairLoss(i, j))")
    true = [[m[i, j] for m in shared_run.matrix.values()] for i, j in pairs]
    np.testing.assert_allclose(found, true, rtol=6e-4)  # half precision


def test_pair_without_targets_says_so(opened):
    opened.js(f"{REPORT}.openPair(2, 23)")  # the last image's column has no box loss
    total = "document.querySelector('#losses tbody tr:last-child td').textContent"
    assert opened.js(total) == "\u2013"


def test_targets_of_j_are_drawn_on_i_where_the_model_saw_them(opened, shared_run):
    import sqlite3

    db = sqlite3.connect(shared_run.folder / "run.db")
    query = (
        "SELECT img_id, input_x1, input_y1, input_x2 FROM predictions WHERE confidence >= 0.25 "
        "AND input_y1 > 30 ORDER BY confidence DESC LIMIT 1"
    )
    img_id, x1, y1, x2 = db.execute(query).fetchone()
    j = (img_id - 5) // 2
    i = next(p for p in range(24) if p % 4 != j % 4)  # another shape of image
    opened.js(f"{REPORT}.openPair({i}, {j})")
    opened.wait("document.querySelectorAll('.cross canvas').length === 2")
    pixel = f"""(() => {{
        const canvas = document.querySelector('.cross canvas');
        const at = [({x1} + {x2}) / 2, {y1}].map((v) => Math.round((v / 320) * canvas.width));
        const c = canvas.getContext('2d').getImageData(at[0] - 2, at[1] - 2, 5, 5).data;
        for (let k = 0; k < c.length; k += 4)
            if (c[k] === 255 && c[k + 1] === 140 && c[k + 2] === 26) return true;
        return false; }})()"""
    opened.wait(pixel)


def test_csv_and_paths_are_those_of_the_selection(opened, hostile_names, shared_run):
    opened.js(f"{REPORT}.setSelection([0, 2, 4])")
    rows = list(csv.DictReader(io.StringIO(opened.js(f"{REPORT}.csv()"), newline="")))
    assert [row["path"] for row in rows] == [hostile_names[k] for k in (0, 2, 4)]
    assert [row["img_id"] for row in rows] == ["5", "9", "13"]
    assert rows[2]["box_loss"] == ""  # no labelled objects: unknown, not 0
    assert float(rows[0]["cls_loss"]) > 0
    paths = opened.js(f"{REPORT}.paths()").split("\n")
    assert paths[0] == str(shared_run.folder / "images" / hostile_names[0])


def shown_count(browser) -> int:
    return browser.js(f"{REPORT}.state.visible.reduce((a, b) => a + b, 0)")


def test_filters_hide_images_and_reset_shows_them(opened, shared_run):
    slider = "document.querySelector('[aria-label=\"Least of cls loss\"]')"
    change = f"{slider}.value = 100; {slider}.dispatchEvent(new Event('input'))"
    opened.js(change)
    values = np.array(list(opened.js(f"[...{REPORT}.columns.get('cls_loss').values]")))
    half = (values.min() + values.max()) / 2
    assert shown_count(opened) == (values >= half).sum()
    opened.click("Reset filters")
    assert shown_count(opened) == 24
    opened.js("document.querySelector('.entry').click()")  # the first cluster
    assert shown_count(opened) == 24 - (shared_run.cluster == 0).sum()
    opened.js("document.querySelector('.entry').click()")
    opened.js("document.querySelector('.chip').click()")
    label = opened.js("document.querySelector('.chip').firstChild.textContent")
    count = int(opened.js("document.querySelector('.chip small').textContent"))
    assert label in ("person", "bicycle", "car", "dog", "chair")
    assert shown_count(opened) == count


def test_click_in_the_matrix_opens_that_pair(opened, shared_run):
    opened.js(f"{REPORT}.showTab('matrix')")
    box = opened.js(
        "(({left, top, width}) => [left, top, width])"
        "(document.querySelector('.heat').getBoundingClientRect())"
    )
    side = 24 + 2  # cells and the strip of clusters
    row, column = 3, 20
    cell = box[2] / side
    opened.drag([(box[0] + (2 + column + 0.5) * cell, box[1] + (2 + row + 0.5) * cell)])
    order = np.lexsort([np.arange(24), shared_run.cluster])
    inputs = opened.js(
        "[...document.querySelectorAll('#part-pair input[type=search]')].map((i) => i.value)"
    )
    assert inputs == [str(2 * order[row] + 5), str(2 * order[column] + 5)]


def test_colours_follow_the_choice_and_the_theme(opened):
    opened.js(f"{REPORT}.setColour('cls_loss')")
    assert opened.js("document.querySelector('.legend .ramp') !== null")
    light = opened.js("getComputedStyle(document.body).backgroundColor")
    opened.js("document.getElementById('theme').click()")
    assert opened.js("getComputedStyle(document.body).backgroundColor") != light


def test_a_map_may_show_two_measures(opened):
    opened.js(
        f"{REPORT}.views[0].axes = ['cls_loss', 'mean_iou']; {REPORT}.views[0].show('measures')"
    )
    xs = opened.js(f"[...{REPORT}.views[0].x]")
    assert xs == opened.js(f"[...{REPORT}.columns.get('cls_loss').values]")


def test_a_link_opens_what_it_names(browser, page):
    browser.open(page.as_uri() + "#pair=9,11")
    browser.wait("document.querySelector('#part-pair') !== null")
    inputs = browser.js(
        "[...document.querySelectorAll('#part-pair input[type=search]')].map((i) => i.value)"
    )
    assert inputs == ["9", "11"]
