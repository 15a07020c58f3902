"""The matrix of a run: direction, exactness, forward passes, resuming, engines, edges."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from steps_kit import blocks, computed, content, extracted

from mlkit_cluster.distances import full
from mlkit_cluster.distances.rows import RowsTask, by_criterion, to_unit
from mlkit_cluster.distances.shard import Shard
from mlkit_cluster.steps import distances as step
from mlkit_cluster.steps.distances import DistanceWish, recipe_of
from mlkit_cluster.steps.merging import merge
from mlkit_cluster.store import reading
from mlkit_cluster.store.database import open_run
from mlkit_core.errors import InputError, MlkitError


@pytest.fixture(scope="module")
def base(tmp_path_factory, _painted, tiny_detector_file):
    return extracted(tmp_path_factory.mktemp("base") / "run", _painted, tiny_detector_file)


@pytest.fixture
def run(base, tmp_path):
    import shutil

    return shutil.copytree(base, tmp_path / "run")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    for module in (full, step):
        monkeypatch.setattr(module, "ROWS_PER_BLOCK", 4)


def matrices(run):
    with open_run(run, readonly=True) as store:
        return {name: store.open_matrix(name).array() for name in ("box", "cls", "dfl")}


def test_every_entry_is_the_loss_of_row_i_with_the_predictions_of_column_j(run):
    found = computed(run)
    assert found.conformance.max_error < 1e-5
    dist = matrices(run)
    with open_run(run, readonly=True) as store:
        recipe = recipe_of(store, DistanceWish(device="cpu"))
        names = [image.path for image in reading.images(store)]
        seen = reading.targets(store)
    worker = recipe.build()
    assert [path.name for path in recipe.paths] == [name.split("/")[-1] for name in names]
    for i in (0, 3, 7, 11):
        raw = worker.detector(to_unit(worker.prepare(RowsTask(i, i + 1))))
        theirs = by_criterion(worker.detector, raw, recipe.targets, None)
        for name, values in theirs.items():
            assert np.array_equal(np.isnan(dist[name][i]), [len(one) == 0 for one in seen]) or (
                name == "cls"
            )
            assert dist[name][i] == pytest.approx(values, rel=1e-5, nan_ok=True)


def test_the_matrix_is_not_symmetric_and_its_diagonal_not_zero(run):
    computed(run)
    for name, dist in matrices(run).items():
        gap = np.abs(dist - dist.T)
        assert np.nanmax(gap) > 0.01, name
        assert (np.nan_to_num(np.diagonal(dist), nan=1) > 0).all()


def test_a_column_without_targets_holds_the_background_loss_of_each_row(
    painted_images, tiny_detector_file, tmp_path
):
    from PIL import Image

    Image.new("RGB", (80, 80), (114, 114, 114)).save(painted_images / "images" / "zz.png")
    run = extracted(
        tmp_path / "run",
        painted_images,
        tiny_detector_file,
        data={"source": str(painted_images / "images"), "labels": "none"},
        conf=0.01,
        target_conf=0.6,
    )
    computed(run)
    dist = matrices(run)
    with open_run(run, readonly=True) as store:
        empty = np.flatnonzero([len(one) == 0 for one in reading.targets(store)])
        recipe = recipe_of(store, DistanceWish(device="cpu"))
    assert len(empty) > 0
    assert np.isnan(dist["box"][:, empty]).all()
    assert np.isnan(dist["dfl"][:, empty]).all()
    worker = recipe.build()
    scores = worker.detector(to_unit(worker.prepare(RowsTask(2, 3)))).scores.double()
    background = np.log1p(np.exp(scores.numpy())).sum()  # BCE(x, 0) = log(1 + e^x)
    assert dist["cls"][2, empty] == pytest.approx(background, rel=1e-4)


def test_there_are_exactly_as_many_forward_passes_as_images(run, monkeypatch):
    from mlkit_cluster.yolo.detector import Detector

    monkeypatch.setattr(step, "check_conformance", lambda *_, **__: None)
    passed, call = [], Detector.__call__

    def counting(self, images):
        passed.append(len(images))
        return call(self, images)

    monkeypatch.setattr(Detector, "__call__", counting)
    computed(run)
    assert sum(passed) == 12


def test_batch_size_changes_no_distance(run, base, tmp_path):
    import shutil

    computed(run, batch_size=1)
    other = shutil.copytree(base, tmp_path / "other")
    computed(other, batch_size=7)
    for name, dist in matrices(run).items():
        assert np.array_equal(matrices(other)[name], dist, equal_nan=True)


def test_all_pairs_are_in_the_table_and_the_nearest_beside_it(run):
    computed(run)
    dist = matrices(run)
    with open_run(run, readonly=True) as store:
        rows = store.db.execute(
            "SELECT img_i, img_j, distance FROM distances WHERE component='cls'"
        )
        for i, j, value in rows.fetchall():
            assert value == dist["cls"][i, j]
        gains = store.gains()
        total = sum(gains[name] * values for name, values in dist.items())
        np.fill_diagonal(total, np.nan)
        nearest = store.db.execute(
            "SELECT img_j FROM neighbors WHERE component='total' AND img_i=3 AND rank=1"
        ).fetchone()[0]
        assert nearest == np.nanargmin(total[3])


def test_a_kernel_that_disagrees_with_ultralytics_is_refused_before_anything_is_written(
    run, monkeypatch
):
    from mlkit_cluster.distances import rows

    found = rows.pair_losses

    def wrong(*arguments):
        losses = found(*arguments)
        losses.cls[0] *= 1.001
        return losses

    monkeypatch.setattr(rows, "pair_losses", wrong)
    with pytest.raises(MlkitError, match=r"conformance: cls of .* differ by 1\.0e-03") as caught:
        computed(run)
    assert "--kernel criterion" in caught.value.hint
    assert not (run / "dist").exists()


def test_the_librarys_own_criterion_gives_the_same_matrix(run, base, tmp_path):
    import shutil

    computed(run)
    other = shutil.copytree(base, tmp_path / "other")
    assert computed(other, kernel="criterion").conformance is None
    for name, dist in matrices(run).items():
        assert matrices(other)[name] == pytest.approx(dist, rel=1e-5, nan_ok=True)


def test_a_head_that_the_kernel_does_not_know_is_not_compared_with_itself(
    run, base, tmp_path, monkeypatch
):
    import shutil

    from mlkit_cluster.distances import rows

    computed(run)
    load = rows.load_detector

    def unknown(*arguments):
        detector = load(*arguments)
        detector.fast = False
        return detector

    monkeypatch.setattr(rows, "load_detector", unknown)
    other = shutil.copytree(base, tmp_path / "other")
    assert computed(other).conformance is None
    for name, dist in matrices(run).items():
        assert matrices(other)[name] == pytest.approx(dist, rel=1e-5, nan_ok=True)


def test_other_components_are_another_matrix_and_replace_it_only_when_asked(run):
    computed(run)
    with pytest.raises(InputError, match="holds distances of other settings"):
        computed(run, components=("cls",))
    assert computed(run, components=("cls",), replace=True).rows == 12


def test_an_unknown_component_and_a_model_that_changed_are_told(run, tiny_seg_detector_file):
    with pytest.raises(InputError, match="this detector has box, cls, dfl, got 'seg'"):
        computed(run, components=("seg",))
    with pytest.raises(InputError, match="not the detector that this run was extracted with"):
        computed(run, model=tiny_seg_detector_file)


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from steps_kit import computed
from mlkit_cluster.distances import full, rows
from mlkit_cluster.steps import distances
full.ROWS_PER_BLOCK = distances.ROWS_PER_BLOCK = 4
run = rows.RowsWorker.run
def slow(self, task, images):
    time.sleep(0.2)
    return run(self, task, images)
rows.RowsWorker.run = slow
computed(Path(sys.argv[1]))
"""


