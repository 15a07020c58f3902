"""One road for evaluation and prediction: batches, the head's stream, metrics."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from mlkit_core.tensors import to_device, to_float32
from mlkit_core.training.sampling import evaluation_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import nn

    from mlkit_core.interfaces import Data, Metric
    from mlkit_core.model import Model
    from mlkit_core.training.engine import Engine
    from mlkit_core.types import Batch, Prediction, Role

Decoded = tuple["Batch", "list[Prediction]"]


@dataclass
class Evaluation:
    """Metrics over all samples of a split, and the rows of metrics that keep them.

    Args:
        metrics: `metric.value` to number.
        rows: One mapping for each sample, where a metric has `rows()`.
    """

    metrics: dict[str, float]
    rows: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch to eval without gradients, and back to each module's own mode afterwards."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        with (
            torch.no_grad()
        ):  # not inference_mode: a module may keep a table that training reads next
            yield
    finally:
        for child, mode in modes:
            child.training = mode


def stream(model: Model, batches: Iterable[Batch]) -> Iterator[Decoded]:
    """Yield each item's batch and predictions, by the head's own `stream` where it has one.

    The default decodes batch by batch. A role's `state` goes to the next window of the same item
    and is dropped where `meta.key` changes.
    """
    own = getattr(model.head, "stream", None)
    if callable(own):
        yield from own(model, batches)  # pyright: ignore[reportGeneralTypeIssues]  # Head protocol
        return
    states: dict[Role, object] = {}
    key = None
    for batch in batches:
        if batch.meta[0].key != key:
            states, key = {}, batch.meta[0].key
        output = to_float32(model(batch, states=states))
        states = {role: f.state for role, f in output.scope.items() if f.state is not None}
        yield batch, model.head.decode(output.head, batch.meta)  # pyright: ignore[reportOptionalMemberAccess,reportCallIssue]


def evaluate(
    model: Model,
    data: Data,
    make: Callable[[], Mapping[str, Metric]],
    split: str,
    engine: Engine,
    *,
    prepare: Callable[[Batch], Batch] | None = None,
    seen: Callable[[Batch, list[Prediction]], None] = lambda _batch, _predictions: None,
) -> Evaluation:
    """Return metrics over every sample of a split exactly once, on any number of ranks.

    Args:
        model: In any mode; put back into it afterwards.
        data: Bound.
        make: Gives fresh metrics: one set for this rank, one to merge all ranks' states into.
        split: "val" or "test".
        engine: For ranks and device.
        prepare: Moves a batch to the device, and fills in cached features where there are any.
        seen: Called with each item, for instance to draw pictures.
    """
    units = data.units(split, 0)
    loaded = evaluation_batches(data, units, rank=engine.rank, ranks=engine.ranks)
    ready = prepare or (lambda batch: to_device(batch, engine.device))
    batches = (ready(batch) for group in loaded for batch in group)
    metrics, merged = make(), make()
    with evaluating(model), engine.autocast():
        for batch, predictions in stream(model, batches):
            for metric in metrics.values():
                metric.update(predictions, batch)
            seen(batch, predictions)
    for states in engine.gather({name: metric.state() for name, metric in metrics.items()}):
        for name, state in states.items():
            merged[name].merge(state)
    values = {f"{n}.{key}": float(v) for n, m in merged.items() for key, v in m.compute().items()}
    rows = [dict(row) for m in merged.values() if hasattr(m, "rows") for row in m.rows()]  # pyright: ignore
    return Evaluation(values, rows)
