"""Coordinates against sklearn's and against geometry."""

import sys

import numpy as np
import pytest
from scipy.spatial import procrustes
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

from mlkit_cluster.analysis import projections
from mlkit_cluster.analysis.matrices import pair_distances
from mlkit_cluster.analysis.projections import TSNE_GRID, UMAP_GRID, classical_mds, project
from mlkit_core.errors import InputError, MlkitError


@pytest.fixture(scope="module")
def groups():
    """Embeddings of three groups and their distance."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(90, 6)) + 10 * np.eye(6)[np.arange(90) % 3]
    return points.astype(np.float32), pair_distances(points, "euclidean")


def test_pca_is_sklearns_up_to_signs(groups):
    points, _ = groups
    found = project("pca", embeddings=points, dims=3).coordinates
    expected = PCA(3).fit_transform(points.astype(np.float64))
    assert np.allclose(np.abs(found), np.abs(expected), atol=1e-3)
    assert (found[np.abs(found).argmax(0), range(3)] > 0).all()


@pytest.mark.parametrize("small", [10, 1000])
def test_classical_mds_gives_points_of_the_plane_back(small, monkeypatch):
    monkeypatch.setattr(projections, "_SMALL", small)  # few or all eigenvectors
    plane = np.random.default_rng(1).normal(size=(120, 2)) * (3, 1)
    found = classical_mds(pair_distances(plane, "euclidean"), 2)
    assert np.allclose(
        pair_distances(found, "euclidean"), pair_distances(plane, "euclidean"), atol=2e-3
    )
    assert procrustes(plane, found)[2] < 1e-6


def test_classical_mds_of_a_euclidean_distance_is_pca(groups):
    points, distance = groups
    found = project("mds", distance=distance).coordinates
    expected = project("pca", embeddings=points).coordinates
    assert np.allclose(found, expected, atol=1e-2)


def test_directions_that_are_not_euclidean_become_zero():
    # Three images 1 apart but for one pair that is 10 apart: one direction is real.
    distance = np.array([[0, 1, 10], [1, 0, 1], [10, 1, 0.0]])
    found = classical_mds(distance, 3)  # eigenvalues: one positive, 0, one negative
    assert np.abs(found[:, 1:]).max() == pytest.approx(0, abs=1e-6)
    assert abs(found[0, 0] - found[2, 0]) == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize("model", ["mds", "t-sne"])
def test_two_runs_with_one_seed_are_equal_to_the_bit(groups, model):
    _, distance = groups
    one, other = (project(model, distance=distance, seed=4) for _ in range(2))
    assert np.array_equal(one.coordinates, other.coordinates)
    assert one.identity == other.identity


def test_tsne_keeps_groups_apart_and_caps_the_perplexity_of_few_images(groups):
    _, distance = groups
    found = project("t-sne", distance=distance).coordinates
    assert found.shape == (90, 2)
    assert trustworthiness(distance, found, metric="precomputed", n_neighbors=10) > 0.9
    few = project("t-sne", distance=distance[:6, :6], iterations=250).coordinates
    assert np.isfinite(few).all()


def test_umap_reads_the_precomputed_distance_and_keeps_groups_apart(groups):
    pytest.importorskip("umap")
    _, distance = groups
    one, other = (project("umap", distance=distance, n_neighbors=10, seed=2) for _ in range(2))
    assert np.array_equal(one.coordinates, other.coordinates)
    assert trustworthiness(distance, one.coordinates, metric="precomputed", n_neighbors=10) > 0.9


def test_without_umap_the_error_names_the_extra(groups, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MlkitError, match="umap: not installed") as caught:
        project("umap", distance=groups[1])
    assert caught.value.hint == "pip install 'mlkit-cluster[umap]'"


def test_the_grids_are_those_of_the_protocol():
    assert len(UMAP_GRID) == 36
    assert {point["n_neighbors"] for point in UMAP_GRID} == {10, 20, 50, 100}
    assert {point["min_dist"] for point in UMAP_GRID} == {0.0, 0.1, 0.5}
    assert {point["dims"] for point in UMAP_GRID} == {2, 10, 25}
    (tsne,) = TSNE_GRID
    assert tsne == {
        "perplexity": 40,
        "early_exaggeration": 20,
        "learning_rate": 200,
        "iterations": 1000,
    }


def test_the_identity_is_the_sha1_of_model_and_sorted_parameters(groups):
    found = project("mds", distance=groups[1], seed=1, source={"weights": "gains"})
    # printf '%s' 'mds{"dims": 2, "seed": 1, "source": {"weights": "gains"}}'
    # | sha1sum
    assert found.identity == "695bda78"
    other = project("mds", distance=groups[1], seed=1, source={"weights": "robust"})
    assert other.identity != found.identity


@pytest.mark.parametrize(
    ("model", "given", "params", "message"),
    [
        ("isomap", "distance", {}, "expected one of pca, mds, t-sne, umap"),
        ("pca", "distance", {}, "needs embeddings"),
        ("mds", "distance", {"dims": 90}, "expected 1 to 89"),
        ("pca", "embeddings", {"dims": 7}, "at most 6"),
        ("mds", "embeddings", {"perplexity": 3}, "no parameter 'perplexity'"),
        ("mds", "nothing", {}, "either a distance or embeddings"),
    ],
)
def test_what_a_model_cannot_take_is_refused(groups, model, given, params, message):
    inputs = {"distance": groups[1], "embeddings": groups[0]}
    with pytest.raises(InputError, match=message):
        project(model, **{name: inputs[name] for name in (given,) if name in inputs}, **params)


def test_three_images_are_too_few_for_tsne():
    with pytest.raises(InputError, match="at least 4 images, got 3"):
        project("t-sne", distance=np.ones((3, 3)) - np.eye(3))
