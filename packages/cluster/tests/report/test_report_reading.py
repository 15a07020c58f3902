"""What the report reads from a run, against what was written."""

import sqlite3

import numpy as np
import pytest

from mlkit_cluster.report.lists import image_lists, pair_lists
from mlkit_cluster.report.pairs import nearest, read_pairs
from mlkit_cluster.report.payload import build_payload, principal_plane
from mlkit_cluster.report.sheets import sheets
from mlkit_cluster.report.source import UNASSIGNED
from mlkit_cluster.report.tables import positions_of, read_embeddings, read_run

GAINS = np.array([7.5, 0.5, 1.5])


@pytest.fixture(scope="module")
def run(shared_run):
    return read_run(shared_run.folder)


def total(made) -> np.ndarray:
    return np.stack(list(made.matrix.values()), -1).astype(np.float64) @ GAINS


def test_positions_of_unknown_ids_are_minus_one():
    ids = np.array([2, 5, 9])
    assert positions_of(ids, np.array([9, 1, 2, 10])).tolist() == [2, -1, 0, -1]
    assert positions_of(ids[:0], ids).tolist() == [-1, -1, -1]


def test_numbers_are_those_of_the_database(run, shared_run):
    db = sqlite3.connect(shared_run.folder / "run.db")
    rows = db.execute("SELECT img_id, box_loss, mean_conf FROM embeddings ORDER BY img_id")
    for position, (img_id, box, confidence) in enumerate(rows):
        assert run.img_ids[position] == img_id
        assert run.columns["mean_conf"][position] == np.float32(confidence)
        found = run.columns["box_loss"][position]
        assert np.isnan(found) if box is None else found == np.float32(box)
    counts = dict(db.execute("SELECT img_id, COUNT(*) FROM predictions GROUP BY img_id").fetchall())
    found = np.diff(run.predictions.starts)
    assert [counts.get(int(i), 0) for i in run.img_ids] == found.tolist()
    assert len(run.failed) == 2


def test_total_loss_counts_undefined_components_as_nothing(run):
    losses = np.stack([run.columns[f"{n}_loss"] for n in ("box", "cls", "dfl")], -1)
    expected = np.nan_to_num(losses) @ GAINS
    np.testing.assert_allclose(run.total_loss, expected, rtol=1e-6)
    assert np.isnan(losses[4, 0])


def test_image_that_a_clustering_leaves_out_is_unassigned(make_run, tmp_path):
    made = make_run(tmp_path / "run", 6)
    db = sqlite3.connect(made.folder / "run.db")
    db.execute("DELETE FROM assignments WHERE img_id = 9")
    db.commit()
    labels = read_run(made.folder).clusterings[0].labels
    assert labels.tolist() == [0, 1, UNASSIGNED, 3, 4, 0]


@pytest.mark.parametrize("kind", ["full", "edges"])
def test_pairs_are_those_of_the_matrix(make_run, tmp_path, kind):
    made = make_run(tmp_path / "run", 30, distances=kind)
    run = read_run(made.folder)
    pairs = read_pairs(run)
    assert pairs.is_full == (kind == "full")
    i, j = (ends.ravel() for ends in np.indices((30, 30)))
    found = pairs.at(i, j).reshape(30, 30, 3)
    true = np.stack(list(made.matrix.values()), -1)
    known = ~np.isnan(found).all(-1)
    np.testing.assert_array_equal(found[known], true[known])
    assert known.sum() == (900 if kind == "full" else 30 * 6)


def test_nearest_leaves_out_itself_and_images_without_targets(make_run, tmp_path):
    made = make_run(tmp_path / "run", 30)
    run = read_run(made.folder)
    near = nearest(run, read_pairs(run), 4)
    distance = total(made)
    distance[np.isnan(distance)] = np.inf
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_array_equal(near, np.argsort(distance, axis=1, kind="stable")[:, :4])


def test_nearest_of_edges_are_the_nearest_known(make_run, tmp_path):
    made = make_run(tmp_path / "run", 30, distances="edges")
    run = read_run(made.folder)
    pairs = read_pairs(run)
    near = nearest(run, pairs, 3)
    distance = np.full((30, 30), np.inf)
    known = np.divmod(pairs.keys, 30)
    distance[known] = total(made)[known]
    distance[np.isnan(distance)] = np.inf
    np.fill_diagonal(distance, np.inf)
    for row in range(30):
        best = np.argsort(distance[row], kind="stable")[:3]
        assert near[row].tolist() == [int(b) if distance[row, b] < np.inf else -1 for b in best]


