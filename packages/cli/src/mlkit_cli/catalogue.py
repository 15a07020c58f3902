"""The installed plugins as the command sees them: failures are told once, on stderr."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING

from mlkit_cli.output import note
from mlkit_core.plugins import load_catalogue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.plugins import Catalogue, CommandSpec


@cache
def installed() -> Catalogue:
    """Load the plugins, and say in one line each which ones failed."""
    catalogue = load_catalogue()
    for failure in catalogue.failures:
        note(
            f"warning: plugin {failure.plugin} ({failure.distribution} {failure.version}) "
            f"is left out: {failure.stage}: {failure.error}"
        )
    return catalogue


@cache
def domain_verbs() -> Mapping[str, Mapping[str, CommandSpec]]:
    """Return the verbs that plugins contribute, by group, then by name.

    A verb that several plugins have is called `owner/name`.
    """
    owned = installed().owned["mlkit_commands"]
    count = Counter((spec.group, spec.name) for spec, _ in owned)
    groups: dict[str, dict[str, CommandSpec]] = {}
    for spec, owner in owned:
        name = spec.name if count[spec.group, spec.name] == 1 else f"{owner}/{spec.name}"
        groups.setdefault(spec.group, {})[name] = spec
    return groups
