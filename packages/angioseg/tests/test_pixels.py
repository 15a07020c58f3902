import os

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit_angioseg.frames.letterbox import fit_letterbox, resize_grey, resize_mask, to_original
from mlkit_angioseg.frames.pixels import FileHashes, read_mask, read_stored, to_grey
from mlkit_core.errors import BuildError, DataError
from mlkit_core.types import Letterbox, SampleMeta


def test_grey_is_by_bits_and_not_by_the_brightest_pixel():
    dark = np.array([[0, 51, 102]], np.uint8)
    assert to_grey(dark)[0].tolist() == pytest.approx([0.0, 0.2, 0.4])
    twelve = np.array([[0, 819, 4095]], np.uint16)
    assert to_grey(twelve, bits=12)[0].tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert to_grey(twelve)[0, 2] == pytest.approx(4095 / 65535)
    with pytest.raises(ValueError, match="value 4095 needs more than 10 bits"):
        to_grey(twelve, bits=10)


def test_clahe_makes_the_contrast_of_dim_and_bright_halves_more_alike():
    rng = np.random.default_rng(0)
    texture = rng.standard_normal((128, 128))
    dim, bright = 0.2 + 0.02 * texture[:, :64], 0.6 + 0.1 * texture[:, 64:]
    stored = np.clip(255 * np.hstack([dim, bright]), 0, 255).astype(np.uint8)
    plain, grey = to_grey(stored), to_grey(stored, window="clahe")
    before, after = (g[:, 80:].std() / g[:, :48].std() for g in (plain, grey))
    assert before > 4.5
    assert after < before / 1.5
    assert grey.dtype == np.float32
    assert 0 <= grey.min() < grey.max() <= 1


def test_the_percentile_window_stretches_1_to_99_and_clips():
    ramp = np.arange(101, dtype=np.uint8)[None]
    grey = to_grey(ramp, window="percentile")[0]
    assert grey[1] == pytest.approx(0, abs=1e-6)
    assert grey[99] == pytest.approx(1, abs=1e-6)
    assert grey[50] == pytest.approx(0.5, abs=1e-6)
    assert (grey[0], grey[100]) == (0, 1)
    flat = to_grey(np.full((4, 4), 9, np.uint8), window="percentile")
    assert np.isfinite(flat).all()


def test_colour_becomes_luma():
    colour = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    assert to_grey(colour)[0].tolist() == pytest.approx([0.299, 0.587, 0.114, 1.0])


@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "P", "1"])
def test_pictures_of_every_common_mode_are_decoded(tmp_path, mode):
    values = np.array([[0, 255], [255, 0]], np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(values.astype(np.uint16) * 257)
    elif mode in ("P", "1"):
        picture = Image.fromarray(values).convert(mode)
    else:
        picture = Image.fromarray(values).convert(mode)
    picture.save(tmp_path / "p.png")
    grey = to_grey(read_stored(tmp_path / "p.png", None, "t:2"))
    assert grey.tolist() == pytest.approx(np.array([[0, 1], [1, 0]]))


def test_a_palette_or_one_bit_mask_reads_as_a_mask(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", "t:2").tolist() == [[True, False]]
    with pytest.raises(DataError, match=r"t:2: mask .*gone\.png: cannot be decoded"):
        read_mask(tmp_path / "gone.png", "t:2")


def test_file_hashes_follow_the_bytes(tmp_path):
    path, hashes = tmp_path / "f", FileHashes()
    path.write_bytes(b"abc")
    # SHA-256 of "abc", FIPS 180-2 appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashes.of(path) == expected
    path.write_bytes(b"abd")
    os.utime(path, ns=(1, 1))
    assert hashes.of(path) != expected


def test_letterbox_keeps_the_aspect_and_to_original_inverts_it():
    box = fit_letterbox((40, 80), 20)
    assert (box.scale, box.size) == (0.25, (10, 20))
    ramp = torch.linspace(0, 1, 80).expand(1, 40, 80)
    small = resize_grey(ramp, box.size)
    padded = torch.full((1, 32, 32), -100.0)
    padded[:, :10, :20] = small
    back = to_original(padded, SampleMeta(key="k", size=(40, 80), letterbox=box))
    assert back.shape == (1, 40, 80)
    assert (back - ramp).abs().max() < 0.03  # half a coarse pixel at the border
    assert back.min() >= 0  # the padding did not bleed in


def test_to_original_says_when_meta_cannot_tell():
    with pytest.raises(BuildError, match="frame7: meta has no original size"):
        to_original(torch.zeros(1, 4, 4), SampleMeta(key="frame7", letterbox=None))


def test_a_shrunk_mask_is_the_majority_and_stays_binary():
    mask = torch.zeros(1, 4, 4)
    mask[:, :2, 0] = 1
    mask[:, 2:, 2:] = 1
    assert resize_mask(mask, (2, 2)).tolist() == [[[1, 0], [0, 1]]]
    big = resize_mask(mask, (8, 8))
    assert set(big.unique().tolist()) == {0, 1}
    assert big.sum() == 4 * mask.sum()


def test_a_letterbox_of_scale_one_changes_nothing():
    assert fit_letterbox((512, 512), 512) == Letterbox(scale=1.0, size=(512, 512))


def test_one_channel_of_a_colour_picture_can_be_read():
    stored = np.zeros((2, 2, 3), np.uint8)
    stored[..., 1] = 51
    assert to_grey(stored, channel="green") == pytest.approx(0.2)
    assert to_grey(stored, channel="red") == pytest.approx(0.0)
    assert to_grey(stored) == pytest.approx(0.2 * 0.587)
