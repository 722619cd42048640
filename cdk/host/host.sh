# shellcheck shell=bash disable=SC2034
# What the scripts of a host share. Sourced, never run. ROOT is empty on a host, and a
# folder in tests.
set -euo pipefail
shopt -s inherit_errexit

ROOT=${ROOT:-}
ETC=$ROOT/etc/catalog-labels
OPT=$ROOT/opt/catalog-labels
STATE=$ROOT/var/lib/catalog-labels
LOGS=$ROOT/var/log/catalog-labels
# Exported: the AWS CLI reads the region there.
set -a
# shellcheck source=/dev/null
source "$ETC/host.env"
set +a
METADATA=${METADATA:-http://169.254.169.254}
# How long a worker may take from its start until it is ready: the model is loaded on four
# cores and gives its golden outputs at every bucket.
READY_SECONDS=${READY_SECONDS:-600}
WORKER_PORT=9090
CORES_PER_CHIP=4

say() { echo "$*" >&2; }

# One value of the instance metadata, by version 2 of the service.
metadata() {
    local token
    token=$(curl -fsS --max-time 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$METADATA/latest/api/token")
    curl -fsS --max-time 5 -H "X-aws-ec2-metadata-token: $token" "$METADATA/latest/meta-data/$1"
}

# The field $1 of the JSON object on standard input.
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

# Fetches $1 from S3 to the file $2 and refuses it unless its sha256 is $3.
fetch() {
    aws s3 cp --only-show-errors "$1" "$2"
    echo "$3  $2" | sha256sum --check --quiet || { say "$1: sha256 is not $3; refused"; return 1; }
}

# Unpacks the archive $1 into the folder $2, which appears whole or not at all.
unpack() {
    local part
    part=$(mktemp -d "$2.part.XXXXXX")
    tar --extract --gzip --no-same-owner --file "$1" --directory "$part"
    chmod -R go+rX,go-w "$part"
    mv -T "$part" "$2"
}

# Lets the link $1 point to $2, in one step.
point() {
    ln -sfn "$2" "$1.next"
    mv -T "$1.next" "$1"
}

# Names of the workers' units, chip 0 first.
workers() {
    local unit
    for ((chip = 0; ; chip++)); do
        unit=catalog-labels-worker-$chip.service
        [[ -e $ROOT/etc/systemd/system/$unit ]] || return 0
        echo "$unit"
    done
}

# Port of the worker $1, which is named by its chip.
port_of() {
    local chip=${1#catalog-labels-worker-}
    echo $((WORKER_PORT + ${chip%.service}))
}

# Lets the binary look at what the workers of this host need, with the model in the folder $1;
# more arguments are those of `check`. They differ by their chips only: one look is for all.
look() (
    model=$1
    mapfile -t units < <(workers)
    set -a
    # shellcheck source=/dev/null
    source "$ETC/worker.env"
    CATALOG_LABELS_ARTIFACT=$model NEURON_RT_VISIBLE_CORES=0-$((CORES_PER_CHIP * ${#units[@]} - 1)) \
        LD_LIBRARY_PATH=$OPT/current/lib "$OPT/current/bin/catalog-labels" check "${@:2}" >&2
)

# Returns once the worker $1 is ready; fails at once where systemd has given it up.
wait_ready() {
    local port until=$((SECONDS + READY_SECONDS))
    port=$(port_of "$1")
    until curl -fsS --max-time 5 --output /dev/null "http://127.0.0.1:$port/readyz" 2>/dev/null; do
        ! systemctl --quiet is-failed "$1" || { say "$1 stays down"; return 1; }
        ((SECONDS < until)) || { say "$1 is not ready after $READY_SECONDS s"; return 1; }
        sleep "${POLL_SECONDS:-2}"
    done
}
