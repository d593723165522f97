"""The structure of the package: directions of imports, heavy imports, unique names."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import modpkg
from benchmarks import universe
from modpkg.core import filenames

PACKAGE = Path(modpkg.__file__).parent
ORDER = [
    "core",
    "toml",
    "deltas",
    "manifest",
    "adapters",
    "release",
    "registry",
    "trust",
    "resolve",
    "store",
    "transfer",
    "compose",
    "environment",
    "runtime",
    "interop",
    "community",
]
"""A room imports only from rooms before it."""
OUTSIDE = {"cli", "server"}
COMMUNITY = [
    *(
        "svg",
        "modules",
        "diff",
        "patch",
        "evaluate",
        "semver",
        "vet",
        "review",
        "bisect",
        "lineage",
    ),
]
"""The rooms within `community`, in the same order of imports."""


def files() -> dict[str, Path]:
    """Return the files of the package by the name under which they are imported."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


FILES = files()


def room_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@functools.cache
def imported_files(path: Path) -> frozenset[str]:
    """Return the files of the package that a file imports, at any time."""
    found: set[str] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in FILES}
        elif isinstance(node, ast.ImportFrom) and node.module in FILES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in FILES else node.module)
    return frozenset(found)


def test_the_package_holds_rooms_and_nothing_else() -> None:
    here = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert here == {*ORDER, *OUTSIDE, "__init__.py", "__main__.py", "py.typed"} & here
    assert {*ORDER, *OUTSIDE} <= here


def test_benchmarks_can_be_run_as_scripts() -> None:
    """Their folder comes first on the path then: a ``bisect.py`` there would hide Python's own."""
    names = {path.stem for path in (PACKAGE.parent / "benchmarks").glob("*.py")}
    assert names & set(sys.stdlib_module_names) == set()


