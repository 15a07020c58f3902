"""A group of verbs that is listed from specs; a verb's module is imported when it is called."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup

from mlkit_core.errors import InputError
from mlkit_core.plugins import import_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typer._click import Command, Context, HelpFormatter  # pyright: ignore[reportPrivateImportUsage]  # typer's own click, for annotations only

    from mlkit_core.plugins.specs import CommandSpec

SHORT_HELP = {"help_option_names": ["-h", "--help"]}


class LazyGroup(TyperGroup):
    """A group whose verbs and sub-groups are specs until one of them is called."""

    def verbs(self) -> Mapping[str, CommandSpec]:
        """Return the verbs by name, in the order of the help."""
        return {}

    def groups(self) -> Mapping[str, Mapping[str, CommandSpec]]:
        """Return the sub-groups by name, each with its verbs."""
        return {}

    def group(self, name: str) -> Mapping[str, CommandSpec] | None:
        """Return one sub-group, or None."""
        return self.groups().get(name)

    def list_commands(self, ctx: Context) -> list[str]:
        """Return the names of all verbs and groups."""
        return [*self.verbs(), *self.groups()]

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """Import the verb, or make the group, of that name; None where there is none."""
        if cmd_name in self.verbs():
            return load(self.verbs()[cmd_name])
        inner = self.group(cmd_name)
        return Domain(cmd_name, inner) if inner is not None else None

    def resolve_command(
        self, ctx: Context, args: list[str]
    ) -> tuple[str | None, Command | None, list[str]]:
        """Find the verb that is called.

        Raises:
            InputError: There is none of that name (the hint names the nearest), or several
                plugins have it.
        """
        command = self.get_command(ctx, args[0])
        if command is None:
            owned = [name for name in self.list_commands(ctx) if name.endswith(f"/{args[0]}")]
            if owned:
                choices = " or ".join(map(repr, owned))
                raise InputError(
                    f"{ctx.command_path}: several plugins have a verb {args[0]!r}; say {choices}"
                )
            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"{ctx.command_path}: no verb {args[0]!r}",
                hint=f"{guess}`{ctx.command_path} --help` shows all",
            )
        return args[0], command, args[1:]

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the verbs with their summaries."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, spec.summary) for name, spec in self.verbs().items()])


class Domain(LazyGroup):
    """The verbs of one group, as `mlkit plugins` or `mlkit angioseg`."""

    def __init__(self, name: str, verbs: Mapping[str, CommandSpec]) -> None:
        super().__init__(
            name=name, no_args_is_help=True, rich_markup_mode=None, context_settings=SHORT_HELP
        )
        self._verbs = verbs

    def verbs(self) -> Mapping[str, CommandSpec]:
        """Return the group's verbs by name."""
        return self._verbs


def load(spec: CommandSpec) -> Command:
    """Import a verb's function and return it as a command."""
    function = import_target(spec.target)
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name=spec.name, context_settings=SHORT_HELP)(function)
    return typer.main.get_command(app)
