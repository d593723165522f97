"""Git-Theta's published workflow on SmolLM2-135M: bytes per commit, and check-out.

usage: python -m benchmarks.git_theta --work FOLDER [--base FOLDER]

The workflow is that of section 4 of "Git-Theta: A Git Extension for Collaborative Development of
Machine Learning Models" (ICML 2023, https://arxiv.org/abs/2306.04529): a base with sentinel tokens
that nothing uses, a LoRA trained on it, a dense update on a branch, another on main, the average
of both, and the removal of the sentinels. LoRA, updates and removal are patches that `modpkg patch
create` computes from the whole copy alone; the average is the result of `modpkg merge` on two
patches, and is released as version 2.0.0 of the base, which the last patch is for. git-lfs gets the
same copies in the same run. The copies are trained once, and kept in the work folder. Writes
benchmarks/results/git_theta.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.history_peers import GitLfs, bytes_below, content
from benchmarks.machine import described

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "git_theta.md"
BASE, VERSION, MERGED = "smollm2-135m", "1.0.0", "2.0.0"
EMBEDDING = "model.embed_tokens.weight"
SENTINELS = 100
"""As many as T5 has."""
STEPS, LR = 32, 3e-4
ROUNDS = 5
TITLES = {
    "base": "base, with 100 sentinel tokens",
    "lora": "LoRA trained on it (rank 8), merged into the weights by PEFT",
    "branch": "every weight trained on, on a branch",
    "main": "every weight trained on, on main",
    "average": "the mean of branch and main",
    "trimmed": "sentinels removed",
}


def make(base: Path, work: Path) -> dict[str, Path]:
    """Return the whole copy of each commit but the average; missing ones are created."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    from benchmarks.history_weights import FACTS, LORA, WEIGHTS, every, fine_tune, write

    folders = {name: work / name for name in ("base", "lora", "branch", "main")}

    def missing(step: str) -> bool:
        return not (folders[step] / FACTS).exists()

    if missing("base"):
        tensors = load_file(base / WEIGHTS)
        rows = tensors[EMBEDDING]
        noise = torch.randn(SENTINELS, rows.shape[1], generator=torch.Generator().manual_seed(0))
        noise = noise.mul_(rows.float().std()).to(rows.dtype)
        folders["base"].mkdir(parents=True, exist_ok=True)
        for path in content(base):
            shutil.copyfile(path, folders["base"] / path.name)
        config = json.loads((base / "config.json").read_text())
        config["vocab_size"] = len(rows) + SENTINELS
        (folders["base"] / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tensors[EMBEDDING] = torch.cat([rows, noise])
        save_file(tensors, folders["base"] / WEIGHTS, {"format": "pt"})
        (folders["base"] / FACTS).write_text("{}")
    if missing("lora"):
        model = AutoModelForCausalLM.from_pretrained(folders["base"], dtype=torch.bfloat16)
        state = (
            PeftModel.from_pretrained(model, str(LORA / "1.2.0")).merge_and_unload().state_dict()
        )
        names = load_file(folders["base"] / WEIGHTS)
        new = {name: state[name].contiguous() for name in names}
        write(folders["lora"], folders["base"], new, {"method": "summarize-lora 1.2.0"})
    for seed, step in enumerate(("branch", "main"), start=1):
        if missing(step):
            fine_tune(folders["lora"], folders[step], every, lr=LR, steps=STEPS, seed=seed)
    return folders


class Modpkg:
    """A registry with the base, and a patch for every later commit."""

    def __init__(self, work: Path) -> None:
        shutil.rmtree(work, ignore_errors=True)
        self.work, self.registry = work, work / "registry"
        (work / "projects").mkdir(parents=True)
        self.size = self.store = 0
        """Bytes of the registry, and of a user's store after every commit was checked out."""
        self.notes: dict[str, str] = {}

    def run(self, *arguments: str | Path, cwd: Path | None = None, home: str = "home") -> str:
        """Run a command, and return what it printed."""
        environment = os.environ | {
            "MODPKG_HOME": str(self.work / home),
            "MODPKG_REGISTRY": str(self.registry),
        }
        command = [sys.executable, "-m", "modpkg", *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd or self.work, env=environment, check=True, text=True,
            stdout=subprocess.PIPE,
        ).stdout  # fmt: skip

    def commit(self, step: str, folder: Path) -> int:
        """Publish a commit, and return the bytes by which the registry grows: tensors, files and
        records."""
        project, copy = self.work / "projects" / step, self.work / "copies" / step
        copy.mkdir(parents=True)
        for path in content(folder):
            shutil.copyfile(path, copy / path.name)
        version = MERGED if step == "trimmed" else VERSION
        if step == "base":
            copy.rename(project)
            (project / "modpkg.toml").write_text(
                f'[module]\nname = "{BASE}"\nversion = "{VERSION}"\nkind = "base"\n'
                'license = "Apache-2.0"\n\n[task]\nkind = "text-generation"\n'
            )
        elif step == "average":
            (self.work.parent / "candidate").rename(project)
            version = MERGED
            self.notes[step] = "a release of the base, changed tensors as lossless deltas"
        else:
            summary = json.loads(
                self.run("patch", "create", copy, "--base", f"{BASE}=={version}", "--name", step,
                         "--out", project, "--json")
            )  # fmt: skip
            self.notes[step] = forms(summary)
        shutil.rmtree(copy, ignore_errors=True)
        self.run("build", project)
        self.run("publish", project)
        before, self.size = self.size, bytes_below(self.registry)
        app = self.work / "apps" / step
        app.mkdir(parents=True)
        whole = step in ("base", "average")
        steps = "" if whole else f'steps = [{{ op = "patch", module = "{step}" }}]\n'
        needed = "" if whole else f'{step} = "==1.0.0"\n'
        (app / "modpkg.toml").write_text(
            f'[app]\nname = "app"\n\n[dependencies]\n{BASE} = "=={version}"\n{needed}\n'
            f'[models.model]\nbase = "{BASE}"\n{steps}'
        )
        return self.size - before

    def average(self, out: Path) -> None:
        """Merge the patches of branch and main."""
        parents = [self.work / "projects" / step for step in ("branch", "main")]
        shutil.rmtree(out, ignore_errors=True)
        how = ("--base", f"{BASE}=={VERSION}", "--method", "mean", "--version", MERGED)
        self.run("merge", *parents, *how, "--out", out, "--json")

    def check_out(self, step: str, home: str = "home") -> None:
        """Install a commit's model into one project, replacing the one that was checked out."""
        app = self.work / "checkout" / home
        app.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.work / "apps" / step / "modpkg.toml", app / "modpkg.toml")
        self.run("install", cwd=app, home=home)

    def export(self, home: str = "home") -> None:
        """Write the model that is checked out as a directory."""
        app = self.work / "checkout" / home
        out = app / "exported"
        shutil.rmtree(out, ignore_errors=True)
        self.run("export", "model", out, cwd=app, home=home)

    def same(self, folder: Path) -> bool:
        """Return whether what was exported has the copy's tensors, bit for bit."""
        from safetensors.torch import load_file

        found = load_file(self.work / "checkout" / "home" / "exported" / "model.safetensors")
        wanted = load_file(folder / "model.safetensors")
        import torch

        return found.keys() == wanted.keys() and all(
            torch.equal(found[name].view(torch.int16), wanted[name].view(torch.int16))
            for name in wanted
        )


