"""Checks of encoders, fusions, heads and losses, each on the component's own example."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mlkit_core.tensors import map_tensors
from mlkit_core.testing.subject import floats, same
from mlkit_core.types import (
    Features,
    FeatureSpec,
    HeadOutput,
    Letterbox,
    Ratio,
    SampleMeta,
    Target,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.testing.subject import Subject


def check_published_shapes(subject: Subject) -> None:
    """What the encoder or fusion publishes is what it gives."""
    part = subject.module().eval()
    spec: FeatureSpec = part.spec
    with torch.no_grad():
        features = subject.call(part)
    typed = isinstance(spec, FeatureSpec) and isinstance(features, spec.type)
    subject.require(typed, "must publish `spec`, a FeatureSpec, and give features of `spec.type`")
    got = {level: values.shape[1] for level, values in features.maps.items()}
    want = dict(spec.channels)
    subject.require(
        list(got.items()) == list(want.items()), f"publishes maps {want} but gives {got}"
    )
    for name, dim, values in (
        ("vector_dim", spec.vector_dim, features.vector),
        ("token_dim", spec.token_dim, features.tokens),
    ):
        width = None if values is None else values.shape[-1]
        subject.require(width == dim, f"publishes {name} {dim} but gives {width}")
    sizes = {
        (values.shape[2] * spec.strides[level], values.shape[3] * spec.strides[level])
        for level, values in features.maps.items()
    }
    if subject.kind == "encoder" and spec.channels:
        sizes.add(tuple(subject.example.args[0].shape[-2:]))
    subject.require(
        len(sizes) <= 1,
        f"strides {dict(spec.strides)} do not fit the maps: input size {sorted(sizes)}",
    )


def check_encoder_declares(subject: Subject) -> None:
    """An encoder says what it takes, and an image encoder which sizes and which padding."""
    part, rows = subject.build(), subject.example.args[0]
    shape = tuple(getattr(part, "input_shape", None) or ())
    subject.require(shape, "must publish `input_shape`, one row, None for a free size")
    fits = len(shape) == rows.ndim - 1 and all(
        a in (None, b) for a, b in zip(shape, rows.shape[1:], strict=False)
    )
    subject.require(fits, f"input_shape {shape} does not fit the example {tuple(rows.shape)}")
    if len(shape) != 3:
        return
    sized = getattr(part, "sizes", None) or hasattr(part, "size_multiple")
    subject.require(sized, "an image encoder must publish `size_multiple` or `sizes`")
    pad = getattr(part, "pad_rgb", ())
    subject.require(len(pad) == 3, "an image encoder must publish `pad_rgb`, three values 0..1")


def check_head_output(subject: Subject) -> None:
    """A head gives its `output_type`, and decodes one prediction for each row of meta."""
    part = subject.module().eval()
    kind: Any = getattr(part, "output_type", None)
    declared = isinstance(kind, type) and issubclass(kind, HeadOutput)
    subject.require(declared, "must publish `output_type`, a subclass of HeadOutput")
    with torch.no_grad():
        output = subject.call(part)
        subject.require(isinstance(output, kind), f"must give {kind}, got {type(output).__name__}")
        meta = subject.example.args[1] if len(subject.example.args) > 1 else _meta(subject)
        predictions = part.decode(output, meta)
    subject.require(
        len(predictions) == len(meta),
        f"decode must give one prediction for each of {len(meta)} metas, got {len(predictions)}",
    )


def _meta(subject: Subject) -> list[SampleMeta]:
    scope: Mapping[str, Features] = subject.example.args[0]
    for role, spec in subject.example.context["inputs"].items():
        for level, values in scope[role].maps.items():
            size = (values.shape[2] * spec.strides[level], values.shape[3] * spec.strides[level])
            boxed = Letterbox(scale=1.0, size=size)
            return [
                SampleMeta(key=str(row), size=size, letterbox=boxed)
                for row in range(values.shape[0])
            ]
    subject.require(False, "no role of the example has maps; give the metas as args[1]")
    return []


def check_gradients(subject: Subject) -> None:
    """Every parameter that asks for a gradient gets one."""
    part = subject.module().train()
    outputs = [t for t in floats(subject.call(part)) if t.requires_grad]
    wanted = {name: p for name, p in part.named_parameters() if p.requires_grad}
    if not wanted:
        return
    subject.require(outputs, "no output depends on the parameters: is there a no_grad or a detach?")
    generator = torch.Generator().manual_seed(0)
    # Random weights: the sum of a softmax or of a normalised vector has no gradient.
    torch.stack(
        [(t * torch.randn(t.shape, generator=generator)).sum() for t in outputs]
    ).sum().backward()
    missing = [n for n, p in wanted.items() if p.grad is None or not p.grad.abs().sum() > 0]
    subject.require(
        not missing,
        f"no gradient reaches {', '.join(missing[:5])}; use it in forward, drop it, or set "
        "requires_grad to False",
    )


def check_state_dict(subject: Subject) -> None:
    """A second instance gives the same output after it has loaded the first one's state."""
    first, second = subject.module(0).eval(), subject.build(seed=1).eval()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        equal = same(*(floats(subject.call(part)) for part in (first, second)))
    subject.require(
        equal, "state_dict does not hold all of it: register what is random or learned as a buffer"
    )


