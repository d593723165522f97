"""Policies from the command line: the manifest, the lock and the messages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tomli

from tests.command import modpkg, modpkg_json, refused
from tests.modules import publish_collection


@pytest.fixture
def registry(home: Path) -> Path:
    """top needs mid, mid needs lib<3; lib has 1.0, 1.5, 2.0 and 3.0."""
    folder = home / "registry"
    for version in ("1.0", "1.5", "2.0", "3.0"):
        publish_collection(folder, "lib", version)
    publish_collection(folder, "mid", "1.0", {"lib": "<3"})
    publish_collection(folder, "top", "1.0", {"mid": "*"})
    return folder


def edit(registry: Path, name: str, version: str, **fields: object) -> None:
    """Change fields of an index line, as only a registry's owner can."""
    path = registry / "index" / f"{name}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["version"] == version:
            line.update(fields)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def app(dependencies: str, more: str = "") -> None:
    Path("modpkg.toml").write_text(f'[app]\nname = "a"\n[dependencies]\n{dependencies}\n{more}')


def lock(*arguments: str) -> dict[str, str]:
    return {m["name"]: m["version"] for m in modpkg_json("lock", *arguments)["module"]}


def lock_file() -> dict[str, Any]:
    return tomli.loads(Path("modpkg.lock").read_text())


LIB_GOES_UP = {"name": "lib", "before": "1.0", "after": "2.0"}


def test_a_strategy_is_recorded_and_sets_the_earlier_lock_aside(registry: Path) -> None:
    app('lib = "<2"')
    assert lock() == {"lib": "1.5"}
    assert "resolution" not in lock_file()
    app('lib = "<2"', '[resolution]\nstrategy = "lowest"\n')
    message = refused("lock", "--check")
    assert "strategy was highest and is lowest" in message
    assert lock() == {"lib": "1.0"}
    assert lock_file()["resolution"] == {"strategy": "lowest"}
    assert "up to date" in modpkg("lock", "--check").stdout
    assert lock("--resolution", "highest") == {"lib": "1.5"}
    assert "up to date" in modpkg("lock", "--check", "--resolution", "highest").stdout
    assert "Invalid value" in refused("lock", "--resolution", "newest", status=2)


def test_install_takes_a_strategy_too(registry: Path) -> None:
    app('top = "*"\nlib = ">=1.5"')
    result = modpkg_json("install", "--resolution", "lowest-direct")
    assert {m["name"]: m["version"] for m in result["modules"]}["lib"] == "1.5"
    assert "error[M412]" in refused("install", "--frozen", "--strict")
    assert modpkg_json("install", "--frozen", "--resolution", "lowest-direct")["changes"] == []


def test_a_strategy_of_the_command_line_lasts_no_longer_than_the_command(registry: Path) -> None:
    """The lock records what it was resolved with, and every command reads that the same way."""
    app('lib = "<3"')
    assert "lib 1.0" in modpkg("install", "--resolution", "lowest").stdout
    stale = "strategy was lowest and is highest"
    for command in (["lock", "--check"], ["install", "--frozen"]):
        assert stale in refused(*command)
        assert "up to date" in modpkg("lock", "--check", "--resolution", "lowest").stdout
    assert modpkg_json("update", "--dry-run")["changes"] == [LIB_GOES_UP]
    assert modpkg_json("update", "lib", "--dry-run")["changes"] == [LIB_GOES_UP]
    assert modpkg_json("install", "--dry-run")["changes"] == [LIB_GOES_UP]
    done = modpkg("install")
    assert "~ lib 1.0 -> 2.0" in done.stdout
    assert f"ignoring the versions in modpkg.lock: {stale}" in done.stderr
    assert "up to date" in modpkg("lock", "--check").stdout
    assert "Nothing to do" in modpkg("install").stdout
    assert "Nothing to do" in modpkg("install", "--frozen").stdout
    assert lock("--resolution", "lowest") == {"lib": "1.0"}
    assert stale in modpkg("lock").stderr
    assert lock_file()["module"][0]["version"] == "2.0"


