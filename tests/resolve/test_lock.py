from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpkg.core.errors import ModpkgError
from modpkg.resolve.lock import (
    Lock,
    LockedModule,
    LockedPolicy,
    LockedResult,
    format_lock,
    parse_lock,
    read_lock,
)
from tests.raising import raises

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
digests = st.binary(min_size=32, max_size=32).map(lambda data: f"sha256:{data.hex()}")
modules = st.builds(
    LockedModule,
    name=st.builds("{}{}".format, st.sampled_from("abcxyz"), st.text("amz059", max_size=5)),
    version=st.sampled_from(["1.0", "2.1rc1", "1!3"]),
    kind=st.sampled_from(["base", "model"]),
    registry=text,
    release=digests,
    extras=st.lists(text, max_size=2),
    requires=st.lists(text, max_size=3),
)
locks = st.builds(
    Lock,
    requirements=st.lists(text, max_size=3),
    constraints=st.lists(text, max_size=2),
    overrides=st.lists(text, max_size=2),
    resolution=st.builds(
        LockedPolicy,
        strategy=st.sampled_from(["highest", "lowest", "lowest-direct"]),
        prereleases=st.lists(text, max_size=2),
        exclude_newer=st.none() | text,
        cutoff=st.none() | st.just("2026-01-01T00:00:00Z"),
        exclude_newer_package=st.lists(text, max_size=2),
    ),
    module=st.lists(modules, max_size=3, unique_by=lambda module: module.name),
    composed=st.lists(
        st.builds(LockedResult, model=text, engine=text, inputs=digests, result=digests),
        max_size=2,
    ),
)


@given(locks)
def test_a_lock_reads_back_as_it_was(lock: Lock) -> None:
    written = format_lock(lock)
    assert parse_lock(written, Path("modpkg.lock")) == lock
    assert format_lock(parse_lock(written, Path("modpkg.lock"))) == written


@given(st.text(max_size=200))
def test_any_text_is_a_lock_or_a_sentence(written: str) -> None:
    try:
        parse_lock(written, Path("modpkg.lock"))
    except ModpkgError:
        pass


MODULE = '[[module]]\nname = "a"\nversion = "1"\nkind = "base"\nregistry = "r"\n'


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("spec = 2\nrequirements = []\n", "lock spec version 2; update modpkg"),
        ("spec = 1\n", "requirements"),
        ("spec = 1\nrequirements = []\nmore = 1\n", "more"),
        ("spec = [", "Invalid"),
        ('requirements = []\n[resolution]\nstrategy = "newest"\n', "newest"),
        ('requirements = []\n[resolution]\ncutoff = "soon"\n', "cutoff"),
        ("requirements = []\n[resolution]\nmore = 1\n", "more"),
        (f'requirements = []\n{MODULE}release = "sha256:zz"\n', "release"),
        (
            f'requirements = []\n{MODULE}release = "sha256:{"0" * 64}"\n'.replace('"a"', '"A"'),
            "normal form",
        ),
        (
            "requirements = []\n" + f'{MODULE}release = "sha256:{"0" * 64}"\n' * 2,
            "twice",
        ),
    ],
)
def test_a_bad_lock_is_refused_with_a_remedy(written: str, sentence: str) -> None:
    with raises("M410", match=sentence) as caught:
        parse_lock(written, Path("modpkg.lock"))
    assert "run 'modpkg lock'" in str(caught.value)


def test_a_missing_lock_reads_as_none_and_a_binary_one_is_refused(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "modpkg.lock") is None
    (tmp_path / "modpkg.lock").write_bytes(b"\xff\xfe")
    with raises("M410"):
        read_lock(tmp_path / "modpkg.lock")