def check_deterministic(subject: Subject) -> None:
    """In eval mode two calls give the same, whatever the random state."""
    part = subject.module().eval()
    with torch.no_grad():
        first, again = (floats(subject.call(part, seed=seed)) for seed in (0, 1))
    subject.require(same(first, again), "eval is not deterministic: random numbers or a state")


def check_batch_of_one(subject: Subject) -> None:
    """One row works, and an encoder's rows do not depend on each other in eval mode."""
    part = subject.module().eval()
    value = subject.example.args[0]
    if subject.kind == "encoder":
        one = value[:1]
    else:  # roles with a lead (references, clips) stay whole
        one = {r: f if f.valid is not None else _first_row(f) for r, f in value.items()}
    with torch.no_grad():
        alone, whole = (floats(subject.call(part, x)) for x in (one, value))
    subject.require(
        all(t.isfinite().all() for t in alone), "one row gives values that are not finite"
    )
    if subject.kind == "encoder":
        close = [torch.allclose(a, b[:1], 1e-3, 1e-4) for a, b in zip(alone, whole, strict=True)]
        subject.require(all(close), "a row's features depend on the other rows of the batch")


def check_bad_input(subject: Subject) -> None:
    """What does not fit is refused by an error of ours that says what was expected."""
    if subject.kind != "encoder":
        subject.refuses("roles {}", lambda: subject.build(inputs={}, on=None))
        return
    part, rows = subject.module().eval(), subject.example.args[0]
    sized = getattr(part, "sizes", None) or getattr(part, "size_multiple", 1) > 1
    for dim, fixed in enumerate(part.input_shape, start=1):
        if fixed is None and not sized:
            continue
        wrong = torch.cat([rows, rows.narrow(dim, 0, 1)], dim)
        subject.refuses(f"rows {tuple(wrong.shape[1:])}", lambda x=wrong: subject.call(part, x))


def check_loss_parts(subject: Subject) -> None:
    """A loss gives named scalars or ratios, finite, and a gradient to what it reads."""
    part = subject.module().train()
    for name, base in (("output_type", HeadOutput), ("target_type", Target)):
        kind = getattr(part, name, ...)
        fits = (kind is None and name == "output_type") or (
            isinstance(kind, type) and issubclass(kind, base)
        )
        subject.require(fits, f"must publish `{name}`, a subclass of {base.__name__}")
    output, batch, step = subject.example.args
    subject.require(len(batch.meta) > 0, "the example's batch needs `meta`, one for each row")
    output = map_tensors(
        output, lambda t: t.detach().clone().requires_grad_() if t.is_floating_point() else t
    )
    parts = subject.call(part, output, batch, step)
    subject.require(isinstance(parts, dict) and parts, "must give a dict of named parts")
    sums = []
    for name, value in parts.items():
        total = value.sum if isinstance(value, Ratio) else value
        scalar = isinstance(total, Tensor) and total.ndim == 0 and bool(total.isfinite())
        subject.require(scalar, f"part {name!r} must be a finite scalar tensor or a Ratio of one")
        sums.append(total)
    torch.stack(sums).sum().backward()
    read = floats(output.head if part.output_type is not None else output.scope)
    reached = any(t.grad is not None and t.grad.abs().sum() > 0 for t in read)
    subject.require(
        reached, "no gradient reaches the head's output (or the roles): is it detached?"
    )


def check_loss_rows(subject: Subject) -> None:
    """A target with a row less than the output is refused, not broadcast."""
    part = subject.module().train()
    output, batch, step = subject.example.args
    target = batch.target
    tensors = {f.name: getattr(target, f.name) for f in fields(target)}
    cut = {name: t[:-1] for name, t in tensors.items() if isinstance(t, Tensor)}
    shorter = replace(batch, target=replace(target, **cut))
    subject.refuses("a target with a row less", lambda: subject.call(part, output, shorter, step))


def check_loss_of_one(subject: Subject) -> None:
    """A batch of one row gives finite parts."""
    output, batch, step = subject.example.args
    if output.head is None:
        return
    one = replace(output, head=_first_row(output.head))
    batch = replace(batch, target=_first_row(batch.target), meta=batch.meta[:1])
    values = floats(subject.call(subject.module().train(), one, batch, step))
    subject.require(
        all(t.isfinite().all() for t in values), "one row gives a part that is not finite"
    )


def _first_row(value: Any) -> Any:  # noqa: ANN401  # features, an output or a target
    return map_tensors(value, lambda t: t[:1])
