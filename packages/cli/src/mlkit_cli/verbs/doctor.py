"""`mlkit doctor`: versions, devices, plugins that failed, and the plugins' own checks."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

import typer

from mlkit_cli.catalogue import installed
from mlkit_cli.output import columns, emit, emit_json
from mlkit_cli.verbs.options import Json
from mlkit_core.errors import MlkitError
from mlkit_core.plugins import CheckResult, CheckSpec, import_target

UNHEALTHY = 3
LIBRARIES = ("torch", "torchvision", "accelerate", "timm", "numpy", "pydantic", "pluggy", "typer")


def doctor(as_json: Json = False) -> None:
    """Show what is installed and whether it works; exit code 3 where something does not."""
    catalogue = installed()
    checks = {spec.name: run_check(spec) for spec in catalogue.checks}
    healthy = not catalogue.failures and all(result.ok for result in checks.values())
    if as_json:
        found: dict[str, object] = {
            "ok": healthy,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "libraries": {name: installed_version(name) for name in LIBRARIES},
            "devices": devices(),
            "plugins": [asdict(plugin) for plugin in catalogue.plugins],
            "failures": [asdict(failure) for failure in catalogue.failures],
            "checks": {name: asdict(result) for name, result in checks.items()},
        }
        emit_json(found)
    else:
        emit(_text(checks))
    if not healthy:
        raise typer.Exit(UNHEALTHY)


def run_check(spec: CheckSpec) -> CheckResult:
    """Run one plugin's check; one that raises is a check that failed."""
    try:
        result = import_target(spec.target)()
    except (MlkitError, OSError, RuntimeError, ValueError, ImportError) as err:
        return CheckResult(
            ok=False,
            detail=f"{type(err).__name__}: {err}",
            hint=getattr(err, "hint", ""),
        )
    if not isinstance(result, CheckResult):
        return CheckResult(ok=False, detail=f"{spec.target} gave {result!r}, not a CheckResult")
    return result


def installed_version(distribution: str) -> str | None:
    """Return a distribution's version without importing it; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def devices() -> list[str]:
    """Return the devices that torch sees, the CPU with its threads; empty without torch."""
    if installed_version("torch") is None:
        return []
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    for index in range(torch.cuda.device_count()):
        _, memory = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found.append(f"cuda:{index} ({name}, {memory / 2**30:.0f} GiB)")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _text(checks: dict[str, CheckResult]) -> str:
    catalogue = installed()
    failed = {failure.plugin: failure for failure in catalogue.failures}
    libraries = [(name, installed_version(name) or "not installed") for name in LIBRARIES]
    plugins = [
        (
            p.name,
            f"{p.distribution} {p.version}",
            failed[p.name].error if p.name in failed else p.status,
        )
        for p in catalogue.plugins
    ]
    lines = [f"python {platform.python_version()} on {platform.platform()}"]
    lines += ["", "libraries", columns(libraries, indent="  ")]
    lines += ["", "devices", *(f"  {device}" for device in devices() or ["none: torch is missing"])]
    lines += ["", "plugins", columns(plugins, indent="  ")]
    lines += ["", "checks", *(_check_line(*item) for item in checks.items())]
    return "\n".join(lines if checks else [*lines, "  none"])


def _check_line(name: str, result: CheckResult) -> str:
    hint = f" ({result.hint})" if result.hint and not result.ok else ""
    return f"  {'ok    ' if result.ok else 'FAILED'}  {name}: {result.detail}{hint}"
