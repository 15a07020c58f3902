"""Attention over the padded grid, brought to the frame; and what was looked at but not reported."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from mlkit_dvis.drawing import Footage, TrackedVideo, track_rows
from mlkit_dvis.drawing.attention import (
    LONGEST_SIDE,
    QueryGrids,
    TrackAttention,
    attention_stem,
    grid_frames,
    resized_shape,
    shown_size,
)
from mlkit_dvis.drawing.heatmaps import (
    attention_centres,
    covered_share,
    frame_map,
    heat_picture,
    share_outside,
)
from mlkit_dvis.drawing.shapes import Shape
from mlkit_dvis.drawing.unmatched import (
    UnmatchedQuery,
    distinct_places,
    unmatched_queries,
    write_unmatched,
)
from mlkit_dvis.drawing.unmatched_sheet import UnmatchedSheet
from mlkit_dvis.results import InstanceTrack, QueryTable, VideoResult

CLASSES = ("fish", "crab")


def one_hot(grid, row, column):
    attention = np.zeros(grid, np.float32)
    attention[row, column] = 1
    return attention


def rle(size, top, left, height, width):
    mask = np.zeros(size, np.uint8, order="F")
    mask[top : top + height, left : left + width] = 1
    found = coco.encode(mask)
    return {"size": found["size"], "counts": found["counts"].decode()}


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 5), (3, 1)])
def test_a_cell_lights_the_pixels_of_its_own_square(row, column):
    # A 4 x 6 grid over a frame of 32 x 48 without padding: cells of 8 pixels.
    heat = frame_map(one_hot((4, 6), row, column), (1.0, 1.0), (32, 48))
    top = np.unravel_index(heat.argmax(), heat.shape)
    assert (top[0] // 8, top[1] // 8) == (row, column)
    # Half a pixel from the cell's centre: (1 - 0.5 / 8) along each axis, at the edge 1.
    assert heat[8 * row + 4, 8 * column + 4] >= (15 / 16) ** 2 - 1e-6
    near = np.zeros((32, 48), bool)
    near[max(8 * row - 4, 0) : 8 * row + 12, max(8 * column - 4, 0) : 8 * column + 12] = True
    assert (heat[near] > 0).all()
    assert (heat[~near] == 0).all()


def test_padding_is_cut_off_and_does_not_shift_the_map():
    # Content is the left 3 of 4 columns and upper 2 of 4 rows; the frame is twice the input.
    content, size = (0.5, 0.75), (32, 48)
    heat = frame_map(one_hot((4, 4), 1, 2), content, size)
    top = np.unravel_index(heat.argmax(), heat.shape)
    assert 16 <= top[0] < 32
    assert 32 <= top[1] < 48
    beyond = frame_map(one_hot((4, 4), 3, 3), content, size)
    assert (beyond == 0).all()


def test_maps_are_torchs_bilinear_enlargement_cropped():
    attention = np.random.default_rng(0).random((7, 9), np.float32)
    padded = torch.nn.functional.interpolate(
        torch.from_numpy(attention)[None, None], (56, 72), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    content = (50 / 56, 65 / 72)
    np.testing.assert_allclose(frame_map(attention, content, (50, 65)), padded[:50, :65], atol=1e-5)


def test_coverage_of_cells_by_hand():
    # Grid 2 x 2 over 4 x 4 input pixels; the frame fills 4 x 3 of them, at the same scale.
    mask = np.zeros((4, 3), bool)
    mask[0:2, 0] = True  # half of cell (0, 0)
    mask[3, 2] = True  # a quarter of cell (1, 1), whose other column is padding
    covered = covered_share(mask, (1.0, 0.75), (2, 2))
    np.testing.assert_allclose(covered, [[0.5, 0.0], [0.0, 0.25]], atol=1e-6)


def test_pixels_that_straddle_cells_count_by_their_parts():
    # Three pixels over two cells: the middle one belongs to both by half of itself.
    covered = covered_share(np.array([[False, True, False]]), (1.0, 1.0), (1, 2))
    np.testing.assert_allclose(covered, [[1 / 3, 1 / 3]], atol=1e-6)
    full = covered_share(np.ones((5, 7), bool), (1.0, 1.0), (3, 4))
    np.testing.assert_allclose(full, np.ones((3, 4)), atol=1e-6)


def test_the_share_outside_by_hand():
    covered = np.array([[1.0, 0.5], [0.0, 0.0]], np.float32)
    maps = np.array(
        [
            [[1.0, 0.0], [0.0, 0.0]],  # wholly inside
            [[0.0, 0.0], [1.0, 0.0]],  # wholly outside
            [[0.25, 0.5], [0.25, 0.0]],  # 1 - (0.25 + 0.25)
            [[2.0, 0.0], [2.0, 0.0]],  # not summing to 1: half
        ],
        np.float32,
    )
    np.testing.assert_allclose(share_outside(maps, covered), [0, 1, 0.5, 0.5], atol=1e-6)


def test_the_centre_of_attention_is_in_frame_pixels():
    # Grid 4 x 6, of which 2 x 3 cells show a frame of 20 x 60.
    maps = np.stack([one_hot((4, 6), 0, 0), one_hot((4, 6), 1, 2), one_hot((4, 6), 3, 5)])
    centres = attention_centres(maps, (0.5, 0.5), (20, 60))
    np.testing.assert_allclose(centres[:2], [[10, 5], [50, 15]], atol=1e-4)
    np.testing.assert_allclose(centres[2], [60, 20])  # in the padding: at the frame's corner


def test_heat_is_brightest_at_the_largest_value_and_the_frame_is_seen_elsewhere():
    frame = np.full((8, 8, 3), 120, np.uint8)
    frame[:, 4:] = 30
    heat = one_hot((8, 8), 2, 2) * 0.01
    picture = heat_picture(frame, heat).astype(int)
    assert picture.sum(-1).argmax() == 2 * 8 + 2
    assert (picture[5:, :4] == picture[5, 0]).all()
    assert picture[5, 0].sum() > picture[5, 5].sum() > 0
    assert heat_picture(frame, np.zeros((8, 8), np.float32)).shape == frame.shape


SIZE, GRID = (128, 192), (4, 6)  # cells of 32 pixels


@pytest.fixture
def video():
    """Two frames, four queries: 0 is followed by the reported track, 1 by one that is not."""
    cells = {0: (1, 1), 1: (2, 4), 2: (1, 1), 3: (3, 5)}
    maps = np.stack([one_hot(GRID, *cells[q]) for q in range(4)])
    table = QueryTable(
        scores=np.array([[0.9, 0.5, 0.4, 0.1], [0.9, 0.6, 0.4, 0.2]], np.float32),
        labels=np.array([[0, 1, 0, 1], [0, 1, 0, 0]]),
        no_object=np.array([[0.05, 0.3, 0.5, 0.8], [0.05, 0.3, 0.5, 0.7]], np.float32),
        attention=lambda frame, layer: maps * (1 if layer == -1 else 2),
        layers=(-1, -2),
    )
    masks = tuple(rle(SIZE, 32, 32, 32, 32) for _ in range(2))  # cell (1, 1)
    tracks = (InstanceTrack(0, 0.9, masks, 5, (0.3, 0.7), (0, -1)),)
    return VideoResult(tracks, SIZE, 2, (1.0, 1.0), table)


def test_unmatched_queries_are_those_that_no_reported_track_follows(video):
    rows = track_rows(video.tracks, CLASSES)
    found = unmatched_queries(video, video.queries, rows, top=10)
    # In frame 1 the track follows no query, so that query 0 is among them.
    assert {(q.frame, q.query) for q in found} == {
        (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3),
    }  # fmt: skip
    first = found[0]
    assert (first.frame, first.query, first.label) == (1, 1, 1)
    assert (first.score, first.no_object) == pytest.approx((0.6, 0.3))
    assert (first.outside, first.x, first.y) == pytest.approx((1, 144, 80))
    inside = next(q for q in found if q.query == 2)
    assert inside.outside == pytest.approx(0)  # it looks at the reported object
    weights = [q.weight for q in found]
    assert weights == sorted(weights, reverse=True)


def test_a_frame_gives_at_most_so_many_queries(video):
    found = unmatched_queries(video, video.queries, track_rows(video.tracks, CLASSES), top=1)
    assert [(q.frame, q.query) for q in found] == [(1, 1), (0, 1)]
    assert unmatched_queries(video, video.queries, (), top=0) == []


def test_the_table_is_read_back(video, tmp_path):
    rows = track_rows(video.tracks, CLASSES)
    found = unmatched_queries(video, video.queries, rows, top=2)
    write_unmatched(tmp_path / "u.csv", found, Footage("x", SIZE, 10.0, 2, 5), CLASSES)
    lines = list(csv.DictReader((tmp_path / "u.csv").read_text().splitlines()))
    assert lines[0] == {
        "frame": "1",
        "time_s": "0.5",
        "query": "1",
        "class": "crab",
        "score": "0.6000",
        "no_object_probability": "0.3000",
        "attention_outside_masks": "1.0000",
        "attention_x_px": "144.0",
        "attention_y_px": "80.0",
    }
    assert len(lines) == 4


def test_places_near_one_another_are_shown_once():
    def at(frame, x, score):
        return UnmatchedQuery(frame, 0, 0, score, 0.1, 1.0, x, 50.0)

    queries = [at(0, 10, 0.9), at(1, 12, 0.8), at(2, 60, 0.7), at(3, 90, 0.6)]
    kept = distinct_places(queries, (100, 100), 3)
    assert [q.frame for q in kept] == [0, 2, 3]  # nearer than 14 pixels is the same place
    assert len(distinct_places(queries, (100, 100), 2)) == 2


def tracked(video, fps=10.0):
    rows = track_rows(video.tracks, CLASSES)
    footage = Footage("x", SIZE, fps, 2)
    return TrackedVideo(video, video.tracks, rows, footage, CLASSES, {}, list)


class Frames(list):
    def write(self, frame):
        self.append(frame)


def test_a_tracks_attention_is_drawn_where_its_query_looks(video, tmp_path):
    row = track_rows(video.tracks, CLASSES)[0]
    written = Frames()
    picture = tmp_path / f"{attention_stem(row, -1)}.png"
    drawn = TrackAttention(tracked(video), video.queries, row, -1, writer=written, picture=picture)
    frame = np.full((*SIZE, 3), 90, np.uint8)
    for index in range(2):
        drawn.add(index, frame)
    assert len(written) == 2
    light = [picture.astype(int).sum(-1) for picture in written]
    assert light[0][48, 48] > light[0][16, 16] + 300  # the middle of cell (1, 1)
    assert light[1][48, 48] == light[1][16, 16]  # it followed no query in frame 1
    with Image.open(picture) as top:  # of frame 1, which weighs 0.7
        np.testing.assert_array_equal(np.asarray(top), written[1])


def test_names_of_attention_files_hold_no_separators():
    row = track_rows([InstanceTrack(0, 0.5, (None,), 3)], ("../a/b <c>",))[0]
    assert attention_stem(row, -2) == "track3-_a_b_c_layer-2"


def test_large_frames_are_drawn_smaller():
    assert shown_size((480, 854)) == (480, 854)
    height, width = shown_size((2160, 3840))
    assert width == LONGEST_SIDE
    assert height == 540
    half = resized_shape(Shape(4, 8, np.ones((4, 6), bool)), (20, 40), (10, 20))
    assert half.box_xyxy == (4, 2, 7, 4)


def test_grids_show_every_query_of_some_frames(video, tmp_path):
    assert grid_frames(50, 6) == (0, 10, 20, 29, 39, 49)
    assert grid_frames(1, 6) == (0,)
    grids = QueryGrids(tracked(video), video.queries, (1,), (-1, -2), tmp_path)
    for index in range(2):
        grids.add(index, np.full((*SIZE, 3), 90, np.uint8))
    assert [path.name for path in grids.written] == [
        "queries_frame00002_layer-1.png",
        "queries_frame00002_layer-2.png",
    ]


def test_the_sheet_of_unreported_places_is_drawn(video):
    rows = track_rows(video.tracks, CLASSES)
    places = distinct_places(unmatched_queries(video, video.queries, rows, 9), SIZE, 20)
    sheet = UnmatchedSheet(places, tracked(video, None), video.queries)
    for index in range(2):
        sheet.add(index, np.full((*SIZE, 3), 90, np.uint8))
    assert len(sheet._crops) == len(places) >= 2
    assert sheet.draw().width > 1000
    assert UnmatchedSheet((), tracked(video), video.queries).draw().height > 50
