#!/bin/sh
# Writes requirements/*.txt again from requirements/*.in: versions and hashes of every file, no index address.
# Needs `uv` (from the index that pip is configured for). Usage: requirements/lock.sh [--upgrade]
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-uv}
for name in build image gw runtime dev; do
    python=3.11
    case $name in image | gw) python=3.13 ;; esac
    "$uv" pip compile "$@" --quiet --universal --python-version "$python" --generate-hashes --no-emit-index-url \
        --no-emit-find-links --no-header --no-annotate --custom-compile-command requirements/lock.sh \
        -o "requirements/$name.txt" "requirements/$name.in"
done
