"""Imports what a spec's `"module:attribute"` names, when it is first needed."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

from mlkit_core.errors import PluginError

_EXTRA = re.compile(r"([\w.-]+).*;.*\bextra\s*==\s*['\"]([\w.-]+)['\"]")
_DISTRIBUTION = {"PIL": "pillow", "sklearn": "scikit-learn"}


def import_target(target: str) -> Any:  # noqa: ANN401  # whatever the target names
    """Return the attribute that `"package.module:attribute"` names.

    Raises:
        PluginError: A module is missing (the hint names the extra that installs it), the import
            raises, or the module lacks the attribute.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as err:
        raise PluginError(
            f"{target}: needs module {err.name!r}, which is not installed",
            hint=_how_to_install(err.name or "", module),
        ) from err
    except AttributeError as err:
        if getattr(err, "name", None) != attribute:
            raise PluginError(f"{target}: import failed: AttributeError: {err}") from err
        raise PluginError(f"{target}: module {module!r} has no {attribute!r}") from err
    except (Exception, SystemExit) as err:
        raise PluginError(f"{target}: import failed: {type(err).__name__}: {err}") from err


def _how_to_install(missing: str, module: str) -> str:
    """Return `pip install 'distribution[extra]'` where an extra is known to hold the module."""
    top = missing.partition(".")[0]
    if top == module.partition(".")[0]:
        return ""
    wanted = _DISTRIBUTION.get(top, top).replace("_", "-").lower()
    for distribution in dict.fromkeys((module.partition(".")[0].replace("_", "-"), "mlkit-core")):
        try:
            lines = requires(distribution) or []
        except PackageNotFoundError:
            continue
        for match in filter(None, map(_EXTRA.match, lines)):
            if match[1].replace("_", "-").lower() == wanted:
                return f"pip install '{distribution}[{match[2]}]'"
    return f"pip install {wanted}" if wanted else ""
