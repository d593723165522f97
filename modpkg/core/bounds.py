"""What may come from outside, and how much of it: every bound, in one table.

A registry, a module, a cloned repository or a server may be hostile, so whatever is read from
one is bounded in size, count, depth and time. A bound is far above what honest modules need; where
it is reached, the error names the bound, what reached it and, where it can be raised, how.

Each constant has its unit in its comment; ``docs/security.md`` has the same table.
"""

from __future__ import annotations

# Manifests and locks ------------------------------------------------------------------------

#: A manifest (``modpkg.toml``, ``pyproject.toml``), bytes.
MANIFEST_BYTES = 1 << 20
#: Tables and arrays inside one another in a manifest.
MANIFEST_DEPTH = 32
#: A lock file, bytes.
LOCK_BYTES = 64 << 20
