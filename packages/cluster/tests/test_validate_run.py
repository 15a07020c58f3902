"""`validate` passes sound runs and finds each way of spoiling one."""

import json
import runpy
import shutil
import sqlite3
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlkit_cluster.store import RunSpec, open_run
from mlkit_cluster.validation import validate_run
from mlkit_core.errors import InputError

KIT = runpy.run_path(str(Path(__file__).with_name("store_kit.py")))
COUNT = 12


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A whole run: 12 images, distances in blocks of 3 rows, tables filled."""
    folder = tmp_path_factory.mktemp("sound") / "run"
    KIT["fill"](folder, COUNT, masked=True)
    KIT["fill_distances"](folder)
    with open_run(folder) as run:
        run.materialise_distances()
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "run"))


def wrong(folder, **options):
    """Return the names of the checks that fail."""
    return {found.check for found in validate_run(folder, **options) if not found.ok}


def change(folder, *statements):
    with closing(sqlite3.connect(folder / "run.db")) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


@pytest.mark.parametrize(
    "kind",
    [{}, {"labelled": False}, {"masked": True, "full": True}],
    ids=["boxes", "without labels", "masks and whole maps"],
)
def test_a_sound_run_passes_every_check(tmp_path, kind):
    folder = KIT["fill"](tmp_path / "run", 10, **kind)
    assert wrong(folder) == set()
    KIT["fill_distances"](folder)
    assert wrong(folder) == set()
    with open_run(folder) as run:
        run.materialise_distances(limit=5, k=3)
        assert run.metadata()["distances_table"] == "nearest neighbours"
    assert wrong(folder) == set()


def test_a_run_with_failed_images_and_other_encoders_passes(tmp_path):
    folder = KIT["fill"](tmp_path / "run", 0)
    with open_run(folder) as run:
        run.register_images(KIT["entries"](6))
        run.write_failure(2, "cannot identify image file")
        spec = RunSpec(kind="embedding", encoder="clip", model="c", model_sha256="c", parts={})
        name = run.begin_run(spec)
        run.write_embeddings("clip", name, range(6), np.eye(6))
        run.write_records([KIT["record"](n) for n in (0, 1, 3, 4, 5)])
    KIT["fill_distances"](folder)
    assert wrong(folder) == set()


def test_a_run_of_embeddings_alone_passes(tmp_path):
    with open_run(tmp_path / "run", create=True) as run:
        run.register_images(KIT["entries"](3))
        spec = RunSpec(kind="embedding", encoder="clip", model="c", model_sha256="c", parts={})
        run.write_embeddings("clip", run.begin_run(spec), range(3), np.eye(3))
    assert wrong(tmp_path / "run") == set()


def test_a_missing_run_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no run of mlkit cluster"):
        validate_run(tmp_path)


def test_validating_changes_nothing(folder):
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    validate_run(folder)
    after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {p: v for p, v in after.items() if not p.name.endswith(("-shm", "-wal"))} == before


@pytest.mark.parametrize("place", [5, 131, -1], ids=["header", "first number", "last byte"])
@pytest.mark.parametrize("name", ["box-00000003.npy", "cls-00000009.npy"])
def test_one_changed_byte_of_a_shard_is_found(folder, name, place):
    path = folder / "dist" / name
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)
    assert "distance files" in wrong(folder)


def test_one_changed_byte_of_an_embedding_is_found(folder):
    blob = KIT["record"](5).values["embedding"].astype("<f4").tobytes()
    path = folder / "run.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw = path.read_bytes()
    assert raw.count(blob[:64]) >= 1
    place = raw.index(blob[:64]) + 20
    path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
    assert "row digests" in wrong(folder)


@pytest.mark.parametrize("column", ["box_loss", "cls_loss", "dfl_loss"])
def test_a_zeroed_loss_column_is_found_by_its_values_too(folder, column):
    change(folder, f"UPDATE embeddings SET {column} = 0 WHERE {column} IS NOT NULL")
    assert wrong(folder) == {"losses", "row digests"}


def test_zeroed_metrics_are_found_by_counting_again(folder):
    change(folder, "UPDATE embeddings SET hit_freq = 0, mean_iou = 0 WHERE n_gt > 0")
    assert {"metrics", "row digests"} <= wrong(folder)


def swap(folder, table, columns, first, second):
    """Exchange all of `columns` between two images."""
    names = columns.split(", ")
    with closing(sqlite3.connect(folder / "run.db")) as db:
        query = f"SELECT {columns} FROM {table} WHERE img_id = ?"
        rows = [db.execute(query, (img_id,)).fetchone() for img_id in (first, second)]
        marks = ", ".join(f"{name} = ?" for name in names)
        for img_id, row in zip((first, second), reversed(rows), strict=True):
            db.execute(f"UPDATE {table} SET {marks} WHERE img_id = ?", (*row, img_id))
        db.commit()


def test_two_swapped_embeddings_are_found_also_by_their_features(folder):
    swap(folder, "embeddings", "embedding", 3, 7)
    assert wrong(folder) == {"row digests", "features"}


def test_two_swapped_rows_of_features_are_found_also_by_their_embeddings(folder):
    swap(folder, "features", "gap_features, bottleneck_features", 3, 7)
    assert wrong(folder) == {"row digests", "features"}


def test_two_swapped_maps_are_found_by_their_means(folder):
    swap(folder, "features", "bottleneck_features", 3, 7)
    assert wrong(folder) == {"row digests", "features"}


def test_rows_of_two_images_swapped_everywhere_are_found(folder):
    swap(folder, "embeddings", "embedding, cls_loss, box_loss, dfl_loss, hit_freq", 3, 9)
    swap(folder, "features", "gap_features, bottleneck_features", 3, 9)
    assert "row digests" in wrong(folder)


def forge(folder, name, edit):
    """Change a shard and make its crc32 agree in the database and in the manifest."""
    path = folder / "dist" / name
    array = np.load(path)
    edit(array)
    np.save(path, array)
    component, row0 = path.stem.split("-")
    crc = zlib.crc32(path.read_bytes())
    where = f"component = '{component}' AND row0 = {int(row0)}"
    change(folder, f"UPDATE shards SET crc32 = {crc} WHERE {where}")
    manifest = folder / "dist" / f"block-{row0}.json"
    found = json.loads(manifest.read_text())
    found["files"][component]["crc32"] = crc
    manifest.write_text(json.dumps(found))


def test_two_swapped_rows_of_a_shard_are_found_though_its_crc32_was_updated(folder):
    def edit(array):
        array[[0, 2]] = array[[2, 0]]

    for component in KIT["COMPONENTS"]:
        forge(folder, f"{component}-00000003.npy", edit)
    found = {f.check: f for f in validate_run(folder)}
    assert not found["distance rows"].ok
    assert "rows 3, 5 are not as written" in found["distance rows"].detail
    assert found["distance files"].ok


def spoil_nan(array):
    array[1, 0] = 1.0


def spoil_finite(array):
    array[1, 1] = np.nan


def spoil_sentinel(array):
    array[1, 1] = 424242.0


@pytest.mark.parametrize("edit", [spoil_nan, spoil_finite, spoil_sentinel])
def test_numbers_that_no_loss_can_be_are_found(folder, edit):
    forge(folder, "box-00000000.npy", edit)
    assert {"distance values", "distance rows"} <= wrong(folder)


def test_a_background_loss_that_differs_between_empty_columns_is_found(folder):
    forge(folder, "cls-00000000.npy", spoil_nan)
    found = {f.check: f for f in validate_run(folder)}
    assert "row 1 differs between columns without targets" in found["distance values"].detail


def rewrite(tmp_path, edit):
    """A run whose distances were wrong from the start: files, crc32 and digests all agree."""
    from mlkit_cluster.store import DistanceSpec
    from mlkit_cluster.store.matrix import write_block

    folder = KIT["fill"](tmp_path / "made", COUNT)
    with open_run(folder) as run:
        spec = DistanceSpec(components=KIT["COMPONENTS"], parts={})
        name = run.begin_distances(spec)
        values = KIT["matrices"](KIT["target_mask"](run))
        for array in values.values():
            edit(array)
        write_block(folder, 0, COUNT, values, name)
        run.adopt_blocks()
    return wrong(folder)


def test_a_symmetric_matrix_is_found(tmp_path):
    def edit(array):
        known = ~np.isnan(array[0])
        square = array[np.ix_(known, known)]
        array[np.ix_(known, known)] = (square + square.T) / 2

    assert "asymmetry" in rewrite(tmp_path, edit)


def test_a_zeroed_diagonal_is_found(tmp_path):
    assert rewrite(tmp_path, lambda array: np.fill_diagonal(array, 0)) >= {"diagonal"}


def test_a_matrix_of_zeros_is_found(tmp_path):
    def edit(array):
        array[~np.isnan(array)] = 0

    assert {"distance values", "asymmetry", "diagonal"} <= rewrite(tmp_path, edit)


def test_a_batchs_loss_repeated_for_its_images_is_found_where_digests_agree(tmp_path):
    folder = tmp_path / "run"
    with open_run(folder, create=True) as run:
        run.begin_run(KIT["spec"]())
        run.register_images(KIT["entries"](COUNT))
        records = [KIT["record"](number) for number in range(COUNT)]
        for number, record in enumerate(records):
            record.values["losses"]["cls"] = 2.0 + number // 4
        run.write_records(records)
    found = {f.check: f for f in validate_run(folder)}
    assert found["row digests"].ok
    assert "cls_loss is repeated from one image to the next in 9 of 11" in found["losses"].detail


def test_copies_of_one_picture_may_share_their_loss(tmp_path):
    folder = tmp_path / "run"
    with open_run(folder, create=True) as run:
        run.begin_run(KIT["spec"]())
        run.register_images(KIT["entries"](6))
        paths = [entry.path for entry in KIT["entries"](6)]
        run.write_records([replace(KIT["record"](4), key=path) for path in paths])
    assert wrong(folder) - {"embeddings"} == set()


@pytest.mark.parametrize(
    ("statement", "check"),
    [
        ("UPDATE runs SET options = REPLACE(options, '0.25', '0.26')", "fingerprints"),
        ("UPDATE runs SET conf = 0.3", "fingerprints"),
        ("UPDATE embeddings SET fingerprint = 'x' WHERE img_id = 1", "fingerprints"),
        ("DELETE FROM features WHERE img_id = 3", "images"),
        ("DELETE FROM embeddings WHERE img_id = 3", "images"),
        ("UPDATE images SET path = 'other.png' WHERE img_id = 3", "row digests"),
        ("UPDATE images SET sha = 'x' WHERE img_id = 3", "row digests"),
        ("DELETE FROM row_checks WHERE img_id = 3", "row digests"),
        ("DELETE FROM images WHERE img_id = 11", "references"),
        ("UPDATE embeddings SET embedding = X'00' WHERE img_id = 1", "embeddings"),
        ("UPDATE embeddings SET embedding = ZEROBLOB(112) WHERE img_id = 1", "embeddings"),
        ("UPDATE embeddings SET embedding = X'0000807F' WHERE img_id = 1", "embeddings"),
        ("UPDATE features SET gap_features = X'4D4C' WHERE img_id = 1", "features"),
        ("UPDATE features SET bottleneck_features = gap_features", "features"),
        ("UPDATE embeddings SET box_loss = 0 WHERE n_gt = 0", "NULLs"),
        ("UPDATE embeddings SET mean_conf = 0 WHERE n_pred = 0", "NULLs"),
        ("UPDATE embeddings SET n_gt = NULL WHERE img_id = 1", "NULLs"),
        ("UPDATE embeddings SET encoder = 'clip' WHERE img_id = 1", "NULLs"),
        ("UPDATE embeddings SET n_pred = n_pred + 1 WHERE img_id = 1", "metrics"),
        ("UPDATE embeddings SET flag_cat = 2 - flag_cat / 2 WHERE flag_cat >= 0", "metrics"),
        ("UPDATE embeddings SET mean_conf = mean_conf / 2 WHERE img_id = 1", "metrics"),
        ("UPDATE embeddings SET cls_loss = 9e999 WHERE img_id = 1", "losses"),
        ("UPDATE predictions SET class_id = 3 WHERE id = 1", "classes"),
        ("UPDATE labels SET class_name = 'class_1' WHERE class_id = 1", "classes"),
        ("UPDATE predictions SET class_id = (class_id + 1) % 3 WHERE id = 1", "class counts"),
        ("DELETE FROM image_classes WHERE img_id = 4", "class counts"),
        ("UPDATE predictions SET box_x2 = 129 WHERE id = 1", "boxes"),
        ("UPDATE predictions SET confidence = 0.1 WHERE id = 1", "boxes"),
        ("UPDATE predictions SET mask = X'10001000' WHERE id = 1", "masks"),
        ("DELETE FROM shards WHERE row0 = 3", "distance files"),
        ("UPDATE shards SET path = '/etc/passwd' WHERE row0 = 3", "distance files"),
        ("UPDATE shards SET row_checks = NULL WHERE row0 = 3", "distance rows"),
        ("UPDATE metadata SET value = 'x' WHERE key = 'distance_fingerprint'", "distance settings"),
        ("UPDATE distances SET distance = distance + 1 WHERE id = 200", "distance table"),
        ("DELETE FROM distances WHERE id = 300", "distance table"),
        ("UPDATE distances SET distance = 0 WHERE distance IS NULL", "distance table"),
        ("UPDATE neighbors SET distance = 0 WHERE rank = 2", "neighbors"),
    ],
)
def test_each_damage_is_found_by_the_check_that_is_named_for_it(folder, statement, check):
    change(folder, statement)
    assert check in wrong(folder)


def test_a_page_overwritten_with_noise_is_a_finding_not_a_crash(folder):
    path = folder / "run.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw = bytearray(path.read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, 4096 * 20, np.uint8).tobytes()
    raw[4096 * 2 : 4096 * 22] = noise
    path.write_bytes(raw)
    assert "database" in wrong(folder)


def test_a_missing_shard_is_a_finding(folder):
    (folder / "dist" / "box-00000003.npy").unlink()
    assert {"distance files", "distance values"} <= wrong(folder)


def again(paths):
    """Extract again: the same records by their paths."""
    return [KIT["record"](int(Path(path).stem), masked=True) for path in paths]


def test_images_extracted_again_agree_within_rounding(folder):
    def nearly(paths):
        for record in again(paths):
            record.values["embedding"] = record.values["embedding"] + 5e-5
            yield record

    assert wrong(folder, reextract=nearly) == set()


def off_embedding(values):
    values["embedding"] = values["embedding"] + 1e-2


def off_loss(values):
    values["losses"]["cls"] += 0.01


def off_box(values):
    values["detections"].boxes += 1


def off_file(values):
    values["sha"] = "other"


@pytest.mark.parametrize("edit", [off_embedding, off_loss, off_box, off_file])
def test_images_that_come_out_otherwise_are_found(folder, edit):
    def otherwise(paths):
        for record in again(paths):
            edit(record.values)
            yield record

    assert wrong(folder, reextract=otherwise) == {"images again"}


def test_images_that_are_gone_are_a_finding(folder):
    def gone(paths):
        raise FileNotFoundError(paths[0])

    assert wrong(folder, reextract=gone) == {"images again"}


def test_pairs_computed_again_agree_or_are_found(folder, sound):
    with open_run(sound, readonly=True) as run:
        values = {name: run.open_matrix(name).array() for name in KIT["COMPONENTS"]}
    asked = []

    def recompute(rows, columns):
        asked.extend(zip(rows.tolist(), columns.tolist(), strict=True))
        return {name: array[rows, columns] * (1 + 5e-5) for name, array in values.items()}

    assert wrong(folder, recompute=recompute, pairs=20) == set()
    assert len(asked) == 20
    assert {row for row, _ in asked} == set(range(COUNT))
    transposed = {name: array.T for name, array in values.items()}
    values = transposed
    assert wrong(folder, recompute=recompute) == {"pairs again"}
