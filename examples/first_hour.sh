#!/usr/bin/env bash
# The first hour with models of your own: two bases and three LoRA adapters, as transformers and PEFT
# save them, become modules of a registry, an app that runs them, a service, an update, and a way back.
#
# usage: first_hour.sh [FOLDER]    an empty folder for everything; a temporary one by default
# needs: modpkg[transformers], peft and curl
set -euo pipefail
here=$(cd "$(dirname "$0")/first_hour" && pwd)
folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
cd "$folder"
export MODPKG_HOME="${MODPKG_HOME:-$PWD/home}"
export HF_HUB_OFFLINE=1
unset MODPKG_PROJECT

say() { printf '\n# %s\n' "$*"; }
run() {
    printf '$'
    for word; do
        case $word in *[!A-Za-z0-9=.,:@/+^_-]*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    "$@"
}

say "Models of your own: here, small ones that are trained in seconds"
python "$here/models.py" models
ls models

say "Each becomes a module, and is published to a registry, which is a folder"
echo '$ export MODPKG_REGISTRY=$PWD/registry'
export MODPKG_REGISTRY="$PWD/registry"
run modpkg import hf models/base --name helpdesk --license Apache-2.0
run modpkg build helpdesk
run modpkg publish helpdesk
run modpkg import hf models/reader --name reader --license Apache-2.0
run modpkg build reader
run modpkg publish reader
for adapter in formal brief; do
    run modpkg import peft "models/$adapter" --name "$adapter" --base "helpdesk>=1,<2" --license Apache-2.0
    run modpkg build "$adapter"
    run modpkg publish "$adapter"
done
run modpkg import peft models/mood --name mood --base "reader>=1,<2" --license Apache-2.0
run modpkg build mood
run modpkg publish mood

say "An app needs an adapter; its base comes with it"
run mkdir app
run cd app
run modpkg init
run modpkg add formal@^1
run modpkg run formal "Where is my parcel?"

say "The others"
run modpkg add brief@^1 mood@^1
run modpkg tree
run modpkg run brief "Where is my parcel?"
run modpkg run mood "What a lovely shop."

say "In Python: merged with their base, or beside it"
cp "$here/use.py" "$here/service.py" .
run python use.py

say "A service: one base in memory, an adapter for each request"
python service.py port.txt &
service=$!
trap 'kill $service 2>/dev/null || true' EXIT
while [ ! -s port.txt ]; do
    kill -0 $service
    sleep 0.1
done
address="http://127.0.0.1:$(cat port.txt)"
run curl --silent --show-error --fail "$address/formal" --data "Can I send it back?"
run curl --silent --show-error --fail "$address/brief" --data "Can I send it back?"
kill $service
trap - EXIT

say "An adapter is trained again: a new version"
run cd ..
run modpkg import peft models/formal-retrained --name formal --version 1.1.0 --base "helpdesk>=1,<2" \
    --license Apache-2.0 --out formal-1.1.0
run modpkg build formal-1.1.0
run modpkg check formal-1.1.0
run modpkg publish formal-1.1.0
run cd app
run modpkg outdated
run modpkg update
run modpkg run formal "Where is my parcel?"

say "Not what you wanted? Back to what was installed before"
run modpkg rollback
run modpkg run formal "Where is my parcel?"
