#!/usr/bin/env bash
# Installs what the CDK app and its tests need: node modules from the lock file, and the
# linters of cdk/requirements.txt in .venv-cdk. Does nothing where both are there as pinned.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v npm >/dev/null || (($(node --version | sed 's/^v\([0-9]*\).*/\1/') < 20)); then
    echo "The CDK app needs Node.js 20 or newer with npm." >&2
    exit 1
fi

modules=cdk/node_modules/.installed-$(sha256sum cdk/package-lock.json | cut -c1-16)
if [[ ! -e $modules ]]; then
    (cd cdk && npm ci --no-audit --no-fund)
    touch "$modules"
fi

tools=.venv-cdk/.installed-$(sha256sum cdk/requirements.txt | cut -c1-16)
if [[ ! -e $tools ]]; then
    rm -rf .venv-cdk
    python3 -m venv .venv-cdk
    .venv-cdk/bin/pip install --quiet --disable-pip-version-check --requirement cdk/requirements.txt
    touch "$tools"
fi
