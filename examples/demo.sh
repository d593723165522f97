#!/usr/bin/env bash
# The demo: build the example registry, install the summarizer, run it. `make demo` calls this.
set -euo pipefail
cd "$(dirname "$0")/.."
export MODPKG_HOME="${MODPKG_HOME:-$PWD/build/demo}"

run() {
    printf '\n$'
    printf ' %q' "$@"
    printf '\n'
    "$@"
}

echo "Everything is kept in $MODPKG_HOME."
python examples/build_registry.py
run modpkg install "summarizer>=2.1"
run modpkg tree summarizer
run modpkg run summarizer examples/newsroom/article.txt
