#!/usr/bin/env bash
# Makes sure that Debian's libtorch 1.13.1, a fast BLAS and a C++ compiler are there.
# Does nothing, and asks nothing, where they are.
set -euo pipefail

packages=(libtorch-dev libopenblas0-openmp g++)
version=1.13.1

# A libtorch of the user's own, as .cargo/config.toml would not override it.
if [[ -n "${LIBTORCH:-}" && "$LIBTORCH" != /usr ]]; then
    [[ -e "$LIBTORCH/lib/libtorch.so" ]] && exit 0
    echo "LIBTORCH is $LIBTORCH, but $LIBTORCH/lib/libtorch.so does not exist; unset it or name the folder that holds lib/ and include/." >&2
    exit 1
fi

if ! command -v dpkg-query >/dev/null; then
    if [[ -e /usr/include/torch/script.h ]] && command -v g++ >/dev/null; then exit 0; fi
    echo "This is no Debian: install libtorch $version (C++ headers and libraries) and a C++ compiler, then set LIBTORCH to its folder." >&2
    exit 1
fi

missing=()
for package in "${packages[@]}"; do
    # shellcheck disable=SC2016 # ${Status} is dpkg-query's own.
    [[ "$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)" == "install ok installed" ]] || missing+=("$package")
done

if ((${#missing[@]})); then
    as_root=()
    if ((EUID != 0)); then
        if ! command -v sudo >/dev/null; then
            echo "Not installed: ${missing[*]}. As root, run: apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
            exit 1
        fi
        as_root=(sudo)
        echo "The model runs on libtorch $version, which needs these packages: ${missing[*]}."
        echo "You are not root, so these two commands run through sudo, which may ask for your password:"
        echo "  sudo apt-get update"
        echo "  sudo apt-get install --yes --no-install-recommends ${missing[*]}"
    fi
    "${as_root[@]}" apt-get update
    "${as_root[@]}" apt-get install --yes --no-install-recommends "${missing[@]}"
fi

# shellcheck disable=SC2016
installed=$(dpkg-query -W -f='${Version}' libtorch-dev)
if [[ "$installed" != "$version"* ]]; then
    echo "libtorch-dev is $installed, but this build needs $version, as in Debian 12; on another release set LIBTORCH to a libtorch $version of your own." >&2
    exit 1
fi
