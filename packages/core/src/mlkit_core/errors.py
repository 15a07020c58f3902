"""Errors that mlkit raises on purpose: each says what, where, got, and how to go on."""

from __future__ import annotations


class MlkitError(Exception):
    """An error that a user can act on.

    Args:
        message: `what: where: got`, lower case, without a full stop.
        hint: What to do about it; shown on a line of its own.
    """

    exit_code = 1  # 1: the run failed; 2: usage, config or input

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InputError(MlkitError):
    """What the user gave is wrong: a file, an argument, a name."""

    exit_code = 2


class ConfigError(InputError):
    """One or more lines of a run file are wrong.

    Args:
        problems: One finished line for each problem, `file:line: path: what`.
    """

    def __init__(self, problems: list[str], *, hint: str = "") -> None:
        super().__init__("\n".join(problems), hint=hint)
        self.problems = list(problems)

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the list of problems when a worker process sends the error back."""
        return (type(self), (self.problems,), {"hint": self.hint})


class PluginError(InputError):
    """A component or a plugin is unknown, ambiguous, or breaks its contract."""


class BuildError(InputError):
    """Parts of a model do not fit each other."""


class DataError(InputError):
    """A file of the data is missing, corrupt or contradicts another."""


class WeightsError(InputError):
    """Weights are missing, gated, or do not fit the model."""


class RunFolderError(InputError):
    """A run folder or a checkpoint cannot be used as asked."""


class TrainingError(MlkitError):
    """Training cannot go on, for instance because a loss is not finite."""
