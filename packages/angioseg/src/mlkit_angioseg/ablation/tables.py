"""An ablation's outcomes as a table: printed, JSON, CSV, and a section of the base's report."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlkit_angioseg.ablation.comparing import Comparison, Interval, compare

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlkit_angioseg.ablation.comparing import Resampling
    from mlkit_angioseg.ablation.running import Ablation, Outcome

Record = dict[str, Any]
_COUNTS = ("head", "trained", "all")


def record_of(ablation: Ablation, how: Resampling) -> Record:
    """Return all that is known of an ablation, as plain values.

    Args:
        ablation: Done, or under way.
        how: Of the intervals.
    """
    wish, base = ablation.wish, ablation.outcomes[0]
    about = base.rows[0] if base.rows else []
    return {
        "base": str(ablation.folder),
        "split": wish.split,
        "seeds": wish.seeds,
        "resamples": how.resamples,
        "images": len(about),
        "cines": len({row.get("cine", row["key"]) for row in about}),
        "patients": len({row.get("patient", row["key"]) for row in about}),
        "scores": list(wish.scores),
        "variants": [_variant(o, base, wish.scores, how) for o in ablation.outcomes],
    }


def _variant(outcome: Outcome, base: Outcome, scores: Sequence[str], how: Resampling) -> Record:
    best = [metrics["dice_at_best"] for metrics in outcome.metrics if "dice_at_best" in metrics]
    against = None if outcome is base else base.rows
    has_rows = bool(outcome.rows) and outcome.status in ("done", "same as base")
    compared = {s: compare(outcome.rows, against, s, how) for s in scores} if has_rows else {}
    return {
        "variant": outcome.variant.label,
        "axis": outcome.variant.axis,
        "value": outcome.variant.value,
        "status": outcome.status,
        "message": outcome.message,
        "runs": outcome.folders,
        "changed_keys": outcome.changed,
        "parameters": outcome.parameters,
        "weights": outcome.weights,
        "told_angles_of": outcome.donors,
        "dice_at_best_threshold": sum(best) / len(best) if best else None,
        "scores": {name: _plain(one) for name, one in compared.items()},
    }


def _plain(one: Comparison) -> Record:
    return {
        k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(one).items()
    }


def notes(record: Record) -> list[str]:
    """Return what a reader must know of the numbers, one sentence or two each."""
    images, cines, patients = record["images"], record["cines"], record["patients"]
    lines = [
        f"Split {record['split']}: {images} images; cines: {cines}, patients: {patients}. "
        "Differences are variant minus base, image by image."
    ]
    by = {s["interval"]["by"] for s in _scores(record) if s["interval"] is not None}
    samples = f"95 % intervals are of {record['resamples']} samples"
    if by == {"patient"}:
        lines.append(f"{samples} of whole patients.")
    elif by:
        lines.append(
            f"One patient: no interval over patients can be made. {samples} of this patient's "
            "cines (marked c), and say nothing about another patient."
        )
    else:
        lines.append("No intervals: none were asked for, or there is one cine alone.")
    if record["seeds"] == 1:
        lines.append("One seed: no interval here holds what another seed would change.")
    else:
        lines.append(f"Images are averaged over {record['seeds']} seeds; ± is the means' spread.")
    failed = [v for v in record["variants"] if v["status"] == "failed"]
    return [*lines, *(f"{v['variant']} failed: {v['message']}" for v in failed)]


def _scores(record: Record) -> list[Record]:
    return [score for variant in record["variants"] for score in variant["scores"].values()]


def text_table(record: Record) -> str:
    """Return the table as aligned text, with its notes below."""
    heads = ["variant", "head", "trained"]
    for name in record["scores"]:
        heads += [name, "95 %", "- base", "95 %"]
    heads += ["dice at best threshold"]
    lines = [heads, *(_line(variant, record["scores"]) for variant in record["variants"])]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    shown = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*shown, "", *notes(record)])


def _line(variant: Record, scores: Sequence[str]) -> list[str]:
    counts = [_short(variant["parameters"].get(key)) for key in _COUNTS[:2]]
    name = variant["variant"] + (" (= base)" if variant["status"] == "same as base" else "")
    cells = [name, *counts]
    for score in scores:
        one = variant["scores"].get(score)
        if one is None:
            cells += [variant["status"], "", "", ""]
            continue
        spread = f" ±{one['seed_spread']:.3f}" if one["seed_spread"] is not None else ""
        cells += [_number(one["mean"]) + spread, _range(one["interval"])]
        cells += [_number(one["difference"], sign=True), _range(one["difference_interval"])]
    return [*cells, _number(variant["dice_at_best_threshold"])]


def _short(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e6:.2f}M" if count >= 1e5 else f"{count / 1e3:.1f}k"


def _number(value: float | None, *, sign: bool = False) -> str:
    return "" if value is None else f"{value:{'+' if sign else ''}.3f}"


def _range(interval: Record | None) -> str:
    if interval is None:
        return ""
    mark = "" if interval["by"] == "patient" else " c"
    return f"{interval['low']:.3f}..{interval['high']:.3f}{mark}"


def _flat(variant: Record, scores: Sequence[str]) -> Record:
    """Return a variant as one line of the CSV and of the report's table."""
    line: Record = {"variant": variant["variant"], "status": variant["status"]}
    line |= {f"{key} parameters": variant["parameters"].get(key) for key in _COUNTS}
    for name in scores:
        one = variant["scores"].get(name, {})
        own, apart = one.get("interval"), one.get("difference_interval")
        line |= {name: one.get("mean"), **_ends(name, own)}
        line |= {f"{name} - base": one.get("difference"), **_ends(f"{name} - base", apart)}
        line |= {f"{name} seed spread": one.get("seed_spread")}
    known = [s["interval"]["by"] for s in variant["scores"].values() if s["interval"]]
    line["interval by"] = known[0] if known else ""
    line["dice at best threshold"] = variant["dice_at_best_threshold"]
    return line | {"message": variant["message"]}


