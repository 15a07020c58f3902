"""What plugins yield: frozen descriptions that hold strings, so listing them imports nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["encoder", "fusion", "head", "loss", "trainer", "extractor", "data", "metric"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


_TARGETS = ("target", "config", "example", "text", "demo")


class _Checked:
    """Refuses names and targets that are not written as they must be."""

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            if field in ("name", "group") and not _NAME.fullmatch(value):
                rule = "must be kebab-case: lower-case letters, digits, hyphens"
                raise ValueError(f"{field} {value!r} {rule}")
            if field in _TARGETS and value is not None and not _TARGET.fullmatch(value):
                raise ValueError(f"{field} {value!r} must read 'package.module:attribute'")


@dataclass(frozen=True, kw_only=True)
class ComponentSpec(_Checked):
    """One component that a run file can name.

    Args:
        kind: Which of the eight interfaces it fills.
        name: Kebab-case, unique within the kind and the distribution.
        target: `"module:Class"`, imported when the component is built.
        config: `"module:Model"`, a subclass of `mlkit_core.Config`; None: it takes no options.
        example: `"module:function"`, called with a folder, gives a `mlkit_core.types.Example`.
        summary: One line for lists.
        source: Paper, page or repository that the component follows.
        own_model: For trainers with an engine and a model of their own: no `model` is needed.
        trains: For trainers; one that trains nothing takes no losses, optimizer or freeze.
        frame_keys: For such trainers, the keys of the frame that they honour; any other is refused.
    """

    kind: Kind
    name: str
    target: str
    config: str | None = None
    example: str | None = None
    summary: str = ""
    source: str = ""
    own_model: bool = False
    trains: bool = True
    frame_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} must be one of {', '.join(KINDS)}")
        super().__post_init__()
        if (self.own_model or self.frame_keys) and self.kind != "trainer":
            raise ValueError(f"own_model and frame_keys are for trainers, not for a {self.kind}")


@dataclass(frozen=True, kw_only=True)
class CommandSpec(_Checked):
    """A verb under `mlkit <group>`.

    Args:
        group: The domain, as in `mlkit angioseg …`.
        name: The verb.
        target: `"module:function"`, a Typer-style function, imported when the verb is called.
        summary: The line in `mlkit <group> --help`, shown without importing the target.
    """

    group: str
    name: str
    target: str
    summary: str


@dataclass(frozen=True, kw_only=True)
class CheckSpec(_Checked):
    """A check for `mlkit doctor`: `target`, called without arguments, gives a `CheckResult`."""

    name: str
    target: str
    summary: str


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What a check found: `ok`, a line of detail, and what to do when it is not ok."""

    ok: bool
    detail: str
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class ExampleSpec(_Checked):
    """A run file for `mlkit init <name>` (and, with `demo`, the body of `mlkit demo <name>`).

    Args:
        name: What the user types.
        text: `"module:function"`, called without arguments, gives the YAML text.
        summary: One line for lists.
        demo: `"module:function"`, called with (folder) and giving the run file's path after it has
            written its embedded data there; None where the example has no embedded data.
    """

    name: str
    text: str
    summary: str
    demo: str | None = None


@dataclass(frozen=True)
class PluginFailure:
    """A plugin that could not be loaded, as a value: the rest goes on without it."""

    plugin: str
    distribution: str
    version: str
    stage: str
    error: str
