"""Verbs that run a model over images: losses, extract, embed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mlkit_cluster.verbs.console import LOG, Ticker, emit, resumable, set_log_level
from mlkit_cluster.verbs.options import (
    Address,
    Device,
    Engine,
    Json,
    Level,
    ModelFile,
    RunFolder,
    ShardOption,
    Source,
    Workers,
)
from mlkit_core.errors import InputError, MlkitError

if TYPE_CHECKING:
    from mlkit_cluster.steps.extraction import Extracted
    from mlkit_core.config.frame import Part

Labels = Annotated[
    str,
    typer.Option(
        "--labels",
        metavar="WHICH",
        help="auto, none, yolo, or a COCO JSON file; auto takes text files where there are any.",
    ),
]
LabelFolder = Annotated[
    str,
    typer.Option("--label-folder", help="What stands for `images` in a YOLO label's path."),
]
ImageSize = Annotated[
    int, typer.Option("--image-size", min=32, metavar="PX", help="Side of the square input.")
]
Confidence = Annotated[
    float, typer.Option("--conf", min=0, max=1, help="Detections are more confident than this.")
]
Overlap = Annotated[
    float, typer.Option("--iou", min=0, max=1, help="Overlap beyond which a weaker box goes.")
]
Retry = Annotated[bool, typer.Option("--retry", help="Try unreadable images again.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Unreadable images are no reason to fail.")
]


def extract(
    source: Source,
    model: ModelFile = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="RUN", help="Folder; default runs/<source's name>."),
    ] = None,
    labels: Labels = "auto",
    label_folder: LabelFolder = "labels",
    image_size: ImageSize = 640,
    conf: Confidence = 0.25,
    iou: Overlap = 0.45,
    target_conf: Annotated[
        float,
        typer.Option("--target-conf", min=0, max=1, help="Detections above are targets."),
    ] = 0.25,
    max_det: Annotated[int, typer.Option("--max-det", min=1, help="Most of one image.")] = 300,
    maps: Annotated[
        Literal["none", "grid4", "full16"],
        typer.Option("--maps", help="What is kept of the maps before the head."),
    ] = "grid4",
    supercategories: Annotated[
        Path | None, typer.Option("--supercategories", metavar="YAML", help="Group to classes.")
    ] = None,
    device: Device = "auto",
    engine: Engine = "local",
    workers: Workers = 2,
    ray_address: Address = None,
    shard: ShardOption = None,
    retry: Retry = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
    log_level: Level = "info",
) -> None:
    """Read out a YOLO: features, detections, and with labels losses and metrics of each image.

    SOURCE may also be a run file with an `extractor`. A stopped call goes on where it stood.
    """
    set_log_level(log_level)
    from mlkit_cluster.steps.parts import make_part
    from mlkit_cluster.steps.run_file import names_extractor, parts_of

    if names_extractor(source):
        name, data, extractor = parts_of(source)
        out = out or Path("runs") / name
    else:
        data = _data(source, labels, label_folder, image_size)
        options = {
            "model": str(_model(model)),
            "image_size": image_size,
            "conf": conf,
            "iou": iou,
            "max_det": max_det,
            "target_conf": target_conf,
            "maps": maps,
            "device": device,
            "supercategories": supercategories and str(supercategories),
        }
        extractor = make_part("extractor", "yolo", options)
        out = out or Path("runs") / source.absolute().stem
    found = _extract(out, data, extractor, engine, workers, ray_address, shard, retry)
    _tell(found, as_json=as_json, skip_bad=skip_bad)


def embed(
    run: RunFolder,
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder", metavar="NAME", help="timm:MODEL, or the name of a registered encoder."
        ),
    ],
    weights: Annotated[
        str | None, typer.Option("--weights", help="auto, none, a path, or hf:owner/repo/file.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Of the rows; default the encoder's.")
    ] = None,
    image_size: ImageSize = 224,
    device: Device = "auto",
    engine: Engine = "local",
    workers: Workers = 2,
    ray_address: Address = None,
    shard: ShardOption = None,
    as_json: Json = False,
    log_level: Level = "info",
) -> None:
    """Add another encoder's embeddings to a run; nothing else of it is touched."""
    set_log_level(log_level)
    from mlkit_cluster.steps.extraction import source_of
    from mlkit_cluster.steps.parts import make_part
    from mlkit_cluster.store.database import open_run

    component, _, model = encoder.partition(":")
    options = {"encoder": {"name": component, **({"model": model} if model else {})}}
    extractor = make_part(
        "extractor", "embedding", {**options, "weights": weights, "device": device}
    )
    with open_run(run, readonly=True) as store:
        folder, source = store.folder, source_of(store)
    data = make_part(
        "data",
        "image-folder",
        {"source": source, "labels": "none", "image_size": image_size},
    )
    found = _extract(
        folder, data, extractor, engine, workers, ray_address, shard, False, name or encoder
    )
    _tell(found, as_json=as_json, skip_bad=True)