def _ends(name: str, interval: Record | Interval | None) -> Record:
    given = interval if isinstance(interval, dict) else {}
    return {f"{name} from": given.get("low"), f"{name} to": given.get("high")}


def write_tables(ablation: Ablation, how: Resampling) -> Record:
    """Write `ablation.json`, `.csv` and `-images.csv`, and the report's table; return the record.

    Args:
        ablation: Done, or under way.
        how: Of the intervals.
    """
    record = record_of(ablation, how)
    lines = [_flat(variant, record["scores"]) for variant in record["variants"]]
    out = ablation.wish.out
    _write_json(out / "ablation.json", {**record, "notes": notes(record)})
    _write_csv(out / "ablation.csv", lines)
    _write_csv(out / "ablation-images.csv", _images(ablation))
    tables = ablation.folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    shown = {
        "title": "Ablation",
        "text": " ".join(notes(record)),
        "columns": list(lines[0]),
        "rows": [[_rounded(value) for value in line.values()] for line in lines],
    }
    _write_json(tables / "ablation.json", shown)
    return record


def _images(ablation: Ablation) -> list[Record]:
    first = ablation.base.config.seed
    return [
        {"variant": outcome.variant.label, "seed": first + number, **row}
        for outcome in ablation.outcomes
        if outcome.status == "done"
        for number, rows in enumerate(outcome.rows)
        for row in rows
    ]


def _rounded(value: object) -> object:
    return round(value, 5) if isinstance(value, float) else value


def _write_json(path: Path, value: Record) -> None:
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    aside.replace(path)


def _write_csv(path: Path, lines: Sequence[Record]) -> None:
    columns = list(dict.fromkeys(key for line in lines for key in line))
    aside = path.with_name(f".{path.name}.part")
    with aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(lines)
    aside.replace(path)
