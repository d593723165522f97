"""Vetting, on tiny models: what a candidate breaks, here and in what depends on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from modpkg.community.evaluate.test_runner import TestRunner
from modpkg.community.semver.releases import check_project
from modpkg.community.vet.verdict import VetReport
from modpkg.community.vet.vet import compared_release, find_candidate, vet
from modpkg.core.progress import Progress
from modpkg.core.records import canonical_json
from modpkg.environment.project import Project
from modpkg.environment.workspace import RegistryOptions, Workspace
from modpkg.registry.writer import RegistryWriter
from modpkg.store.store import Store
from tests.command import modpkg
from tests.community.tiny import (
    labelled,
    publish_encoder_and_head,
    table,
    texts,
    write_encoder,
    write_head,
)
from tests.modules import write_module
from tests.tiny import publish

pytestmark = pytest.mark.usefixtures("forked_python")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with an encoder and what depends on it, and the projects it was made of."""
    root = tmp_path_factory.mktemp("vet")
    registry, projects = root / "registry", root / "projects"
    publish_encoder_and_head(registry, projects)
    publish(write_head(projects / "quiet", "quiet", seed=5), registry)
    publish(write_head(projects / "strict", "strict", base="==1.0"), registry)
    judge = '[compose]\nbase = "encoder"\nsteps = [{ op = "head", module = "mood" }]\n'
    requires = {"encoder": ">=1", "mood": ">=1"}
    files = {"tests/moods.jsonl": labelled(projects / "plain", projects / "encoder-1.0", wrong=1)}
    model = write_module(
        projects / "judge",
        "judge",
        kind="model",
        requires=requires,
        more=judge + table(),
        files=files,
    )
    publish(model, registry)
    return root


class Bench(NamedTuple):
    """A store, and what runs tests with it."""

    store: Store
    runner: TestRunner


@contextmanager
def bench_of(store: Store) -> Iterator[Bench]:
    with TestRunner(store, Progress(), limit=600) as runner:
        yield Bench(store, runner)


@pytest.fixture(scope="module")
def bench(made: Path) -> Iterator[Bench]:
    with bench_of(Store(made / "store")) as bench:
        yield bench


