#!/usr/bin/env bash
# Makes .local/inf1/libtorch: the CPU part of the libtorch in PyPI's wheel of torch 1.13.1, which
# has the C++ ABI of the torch-neuron wheel. Does nothing where it is there already.
#
#   TORCH  an installed torch 1.13.1 of the wheel to link to, in place of a download of 890 MB
set -euo pipefail
cd "$(dirname "$0")/.."

folder=.local/inf1/libtorch
# libtorch.so only bundles the others, CUDA's among them; the linker finds all in libtorch_cpu.so.
libraries=('libtorch_cpu.so' 'libc10.so' 'libgomp-*.so.1' 'libcudart-*.so*')

[[ -e "$folder/lib/libtorch.so" ]] && exit 0
rm -rf "$folder"
mkdir -p "$folder/lib"
if [[ -n "${TORCH:-}" ]]; then
    for library in "${libraries[@]}"; do
        # shellcheck disable=SC2086 # the name is a pattern
        ln -s "$(realpath "$TORCH")"/lib/$library "$folder/lib/"
    done
    ln -s "$(realpath "$TORCH")/include" "$folder/include"
else
    wheel=$(mktemp -d)
    trap 'rm -rf "$wheel"' EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
        --platform manylinux1_x86_64 --dest "$wheel" torch==1.13.1
    members=('torch/include/*')
    for library in "${libraries[@]}"; do members+=("torch/lib/$library"); done
    python3 - "$wheel"/*.whl "$wheel" "${members[@]}" <<'PYTHON'
import fnmatch, sys, zipfile
wheel, folder, *patterns = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    wanted = [name for name in archive.namelist() if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    archive.extractall(folder, wanted)
PYTHON
    mv "$wheel"/torch/lib/* "$folder/lib/"
    mv "$wheel/torch/include" "$folder/include"
fi
ln -s libtorch_cpu.so "$folder/lib/libtorch.so"