def test_matrix_with_a_lost_block_is_left_out_with_the_reason(make_run, tmp_path):
    made = make_run(tmp_path / "run", 8)
    next((made.folder / "dist").glob("box-*.npy")).unlink()
    run = read_run(made.folder)
    pairs = read_pairs(run)
    assert not pairs
    assert "cannot be read" in pairs.note
    facts = dict(build_payload(run).data["measured"]["facts"])
    assert "cannot be read" in facts["distance"]


def test_asymmetric_pairs_put_the_larger_direction_first(run, shared_run):
    lists = {
        entry.key: entry for entry in pair_lists(run, read_pairs(run), read_embeddings_of(run))
    }
    distance = total(shared_run)
    ratio = (distance - distance.T) / (distance + distance.T)
    (i, j), score, _ = lists["asymmetry"].rows[0]
    assert score == pytest.approx(np.nanmax(ratio), rel=1e-5)
    assert distance[i, j] > distance[j, i]


def read_embeddings_of(run):
    return read_embeddings(run.folder, run.img_ids)


def test_edges_alone_give_lists_of_known_pairs(make_run, tmp_path):
    made = make_run(tmp_path / "run", 40, distances="edges")
    run = read_run(made.folder)
    found = {e.key: e for e in pair_lists(run, read_pairs(run), read_embeddings_of(run))}
    distance = total(made)
    for (i, j), score, _ in found["asymmetry"].rows:
        expected = (distance[i, j] - distance[j, i]) / (distance[i, j] + distance[j, i])
        assert score == pytest.approx(expected, rel=1e-4)
        assert score >= 0


def test_hardest_images_come_hardest_first(run):
    hardest = next(entry for entry in image_lists(run) if entry.key == "hardest-cls")
    order = np.argsort(-run.columns["cls_loss"], kind="stable")
    assert [ends[0] for ends, _, _ in hardest.rows] == order.tolist()


def test_files_of_one_content_are_named_as_duplicates(make_run, tmp_path):
    made = make_run(tmp_path / "run", 6)
    db = sqlite3.connect(made.folder / "run.db")
    db.execute("UPDATE images SET sha = 'x' WHERE img_id IN (7, 13)")
    db.commit()
    run = read_run(made.folder)
    found = {e.key: e for e in pair_lists(run, read_pairs(run), read_embeddings_of(run))}
    assert found["duplicates"].rows[0] == ((1, 4), 1.0, "same content")


def test_sheet_has_the_medoid_of_the_cluster(run, shared_run):
    pairs, embeddings = read_pairs(run), read_embeddings_of(run)
    made = sheets(run, pairs, embeddings, run.clusterings[0])
    assert [(s.label, s.size) for s in made] == [(0, 5), (1, 5), (2, 5), (3, 5), (4, 4)]
    distance = total(shared_run)
    inside = np.flatnonzero(shared_run.cluster == 1)
    both = (distance + distance.T)[np.ix_(inside, inside)]
    assert made[1].medoid == inside[both.sum(1).argmin()]
    own = run.columns["cls_loss"][inside]
    assert made[1].profile["cls"] == pytest.approx(np.median(own))
    apart = shared_run.matrix["cls"][np.ix_(inside, inside)][~np.eye(5, dtype=bool)]
    assert made[1].within["cls"] == pytest.approx(np.median(apart))


def test_stored_medoid_is_kept(make_run, tmp_path):
    made = make_run(tmp_path / "run", 20)
    db = sqlite3.connect(made.folder / "run.db")
    db.execute("UPDATE assignments SET medoid = (img_id = 35)")  # position 15, cluster 0
    db.commit()
    run = read_run(made.folder)
    found = sheets(run, read_pairs(run), read_embeddings_of(run), run.clusterings[0])
    assert found[0].medoid == 15


def test_principal_plane_is_that_of_the_singular_values():
    points = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32) * np.arange(1, 7)
    _, _, axes = np.linalg.svd(points - points.mean(0), full_matrices=False)
    expected = (points - points.mean(0)) @ axes[:2].T
    found = principal_plane(points.astype(np.float32))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (3, 0), (3, 1)])
def test_principal_plane_of_hardly_anything_is_finite(shape):
    found = principal_plane(np.ones(shape, np.float32))
    assert found.shape == (shape[0], 2)
    assert np.isfinite(found).all()


def test_payload_of_an_empty_run_can_be_built(make_run, tmp_path):
    made = make_run(tmp_path / "run", 1, distances="none", clusters=False, projections=False)
    db = sqlite3.connect(made.folder / "run.db")
    db.execute("UPDATE images SET error = 'broken'")
    db.commit()
    assert build_payload(read_run(made.folder)).data["n"] == 0
