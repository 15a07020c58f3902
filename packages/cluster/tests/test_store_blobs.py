"""Feature blobs, side files of maps, fingerprints."""

import hashlib
import json
import runpy
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from mlkit_cluster.store.blobs import features_json, pack_features, unpack_features
from mlkit_cluster.store.fingerprint import canonical_json, fingerprint
from mlkit_cluster.store.maps import write_maps
from mlkit_core.errors import MlkitError

KIT = runpy.run_path(str(Path(__file__).with_name("store_kit.py")))


def test_a_blob_is_magic_length_header_and_little_endian_numbers():
    blob = pack_features({"p3": np.array([1.0, -2.5]), "p4": np.array([3.0])})
    header = b'{"d":"<f4","l":{"p3":[2],"p4":[1]}}'
    expected = b"ML" + struct.pack("<H", len(header)) + header + struct.pack("<3f", 1, -2.5, 3)
    assert blob == expected


def test_levels_come_back_with_their_shapes_in_order():
    rng = np.random.default_rng(0)
    levels = {"p5": rng.normal(size=(3, 2, 2)), "p3": rng.normal(size=4)}
    found = unpack_features(pack_features(levels, "<f2"))
    assert list(found) == ["p5", "p3"]
    for level, values in levels.items():
        assert np.array_equal(found[level], values.astype("<f2"))


def test_a_detectors_features_cost_at_most_4_2_bytes_a_number():
    widths = {"p3": 64, "p4": 128, "p5": 256}
    blob = pack_features({level: np.ones(width) for level, width in widths.items()})
    assert len(blob) <= 4.2 * 448
    maps = {level: np.ones((width, 4, 4)) for level, width in widths.items()}
    assert len(pack_features(maps, "<f2")) <= 2.1 * 448 * 16


@pytest.mark.parametrize("damage", [b"", b"XX", b"ML\x05\x00{", b"ML\x02\x00{}"])
def test_a_damaged_blob_is_an_error(damage):
    with pytest.raises(MlkitError, match="feature blob"):
        unpack_features(damage)


def test_a_blob_cut_short_is_an_error():
    with pytest.raises(MlkitError, match="expected 8 bytes of numbers, got 7"):
        unpack_features(pack_features({"p3": np.ones(2)})[:-1])


def test_whole_maps_lie_256_images_to_a_file_and_come_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    maps = [{"p3": rng.normal(size=(2, 3, 3)).astype(np.float16)} for _ in range(300)]
    first = write_maps(tmp_path, 0, maps[:200])
    blobs = first + write_maps(tmp_path, 200, maps[200:])
    names = sorted(path.name for path in (tmp_path / "features").iterdir())
    assert names == ["maps-00000000.npy", "maps-00000256.npy"]
    whole = np.load(tmp_path / "features" / names[0])
    assert whole.shape == (256, 18)
    assert np.array_equal(whole[255], maps[255]["p3"].ravel())
    for blob, levels in zip(blobs, maps, strict=True):
        assert len(blob) < 150
        assert np.array_equal(unpack_features(blob, tmp_path)["p3"], levels["p3"])


def test_room_that_was_written_but_never_committed_is_used_again(tmp_path):
    lost, kept = ({"p3": np.full((1, 2, 2), value, np.float16)} for value in (1, 2))
    write_maps(tmp_path, 0, [kept])
    write_maps(tmp_path, 1, [lost, lost])
    (blob,) = write_maps(tmp_path, 1, [kept])
    assert (unpack_features(blob, tmp_path)["p3"] == 2).all()


def test_one_changed_byte_of_a_side_file_is_found(tmp_path):
    (blob,) = write_maps(tmp_path, 0, [{"p3": np.ones((1, 2, 2), np.float16)}])
    path = tmp_path / "features" / "maps-00000000.npy"
    raw = bytearray(path.read_bytes())
    raw[129] ^= 1
    path.write_bytes(raw)
    with pytest.raises(MlkitError, match="crc32 differs"):
        unpack_features(blob, tmp_path)


def test_a_blob_cannot_name_a_file_outside_the_run(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    np.save(tmp_path / "secret.npy", np.ones(1, np.float16))
    crc = zlib.crc32(np.ones(1, "<f2").tobytes())
    header = json.dumps({"d": "<f2", "l": {"p3": [1]}, "f": "../secret.npy", "o": 0, "c": crc})
    blob = b"ML" + struct.pack("<H", len(header)) + header.encode()
    with pytest.raises(MlkitError, match="outside the run's folder"):
        unpack_features(blob, run)


def test_features_and_embeddings_are_json_text():
    assert json.loads(features_json(pack_features({"p3": np.array([[1.5], [2]])}))) == {
        "p3": [[1.5], [2.0]]
    }
    assert json.loads(features_json(struct.pack("<2f", 0.5, -1))) == [0.5, -1.0]


def test_a_fingerprint_is_blake2b_of_sorted_json_and_knows_no_order():
    parts = {"imgsz": 640, "gains": {"cls": 0.5, "box": 7.5}}
    text = '{"gains":{"box":7.5,"cls":0.5},"imgsz":640}'
    assert canonical_json(parts) == text
    expected = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    assert fingerprint(parts) == fingerprint(dict(reversed(parts.items()))) == expected


def test_versions_are_noted_but_are_no_part_of_a_fingerprint():
    from dataclasses import replace

    spec = KIT["spec"]()
    assert replace(spec, versions={"torch": "9"}).fingerprint == spec.fingerprint
    assert KIT["spec"](conf=0.3).fingerprint != spec.fingerprint


def test_a_number_that_is_not_finite_has_no_fingerprint():
    with pytest.raises(ValueError, match="JSON compliant"):
        fingerprint({"conf": float("nan")})
