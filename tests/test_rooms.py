"""The house: imports go one way, and nothing before compose imports torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import modpkg

PACKAGE = Path(modpkg.__file__).parent
VOCABULARY = {"", "errors", "names", "digests", "records", "interface", "packs", "files", "tree"}
VOCABULARY |= {"home", "installed", "progress", "deltas", "sealed"}
ORDER = [
    "manifest",
    "settings",
    "release",
    "registry",
    "resolve",
    "lock",
    "store",
    "transfer",
    "compose",
    "environment",
    "runtime",
    "interop",
    "community",
]
"""Data flows this way; a room imports only from rooms before it, and from the vocabulary."""
OUTSIDE = {"cli", "server", "__main__"}


def rooms() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found.append(("" if first == "__init__" else first, path))
    return found


def imports(path: Path, *, only_at_import: bool = False) -> set[str]:
    """Return the full names of all modules that a file imports."""
    found = set()
    tree = ast.parse(path.read_text())
    nodes = list(tree.body) if only_at_import else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            if node.module == "modpkg":
                found |= {f"modpkg.{alias.name}" for alias in node.names}
    return found


def test_every_room_is_known() -> None:
    assert {room for room, _ in rooms()} <= VOCABULARY | set(ORDER) | OUTSIDE


def test_benchmarks_can_be_run_as_scripts() -> None:
    """Their folder comes first on the path then: a ``bisect.py`` there would hide Python's own."""
    names = {path.stem for path in (PACKAGE.parent / "benchmarks").glob("*.py")}
    assert names & set(sys.stdlib_module_names) == set()


def test_a_room_imports_only_from_rooms_before_it() -> None:
    wrong = []
    for room, path in rooms():
        if room in OUTSIDE or room == "":
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "modpkg" or len(parts) == 1:
                continue
            other = parts[1]
            if other in VOCABULARY or other == "__version__" or other == room:
                continue
            if room in VOCABULARY or other not in ORDER[: ORDER.index(room)]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_no_file_has_outgrown_one_sitting() -> None:
    long = {
        str(path.relative_to(PACKAGE)): count
        for _, path in rooms()
        if (count := len(path.read_text().splitlines())) > 450 and path.name != "errors.py"
    }
    assert long == {}


def test_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, modpkg.cli, modpkg.cli.install, modpkg.cli.publish, modpkg.cli.lock\n"
        "import modpkg.cli.list, modpkg.cli.run, modpkg.cli.import_\n"
        "import modpkg.cli.outdated, modpkg.environment.why_not, modpkg.environment.outdated\n"
        "import modpkg.cli.test, modpkg.cli.vet\n"
        "import modpkg.environment.install, modpkg.compose.plan, modpkg.resolve.resolve\n"
        "heavy = {'torch', 'transformers', 'numpy', 'safetensors', 'pysolvers', 'rich.console',\n"
        "         'zstandard'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_modpkg_imports_only_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import modpkg; "
        "print({m.split('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'modpkg'}"
