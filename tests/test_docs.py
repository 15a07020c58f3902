"""The docs are true: tables are fresh, links lead somewhere, and the tutorial works as written."""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
UV = os.environ.get("UV", "uv")  # set by `uv run`
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)


def load_tool(name):
    spec = spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_what_the_code_says(page):
    text = page.read_text(encoding="utf-8")
    fresh = load_tool("docs_tables").refreshed(text)
    assert fresh == text, "stale: run `make docs`"


def test_a_stale_table_is_seen():
    text = "<!-- table: hooks -->\n| none |\n<!-- end -->\n"
    assert "mlkit_components" in load_tool("docs_tables").refreshed(text)


def test_bars_within_cells_do_not_split_them():
    assert r"| a \| b |" in load_tool("docs_tables").table(["x"], [["a | b"]])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            assert anchor in slugs, f"{page.name}: {target}"


def test_every_hook_has_its_page():
    hooks = load_tool("docs_tables").hooks()
    for page in re.findall(r"\((hooks/\w+\.md)\)", hooks):
        assert (ROOT / "docs" / page).is_file()


def test_the_readme_is_short_and_its_run_file_passes_check(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    body = next(m["body"] for m in FENCE.finditer(text) if m["info"] == "yaml")
    (tmp_path / "run.yaml").write_text(body)
    command = [sys.executable, "-m", "mlkit_cli", "check", "run.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def tutorial():
    text = (ROOT / "docs" / "write-a-plugin.md").read_text(encoding="utf-8")
    return [(match["info"], match["body"]) for match in FENCE.finditer(text)]


def titled():
    for info, body in tutorial():
        match = re.search(r'title="([^"]+)"', info)
        if match:
            yield match[1], body


def test_the_tutorial_shows_the_whole_example():
    shown = {path for path, _ in titled() if path.startswith("mlkit-example/")}
    files = {path.relative_to(DATA).as_posix() for path in (DATA / "mlkit-example").rglob("*.*")}
    own = {path for path in files if path.endswith((".py", ".toml"))}
    assert shown == own


def as_pattern(expected):
    """Return a pattern in which a line `...` stands for any lines, and `...` for any text."""
    lines = [
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\n"
        for line in expected
    ]
    return "".join(lines)


def test_expected_output_may_leave_lines_out():
    pattern = as_pattern(["a", "...", "c ... e"])
    assert re.fullmatch(pattern, "a\nb\nb\nc d e\n")
    assert not re.fullmatch(pattern, "a\nb\nc d f\n")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Return a folder with a new environment that borrows what this one has installed."""
    folder = tmp_path_factory.mktemp("tutorial")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run([UV, "venv", "--quiet", "--python", version, folder / "env"], check=True)
    site = next((folder / "env").glob("lib/python*/site-packages"))
    here = sysconfig.get_path("purelib")
    (site / "here.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    return folder


def execute(command, folder):
    """Run a command of the tutorial in the folder's environment; return output and errors."""
    python = shlex.quote(str(folder / "env" / "bin" / "python"))
    spelled = {
        "pip install": f"{shlex.quote(UV)} pip install --quiet --no-deps --python {python}",
        "pytest": f"{python} -m pytest -p no:cacheprovider",
        "mlkit": f"{python} -m mlkit_cli",
        "python": python,
    }
    for word, real in spelled.items():
        if command.startswith(f"{word} "):
            command = real + command.removeprefix(word)
            break
    return subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_tutorial_works_from_its_first_line_to_its_last(workplace):
    for info, body in tutorial():
        title = re.search(r'title="([^"]+)"', info)
        if title:
            (workplace / title[1]).write_text(body, encoding="utf-8")
            continue
        assert info == "console", f"the test does not know what to do with ```{info}"
        for block in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, *expected = block.splitlines()
            done = execute(command, workplace)
            wanted_error = bool(expected) and expected[0].startswith("error: ")
            said = done.stderr if wanted_error else done.stdout
            assert (done.returncode != 0) == wanted_error, f"$ {command}\n{done.stderr}\n{said}"
            if expected:
                assert re.fullmatch(as_pattern(expected), said), f"$ {command}\n{said}"
