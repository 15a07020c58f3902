"""Whatever a file stores comes out as RGB; what cannot be read is an error that names the file."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mlkit_cluster.images.pixels import content_hash, read_image, read_input
from mlkit_core.errors import DataError


@pytest.fixture
def gradient() -> np.ndarray:
    return np.arange(6 * 8, dtype=np.uint8).reshape(6, 8) * 5


def test_grey_becomes_three_equal_channels(tmp_path, gradient):
    Image.fromarray(gradient).save(tmp_path / "grey.png")
    pixels = read_image(tmp_path / "grey.png")
    assert pixels.shape == (6, 8, 3)
    assert (pixels == gradient[:, :, None]).all()


def test_of_sixteen_bits_the_upper_eight_are_kept(tmp_path, gradient):
    Image.fromarray(gradient.astype(np.uint16) * 256 + 77).save(tmp_path / "deep.png")
    assert (read_image(tmp_path / "deep.png") == gradient[:, :, None]).all()


def test_cmyk_black_ink_darkens(tmp_path):
    inks = np.zeros((4, 4, 4), np.uint8)
    inks[..., 3] = 255  # all of the black ink
    inks[:, 2:, 3] = 0
    Image.fromarray(inks, "CMYK").save(tmp_path / "print.tif")
    pixels = read_image(tmp_path / "print.tif")
    assert (pixels[:, :2] == 0).all()
    assert (pixels[:, 2:] == 255).all()


def test_palette_and_alpha_become_their_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    image.save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").tolist() == [[[10, 20, 30], [200, 100, 50]]]
    Image.new("RGBA", (1, 1), (9, 8, 7, 0)).save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "alpha.png").tolist() == [[[9, 8, 7]]]


def test_an_image_is_turned_as_its_exif_orientation_says(tmp_path):
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 255  # white in the stored top left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    turned = read_image(tmp_path / "turned.png")
    assert turned.shape == (3, 2, 3)
    assert turned[0, 1].tolist() == [255] * 3  # now the top right


@pytest.mark.parametrize("kept", [0, 20, 300])
def test_an_image_cut_short_is_named(tmp_path, kept):
    path = tmp_path / "cut.jpg"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"cut\.jpg: not a readable image"):
        read_image(path)


def test_bytes_that_are_no_image_and_a_missing_file_are_named(tmp_path):
    (tmp_path / "text.png").write_text("not pixels")
    with pytest.raises(DataError, match=r"text\.png: not a readable image"):
        read_image(tmp_path / "text.png")
    with pytest.raises(DataError, match=r"gone\.png: no such image"):
        read_image(tmp_path / "gone.png")


def test_a_small_file_that_claims_a_huge_image_is_refused_unread(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    with pytest.raises(DataError, match=r"bomb\.png"):
        read_image(tmp_path / "bomb.png")


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "depth.tif")
    with pytest.raises(DataError, match="no known range"):
        read_image(tmp_path / "depth.tif")


def test_the_hash_is_of_the_bytes_by_blake2b(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    # RFC 7693's BLAKE2b of 16 bytes, as `b2sum --length 128` prints it.
    assert content_hash(tmp_path / "a") == "cf4ab791c62b8d2b2109c90275287816"


def test_an_input_is_centred_on_grey(tmp_path):
    Image.new("RGB", (40, 20), (200, 10, 30)).save(tmp_path / "wide.png")
    square = read_input(tmp_path / "wide.png", 80)
    assert tuple(square.shape) == (3, 80, 80)
    assert square[:, 20:60].unique(dim=2).flatten().unique().tolist() == [10, 30, 200]
    assert (square[:, :20] == 114).all()
    assert (square[:, 60:] == 114).all()
