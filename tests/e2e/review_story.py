"""Two changes of one encoder, from a patch to a release: submitted, tested, discussed, decided."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modpkg.registry.candidates import read_candidates, read_thread
from modpkg.registry.reader import Registry
from tests.community.tiny import write_encoder

Run = Callable[..., tuple[int, str, str]]
"""Runs a command as somebody: the name, then its arguments."""


def tell(work: Path, registry: str, run: Run, *, reviewed: bool) -> None:
    """Go through it; ``encoder`` 1.0 and ``mood`` 1.0, with its test, are published already.

    ``ada`` and ``bob`` contribute, ``rita`` reviews and ``mary`` maintains; with ``reviewed``,
    nothing is accepted that no reviewer has approved.
    """

    def does(who: str, *arguments: object) -> str:
        status, out, err = run(who, *map(str, arguments))
        assert status == 0, (arguments, out, err)
        return out

    def fails(who: str, code: str, *arguments: object) -> str:
        status, out, err = run(who, *map(str, arguments))
        assert (status, code in err) == (1, True), (arguments, out, err)
        return err

    def document(who: str, *arguments: object) -> Any:
        return json.loads(does(who, *arguments, "--json"))

    def proposed(who: str, noise: float, message: str) -> str:
        """Publish a patch of a changed copy, apply it, and submit the result."""
        copy = write_encoder(work / f"{who}-copy", noise=noise)
        patch, candidate = work / f"{who}-patch", work / f"{who}-candidate"
        name = f"{who}-patch"
        does(who, "patch", "create", copy, "--base", "encoder==1.0", "--name", name, "--out", patch)
        does(who, "build", patch)
        does(who, "publish", patch)
        out = ("--version", "2.0.0", "--out", candidate)
        does(who, "patch", "apply", f"{name}==1.0.0", "--base", "encoder==1.0", *out)
        does(who, "build", candidate)
        made = document(who, "submit", candidate, "--message", message)
        return f"{made['name']}#{made['number']}"

    bold = proposed("ada", 3.0, "Bolder.\n\nIt moves everything.")
    careful = proposed("bob", -1e-4, "A nudge.")
    assert (bold, careful) == ("encoder#1", "encoder#2")
    assert [line.version for line in Registry(registry).index("encoder")] == ["1.0"]
    listed = document("rita", "candidates", "encoder")["candidates"]
    assert [(one["number"], one.get("status", "open")) for one in listed] == [
        (1, "open"),
        (2, "open"),
    ]

    shown = document("rita", "candidates", bold)
    (conflict,) = shown["conflicts"]
    assert (conflict["other"], shown["against"]) == (careful, "1.0")
    assert 0 < conflict["opposite"] <= conflict["values"]
    assert document("rita", "diff", "encoder==1.0", careful)["changed"] > 0
    assert document("rita", "diff", bold, careful)["changed"] > 0  # of one version

    does("rita", "comment", bold, "Does mood still work?")
    status, out, _ = run("rita", "vet", bold, "--report", "--json")
    assert (status, json.loads(out)["verdict"]) == (1, "reject"), out
    assert "reject" in fails("mary", "M471", "accept", bold)
    does("ada", "comment", bold, "It does not; bob's does.")

    status, out, _ = run("rita", "vet", careful, "--report", "--json")
    assert (status, json.loads(out)["verdict"]) == (0, "accept")
    does("rita", "approve", careful, "--message", "Tested.")
    app = work / "app"
    app.mkdir()
    (app / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nmood = "*"\n')
    does("app", "install", "--candidate", careful)
    tried = (app / "modpkg.lock").read_text()
    assert "candidate = 2" in tried

    does("mary", "accept", careful)
    fails("mary", "M472" if reviewed else "M469", "accept", bold, "--anyway", "--reason", "both")
    does("mary", "reject", bold, "--reason", "mood loses too much")
    fails("mary", "M468", "accept", bold)
    does("app", "lock")
    locked = (app / "modpkg.lock").read_text()
    assert locked == tried.replace("candidate = 2\n", "")  # the very release
    does("app", "install", "--frozen")
    reader = Registry(registry)
    assert [line.version for line in reader.index("encoder")] == ["1.0", "2.0.0"]
    statuses = [one.status for one in read_candidates(reader, "encoder")]
    assert statuses == ["rejected", "accepted"]
    kinds = [entry.kind for entry in read_thread(reader, "encoder", 2)]
    assert kinds == ["report", "report", "approval"]
    text = does("rita", "candidates", bold)
    assert "mood loses too much" in text
    assert "Does mood still work?" in text
