#!/usr/bin/env bash
# Makes .venv-training, the environment that trains, exports and compiles the model. Does
# nothing where it is already there as pinned.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv-training
requirements=models/training/requirements.txt
stamp="$venv/.installed-$(sha256sum "$requirements" | cut -c1-16)"

[[ -e "$stamp" ]] && exit 0

# torch 1.13.1 has wheels for Python 3.7 to 3.11.
python=$(command -v python3.11 || command -v python3)
if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12))'; then
    echo "torch 1.13.1, inf1's last, needs Python 3.10 or 3.11; install one and call it python3.11." >&2
    exit 1
fi
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
touch "$stamp"
