"""What is put aside comes back, and nothing stays behind."""

from __future__ import annotations

import errno

import pytest
import torch

from mlkit_dvis.pipeline.spill import Spill, SpillError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frames_of_equal_size_come_back_bit_for_bit(tmp_path, dtype):
    values = torch.randn(7, 3, 4, 5, dtype=dtype)
    with Spill(tmp_path) as spill:
        file = spill.file("values")
        for frame in values:
            file.append(frame)
        assert torch.equal(file.read_range(2, 6), values[2:6])
        assert torch.equal(file.read(0), values[0])
        file.append(values[0])  # writing goes on after reading
        assert torch.equal(file.read(7), values[0])


def test_frames_of_unequal_numbers_of_rows_come_back(tmp_path):
    frames = [torch.randn(n, 6) for n in (2, 0, 5, 1)]
    with Spill(tmp_path) as spill:
        for frame in frames:
            spill.file("rows").append(frame)
        for index in (3, 0, 2, 1):
            assert torch.equal(spill.file("rows").read(index), frames[index])


def test_half_precision_keeps_eleven_bits(tmp_path):
    values = torch.rand(1, 4, 9)
    with Spill(tmp_path) as spill:
        spill.file("half", torch.float16).append(values[0])
        assert torch.allclose(spill.file("half").read(0).float(), values[0], atol=2**-12)


def test_nothing_is_left_behind(tmp_path):
    with Spill(tmp_path) as spill:
        spill.file("a").append(torch.zeros(1, 1))
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    with Spill(tmp_path) as spill:
        file = spill.file("a")

        class Full:
            def seek(self, *_):
                pass

            def write(self, _):
                raise OSError(errno.ENOSPC, "No space left on device")

            def close(self):
                pass

        file._file.close()
        monkeypatch.setattr(file, "_file", Full())
        with pytest.raises(SpillError, match="No space left") as caught:
            file.append(torch.zeros(1, 1))
        assert "recompute" in caught.value.hint
