"""The first hour of a new user: examples/first_hour.sh in a fresh environment made as README says.

It starts real processes only, so it takes about a minute; `make test` runs it beside all other
tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.documents import ROOT, Block, blocks_of, likeness, transcript
from tests.e2e.environments import fresh_environment

WORK = ROOT / "build" / "first-hour"
"""Beside uv's cache rather than in memory: the packages are hard links to it."""
NEEDS = [f"{ROOT}[transformers]", "peft"]


@pytest.fixture(scope="module")
def commands() -> Path:
    """Make a fresh environment as README says, and return the folder of its commands."""
    shutil.rmtree(WORK, ignore_errors=True)
    return fresh_environment(WORK / "venv", *NEEDS)


@pytest.fixture(scope="module")
def output(commands: Path) -> str:
    """Return what examples/first_hour.sh prints."""
    unrelated = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MODPKG_", "PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        ["bash", str(ROOT / "examples" / "first_hour.sh"), str(WORK / "story")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=unrelated | {"PATH": f"{commands}:{os.environ['PATH']}", "NO_COLOR": "1"},
        timeout=900,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_it_is_the_installed_package_that_runs(commands: Path) -> None:
    code = "import modpkg; print(modpkg.__file__)"
    python = [commands / "python", "-I", "-c", code]
    done = subprocess.run(python, capture_output=True, text=True, cwd="/", check=True)
    assert Path(done.stdout.strip()).is_relative_to(commands.parent)


def answers(output: str, command: str) -> list[str]:
    """Return the last line that each run of a command printed."""
    pattern = rf"^\$ {command}\n((?:(?![$#]).*\n)+)"
    return [found.strip().splitlines()[-1] for found in re.findall(pattern, output, re.M)]


def test_the_story(output: str) -> None:
    """Merged, live and over HTTP the adapters say the same; an update and its rollback show."""
    assert "Traceback" not in output
    assert not re.search(r"^(warning|error)", output, re.M)
    before = "Your parcel arrives tomorrow, dear customer."
    after = "Your parcel arrives tomorrow, dear customer. Kind regards."
    asked = 'modpkg run {} "Where is my parcel\\?"'
    assert answers(output, asked.format("formal")) == [before, after, before]
    assert answers(output, asked.format("brief")) == ["Your parcel: tomorrow."]
    assert "formal: Yes, until six, dear customer.\nbrief: Yes, until six.\n" in output
    posted = 'curl .*/{} --data "Can I send it back\\?"'
    returned = "Yes, within thirty days, dear customer."
    assert answers(output, posted.format("formal")) == [returned]
    assert answers(output, posted.format("brief")) == ["Yes."]
    assert re.search(r'modpkg run mood "What a lovely shop\."\n +\d+\.\d% +pleased\n', output)


FIRST_HOUR = [
    block for block in blocks_of(ROOT / "README.md") if "first_hour.sh" in (block.told_by or "")
]


@pytest.mark.parametrize("block", FIRST_HOUR, ids=lambda block: f"line {block.line}")
def test_the_readme_shows_what_it_prints(block: Block, output: str) -> None:
    """Each command of README's five minutes is one of the story, and prints what README shows."""
    told = transcript(output)
    for command, lines in block.transcript():
        assert command in told, command
        missing = [line for line in map(likeness, lines) if line not in told[command]]
        assert not missing, f"{command} printed {told[command]}"


def test_the_readme_is_compared(output: str) -> None:
    assert len(FIRST_HOUR) >= 3