def forms(summary: dict[str, object]) -> str:
    """Return which forms a patch's tensors have, in words."""
    counts: dict[str, int] = {}
    for form in summary["forms"]:  # type: ignore[attr-defined]
        counts[form["form"]] = counts.get(form["form"], 0) + 1
    changed = 100 * int(summary["changed"]) / int(summary["elements"])  # type: ignore[call-overload]
    words = ", ".join(f"{count} {form}" for form, count in sorted(counts.items()))
    return f"{words}; {changed:.1f} % of values"


Seconds = tuple[float, float]
"""Wall seconds, and CPU seconds of the commands and their children."""


def timed(action: Callable[..., object], *arguments: object) -> Seconds:
    """Return how long an action takes."""
    begun, before = time.perf_counter(), _processor()
    action(*arguments)
    return time.perf_counter() - begun, _processor() - before


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def trim(folder: Path, out: Path) -> None:
    """Write a copy without the sentinels."""
    from safetensors.torch import load_file, save_file

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for path in content(folder):
        shutil.copyfile(path, out / path.name)
    tensors = load_file(folder / "model.safetensors")
    tensors[EMBEDDING] = tensors[EMBEDDING][:-SENTINELS].contiguous()
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] = len(tensors[EMBEDDING])
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, out / "model.safetensors", {"format": "pt"})


def measure(folders: dict[str, Path], work: Path) -> str:
    """Create every commit with both, check each out, and return the page."""
    modpkg = Modpkg(work / "modpkg")
    shutil.rmtree(work / "git-lfs", ignore_errors=True)
    lfs = GitLfs(work / "git-lfs")
    rows: dict[str, tuple[int, int, int]] = {}
    for step in TITLES:
        if step == "average":
            modpkg.average(work / "candidate")
            shutil.rmtree(work / "average", ignore_errors=True)
            shutil.copytree(work / "candidate", work / "average")
            folders["average"] = work / "average"
        elif step == "trimmed":
            trim(folders["average"], work / "trimmed")
            folders["trimmed"] = work / "trimmed"
        print(step, flush=True)
        full = sum(path.stat().st_size for path in content(folders[step]))
        rows[step] = full, modpkg.commit(step, folders[step]), lfs.commit(BASE, folders[step])
    times = check_outs(modpkg, lfs, folders)
    return page(rows, times, modpkg.notes, modpkg.store)


