#!/usr/bin/env bash
# Waits until Auto Scaling or a spot interruption wants the instance gone, stops the workers,
# each of which drains, and answers the hook after the last: with one process for each chip,
# the first one to finish must not let the instance go.
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=host.sh
source "$here/host.sh"

# Both have no answer before there is a notice.
is_wanted_gone() {
    [[ $(metadata autoscaling/target-lifecycle-state 2>/dev/null || true) == *Terminated ]] ||
        metadata spot/instance-action >/dev/null 2>&1
}

until is_wanted_gone; do
    sleep "${POLL_SECONDS:-5}"
done
mapfile -t units < <(workers)
# Returns when the last one has drained.
systemctl stop "${units[@]}"
aws autoscaling complete-lifecycle-action --lifecycle-action-result CONTINUE --instance-id "$(metadata instance-id)" \
    --lifecycle-hook-name "$DRAIN_HOOK" --auto-scaling-group-name "$GROUP" ||
    say "there is no hook to answer: a spot interruption does not wait for one"
