#!/usr/bin/env bash
# Makes .venv-bench, the virtual environment of the benches' peers, and exports the shipped
# weights for them. Does nothing where both are there already.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv-bench
requirements=models/bench/requirements.txt
stamp="$venv/.installed-$(sha256sum "$requirements" | cut -c1-16)"

if [[ ! -e "$stamp" ]]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
    touch "$stamp"
fi

manifest=$(echo models/artifacts/*/manifest.json)
# The last file that is written.
exported=.local/bench-models/artifact.txt
if [[ ! -e "$exported" || "$manifest" -nt "$exported" || models/bench/export_onnx.py -nt "$exported" ]]; then
    "$venv/bin/python" -W ignore models/bench/export_onnx.py
fi
