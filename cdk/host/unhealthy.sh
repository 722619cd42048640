#!/usr/bin/env bash
# Has the instance replaced when a worker of it stays down, which systemd has started as often
# as it may. While a model is rolled out, the roll-out judges first: it goes back by itself.
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=host.sh
source "$here/host.sh"

while [[ $(systemctl show --property ActiveState --value catalog-labels-model.service) == activating ]]; do
    sleep "${POLL_SECONDS:-5}"
done
for unit in $(workers); do
    if systemctl --quiet is-failed "$unit"; then
        say "$unit stays down: the instance is to be replaced"
        aws autoscaling set-instance-health --instance-id "$(metadata instance-id)" --health-status Unhealthy \
            --no-should-respect-grace-period
        exit
    fi
done
