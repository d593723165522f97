"""The example of clamp runs from the first act to the last, on fewer texts than `make clamp`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import forkserver

ROOT = Path(__file__).parents[2]
STORY = ROOT / "examples" / "clamp"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Return the facts that the story recorded, and its folder."""
    work = tmp_path_factory.mktemp("clamp")
    done = forkserver.run(str(STORY / "community.py"), "--work", str(work), "--fewer", timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads((work / "facts.json").read_text()), work


def test_a_community_owns_a_model(story: tuple[dict[str, Any], Path]) -> None:
    facts, work = story
    copy = 90_869_492
    # 2 to 4: cheap updates
    assert facts["bytes of tweets"] < 0.001 * copy
    assert facts["bytes of products"] < 0.001 * copy
    # 5: a test for users that no test covered
    assert facts["bytes of 1.0.2"] < 100_000
    # 7 to 9: extended, forked, rebuilt
    assert facts["bytes of the fork"] < 100_000
    assert facts["bytes of the fork's own"] < 0.12 * copy
    assert [facts[f"level of {v}"] for v in ("1.0.1", "1.1.0", "2.0.0")] == [
        "patch",
        "minor",
        "major",
    ]
    assert (facts["steady"], facts["curious"]) == ("1.1.0", "2.0.0")
    picture = (work / "clamp.svg").read_text()
    assert all(name in picture for name in ("clamp-tweets", "clamp-products", "2.0.0"))


def test_four_groups_meet_at_a_server(story: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """The second telling, with what the first has trained."""
    command = [str(STORY / "served.py"), "--work", str(tmp_path / "served"), "--fewer"]
    done = forkserver.run(*command, "--trained", str(story[1] / "trained"), timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    facts = json.loads((tmp_path / "served" / "facts.json").read_text())
    assert facts["not his"] == "M432"
    assert facts["refused"] == "M471"
    assert (facts["released"], facts["steady"]) == ("1.0.1", "1.0.1")
    assert facts["turned"] < 0.35
