#!/usr/bin/env bash
# Fills dist/ with what `cdk deploy` uploads: release and model of the inf1 hosts, and the
# contexts of both images. The same inputs give the same bytes.
#
#   INF1_BINARY  catalog-labels, built against libtorch 1.13.1 with the old ABI (make inf1)
#   INF1_LIBS    folder with libtorch_cpu.so, libc10.so and their like of the torch 1.13.1
#                wheel, and libtorchneuron.so of the torch-neuron wheel with its libnrt
#   INF1_MODEL   artifact compiled for inf1
#   CPU_BINARY   catalog-labels for Debian's libtorch [target/release/catalog-labels]
#   CPU_MODEL    artifact for CPUs [the one in models/artifacts]
#   DIST         [dist]
set -euo pipefail
cd "$(dirname "$0")/.."

artifacts=(models/artifacts/*/)
CPU_BINARY=${CPU_BINARY:-target/release/catalog-labels}
CPU_MODEL=${CPU_MODEL:-${artifacts[0]}}
DIST=${DIST:-dist}

missing=()
need() { [[ -e ${2:-} ]] || missing+=("$1=${2:-} (${3})"); }
need INF1_BINARY "${INF1_BINARY:-}" "make inf1 builds it"
need INF1_LIBS "${INF1_LIBS:+$INF1_LIBS/libtorch_cpu.so}" "of the torch 1.13.1 wheel"
need INF1_LIBS "${INF1_LIBS:+$INF1_LIBS/libtorchneuron.so}" "of the torch-neuron 1.13.1.2.11.13.0 wheel"
need INF1_MODEL "${INF1_MODEL:+$INF1_MODEL/manifest.json}" "models/training/compile_neuron.py compiles it"
need CPU_BINARY "$CPU_BINARY" "make build builds it"
need CPU_MODEL "$CPU_MODEL/manifest.json" "models/artifacts has the shipped one"
if ((${#missing[@]})); then
    printf 'missing: %s\n' "${missing[@]}" >&2
    exit 1
fi

# Sorted, without times and owners.
archive() { tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --directory "$1" . | gzip -n >"$2"; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf "$DIST"
mkdir -p "$DIST/host" "$DIST/intent" "$DIST/cpu/model" "$work/bin" "$work/lib"

install -m 0755 "$INF1_BINARY" "$work/bin/catalog-labels"
# Links are followed: an archive with the file under each of its names needs no links.
cp -L "$INF1_LIBS"/*.so* "$work/lib/"
archive "$work" "$DIST/host/catalog-labels.tar.gz"
archive "$INF1_MODEL" "$DIST/host/model.tar.gz"
cp "$DIST/host/"*.tar.gz "$DIST/intent/"
cp cdk/containers/intent.Dockerfile "$DIST/intent/Dockerfile"
install -m 0755 "$CPU_BINARY" "$DIST/cpu/catalog-labels"
cp -r "$CPU_MODEL"/. "$DIST/cpu/model/"
cp cdk/containers/cpu.Dockerfile "$DIST/cpu/Dockerfile"
(cd "$DIST" && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum) | tee "$DIST/SHA256SUMS"
