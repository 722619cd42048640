#!/usr/bin/env bash
# Installs what the snippets of docs/READING.md and docs/FEED.md need to run in the tests:
# boto3 in .venv-snippets, the AWS SDK for JavaScript in tests/snippets/node_modules. Does
# nothing where both are there in the pinned versions.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv-snippets
snippets=tests/snippets
pins=$(cat "$snippets/requirements.txt" "$snippets/package-lock.json" | sha256sum | cut -c1-16)
stamp="$venv/.installed-$pins"

[[ -e "$stamp" && -d "$snippets/node_modules" ]] && exit 0

if ! command -v npm >/dev/null; then
    echo "npm is missing, and the TypeScript snippet runs on Node 20 or newer. Install both from nodejs.org." >&2
    exit 1
fi
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$snippets/requirements.txt"
npm ci --prefix "$snippets" --silent --no-audit --no-fund
touch "$stamp"