def test_a_cutoff_of_the_command_line_lasts_no_longer_than_the_command(registry: Path) -> None:
    edit(registry, "lib", "1.0", published="2026-01-01T00:00:00Z")
    app('lib = "*"')
    modpkg("install", "--exclude-newer", "2026-01-02")
    assert "exclude-newer was 2026-01-02T00:00:00Z and is not set" in refused("lock", "--check")
    assert "exclude-newer was 2026-01-02T00:00:00Z" in refused("install", "--frozen")
    assert modpkg_json("install")["changes"] == [], "what the lock has is kept where it fits"
    assert "up to date" in modpkg("lock", "--check").stdout
    assert "Nothing to do" in modpkg("install").stdout


def test_constraints_and_overrides_are_recorded_and_make_a_lock_stale(registry: Path) -> None:
    app('top = "*"')
    assert lock()["lib"] == "2.0"
    app('top = "*"', '[constraints]\nLib = "<2"\nunused = "<1"\n')
    assert "[constraints] changed: lib<2, unused<1" in refused("lock", "--check")
    assert lock() == {"top": "1.0", "mid": "1.0", "lib": "1.5"}
    assert lock_file()["constraints"] == ["lib<2", "unused<1"]
    app('top = "*"', '[overrides]\nlib = ">=3"\n')
    assert lock()["lib"] == "3.0"
    assert lock_file()["overrides"] == ["lib>=3"]
    app('top = "*"', '[overrides]\nlib = ">=2"\n')
    assert "[overrides] changed: lib>=2, lib>=3" in refused("install", "--frozen")
    assert lock()["lib"] == "3.0"  # what the lock has is kept


def test_a_dependencys_own_bounds_do_not_act(registry: Path) -> None:
    publish_collection(
        registry,
        "bossy",
        "1.0",
        {"lib": "*"},
        '[constraints]\nlib = "<2"\n'
        '[overrides]\nmid = "==1.0"\n[resolution]\nstrategy = "lowest"\n',
    )
    app('bossy = "*"')
    assert lock() == {"bossy": "1.0", "lib": "3.0"}


def test_upgrading_one_module_keeps_the_others(registry: Path) -> None:
    app('top = "*"\nlib = "*"')
    lock()
    publish_collection(registry, "lib", "2.5")
    publish_collection(registry, "mid", "1.1", {"lib": "<4"})
    publish_collection(registry, "top", "1.1", {"mid": "*"})
    assert lock() == {"top": "1.0", "lib": "2.0", "mid": "1.0"}
    assert lock("--upgrade-package", "LIB") == {"top": "1.0", "lib": "2.5", "mid": "1.0"}
    assert "did you mean 'lib'?" in modpkg("lock", "--upgrade-package", "libb").stderr
    assert lock("--upgrade-package", "top") == {"top": "1.1", "lib": "2.5", "mid": "1.0"}
    assert lock("--upgrade") == {"top": "1.1", "lib": "3.0", "mid": "1.1"}


