"""What a run folder holds, read for the report."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ruamel.yaml import YAML
from safetensors import SafetensorError, safe_open

from mlkit_core.errors import RunFolderError

if TYPE_CHECKING:
    from collections.abc import Iterator

Record = dict[str, Any]
_TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}


@dataclass(frozen=True)
class Picture:
    """One picture: the key of its sample, a caption, and a `data:` address."""

    key: str
    caption: str
    source: str


@dataclass(frozen=True)
class PictureGroup:
    """The pictures of `pictures/<name>/`; `legend` holds (colour, meaning), None for overlays."""

    name: str
    title: str
    text: str
    legend: list[tuple[str, str]] | None
    pictures: list[Picture]


@dataclass(frozen=True)
class Table:
    """The table of `tables/<name>.json`."""

    title: str
    text: str
    columns: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class RunRecord:
    """A run folder's contents.

    Args:
        folder: Where they lie.
        text: The run file.
        config: The same, as plain values.
        lines: Of `metrics.jsonl`.
        evaluations: Split to what `eval-<split>.json` holds.
        weights: Part to where its weights came from.
        groups: Pictures.
        tables: Of plugins.
        environment: Python, packages, device.
        warnings: Lines of `log.txt` that warn.
    """

    folder: Path
    text: str
    config: Record
    lines: list[Record]
    evaluations: dict[str, Record]
    weights: dict[str, str]
    groups: list[PictureGroup] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    environment: Record = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Record]:
        """Return the lines of `metrics.jsonl` of one kind."""
        return [line for line in self.lines if line.get("kind") == kind]

    def monitored(self, stage: str) -> tuple[str, bool]:
        """Return the metric that decides a stage's `best` ("": none), and if more is better."""
        options: Record = dict(self.config.get("trainer") or {})
        for entry in self.config.get("stages") or ():
            options |= entry.get("trainer") or {}
            if entry.get("name") == stage:
                break
        return str(options.get("monitor") or ""), options.get("monitor_mode", "max") == "max"


def read_folder(folder: Path) -> RunRecord:
    """Return what the run folder holds so far.

    Raises:
        RunFolderError: It is no run folder, or one of its files is not what it should be.
    """
    if not (folder / "run.yaml").is_file():
        raise RunFolderError(f"{folder}: holds no run.yaml", hint="give the folder of a run")
    text = (folder / "run.yaml").read_text(encoding="utf-8")
    evaluations = {
        path.stem.removeprefix("eval-"): _mapping(path)
        for path in sorted(folder.glob("eval-*.json"))
    }
    weights = {
        k: v for record in evaluations.values() for k, v in record.get("weights", {}).items()
    }
    environment = folder / "environment.json"
    return RunRecord(
        folder=folder,
        text=text,
        config=dict(YAML(typ="safe", pure=True).load(text) or {}),
        lines=list(_lines(folder / "metrics.jsonl")),
        evaluations=evaluations,
        weights=weights or _checkpoint_weights(folder),
        groups=[_group(path) for path in sorted(folder.glob("pictures/*/index.json"))],
        tables=[_table(path) for path in sorted(folder.glob("tables/*.json"))],
        environment=_mapping(environment) if environment.is_file() else {},
        warnings=_warnings(folder / "log.txt"),
    )


def _json(path: Path) -> Any:  # noqa: ANN401  # plain values
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as err:
        raise RunFolderError(f"{path}: not readable as JSON: {err}") from err


def _mapping(path: Path) -> Record:
    value = _json(path)
    if not isinstance(value, dict):
        raise RunFolderError(f"{path}: expected a mapping, got {type(value).__name__}")
    return cast("Record", value)


def _lines(path: Path) -> Iterator[Record]:
    """Yield the lines; the last one is skipped where the run is just writing it."""
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if line.endswith("\n"):
            try:
                yield json.loads(line)
            except ValueError as err:
                raise RunFolderError(f"{path}:{number}: not a line of JSON: {err}") from err


def _checkpoint_weights(folder: Path) -> dict[str, str]:
    for which in ("best", "last"):
        path = folder / which / "model.safetensors"
        if path.is_file():
            try:
                with safe_open(path, framework="pt") as opened:
                    return dict(json.loads((opened.metadata() or {}).get("mlkit", "{}"))["weights"])
            except (OSError, SafetensorError, ValueError, KeyError) as err:
                raise RunFolderError(f"{path}: cannot be read as a checkpoint: {err}") from err
    return {}


def _warnings(path: Path) -> list[str]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if " WARNING " in line or " ERROR " in line]


def _group(path: Path) -> PictureGroup:
    """Return a group; an index that is a plain list is that of an evaluation's overlays."""
    value, name = _json(path), path.parent.name
    given = value if isinstance(value, dict) else {"pictures": value}
    legend = given.get("legend", [] if given is value else None)
    try:
        return PictureGroup(
            name,
            str(given.get("title", f"Examples of {name}, each beside its prediction")),
            str(given.get("text", "")),
            None if legend is None else [(str(colour), str(said)) for colour, said in legend],
            [_picture(path, entry) for entry in given["pictures"]],
        )
    except (KeyError, TypeError, ValueError) as err:
        raise RunFolderError(f"{path}: not an index of pictures: {err!r}") from err


def _picture(index: Path, entry: Record) -> Picture:
    name = str(entry["file"])
    path = index.parent / name
    if Path(name).name != name or path.suffix.lower() not in _TYPES or not path.is_file():
        raise RunFolderError(f"{index}: file: expected a picture beside it, got {name!r}")
    content = base64.b64encode(path.read_bytes()).decode()
    source = f"data:image/{_TYPES[path.suffix.lower()]};base64,{content}"
    return Picture(str(entry.get("key", "")), str(entry.get("caption", "")), source)


def _table(path: Path) -> Table:
    given = _mapping(path)
    try:
        columns = [str(column) for column in given["columns"]]
        rows = [list(row) for row in given["rows"]]
    except (KeyError, TypeError) as err:
        raise RunFolderError(f"{path}: a table needs `columns` and `rows`: {err!r}") from err
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise RunFolderError(
                f"{path}: rows[{number}]: expected {len(columns)} values, got {len(row)}"
            )
    return Table(str(given.get("title", path.stem)), str(given.get("text", "")), columns, rows)
