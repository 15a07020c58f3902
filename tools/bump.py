"""Sets one version for all packages, and the bounds between them.

python tools/bump.py 0.2.0
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)((?:a|b|rc)\d+)?")
_OWN = re.compile(r'^version = "[^"]+"$', re.MULTILINE)
_SIBLING = re.compile(r'"(mlkit-[a-z]+(?:\[[a-z,]+\])?)>=[^",]+,<[^"]+"')


def bounds(version: str) -> str:
    """Return the versions of a sibling that go with this one: the same minor version.

    Raises:
        ValueError: The version does not read `X.Y.Z` (a preview: `X.Y.ZaN`, `bN` or `rcN`).
    """
    match = _VERSION.fullmatch(version)
    if not match:
        raise ValueError(f"version {version!r} must read X.Y.Z, or X.Y.ZrcN")
    major, minor = int(match[1]), int(match[2])
    # A preview sorts before X.Y, so that X.Y alone would shut its own siblings out.
    lowest = version if match[4] else f"{major}.{minor}"
    return f">={lowest},<{major}.{minor + 1}"


def bumped(text: str, version: str) -> str:
    """Return a `pyproject.toml` with this version and with siblings bounded to it."""
    text, count = _OWN.subn(f'version = "{version}"', text, count=1)
    if count != 1:
        raise ValueError('no line reads version = "…"')
    return _SIBLING.sub(lambda match: f'"{match[1]}{bounds(version)}"', text)


def project_files(root: Path) -> list[Path]:
    """Return the `pyproject.toml` of the workspace and of every package."""
    return [root / "pyproject.toml", *sorted(root.glob("packages/*/pyproject.toml"))]


def main(arguments: list[str]) -> int:
    """Write the version into every file; nothing is written where one of them cannot take it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version")
    version = parser.parse_args(arguments).version
    try:
        texts = {path: bumped(path.read_text(), version) for path in project_files(ROOT)}
    except ValueError as err:
        parser.error(str(err))
    for path, text in texts.items():
        path.write_text(text)
        print(path.relative_to(ROOT), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