def test_a_cooldown_is_recorded_and_relocking_keeps_working(registry: Path) -> None:
    for version in ("1.0", "1.5", "2.0", "3.0"):
        edit(registry, "lib", version, published="2026-01-01T00:00:00Z")
    edit(registry, "lib", "3.0", published="2030-01-01T00:00:00Z")
    app('lib = "*"', '[resolution]\nexclude-newer = "1 week"\n')
    assert lock() == {"lib": "2.0"}
    recorded = lock_file()["resolution"]
    assert recorded["exclude-newer"] == "7 days"
    assert recorded["cutoff"].endswith("Z")
    before = Path("modpkg.lock").read_bytes()
    Path("modpkg.lock").write_bytes(before.replace(recorded["cutoff"][:4].encode(), b"2026", 1))
    before = Path("modpkg.lock").read_bytes()
    assert "up to date" in modpkg("lock", "--check").stdout
    modpkg("lock")
    assert Path("modpkg.lock").read_bytes() == before, "nothing changed, so neither does the lock"
    assert lock("--exclude-newer", "2031-01-01", "--upgrade") == {"lib": "3.0"}
    assert lock_file()["resolution"]["cutoff"] == "2031-01-01T00:00:00Z"
    assert "exclude-newer was 2031-01-01T00:00:00Z and is 7 days" in refused("lock", "--check")
    more = 'exclude-newer-package = { lib = false, mid = "2026-01-01" }\n'
    app('lib = "*"', f'[resolution]\nexclude-newer = "1 week"\n{more}')
    assert lock("--upgrade") == {"lib": "3.0"}
    assert lock_file()["resolution"]["exclude-newer-package"] == [
        "lib=false",
        "mid=2026-01-01T00:00:00Z",
    ]
    assert "'soon' is not a cut-off" in refused("lock", "--exclude-newer", "soon", status=2)


def test_a_prerelease_is_admitted_by_name(registry: Path) -> None:
    publish_collection(registry, "lib", "2.9rc1")
    app('top = "*"', '[resolution]\nprereleases = ["LIB"]\n')
    assert lock()["lib"] == "2.9rc1"
    assert lock_file()["resolution"]["prereleases"] == ["lib"]


def test_a_yanked_release_stays_locked_with_a_warning(registry: Path) -> None:
    app('lib = ">=3"')
    lock()
    modpkg("yank", "lib==3.0", "--reason", "wrong labels")
    assert "lib 3.0 was yanked: wrong labels" in modpkg("lock").stderr
    assert "lib 3.0 was yanked: wrong labels" in refused("lock", "--upgrade")
    app('lib = "==3.0"')
    assert "lib 3.0 was yanked: wrong labels" in modpkg("lock", "--upgrade").stderr


def test_what_was_yanked_after_locking_is_told_by_install_and_outdated(registry: Path) -> None:
    app('lib = "==3.0"')
    modpkg("install")
    modpkg("yank", "lib==3.0", "--reason", "wrong labels")
    told = "lib 3.0 was yanked: wrong labels"
    assert told in modpkg("install").stderr  # there is nothing to do, and it is reported
    shutil.rmtree(".modpkg")
    assert told in modpkg("install", "--frozen").stderr
    assert told in modpkg("install").stderr
    assert "3.0 (yanked: wrong labels)" in modpkg("outdated").stdout
    assert modpkg_json("outdated")["modules"][0]["yanked"] == "wrong labels"
    for version in ("1.0", "1.5", "2.0"):
        modpkg("yank", f"lib=={version}", "--reason", "")
    assert modpkg_json("outdated")["modules"][0]["newest"] is None
    modpkg("yank", "lib==3.0", "--undo")
    assert "yanked" not in modpkg("install").stderr


def test_a_name_in_another_registry_is_reported_with_the_line_to_write(
    registry: Path, tmp_path: Path
) -> None:
    publish_collection(tmp_path / "acme", "secret", "1.0")
    publish_collection(registry, "needy", "1.0", {"secret": "*"})
    app('needy = "*"', f'[registries]\nacme = "{tmp_path / "acme"}"\n')
    message = refused("lock")
    line = 'secret = { version = "*", registry = "acme" }'
    assert f"but the registry 'acme' has it: write {line} under [dependencies]" in message
    app(f'needy = "*"\n{line}', f'[registries]\nacme = "{tmp_path / "acme"}"\n')
    assert lock() == {"needy": "1.0", "secret": "1.0"}
    app('secret = "*"', f'[registries]\nacme = "{tmp_path / "acme"}"\n')
    assert "the registry 'acme' has it" in refused("lock")


