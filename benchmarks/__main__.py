"""The benchmarks of `make bench`; loading and fetching need the output of `make demo`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run the benchmarks in turn; each writes its page into benchmarks/results."""
    commands = [["-m", "benchmarks.resolver"], ["-m", "benchmarks.cli"]]
    base = ROOT / "build" / "examples" / "smollm2-135m"
    adapter = ROOT / "examples" / "modules" / "summarize-lora" / "1.2.0"
    if base.exists():
        commands.append(["benchmarks/load.py", str(base), str(adapter)])
        if shutil.which("nginx"):
            commands.append(["-m", "benchmarks.transfer"])
    else:
        print(f"{base} does not exist; run `make demo` first to enable the other benchmarks")
    for command in commands:
        subprocess.run([sys.executable, *command], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
