"""Thumbnails: size, turn, depth, and files that are none."""

import io

import numpy as np
import pytest
from PIL import Image

from mlkit_cluster.report.pictures import data_uri, fitted, make_pictures, shrunk


def opened(webp: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(webp)).convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (64, 48)), ((100, 1), (64, 1)), ((3, 5), (3, 5)), ((480, 641), (48, 64))],
)
def test_fitted_keeps_the_shape_and_never_enlarges(size, expected):
    assert fitted(size, 64) == expected


def test_cells_lie_in_rows_of_sixteen(tmp_path):
    files = []
    for number in range(20):
        files.append(tmp_path / f"{number}.png")
        Image.new("RGB", (80, 80), (10 * number, 255 - 10 * number, 0)).save(files[-1])
    pictures = make_pictures(files, [(80, 80)] * 20, large=[3])
    assert len(pictures.sheets) == 1
    sheet = opened(pictures.sheets[0])
    for number in (0, 15, 16, 19):
        x, y = number % 16 * 64 + 32, number // 16 * 64 + 32
        assert abs(sheet[y, x] - (10 * number, 255 - 10 * number, 0)).max() < 12
    assert set(pictures.large) == {3}
    assert pictures.missing == ()


def test_turned_photograph_is_shown_upright(tmp_path):
    image = Image.new("RGB", (40, 20), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 20, 20))  # left half red
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: left becomes top
    path = tmp_path / "turned.png"
    image.save(path, exif=exif)
    upright = np.asarray(shrunk(path, (20, 40), (64,))[0])
    assert upright.shape == (40, 20, 3)
    assert upright[5, 10, 0] > 200
    assert upright[35, 10, 2] > 200
    as_stored = np.asarray(shrunk(path, (40, 20), (64,))[0])
    assert as_stored.shape == (20, 40, 3)
    assert as_stored[10, 5, 0] > 200


def test_deep_grey_image_is_not_cut_to_white(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    row = np.asarray(shrunk(tmp_path / "deep.png", (64, 64), (64,))[0])[10, :, 0].astype(int)
    np.testing.assert_allclose(row, np.linspace(0, 255, 64), atol=2)


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new(mode, (30, 20)).save(path)
    assert shrunk(path, (30, 20), (64, 16))[1].mode == "RGB"


def test_broken_and_missing_files_cost_one_cell_each(tmp_path):
    good, broken = tmp_path / "good.png", tmp_path / "broken.jpg"
    Image.new("RGB", (10, 10), (200, 0, 0)).save(good)
    broken.write_bytes(good.read_bytes()[:40])
    pictures = make_pictures([broken, good, tmp_path / "none.png"], [(10, 10)] * 3, large=[0, 1, 2])
    assert pictures.missing == (0, 2)
    assert set(pictures.large) == {1}
    assert opened(pictures.sheets[0])[32, 64 + 32, 0] > 180


def test_data_uri_holds_the_file():
    assert data_uri(b"abc") == "data:image/webp;base64,YWJj"
