#!/usr/bin/env bash
# On hosts with several workers: waits until Auto Scaling wants the instance gone, stops the
# workers, each of which drains, and answers the hook after the last. (A worker that is alone
# on its host answers it itself.)
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=host.sh
source "$here/host.sh"
# shellcheck source=/dev/null
source "$ETC/host.env"

# Empty while metadata has no answer, as before the group knows the instance.
until [[ $(metadata autoscaling/target-lifecycle-state 2>/dev/null || true) == *Terminated ]]; do
    sleep "${POLL_SECONDS:-5}"
done
# The workers have read the same notice; this returns when the last one has drained.
mapfile -t units < <(workers)
systemctl stop "${units[@]}"
aws autoscaling complete-lifecycle-action --lifecycle-action-result CONTINUE --instance-id "$(metadata instance-id)" \
    --lifecycle-hook-name "$DRAIN_HOOK" --auto-scaling-group-name "$GROUP"
