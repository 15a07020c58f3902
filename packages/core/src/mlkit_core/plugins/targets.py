"""Imports what a spec's `"module:attribute"` names, when it is first needed."""

from __future__ import annotations

import re
from contextlib import suppress
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
    name, _, attribute = target.partition(":")
    try:
        module = import_module(name)
    except ModuleNotFoundError as err:
        raise PluginError(
            f"{target}: needs module {err.name!r}, which is not installed",
            hint=_how_to_install(err.name or "", name),
        ) from err
    except (Exception, SystemExit) as err:
        raise PluginError(f"{target}: import failed: {type(err).__name__}: {err}") from err
    if not hasattr(module, attribute):
        raise PluginError(f"{target}: module {name!r} has no {attribute!r}")
    return getattr(module, attribute)


def _how_to_install(missing: str, module: str) -> str:
    """Return `pip install 'distribution[extra]'` where an extra is known to hold the module."""
    top, own = missing.partition(".")[0], module.partition(".")[0]
    if not top or top == own:
        return ""
    wanted = _DISTRIBUTION.get(top, top).replace("_", "-").lower()
    for distribution in dict.fromkeys((own.replace("_", "-"), "mlkit-core")):
        with suppress(PackageNotFoundError):
            for match in filter(None, map(_EXTRA.match, requires(distribution) or [])):
                if match[1].replace("_", "-").lower() == wanted:
                    return f"pip install '{distribution}[{match[2]}]'"
    return f"pip install {wanted}"
