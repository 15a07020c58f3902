"""The hooks: the whole plugin API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from mlkit_core.plugins.specs import CheckSpec, CommandSpec, ComponentSpec, ExampleSpec

PROJECT = "mlkit"
API = 1  # raised when a hook changes in a way that old plugins do not survive

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class MlkitHooks:
    """Every hook that a plugin may implement. `docs/hooks/` has one page for each."""

    @hookspec
    def mlkit_components(self) -> Iterable[ComponentSpec]:  # pyright: ignore[reportReturnType]  # spec
        """Yield the components that run files can name."""

    @hookspec
    def mlkit_commands(self) -> Iterable[CommandSpec]:  # pyright: ignore[reportReturnType]  # spec
        """Yield verbs that appear under `mlkit <group>`."""

    @hookspec
    def mlkit_checks(self) -> Iterable[CheckSpec]:  # pyright: ignore[reportReturnType]  # spec
        """Yield checks that `mlkit doctor` runs."""

    @hookspec
    def mlkit_examples(self) -> Iterable[ExampleSpec]:  # pyright: ignore[reportReturnType]  # spec
        """Yield run files for `mlkit init`, and demos for `mlkit demo`."""

    @hookspec
    def mlkit_run_started(self, folder: Path, config: Mapping[str, object]) -> None:
        """React to a run that starts or resumes, on rank 0; `config` is the resolved run file."""

    @hookspec
    def mlkit_metrics(self, folder: Path, record: Mapping[str, object]) -> None:
        """React to one line of `metrics.jsonl`, on rank 0, after it was written."""

    @hookspec
    def mlkit_run_finished(self, folder: Path, status: str) -> None:
        """React to the end of a run, on rank 0: `finished`, `interrupted` or `failed`."""