def test_a_killed_run_goes_on_and_ends_as_an_uninterrupted_one(run, base, tmp_path):
    import shutil

    whole = shutil.copytree(base, tmp_path / "whole")
    computed(whole)
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(run), str(Path(__file__).parent)])
    deadline = time.monotonic() + 120
    while not list(run.glob("dist/block-*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = len(list(run.glob("dist/block-*.json")))
    assert 0 < done < 3
    assert computed(run).rows == 12 - 4 * done
    assert blocks(run) == blocks(whole)
    ours, theirs = content(run), content(whole)
    assert ours == theirs


def test_shards_of_a_job_array_join_into_the_same_matrix(run, base, tmp_path):
    import shutil

    whole = shutil.copytree(base, tmp_path / "whole")
    computed(whole)
    for number in (2, 1):
        found = computed(run, shard=Shard(number, 2))
        assert found.rows in (4, 8)
        assert computed(run, shard=Shard(number, 2)).rows == 0
    assert merge(run)["rows missing"] == 0
    assert blocks(run) == blocks(whole)
    assert content(run) == content(whole)


@pytest.mark.skipif(find_spec("ray") is None, reason="mlkit-cluster[ray] is not installed")
def test_two_ray_workers_write_the_same_bytes(run, base, tmp_path):
    import shutil

    from mlkit_cluster.engines.cluster import RayEngine

    whole = shutil.copytree(base, tmp_path / "whole")
    computed(whole)
    engine = RayEngine(workers=2)
    try:
        computed(run, engine=engine)
    finally:
        import ray

        ray.shutdown()
    assert blocks(run) == blocks(whole)
    assert content(run) == content(whole)


def test_edges_hold_exact_losses_of_candidates_and_the_recall_is_measured(run, base, tmp_path):
    import shutil

    whole = shutil.copytree(base, tmp_path / "whole")
    computed(whole)
    dist = matrices(whole)
    found = computed(run, knn=3, candidates=4)
    assert (found.mode, found.rows) == ("knn", 12)
    assert 0 < found.recall <= 1
    with open_run(run, readonly=True) as store:
        columns, values = store.open_edges().rows(0, 12)
        for i, row in enumerate(columns):
            known = row >= 0
            assert known.sum() >= 4
            assert i not in row
            for name, edges in values.items():
                expected = dist[name][i, row[known]]
                assert edges[i, known] == pytest.approx(expected, rel=1e-6, nan_ok=True)
        assert store.metadata()["distances_table"] == "nearest neighbours"
        most = store.db.execute("SELECT MAX(rank) FROM neighbors").fetchone()[0]
        assert most == 3
