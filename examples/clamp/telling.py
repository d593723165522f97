"""What both tellings of the story begin with: their options, and an empty folder."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from story import Story
from texts import ONE_IN, SIZES

ROOT = Path(__file__).resolve().parents[2]
FEWER = dict.fromkeys(SIZES, 4)
"""Of so many texts, `--fewer` reads one."""


def begin_telling(what: str | None, folder: str, *, resumes: bool = False) -> tuple[Story, bool]:
    """Read the command line; return the story, and whether its page is to be written.

    ``what`` is the docstring of the telling, ``folder`` where it runs by default, below build/;
    with ``resumes`` it can go on after the last complete act of a run before.
    """
    parser = argparse.ArgumentParser(description=(what or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / folder)
    parser.add_argument("--trained", type=Path, help="folder of what another run trained")
    if resumes:
        parser.add_argument("--resume", action="store_true", help="resume after the last act")
    parser.add_argument("--fewer", action="store_true", help="train and test on fewer texts")
    parser.add_argument("--readme", action="store_true", help="write the page that shows the acts")
    options = parser.parse_args()
    work: Path = options.work.absolute()
    if not (resumes and options.resume):
        shutil.rmtree(work, ignore_errors=True)
        (work / "trained").mkdir(parents=True)
    if options.trained is not None:
        shutil.copytree(options.trained, work / "trained", dirs_exist_ok=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.fewer:
        ONE_IN.update(FEWER)
    return Story(work), options.readme


def fewer() -> bool:
    """Return whether the story trains and tests on fewer texts."""
    return ONE_IN == FEWER


def true(figure: bool) -> bool:
    """Return whether a statement about accuracy holds; on fewer texts it cannot be known."""
    return figure or fewer()