def test_a_module_for_a_newer_modpkg(registry: Path) -> None:
    publish_collection(registry, "lib", "4.0")
    edit(registry, "lib", "4.0", requires_modpkg=">=99")
    app('lib = "*"')
    assert lock() == {"lib": "3.0"}
    app('lib = ">3"')
    assert "lib 4.0 requires modpkg >=99" in refused("lock")


def test_requires_modpkg_travels_with_a_module(home: Path) -> None:
    for version, needed in (("1.0", "<99, >=0.1"), ("2.0", ">=99")):
        folder = Path(f"m-{version}")
        folder.mkdir()
        (folder / "modpkg.toml").write_text(
            f'[module]\nname = "m"\nversion = "{version}"\nkind = "collection"\n'
            f'license = "MIT"\nrequires-modpkg = "{needed}"\n'
        )
        modpkg("build", folder)
        modpkg("publish", folder)
    lines = (home / "registry" / "index" / "m.jsonl").read_text().splitlines()
    assert [json.loads(line)["requires_modpkg"] for line in lines] == [">=0.1,<99", ">=99"]
    assert modpkg_json("install", "m", "--dry-run")["changes"][0]["after"] == "1.0"
    edit(home / "registry", "m", "2.0", requires_modpkg="")  # the record still says it
    message = refused("install", "m")
    assert message.startswith("error[M415]: m 2.0 requires modpkg >=99, and this is modpkg 0")


def test_an_app_for_a_newer_modpkg_is_reported_before_other_errors(registry: Path) -> None:
    Path("modpkg.toml").write_text(
        '[app]\nname = "a"\nrequires-modpkg = ">=99"\n[from-the-future]\nx = 1\n'
    )
    assert "modpkg.toml:3: app.requires-modpkg is '>=99', and this is modpkg 0" in refused("lock")


# why-not


def test_why_not_a_forbidden_version(registry: Path) -> None:
    app('top = "*"')
    lock()
    output = modpkg("why-not", "lib==3.0").stdout
    assert output.startswith("lib 3.0 cannot be selected:\n")
    assert "mid 1.0 needs lib<3." in output
    assert "Your question needs lib==3.0." in output
    assert modpkg_json("why-not", "lib==3.0")["verdict"] == "forbidden"


def test_why_not_a_version_that_only_the_manifest_forbids(registry: Path) -> None:
    app('lib = "<2"')
    lock()
    result = modpkg_json("why-not", "lib==2.0")
    assert result["verdict"] == "forbidden"
    assert "modpkg.toml:4 needs lib<2." in result["explanation"]
    assert result["command"] == 'modpkg install "lib==2.0"'
    modpkg("install", "lib==2.0")
    assert modpkg("why-not", "lib==2.0").stdout == "lib 2.0 is selected.\n"


def test_why_not_a_version_that_is_allowed(registry: Path) -> None:
    app('top = "*"\nlib = "<3"')
    lock()
    publish_collection(registry, "lib", "2.5")
    result = modpkg_json("why-not", "lib==2.5")
    assert (result["verdict"], result["command"]) == ("free", "modpkg update lib")
    assert result["explanation"] == "lib 2.0 is kept by the lock."
    assert result["changes"] == [{"name": "lib", "before": "2.0", "after": "2.5"}]
    result = modpkg_json("why-not", "lib==1.0")
    assert (result["verdict"], result["command"]) == ("free", 'modpkg install "lib==1.0"')
    assert result["explanation"] == "lib 1.0 is older than 2.0, which is preferred."
    modpkg("update", "lib")
    assert modpkg_json("why-not", "lib==2.5")["verdict"] == "chosen"


def test_why_not_a_version_that_an_override_forbids(registry: Path) -> None:
    """No command installs it: an override replaces what the command line requires, too."""
    app('lib = "*"\n[overrides]\nlib = "==1.0"')
    result = modpkg_json("why-not", "lib==2.0")
    assert (result["verdict"], result["command"], result["changes"]) == ("forbidden", None, [])
    assert "is replaced by lib==1.0, an override in modpkg.toml:6." in result["explanation"]
    assert modpkg_json("why-not", "lib==1.0")["verdict"] == "chosen"


