"""Coordinates to look at: PCA, classical MDS, t-SNE and (with an extra) UMAP, deterministic.

PCA reads embeddings; the others read a symmetric distance, or embeddings compared by `metric`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from mlkit_cluster.analysis.identity import settings_id
from mlkit_cluster.analysis.matrices import (
    embedding_rows,
    pair_distances,
    refuse_asymmetric,
)
from mlkit_cluster.analysis.neighbors import MANY_IMAGES
from mlkit_core.errors import InputError, MlkitError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Param = str | int | float | bool | None
MODELS: Mapping[str, Mapping[str, Param]] = {
    "pca": {"dims": 2},
    "mds": {"dims": 2, "metric": "cosine"},
    "t-sne": {
        "dims": 2,
        "perplexity": 40.0,  # lowered to (N - 1) / 3 where images are few
        "early_exaggeration": 20.0,
        "learning_rate": 200.0,
        "iterations": 1000,
        "metric": "cosine",
    },
    "umap": {"dims": 2, "n_neighbors": 20, "min_dist": 0.1, "metric": "cosine"},
}
UMAP_GRID: tuple[Mapping[str, Param], ...] = tuple(
    {"n_neighbors": near, "min_dist": apart, "dims": dims}
    for near, apart, dims in product((10, 20, 50, 100), (0.0, 0.1, 0.5), (2, 10, 25))
)
TSNE_GRID: tuple[Mapping[str, Param], ...] = (
    {"perplexity": 40.0, "early_exaggeration": 20.0, "learning_rate": 200.0, "iterations": 1000},
)
_SMALL = 500  # images: below, all eigenvectors cost less than a search for few


@dataclass(frozen=True)
class Projection:
    """Coordinates of images.

    Args:
        identity: First 8 hex digits of the SHA-1 of model and parameters.
        model: One of `MODELS`.
        coordinates: `[N, dims]`.
        params: As used, the seed and the `source` that the caller named included.
    """

    identity: str
    model: str
    coordinates: NDArray[np.float32]
    params: dict[str, object]


def project(
    model: str,
    *,
    distance: NDArray[np.floating] | None = None,
    embeddings: NDArray[np.floating] | None = None,
    seed: int = 0,
    source: Mapping[str, object] | None = None,
    **params: Param,
) -> Projection:
    """Return coordinates by one of `MODELS`, which names the parameters and their defaults.

    Args:
        model: "pca" (embeddings only), "mds", "t-sne" or "umap".
        distance: `[N, N]`, symmetric with a zero diagonal.
        embeddings: `[N, D]`, in its place.
        seed: Of what is random.
        source: What was projected, as encoder or weights; part of the identity, JSON values.
        params: Of the model.

    Raises:
        InputError: For an unknown model or parameter, an input it cannot take, too few images.
        MlkitError: Where UMAP is not installed.
    """
    settings = _settings(model, params)
    points = _input(model, distance, embeddings)
    dims, side = int(settings["dims"] or 0), len(points)
    if not 1 <= dims < side:
        raise InputError(f"{model}: dims: expected 1 to {side - 1} for {side} images, got {dims}")
    run = {"pca": _pca, "mds": _mds, "t-sne": _tsne, "umap": _umap}[model]
    coordinates = run(points, settings, seed, distance is not None)
    if distance is not None:
        settings.pop("metric", None)
    recorded = {**settings, "seed": seed, "source": dict(source or {})}
    identity = settings_id(model, recorded)
    return Projection(identity, model, np.ascontiguousarray(coordinates, np.float32), recorded)


def classical_mds(
    distance: NDArray[np.floating], dims: int = 2, seed: int = 0
) -> NDArray[np.float64]:
    """Return coordinates `[N, dims]` whose inner products fit the centred squared distances best.

    Source: Torgerson, "Multidimensional scaling: I", Psychometrika 17, 1952. A loss distance is
    not Euclidean: directions with a negative eigenvalue become 0. The largest coordinate of each
    direction is positive, so that the picture has one orientation.
    """
    refuse_asymmetric(distance, "distance")
    side = len(distance)
    squares = np.array(distance, np.float32 if side > _SMALL else np.float64)
    squares *= squares
    if side <= max(_SMALL, 2 * dims):
        centred = squares - squares.mean(0) - squares.mean(1, keepdims=True) + squares.mean()
        values, vectors = np.linalg.eigh(-centred / 2)
    else:
        values, vectors = _leading(squares, dims, seed)
    order = np.argsort(-values, kind="stable")[:dims]
    values, vectors = np.maximum(values[order], 0), vectors[:, order]
    return _oriented(vectors * np.sqrt(values))


def _leading(
    squares: NDArray[np.floating], dims: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    side = len(squares)

    def product_with(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        centred = (vector.ravel() - vector.mean()).astype(squares.dtype)
        result = (squares @ centred).astype(np.float64)
        return -(result - result.mean()) / 2

    make: Any = LinearOperator  # its stub is that of the abstract class
    operator = make((side, side), matvec=product_with, dtype=np.float64)
    start = np.random.default_rng(seed).normal(size=side)
    search: dict[str, Any] = {"v0": start, "ncv": max(20, 4 * dims), "tol": 1e-5}
    found: Any = eigsh(operator, dims, which="LA", **search)
    return found


def _oriented(coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = np.abs(coordinates).argmax(0)
    signs = np.sign(coordinates[largest, np.arange(coordinates.shape[1])])
    return coordinates * np.where(signs == 0, 1, signs)


def _settings(model: str, params: Mapping[str, Param]) -> dict[str, Any]:
    if model not in MODELS:
        raise InputError(f"model: expected one of {', '.join(MODELS)}, got {model!r}")
    unknown = sorted(set(params) - set(MODELS[model]))
    if unknown:
        known = ", ".join(MODELS[model])
        raise InputError(f"{model}: no parameter {unknown[0]!r}", hint=f"it has {known}")
    return {**MODELS[model], **params}


def _input(
    model: str, distance: NDArray[np.floating] | None, embeddings: NDArray[np.floating] | None
) -> NDArray[np.floating]:
    if (distance is None) == (embeddings is None):
        raise InputError(f"{model}: give either a distance or embeddings")
    if distance is not None:
        if model == "pca":
            raise InputError("pca: needs embeddings, got a distance", hint="use mds")
        refuse_asymmetric(distance, "distance")
        return distance
    assert embeddings is not None  # for the type checker; refused above
    if model == "mds" and len(embeddings) > MANY_IMAGES:
        raise InputError(f"mds: needs all pairs, got {len(embeddings)} images", hint="use pca")
    embedding_rows(embeddings)
    return embeddings


def _pca(
    points: NDArray[np.floating], settings: Mapping[str, Any], seed: int, precomputed: bool
) -> NDArray[np.floating]:
    from sklearn.decomposition import PCA

    dims = settings["dims"]
    if dims > points.shape[1]:
        raise InputError(f"pca: dims: expected at most {points.shape[1]}, got {dims}")
    return _oriented(PCA(dims, svd_solver="full").fit_transform(points.astype(np.float64)))


def _mds(
    points: NDArray[np.floating], settings: Mapping[str, Any], seed: int, precomputed: bool
) -> NDArray[np.floating]:
    distance = points if precomputed else pair_distances(points, settings["metric"])
    return classical_mds(distance, settings["dims"], seed)


def _tsne(
    points: NDArray[np.floating], settings: Mapping[str, Any], seed: int, precomputed: bool
) -> NDArray[np.floating]:
    from sklearn.manifold import TSNE

    if len(points) < 4:
        raise InputError(f"t-sne: needs at least 4 images, got {len(points)}")
    model = TSNE(
        settings["dims"],
        perplexity=min(settings["perplexity"], (len(points) - 1) / 3),
        early_exaggeration=settings["early_exaggeration"],
        learning_rate=settings["learning_rate"],
        max_iter=settings["iterations"],
        metric="precomputed" if precomputed else settings["metric"],
        init="random",
        method="barnes_hut" if settings["dims"] < 4 else "exact",
        random_state=seed,
    )
    return model.fit_transform(points)


def _umap(
    points: NDArray[np.floating], settings: Mapping[str, Any], seed: int, precomputed: bool
) -> NDArray[np.floating]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numba's caches, and of a seed that means one thread
        try:
            from umap import UMAP
        except ModuleNotFoundError as err:
            raise MlkitError(
                "umap: not installed", hint="pip install 'mlkit-cluster[umap]'"
            ) from err
        side, dims = len(points), settings["dims"]
        model = UMAP(
            n_components=dims,
            n_neighbors=min(settings["n_neighbors"], side - 1),
            min_dist=settings["min_dist"],
            metric="precomputed" if precomputed else settings["metric"],
            # Spectral starts need more images than dimensions.
            init="spectral" if dims + 1 < side // 2 else "random",
            random_state=seed,
            n_jobs=1,
        )
        return model.fit_transform(points)
