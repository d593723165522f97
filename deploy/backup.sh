#!/bin/sh
# Back up a registry that is served, while it is: backup.sh STORAGE TARGET
#
# STORAGE is its folder. The database is the file of SQLite in it, or with MODPKG_DATABASE one of
# PostgreSQL. Run again, it copies only what is new. docs/operating.md tells how it is restored.
set -eu
storage=$1
target=$2
python=${PYTHON:-python3}
umask 077
mkdir -p "$target/storage"

# The database first: of the releases that it knows, none is missing in the storage then.
if [ -n "${MODPKG_DATABASE:-}" ]; then
    pg_dump --format=custom --file="$target/database.new" "$MODPKG_DATABASE"
    mv "$target/database.new" "$target/database.dump"
else
    rm -f "$target/database.new"
    "$python" -c 'import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=60) as database:
    database.execute("VACUUM INTO ?", (sys.argv[2],))' \
        "$storage/.server/server.sqlite3" "$target/database.new"
    mv "$target/database.new" "$target/server.sqlite3"
fi

# What names blobs before the blobs: they were there before anything named them.
copy() {
    from=$1
    to=$2
    shift 2
    mkdir -p "$to"
    if command -v rsync > /dev/null; then
        rsync --archive --exclude='.tmp-*' "$@" "$from/" "$to/"
    else
        "$python" -c 'import shutil, sys
source, out, *options = sys.argv[1:]
skipped = {option[11:].rstrip("/") for option in options}
def ignored(folder, names):
    return [name for name in names if name.startswith(".tmp-") or folder == source and name in skipped]
shutil.copytree(source, out, dirs_exist_ok=True, ignore=ignored)' "$from" "$to" "$@"
    fi
}
for tree in "$storage" "$storage/private"; do
    [ -d "$tree" ] || continue
    copy "$tree" "$target/storage${tree#"$storage"}" --exclude=/blobs/ --exclude=/private/ \
        --exclude=/.server/ --exclude=/locks/ --exclude=/lookup/
done
for tree in "$storage" "$storage/private"; do
    [ -d "$tree/blobs" ] || continue
    copy "$tree/blobs" "$target/storage${tree#"$storage"}/blobs"
done
