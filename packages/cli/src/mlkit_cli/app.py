"""The tree of verbs as a typer command: only the verb that is called is imported."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Annotated

import typer

from mlkit_cli import tree
from mlkit_cli.catalogue import installed
from mlkit_cli.lazy import SHORT_HELP, LazyGroup

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typer._click import Context, HelpFormatter

    from mlkit_core.plugins.specs import CommandSpec


class Root(LazyGroup):
    """`mlkit`: its own verbs, `plugins`, and one group for each domain that has verbs."""

    def verbs(self) -> Mapping[str, CommandSpec]:
        """Return the command's own verbs."""
        return tree.verbs()

    def groups(self) -> Mapping[str, Mapping[str, CommandSpec]]:
        """Return `plugins` and the domains' groups."""
        return tree.groups()

    def group(self, name: str) -> Mapping[str, CommandSpec] | None:
        """Return one group's verbs, or None."""
        return tree.group(name)

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the help, which needs no typer and is therefore elsewhere."""
        formatter.write(tree.help_text())


def build() -> Root:
    """Return the command's root, with no verb imported."""
    app = typer.Typer(
        cls=Root, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )
    app.callback(context_settings=SHORT_HELP)(mlkit)
    root = typer.main.get_command(app)
    assert isinstance(root, Root)  # what `cls` asks for
    return root


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"mlkit {version('mlkit-cli')}")
        raise typer.Exit


def mlkit(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Say which plugins failed, whatever the verb."""
    installed()
    gc.enable()  # `main` disabled it for the imports, which end here
