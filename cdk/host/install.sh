#!/usr/bin/env bash
# Puts the release, the model and the units in place, starts the workers, and tells the
# Auto Scaling group whether this instance works. Run by user data as root, from the folder
# that holds it, with /etc/catalog-labels/host.env and worker.env written before.
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=host.sh
source "$here/host.sh"

answer_launch_hook() {
    aws autoscaling complete-lifecycle-action --lifecycle-action-result "$1" --instance-id "$(metadata instance-id)" \
        --lifecycle-hook-name "$LAUNCH_HOOK" --auto-scaling-group-name "$GROUP"
}

# An instance that does not come up is replaced at once, not after the hook's time.
trap 'say "the installation failed in line $LINENO"; answer_launch_hook ABANDON' ERR
set -E

install_release() {
    local folder=$OPT/releases/$RELEASE_SHA256
    mkdir -p "$OPT/releases"
    if [[ ! -d $folder ]]; then
        fetch "$RELEASE_URI" "$OPT/release.tar.gz" "$RELEASE_SHA256"
        unpack "$OPT/release.tar.gz" "$folder"
        rm "$OPT/release.tar.gz"
    fi
    # A binary that this image's loader refuses is found out here, not by a restart loop.
    LD_LIBRARY_PATH=$folder/lib "$folder/bin/catalog-labels" --version
    point "$OPT/current" "$folder"
}

install_units() {
    local size
    size=$(metadata instance-type)
    [[ -d $here/$size/units ]] || { say "there are no units for an $size"; return 1; }
    install -D -m 0644 -t "$ROOT/etc/systemd/system" "$here/$size/units/"*
    install -D -m 0755 -t "$OPT/host" "$here/"*.sh
    install -m 0644 "$here/neuron-monitor.json" "$here/$size/prometheus.yaml" "$here/$size/cloudwatch-agent.json" "$ETC/"
    install -D -m 0644 "$here/logrotate.conf" "$ROOT/etc/logrotate.d/catalog-labels"
    systemctl daemon-reload
}

id catalog-labels >/dev/null 2>&1 || useradd --system --no-create-home --shell /usr/sbin/nologin catalog-labels
# systemd opens a worker's log before it would make its LogsDirectory.
mkdir -p "$STATE/models" "$LOGS"
install_units
# First, so that what an instance says that is given up can be read.
amazon-cloudwatch-agent-ctl -a fetch-config -m ec2 -s -c "file:$ETC/cloudwatch-agent.json"
install_release
"$OPT/host/model.sh" install
# Configuration, permissions, queues, tables and devices, each finding with its fix.
look "$STATE/model"
systemctl enable catalog-labels-neuron-monitor.service catalog-labels-drain.service
systemctl enable --now catalog-labels.target
for unit in $(workers); do
    systemctl enable "$unit"
    wait_ready "$unit"
done
systemctl enable --now catalog-labels-model.timer catalog-labels-protect.timer
answer_launch_hook CONTINUE