def test_why_not_a_version_that_does_not_go_with_a_preferred_one(registry: Path) -> None:
    publish_collection(registry, "top", "2.0", {"lib": "<2"})
    app('top = "*"')
    result = modpkg_json("why-not", "lib==2.0")
    assert (result["verdict"], result["chosen"]) == ("free", "1.5")
    assert result["explanation"] == "top 2.0, which is selected, needs lib<2."
    lock()
    result = modpkg_json("why-not", "lib==2.0")
    assert result["explanation"] == "top 2.0, which is selected, needs lib<2."


def test_why_not_names_a_version_as_its_release_does(registry: Path) -> None:
    app('lib = "*"')
    result = modpkg_json("why-not", "lib==2.0.0")
    assert (result["version"], result["command"]) == ("2.0", 'modpkg install "lib==2.0"')


def test_why_not_wants_one_version_and_offers_one_of_those_that_were_meant(registry: Path) -> None:
    app('lib = "*"')
    publish_collection(registry, "lib", "3.1rc1")
    for text, offered in (
        ("lib", "3.0"),
        ("lib<3", "2.0"),
        ("lib==2.*", "2.0"),
        ("lib===1.0", "1.0"),
        ("lib>9", "3.0"),
        ("lib[all]==2.0", "2.0"),
    ):
        assert f'Name one version: modpkg why-not "lib=={offered}"' in refused(
            "why-not", text, status=2
        )
    assert modpkg("why-not", "lib==2.0").stdout.startswith("lib 2.0 could be selected. ")


def test_why_not_reports_yanked_and_pre_release_versions(registry: Path) -> None:
    publish_collection(registry, "lib", "2.9rc1")
    edit(registry, "lib", "2.0", yanked="wrong labels")
    app('top = "*"')
    assert "lib 2.9rc1 is a pre-release" in modpkg("why-not", "lib==2.9rc1").stdout
    assert "lib 2.0 was yanked: wrong labels." in modpkg("why-not", "lib==2.0").stdout
    assert "Nothing selected needs" not in modpkg("why-not", "lib==1.0").stdout
    publish_collection(registry, "other", "1.0")
    assert "Nothing selected needs other." in modpkg("why-not", "other==1.0").stdout
    app('top = "*"', '[constraints]\nlib = "<1.5"\n')
    assert "excluded by the constraint lib<1.5" in modpkg("why-not", "lib==1.5").stdout


def test_why_not_needs_one_version_that_exists(registry: Path) -> None:
    app('top = "*"')
    for asked in ("lib", "lib>=1", "lib==1.*"):
        assert "Name one version" in refused("why-not", asked, status=2)
    assert "it has 1.0, 1.5, 2.0, 3.0" in refused("why-not", "lib==7")
    assert "did you mean 'lib'" in refused("why-not", "libb==7")


def test_why_not_a_version_with_a_missing_requirement(registry: Path) -> None:
    publish_collection(registry, "broken", "1.0", {"lbi": "*"})
    app('top = "*"')
    output = modpkg("why-not", "broken==1.0").stdout
    assert "There is no module named 'lbi' in the registry" in output
    assert "did you mean 'lib'" in output


def test_why_not_suggests_the_constraint_that_forbids(registry: Path) -> None:
    app('lib = "*"', '[constraints]\nlib = "<2"\n')
    output = modpkg("why-not", "lib==3.0").stdout
    assert "Hint: allow lib 3.0: remove the constraint `lib<2` in modpkg.toml:6." in output
    assert "remove lib in" not in output, "that is what the question is about"


# why