def test_a_room_imports_only_from_rooms_before_it() -> None:
    wrong = []
    for name, path in FILES.items():
        room = room_of(name)
        if room not in ORDER:
            continue
        for other in imported_files(path):
            to = room_of(other)
            if to != room and to not in ORDER[: ORDER.index(room)]:
                wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_a_room_of_the_community_imports_only_from_those_before_it() -> None:
    wrong = []
    for name, path in FILES.items():
        parts = name.split(".")
        if parts[1:2] != ["community"] or len(parts) < 4:
            continue
        for other in imported_files(path):
            to = other.split(".")
            if to[1] == "community" and to[2] != parts[2]:
                before = COMMUNITY[: COMMUNITY.index(parts[2])]
                if to[2] not in before:
                    wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_there_is_no_circle_of_imports() -> None:
    graph = {name: imported_files(path) - {name} for name, path in FILES.items()}
    done: set[str] = set()
    circles: list[str] = []

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            circles.append(" -> ".join([*trail[trail.index(name) :], name]))
            return
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, [*trail, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    assert circles == []


def test_a_class_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for name, path in FILES.items():
        for node in nodes_of(path):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(name)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_file_names_are_written_once() -> None:
    """A literal that `modpkg.core.filenames` has a constant for is that constant."""
    names = {value for key, value in vars(filenames).items() if key.isupper()}
    wrong = []
    for name, path in FILES.items():
        if name in ("modpkg.core.filenames", "modpkg.core.messages"):
            continue
        parts = {
            id(part)
            for node in nodes_of(path)
            if isinstance(node, ast.JoinedStr)
            for part in node.values
        }
        wrong += [
            f"{name}:{node.lineno} {node.value!r}"
            for node in nodes_of(path)
            if isinstance(node, ast.Constant) and node.value in names and id(node) not in parts
        ]
    assert wrong == []


def test_no_file_has_outgrown_one_sitting() -> None:
    long = {
        str(path.relative_to(PACKAGE)): count
        for path in FILES.values()
        if (count := len(path.read_text().splitlines())) > 450 and path.name != "messages.py"
    }
    assert long == {}


SYSTEM = {
    "modpkg.core.system",
    *(
        f"modpkg.core.system_{what}"
        for what in ("blas", "locks", "folders", "limits", "processes", "signals", "writeback")
    ),
}
OF_SYSTEMS = re.compile(
    r"os\.(?:name|pread|preadv|pwrite|pwritev|posix_\w+|copy_file_range|sendfile|sync|open|O_\w+"
    r"|sched_\w+|get[e]?[ug]id|getpgid|set\w+id|kill|killpg|fork\w*|wait\w*|spawn\w*|statvfs|uname"
    r"|chmod|fchmod|lchmod|chown|umask|link|symlink|readlink|rename|renames|replace|mkfifo|mknod"
    r"|devnull|getxattr|setxattr|memfd_create|eventfd|pidfd_open|startfile)"
    r"|sys\.(?:platform|getwindowsversion|std\w+\.reconfigure)"
    r"|socket\.AF_UNIX|signal\.\w+|time\.tzset|errno\.EDQUOT"
)
"""What some system lacks, or does in another way."""
MODULES_OF_SYSTEMS = {
    *("fcntl", "msvcrt", "winreg", "pwd", "grp", "resource", "termios", "tty", "pty", "platform"),
    *("signal", "multiprocessing", "ctypes", "syslog", "posix", "nt", "_winapi"),
}
METHODS_OF_SYSTEMS = {
    *("chmod", "lchmod", "symlink_to", "hardlink_to", "readlink", "madvise"),
    *("reconfigure", "resize"),
}


def test_few_files_know_how_systems_differ() -> None:
    """Elsewhere, these are asked: what it does is tested as each system does it."""
    wrong = []
    for name, path in FILES.items():
        if name in SYSTEM:
            continue
        for node in nodes_of(path):
            found = ""
            if isinstance(node, ast.Import):
                found = " ".join({alias.name for alias in node.names} & MODULES_OF_SYSTEMS)
            elif isinstance(node, ast.ImportFrom) and node.module in MODULES_OF_SYSTEMS:
                found = node.module or ""
            elif isinstance(node, ast.Attribute) and OF_SYSTEMS.fullmatch(ast.unparse(node)):
                found = ast.unparse(node)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                moves = node.func.attr in ("replace", "rename") and len(node.args) == 1
                moves = moves and not node.keywords and ast.unparse(node.func) not in MOVES
                if node.func.attr in METHODS_OF_SYSTEMS or moves:
                    found = ast.unparse(node.func)
            if found:
                wrong.append(f"{name}:{getattr(node, 'lineno', 0)} {found}")
    assert wrong == []


MOVES = {"system.replace", "layout.rename"}
"""Calls that look like those of a path."""


def test_files_are_text_in_one_encoding() -> None:
    """A console's or a system's own encoding and line ends are never a file's."""
    wrong = []
    for name, path in FILES.items():
        for node in nodes_of(path):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            keys = {keyword.arg for keyword in node.keywords}
            if called.endswith(".write_text") and not {"encoding", "newline"} <= keys:
                wrong.append(f"{name}:{node.lineno} {called}")
            if called.endswith(".read_text") and not (node.args or "encoding" in keys):
                wrong.append(f"{name}:{node.lineno} {called}")
            if called in ("open", "os.fdopen", "io.open") and "encoding" not in keys:
                mode = node.args[1] if len(node.args) > 1 else None
                if not (isinstance(mode, ast.Constant) and "b" in str(mode.value)):
                    wrong.append(f"{name}:{node.lineno} {called}")
            if "text" in keys or "universal_newlines" in keys:
                wrong += [f"{name}:{node.lineno} {called}"] * called.startswith("subprocess.")
    assert wrong == []


def test_the_command_line_imports_nothing_heavy() -> None:
    names = [
        *(
            f"modpkg.cli.{path.stem}"
            for path in (PACKAGE / "cli").glob("*.py")
            if path.stem[0] != "_"
        ),
        *("modpkg.environment.install", "modpkg.environment.why_not"),
        *("modpkg.environment.signers", "modpkg.trust.bundle", "modpkg.trust.public_key"),
        *("modpkg.environment.outdated", "modpkg.compose.plan", "modpkg.resolve.resolve"),
    ]
    code = (
        f"import sys, {', '.join(names)}\n"
        "heavy = {'torch', 'transformers', 'numpy', 'safetensors', 'pysolvers', 'rich.console',\n"
        "         'zstandard', 'cryptography', 'tuf', 'securesystemslib', 'sigstore', 'requests'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_lock_without_conflicts_imports_little(tmp_path: Path) -> None:
    universe.write_registry(universe.easy(3, 2, 1, 1), tmp_path)
    code = (
        "import sys\nfrom modpkg.cli import main\n"
        "try: main(['lock', '-q', '--registry', 'registry'])\nexcept SystemExit as done: pass\n"
        "rest = {'json', 'tempfile', 'concurrent.futures', 'modpkg.environment.fits',\n"
        "        'modpkg.registry.candidates', 'modpkg.registry.writer', 'modpkg.store.store',\n"
        "        'modpkg.resolve.explain', 'modpkg.resolve.search', 'modpkg.trust.bundle',\n"
        "        'modpkg.trust.metadata', 'modpkg.trust.log.checking'}\n"
        "print(sorted(rest & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert (tmp_path / "modpkg.lock").is_file()
    assert done.stdout.strip() == "[]"


def test_importing_modpkg_imports_only_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import modpkg; "
        "print({m.split('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'modpkg'}"


def test_every_file_that_the_architecture_page_names_exists() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    named = []
    for path in re.findall(r"`([a-z_]+/[a-z_/{},]+\.py)`", page):
        before, brace, rest = path.partition("{")
        choices, _, after = rest.partition("}")
        named += [before + each + after for each in choices.split(",")] if brace else [path]
    missing = [path for path in named if not (PACKAGE / path).exists() and "tests/" not in path]
    assert len(named) > 50
    assert missing == []
