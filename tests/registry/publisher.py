"""A process that publishes builds, one after the other, and says so: it may be killed.

usage: python -m tests.registry.publisher ADDRESS DIST…
"""

from __future__ import annotations

import sys
import time

from modpkg.core.errors import ModpkgError
from modpkg.registry.opening import open_place
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter


def publish_all(address: str, trees: list[str]) -> None:
    """Publish the release of each tree, however often that fails, and print each that is done."""
    for tree in trees:
        built = Registry(tree)
        (name,) = built.names() or ()
        (line,) = built.index(name)
        while True:
            try:
                RegistryWriter(open_place(address), "models").publish(built, line)
                break
            except ModpkgError as error:
                print(f"failed {error}", flush=True)
                time.sleep(0.1)
        print(f"published {line.name}=={line.version}", flush=True)


if __name__ == "__main__":
    publish_all(sys.argv[1], sys.argv[2:])
