"""Verbs that look at what is there: cluster, project, evaluate, findings, coverage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from mlkit_cluster.verbs.console import emit, set_log_level, table
from mlkit_cluster.verbs.options import Json, Level, RunFolder, Seed

On = Annotated[
    str,
    typer.Option("--on", metavar="WHAT", help="loss, or an encoder whose embeddings are compared."),
]
Weights = Annotated[
    str,
    typer.Option("--weights", help="Of the losses: gains, robust, or box=1,cls=0.5,…"),
]
Symmetry = Annotated[
    Literal["mean", "max", "min", "debiased"],
    typer.Option("--symmetry", help="How two directions become one distance."),
]
Unknown = Annotated[
    Literal["max", "drop"],
    typer.Option("--unknown", help="Losses against images without targets: the 99th percentile."),
]
Set = Annotated[
    list[str],
    typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the method; may repeat."),
]
As = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Of the result.")]


def cluster(
    run: RunFolder,
    method: Annotated[
        str,
        typer.Option("--method", help="hdbscan, agglomerative, k-medoids, k-means or spectral."),
    ] = "hdbscan",
    on: On = "loss",
    weights: Weights = "gains",
    symmetry: Symmetry = "mean",
    unknown: Unknown = "max",
    options: Set = [],
    name: As = None,
    seed: Seed = 0,
    as_json: Json = False,
    log_level: Level = "info",
) -> None:
    """Group images by the loss distance or by embeddings; the clustering is saved in the run."""
    set_log_level(log_level)
    from mlkit_cluster.steps import study
    from mlkit_cluster.store.database import open_run

    view = _view(on, weights, symmetry, unknown)
    with open_run(run) as store:
        found = study.cluster(store, method, view, name=name, seed=seed, params=_params(options))
    emit(found, as_json=as_json)


def project(
    run: RunFolder,
    model: Annotated[str, typer.Option("--model", help="pca, mds, t-sne or umap.")] = "t-sne",
    on: On = "loss",
    weights: Weights = "gains",
    symmetry: Symmetry = "mean",
    unknown: Unknown = "max",
    options: Set = [],
    name: As = None,
    seed: Seed = 0,
    as_json: Json = False,
    log_level: Level = "info",
) -> None:
    """Map images to two dimensions; the coordinates are saved in the run."""
    set_log_level(log_level)
    from mlkit_cluster.steps import study
    from mlkit_cluster.store.database import open_run

    view = _view(on, weights, symmetry, unknown)
    with open_run(run) as store:
        found = study.project(store, model, view, name=name, seed=seed, params=_params(options))
    emit(found, as_json=as_json)


def evaluate(
    run: RunFolder,
    permutations: Annotated[
        int, typer.Option("--permutations", min=200, help="Of each test.")
    ] = 200,
    neighbours: Annotated[
        bool, typer.Option("--neighbours/--no-neighbours", help="Score nearest neighbours too.")
    ] = True,
    seed: Seed = 0,
    as_json: Json = False,
    log_level: Level = "info",
) -> None:
    """Score clusterings against the labels' classes, beside majority and permuted labels."""
    set_log_level(log_level)
    from mlkit_cluster.steps import study
    from mlkit_cluster.store.database import open_run

    with open_run(run) as store:
        rows = study.evaluate(store, permutations=permutations, seed=seed, neighbours=neighbours)
    if as_json:
        emit(rows, as_json=True)
        return
    emit(table([_short(row) for row in rows if "clustering" in row]))
    near = [row for row in rows if "neighbours by" in row]
    if near:
        keys = dict.fromkeys(key for row in near for key in row)
        emit("")
        emit(table([{key: row.get(key) for key in keys} for row in near]))


def _short(row: dict[str, Any]) -> dict[str, object]:
    scores, inside = row.get("noise_as_singletons") or {}, row.get("internal") or {}
    return {
        "clustering": row["clustering"],
        "against": row["against"],
        "images": row.get("images"),
        "clusters": row.get("num_clusters"),
        "coverage": row.get("coverage"),
        **{
            name: scores.get(name)
            for name in ("ami", "ari", "nmi", "nmi_permuted", "nmi_p", "purity", "purity_permuted")
        },
        "majority": scores.get("majority"),
        "silhouette": inside.get("silhouette"),
    }


def _view(on: str, weights: str, symmetry: Any, unknown: Any) -> Any:  # noqa: ANN401  # a View
    from mlkit_cluster.steps.inputs import View, parse_weights

    return View(source=on, weights=parse_weights(weights), symmetry=symmetry, unknown=unknown)


def _params(given: list[str]) -> dict[str, Any]:
    """Return `name=value` pairs, values read as YAML.

    Raises:
        InputError: One does not read `name=value`.
    """
    import yaml

    from mlkit_core.errors import InputError

    params: dict[str, Any] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not (name and equals):
            raise InputError(f"--set: expected name=value, got {item!r}")
        params[name.replace("-", "_")] = yaml.safe_load(value)
    return params


Top = Annotated[int, typer.Option("--top", min=1, help="How many at most.")]


def findings(
    run: RunFolder,
    kind: Annotated[
        Literal["contradictions", "asymmetry", "duplicates", "hard", "labels"],
        typer.Option("--kind", help="What to look for."),
    ] = "labels",
    weights: Weights = "gains",
    on: On = "loss",
    top: Top = 20,
    as_json: Json = False,
    log_level: Level = "info",
) -> None:
    """List what a person should look at first.

    contradictions: near by embedding, far by loss. asymmetry: one image explains the other, not in
    reverse. duplicates: the same bytes or nearly. hard: the largest own losses. labels: those that
    the detector contradicts.
    """
    set_log_level(log_level)
    from mlkit_cluster.steps.findings import KINDS
    from mlkit_cluster.store.database import open_run

    with open_run(run, readonly=True) as store:
        rows = KINDS[kind](store, _view(on, weights, "mean", "max"), top)
    emit(rows if as_json else table(rows), as_json=as_json)


def coverage(
    run: RunFolder,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many images.")] = 20,
    how: Annotated[
        Literal["typical", "spread"],
        typer.Option("--how", help="typical: what most are like; spread: nothing is left far out."),
    ] = "typical",
    on: On = "loss",
    weights: Weights = "gains",
    symmetry: Symmetry = "mean",
    unknown: Unknown = "max",
    as_json: Json = False,
    log_level: Level = "info",
) -> None:
    """Choose a small subset, for labelling or for a test set, that stands for all images."""
    set_log_level(log_level)
    from mlkit_cluster.steps.findings import coverage as choose
    from mlkit_cluster.store.database import open_run

    with open_run(run, readonly=True) as store:
        rows = choose(store, _view(on, weights, symmetry, unknown), count, how)
    emit(rows if as_json else table(rows), as_json=as_json)