def check_outs(modpkg: Modpkg, lfs: GitLfs, folders: dict[str, Path]) -> dict[str, list[Seconds]]:
    """Return the seconds of each kind of check-out, over all commits."""
    found: dict[str, list[Seconds]] = {}

    def add(kind: str, seconds: Seconds) -> None:
        found.setdefault(kind, []).append(seconds)

    order = list(TITLES)
    for step in order:
        add("modpkg, first time", timed(modpkg.check_out, step))
        add("export", timed(modpkg.export))
        if not modpkg.same(folders[step]):
            raise SystemExit(f"{step} is not what was committed")
    modpkg.store = bytes_below(modpkg.work / "home" / "store")
    for _ in range(ROUNDS):
        for number, step in enumerate(order):
            add("modpkg", timed(modpkg.check_out, step))
            add("git-lfs", timed(lfs.check_out, number))
    for step in order:
        home = f"fresh-{step}"
        add("modpkg, from nothing", timed(modpkg.check_out, step, home))
        shutil.rmtree(modpkg.work / home)
        shutil.rmtree(modpkg.work / "checkout" / home)
    for number, _ in enumerate(order):
        add("git-lfs, from nothing", timed(lfs.clone, number))
    return found


def page(
    rows: dict[str, tuple[int, int, int]],
    times: dict[str, list[Seconds]],
    notes: dict[str, str],
    store: int,
) -> str:
    """Return the tables."""
    version = subprocess.run(["git-lfs", "version"], capture_output=True, text=True, check=True)
    lines = [
        "# Git-Theta's workflow",
        "",
        f"`python -m benchmarks.git_theta --work FOLDER`; {described()}; "
        f"{version.stdout.split()[0].replace('/', ' ')}. MB are 10^6 bytes.",
        "",
        "| commit | whole copy, MB | git-lfs, MB | modpkg, MB | of a copy | how |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for step, (full, ours, theirs) in rows.items():
        lines.append(
            f"| {TITLES[step]} | {full / 1e6:.1f} | {theirs / 1e6:.1f} | {ours / 1e6:.2f} | "
            f"{100 * ours / full:.2f} % | {notes.get(step, '')} |"
        )
    total = [sum(column) for column in zip(*rows.values(), strict=True)]
    lines += [
        f"| total | {total[0] / 1e6:.1f} | {total[2] / 1e6:.1f} | {total[1] / 1e6:.2f} | "
        f"{total[1] / total[2]:.3f} of git-lfs | |",
        "",
        "Check-out of one commit, over all six. CPU time depends less on the machine's other load:",
        "",
        "| | seconds, median | min | max | CPU seconds, median |",
        "|---|---:|---:|---:|---:|",
    ]
    titles = {
        "modpkg": "modpkg: switch to a commit that was already checked out",
        "git-lfs": "git-lfs: switch to a commit whose objects are present",
        "modpkg, first time": "modpkg: first time (fetch from the registry, decode, compose)",
        "export": "modpkg: writing it as a directory as well",
        "modpkg, from nothing": "modpkg: one commit into an empty home",
        "git-lfs, from nothing": "git-lfs: one commit into a new clone",
    }
    for kind, title in titles.items():
        values, used = zip(*times[kind], strict=True)
        lines.append(
            f"| {title} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} "
            f"| {statistics.median(used):.2f} |"
        )
    lines += [
        "",
        f"Dense updates: {STEPS} steps of AdamW on every weight, learning rate {LR:g}, float32 "
        "master weights rounded to bfloat16 at the end. Every commit that was checked out has the "
        "tensors that were committed, bit for bit. Registry and clone are folders on one disk; "
        "git-lfs is what a clone keeps in addition to its working files, modpkg is the growth of "
        f"the registry. A user's store, which has tensors decoded, takes {store / 1e6:.0f} MB with "
        "all six commits in it. The goals were Git-Theta's own shares on T0-3B: at most 2.4 % for "
        "the LoRA, 0.73 of file-level storage in all.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Create the missing copies, measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the copies")
    parser.add_argument("--base", type=Path, default=ROOT / "build" / "examples" / BASE)
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    text = measure(make(arguments.base.absolute(), work), work / "measured")
    RESULTS.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
