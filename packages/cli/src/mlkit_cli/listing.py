"""What `mlkit plugins list` prints, without typer: it is asked often, by people and by scripts."""

from __future__ import annotations

from dataclasses import asdict

from mlkit_cli.catalogue import installed
from mlkit_cli.output import columns, emit, emit_json
from mlkit_core.plugins import KINDS


def print_plugins(*, timings: bool, as_json: bool) -> None:
    """Print the plugins with their status, then the components that run files can name."""
    catalogue = installed()
    if as_json:
        found: dict[str, object] = {
            "plugins": [asdict(plugin) for plugin in catalogue.plugins],
            "components": [
                {**asdict(spec), "plugin": owner} for spec, owner in catalogue.components()
            ],
            "failures": [asdict(failure) for failure in catalogue.failures],
        }
        emit_json(found)
        return
    rows: list[list[str]] = []
    for plugin in catalogue.plugins:
        took = [f"{plugin.milliseconds:.1f} ms"] if timings else []
        rows.append([plugin.name, f"{plugin.distribution} {plugin.version}", *took, plugin.status])
    entries = sorted(catalogue.components(), key=lambda e: (KINDS.index(e.spec.kind), e.spec.name))
    listed = [(f"{spec.kind}/{spec.name}", owner, spec.summary) for spec, owner in entries]
    emit(
        "\n".join(
            ["plugins", columns(rows, indent="  "), "", "components", columns(listed, indent="  ")]
        )
    )