def losses(
    source: Source,
    model: ModelFile = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="CSV", help="The table; may end in .parquet.")
    ] = Path("losses.csv"),
    labels: Labels = "auto",
    label_folder: LabelFolder = "labels",
    image_size: ImageSize = 640,
    conf: Confidence = 0.25,
    iou: Overlap = 0.45,
    device: Device = "auto",
    workers: Workers = 2,
    retry: Retry = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
    log_level: Level = "info",
) -> None:
    """Write each image's own box, cls, dfl and seg loss, and its metrics, as one table.

    What is computed is kept beside the table in a folder that ends in `.run`, so that a stopped
    call goes on; `mlkit cluster distances` and the other verbs take that folder.
    """
    set_log_level(log_level)
    from mlkit_cluster.steps.losses import write_losses
    from mlkit_cluster.steps.parts import make_part

    if out.suffix not in (".csv", ".parquet"):
        raise InputError(f"--out: expected a name that ends in .csv or .parquet, got {str(out)!r}")
    options = {
        "model": str(_model(model)),
        "image_size": image_size,
        "conf": conf,
        "iou": iou,
        "target_conf": conf,
        "maps": "none",
        "device": device,
    }
    data = _data(source, labels, label_folder, image_size)
    extractor = make_part("extractor", "yolo", options)
    folder = out.with_suffix(".run")
    found = _extract(folder, data, extractor, "local", workers, None, None, retry)
    if not found.labelled:
        raise InputError(
            f"{source}: no labels were found, so there is no loss of them",
            hint="`--labels FILE.json` for COCO, `--label-folder` for another folder of YOLO's",
        )
    summary = write_losses(folder, out)
    emit({**summary, "table": str(out), "run": str(folder)}, as_json=as_json)
    _refuse_bad(found, skip_bad=skip_bad)


def _model(path: Path | None) -> Path:
    if path is None:
        raise InputError("--model: expected a checkpoint", hint="as --model yolov8n.pt")
    from mlkit_cluster.training.engine import weights_of

    inside = weights_of(path, "best")
    return inside if inside.is_file() else path


def _data(source: Path, labels: str, label_folder: str, image_size: int) -> Part:
    from mlkit_cluster.steps.parts import make_part

    options: dict[str, object] = {"source": str(source), "image_size": image_size}
    options["label_folder"] = label_folder
    known = labels in ("auto", "none", "yolo")
    options |= {"labels": labels} if known else {"labels": "coco", "annotations": labels}
    if not known and not Path(labels).is_file():
        raise InputError(
            f"--labels: expected auto, none, yolo or a COCO file, got {labels!r}",
            hint="there is no such file",
        )
    return make_part("data", "image-folder", options)


def _extract(
    folder: Path,
    data: Part,
    extractor: Part,
    engine: str,
    workers: int,
    address: str | None,
    shard: str | None,
    retry: bool,
    encoder: str | None = None,
) -> Extracted:
    from mlkit_cluster.distances.shard import parse_shard
    from mlkit_cluster.engines import make_engine
    from mlkit_cluster.steps.extraction import extract as run

    name = encoder or ("yolo" if extractor.name == "yolo" else extractor.name)
    with resumable():
        return run(
            folder,
            data,
            extractor,
            engine=make_engine(engine, workers, address),
            encoder=name,
            shard=parse_shard(shard),
            retry=retry,
            tell=Ticker("images"),
        )


def _tell(found: Extracted, *, as_json: bool, skip_bad: bool) -> None:
    said = {
        "run": str(found.folder),
        "images": found.images,
        "extracted now": found.done,
        "labelled": found.labelled,
        "unreadable": len(found.failed),
    }
    if as_json:
        said["failed"] = [{"path": path, "error": error} for path, error in found.failed]
    emit(said, as_json=as_json)
    _refuse_bad(found, skip_bad=skip_bad)


def _refuse_bad(found: Extracted, *, skip_bad: bool) -> None:
    if not found.failed:
        return
    line = f"{len(found.failed)} of {found.images} images cannot be read; the others are done"
    if skip_bad:
        LOG.warning("%s", line)
        return
    raise MlkitError(line, hint="mend them and --retry, or say --skip-bad")