@pytest.fixture(autouse=True)
def registry(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODPKG_REGISTRY", str(made / "registry"))
    return made / "registry"


def vetted(
    bench: Bench,
    candidate: Path | str,
    against: str | None = None,
    *,
    registry: str | None = None,
    most: int | None = 10,
) -> VetReport:
    workspace = Workspace(options=RegistryOptions(registry), store=bench.store)
    with find_candidate(workspace, str(candidate)) as (own, release):
        earlier = compared_release(own, release, against)
        return vet(own, bench.runner, release, earlier, most=most)


def states(found: VetReport) -> dict[str, str]:
    return {tested.name: tested.state for tested in found.dependants}


def test_a_candidate_that_changes_nothing_is_accepted(bench: Bench, tmp_path: Path) -> None:
    found = vetted(bench, write_encoder(tmp_path / "same", "1.1"))
    assert (found.verdict, found.claim) == ("accept", "none")
    assert found.reason == "No regressions in 2 dependants."
    # mood first: judge requires it too
    assert next(tested.name for tested in found.dependants) == "mood"
    assert states(found) == {
        "mood": "tested",
        "judge": "tested",
        "quiet": "no tests",
        "strict": "not allowed",
    }
    assert found.composition == found.against_composition
    assert found.against is not None
    assert found.against.version == "1.0"


def test_check_and_vet_compare_with_the_same_release(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = tmp_path / "registry"
    monkeypatch.setenv("MODPKG_REGISTRY", str(registry))
    candidate = write_encoder(tmp_path / "candidate", "1.0.2")

    def compared_with() -> set[str | None]:
        checked = check_project(Workspace(Project(candidate / "modpkg.toml")))
        found = vetted(bench, candidate).against
        return {checked.against, None if found is None else found.version}

    publish(write_encoder(tmp_path / "early", "1.0.0rc1"), registry)
    assert compared_with() == {None}  # a pre-release makes no promise
    publish(write_encoder(tmp_path / "first", "1.0.0"), registry)
    publish(write_encoder(tmp_path / "second", "1.0.1"), registry)
    assert compared_with() == {"1.0.1"}
    RegistryWriter(registry).yank("encoder", "1.0.1", "wrong labels")
    assert compared_with() == {"1.0.0"}
    RegistryWriter(registry).yank("encoder", "1.0.0", "wrong labels")
    assert compared_with() == {"1.0.1"}


def test_a_candidate_that_breaks_a_dependant_is_rejected(
    bench: Bench, tmp_path: Path, made: Path
) -> None:
    folder = write_encoder(tmp_path / "noisy", "1.1", noise=2.0)
    found = vetted(bench, folder)
    assert found.verdict == "reject"
    assert found.reason.startswith(
        "With it, mood 1.0 fails test 'moods' of mood: accuracy went from 1 to 0."
    )
    change = found.dependants[0].changes[0]
    assert change.judged
    assert change.positive == 0
    assert change.negative == round((1.0 - change.after.value) * 40) > 3
    assert change.difference.high < 0
    judge = next(tested for tested in found.dependants if tested.name == "judge")
    change = judge.changes[0]
    assert change.negative - change.positive == round(
        40 * (change.before.value - change.after.value)
    )

    # Equal inputs give equal bytes; and cached outcomes are not measured again.
    with bench_of(bench.store) as idle:
        again = vetted(idle, folder)
        assert idle.runner.idle
    assert canonical_json(again) == canonical_json(found)
    with bench_of(Store(tmp_path / "another")) as fresh:
        again = vetted(fresh, folder)
    assert canonical_json(again) == canonical_json(found)

    # With fewer dependants, those left out do not count.
    fewer = vetted(bench, folder, most=0)
    assert states(fewer) == {"strict": "not allowed"}
    assert (fewer.verdict, fewer.dependants_found) == ("needs-a-person", 4)


def test_a_candidate_that_gives_nan_breaks_its_dependants(bench: Bench, tmp_path: Path) -> None:
    found = vetted(bench, write_encoder(tmp_path / "nan", "1.1", noise=1e38))
    assert found.verdict == "reject"
    assert "mood 1.0 cannot run with it (mood gives NaN or infinity in test 'moods'" in found.reason


def test_a_dependant_that_cannot_be_composed_on_it_is_broken(bench: Bench, tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "wide", "1.1")
    config = json.loads((folder / "config.json").read_text())
    config["hidden_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    found = vetted(bench, folder)
    assert found.verdict == "reject"
    assert found.dependants[0].state == "broken"
    assert "its port 'hidden' is 64, not 32" in found.reason


def cosine(more: str = "at_least = 0.5\n") -> str:
    return table("near", "near.jsonl", "cosine", more)


def near() -> dict[str, bytes]:
    asked = texts(30)
    rows = [{"text": one, "other": two} for one, two in pairwise(asked)]
    return {"near.jsonl": "\n".join(map(json.dumps, rows)).encode()}


def with_near(folder: Path, version: str, noise: float, more: str) -> Path:
    folder.mkdir(parents=True)
    for path, data in near().items():
        (folder / path).write_bytes(data)
    return write_encoder(folder, version, noise=noise, more=more)


def test_a_removed_test_is_still_run(bench: Bench, tmp_path: Path) -> None:
    own = tmp_path / "own-registry"
    writer = RegistryWriter(own)
    writer.prepare()
    first = with_near(tmp_path / "1.0", "1.0", 0.0, cosine("at_least = 0.0\n"))
    publish(first, own)
    known = vetted(bench, first, "1.0", registry=str(own))
    value = known.changes[0].after.value

    strict = cosine(f"at_least = {value - 1e-4:.6f}\n")
    publish(with_near(tmp_path / "1.1", "1.1", 0.0, strict), own)
    noisy = with_near(tmp_path / "1.2", "1.2", 1.0, cosine("tolerance = 2.0\n"))
    found = vetted(bench, noisy, registry=str(own))
    assert [change.current for change in found.changes] == [True, False]
    assert found.changes[0].after.value < value
    assert found.verdict == "needs-a-person"
    assert "only the earlier release declares it" in found.reason


def test_the_first_release_is_judged_by_its_own_tests(bench: Bench, tmp_path: Path) -> None:
    cases = {"tests/moods.jsonl": b'{"text": "the cat", "label": "good"}\n' * 2}
    folder = write_head(tmp_path / "new", "new", more=table(more="at_least = 2.0\n"), files=cases)
    found = vetted(bench, folder)
    assert found.against is None
    assert found.reason == "It fails test 'moods' of new."
    folder = write_head(tmp_path / "new", "new", more=table(more=""), files=cases)
    assert vetted(bench, folder).verdict == "needs-a-person"


def test_a_contradicted_report_is_rejected(bench: Bench, tmp_path: Path, made: Path) -> None:
    """A report can say of the right composition and tests what is not so: it is measured."""
    encoder = made / "projects" / "encoder-1.0"
    cases = {"tests/moods.jsonl": labelled(made / "projects" / "plain", encoder, wrong=2)}
    folder = write_head(tmp_path / "mood", "mood", "1.1", more=table(), files=cases)
    modpkg("test", cwd=folder)
    assert vetted(bench, folder).claim == "holds"
    report = json.loads((folder / "report.json").read_text())
    report["results"][0]["value"] = 1.0
    (folder / "report.json").write_text(json.dumps(report))
    modpkg("build", cwd=folder)
    found = vetted(bench, folder / "dist")
    assert (found.verdict, found.claim) == ("reject", "does not hold")
    assert found.reason == (
        "Its report gives accuracy 1 for test 'moods' of mood, but 0.95 was measured."
    )


def test_exit_status_is_the_verdict(made: Path, tmp_path: Path) -> None:
    def run(folder: Path, *more: str) -> tuple[int, str]:
        done = modpkg("vet", folder, *more, check=False, MODPKG_HOME=str(made))
        return done.returncode, done.stdout

    status, text = run(write_encoder(tmp_path / "noisy", "1.1", noise=2.0))
    assert status == 1
    assert "encoder 1.1 against encoder 1.0" in text
    assert "mood 1.0 (head): tested" in text
    assert text.splitlines()[-1].startswith("reject: With it, mood 1.0 fails")
    status, text = run(write_encoder(tmp_path / "same", "1.1"), "--json")
    assert status == 0
    assert json.loads(text)["verdict"] == "accept"
    status, _ = run(write_encoder(tmp_path / "same", "1.1"), "--dependants", "some")
    assert status == 2
    for what, sentence in (
        ("encoder", "neither a folder, a release (NAME==VERSION) nor a candidate"),
        (str(tmp_path), "neither a modpkg.toml nor a built release"),
        ("encoder==9", "encoder 9 is not in the registry"),
    ):
        done = modpkg("vet", what, check=False, cwd=tmp_path)
        assert done.returncode == 1
        assert sentence in done.stderr
