#!/usr/bin/env bash
# Makes .venv-ministack, a virtual environment with the SQS and DynamoDB engine that the
# end-to-end tests start. Does nothing where it is already there in the pinned version.
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.5.33
venv=.venv-ministack
stamp="$venv/.installed-$version"

[[ -e "$stamp" ]] && exit 0

if ! python3 -c 'import ensurepip' 2>/dev/null; then
    if ((EUID == 0)) && command -v apt-get >/dev/null; then
        apt-get update
        apt-get install --yes --no-install-recommends python3-venv
    else
        echo "Python cannot make virtual environments here. Run: sudo apt-get install --no-install-recommends python3-venv" >&2
        exit 1
    fi
fi
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check "ministack==$version"
touch "$stamp"
