"""What cluster gives to mlkit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core import CheckSpec, CommandSpec, ComponentSpec, ExampleSpec, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator

MLKIT_API = 1

_COMPONENTS = (
    ComponentSpec(
        kind="data",
        name="image-folder",
        target="mlkit_cluster.images.component:ImageFolder",
        config="mlkit_cluster.config:ImageFolderConfig",
        example="mlkit_cluster.images.example:example",
        summary="Images with boxes and masks in YOLO or COCO form, or without any.",
    ),
    ComponentSpec(
        kind="extractor",
        name="yolo",
        target="mlkit_cluster.yolo.extractor:YoloExtractor",
        config="mlkit_cluster.config:YoloExtractorConfig",
        example="mlkit_cluster.yolo.example:example",
        summary="A YOLO's features, detections, and its loss of every single image.",
        source="https://docs.ultralytics.com (AGPL-3.0)",
    ),
    ComponentSpec(
        kind="extractor",
        name="embedding",
        target="mlkit_cluster.images.embedding:EmbeddingExtractor",
        config="mlkit_cluster.config:EmbeddingExtractorConfig",
        example="mlkit_cluster.images.embedding:example",
        summary="Any encoder's pooled vector of every image.",
    ),
    ComponentSpec(
        kind="trainer",
        name="ultralytics",
        target="mlkit_cluster.training.engine:UltralyticsTrainer",
        config="mlkit_cluster.config:UltralyticsTrainerConfig",
        example="mlkit_cluster.training.example:example",
        summary="Fine-tunes a YOLO by ultralytics' own loop.",
        source="https://docs.ultralytics.com (AGPL-3.0)",
        own_model=True,
        frame_keys=("seed", "data"),
    ),
)


def _verb(name: str, target: str, summary: str) -> CommandSpec:
    return CommandSpec(
        group="cluster", name=name, target=f"mlkit_cluster.verbs.{target}", summary=summary
    )


_VERBS = (
    _verb("losses", "measure:losses", "Each image's own box, cls, dfl and seg loss, as CSV."),
    _verb("extract", "measure:extract", "Features, detections, losses and metrics of images."),
    _verb("embed", "measure:embed", "Add another encoder's embeddings to a run."),
    _verb("distances", "relate:distances", "The loss of every image against every other."),
    _verb("merge", "relate:merge", "Join what the jobs of a job array have written."),
    _verb("drift", "relate:drift", "How far new images are from a run's, by their losses."),
    _verb("cluster", "study:cluster", "Group images by distance or embedding."),
    _verb("project", "study:project", "Two-dimensional maps of a run."),
    _verb("evaluate", "study:evaluate", "Score clusters, beside baselines."),
    _verb("findings", "study:findings", "Contradictions, asymmetry, hard images, bad labels."),
    _verb("coverage", "study:coverage", "A small subset that stands for all images."),
    _verb("report", "show:report", "One HTML page to look at a run."),
    _verb("export", "show:export", "FiftyOne, COCO, CSV, Parquet, or two SQLite files."),
    _verb("sql", "show:sql", "Ask the run's database, read-only."),
    _verb("validate", "show:validate", "Recompute and check what a run holds."),
)


@hookimpl
def mlkit_components() -> Iterator[ComponentSpec]:
    """Yield the components that run files can name."""
    yield from _COMPONENTS


@hookimpl
def mlkit_commands() -> Iterator[CommandSpec]:
    """Yield the verbs of `mlkit cluster`."""
    yield from _VERBS


@hookimpl
def mlkit_checks() -> Iterator[CheckSpec]:
    """Yield what `mlkit doctor` asks."""
    yield CheckSpec(
        name="cluster-kernel",
        target="mlkit_cluster.doctor:check_kernel",
        summary="The compiled kernel agrees with the installed ultralytics.",
    )


@hookimpl
def mlkit_examples() -> Iterator[ExampleSpec]:
    """Yield the run file of `mlkit init cluster`."""
    yield ExampleSpec(
        name="cluster",
        text="mlkit_cluster.run_files:text",
        summary="Read out a YOLO over a folder of images.",
    )
