"""Count lines of code: no blank lines, comments or docstrings.

`python tools/count_code.py packages/core/src` prints a line for each folder and the sum.
"""

from __future__ import annotations

import ast
import sys
import tokenize
from collections import Counter
from pathlib import Path

_SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


def count(path: Path) -> int:
    """Return the lines of a Python file that hold code."""
    with path.open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    lines = {
        line
        for token in tokens
        if token.type not in _SILENT | {tokenize.ENCODING, tokenize.ENDMARKER}
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            held = first.value if isinstance(first, ast.Expr) else None
            if isinstance(held, ast.Constant) and isinstance(held.value, str):
                lines -= set(range(held.lineno, (held.end_lineno or held.lineno) + 1))
    return len(lines)


def main(root: Path) -> None:
    """Print the count of each folder below `root`, and the sum."""
    folders: Counter[str] = Counter()
    for path in sorted(root.rglob("*.py")):
        folders[str(path.parent.relative_to(root))] += count(path)
    for folder, lines in sorted(folders.items()):
        print(f"{lines:6} {folder}")
    print(f"{sum(folders.values()):6} in all")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