def test_why_follows_the_extras_that_are_chosen(registry: Path) -> None:
    publish_collection(registry, "tool", "1.0")
    extras = '[extras]\nall = ["tool[deep]", "lib<2"]\nunused = ["mid"]\n'
    publish_collection(registry, "news", "1.0", {"top": "*"}, extras)
    app('news = { version = "*", extras = ["all"] }')
    modpkg("install")
    assert modpkg("why", "tool").stdout == (
        "the manifest -> news 1.0 ([all] any version) -> tool 1.0 ([deep] any version)\n"
    )
    paths = modpkg_json("why", "lib")["paths"]
    assert [[step["name"] for step in path] for path in paths] == [
        ["news", "lib"],
        ["news", "top", "mid", "lib"],
    ]
    [news] = modpkg_json("tree")["modules"]
    assert [row["name"] for row in news["requires"]] == ["top", "tool", "lib"]


def test_why_limits_the_number_of_paths(registry: Path) -> None:
    """Two modules in each of fourteen layers, each needing both of the next: 16,384 paths."""
    deep = 14
    for layer in range(deep):
        needs = {f"{side}{layer + 1}": "*" for side in "ab"} if layer + 1 < deep else {"lib": "*"}
        for side in "ab":
            publish_collection(registry, f"{side}{layer}", "1.0", needs)
    app('a0 = "*"\nb0 = "*"\nlib = "*"')
    modpkg("install")
    done = modpkg("why", "lib")
    assert done.stdout.splitlines()[0] == "the manifest -> lib 3.0 (any version)"
    assert len(done.stdout.splitlines()) == 500
    assert done.stderr == "Only the first 500 paths are shown.\n"


# outdated and update


def test_outdated_shows_the_update_and_the_newest(registry: Path) -> None:
    app('top = "*"\nlib = "*"')
    assert "No lock file" in refused("outdated")
    lock()
    assert modpkg_json("outdated")["modules"] == [
        {
            "name": "lib",
            "locked": "2.0",
            "update": "2.0",
            "newest": "3.0",
            "reason": "mid 1.0 needs lib<3",
            "yanked": None,
            "yank_signed": None,
            "deprecated": None,
            "successor": "",
            "removed": None,
            "replaced": None,
        }
    ]
    publish_collection(registry, "lib", "2.5")
    publish_collection(registry, "top", "2.0", {"mid": "*"})
    assert modpkg("outdated").stdout.splitlines() == [
        "Name  Locked  Update  Newest  Why not the newest",
        "top   1.0     2.0     2.0",
        "lib   2.0     2.5     3.0     mid 1.0 needs lib<3",
    ]
    app('top = "*"\nlib = "<2"')
    done = modpkg("outdated")
    assert "lib<2 was added or changed" in done.stderr
    assert "modpkg.toml:5 needs lib<2" in done.stdout
    app('lib = "*"')
    lock("--upgrade")
    assert modpkg("outdated").stdout == "All locked modules are at their newest versions.\n"


def test_update_takes_newer_versions_within_the_manifest(registry: Path) -> None:
    app('top = "<2"\nlib = ">=1"')
    text = Path("modpkg.toml").read_text()
    modpkg("install")
    publish_collection(registry, "top", "1.5", {"mid": "*"})
    publish_collection(registry, "top", "2.0", {"mid": "*"})
    publish_collection(registry, "lib", "2.5")
    shown = modpkg("update", "--dry-run").stdout
    assert " ~ top 1.0 -> 1.5" in shown
    assert "Dry run: nothing was changed." in shown
    assert modpkg_json("update", "lib")["changes"] == [
        {"name": "lib", "before": "2.0", "after": "2.5"}
    ]
    assert "~ top 1.0 -> 1.5" in modpkg("update").stdout
    assert Path("modpkg.toml").read_text() == text
    generation = modpkg_json("list")["number"]
    assert "Nothing to do: 3 modules" in modpkg("update").stdout
    assert modpkg_json("update", "lib") == {
        "schema": 1,
        "changes": [],
        "generation": generation,
    }
    assert "so it cannot be updated; did you mean 'lib'?" in refused("update", "libb")
    assert modpkg_json("update", "lib", "--resolution", "lowest")["changes"] != []
