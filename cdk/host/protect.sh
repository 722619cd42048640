#!/usr/bin/env bash
# Protects the instance from scale-in while its workers hold messages, and lets go when they
# hold none. Run by a timer; the last answer is remembered, so that only a change is told.
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=host.sh
source "$here/host.sh"

last=$STATE/protected

# Messages under a lease, of all workers. A worker that does not answer holds none: what it
# held comes back by itself.
messages_held() {
    local unit
    for unit in $(workers); do
        curl -fsS --max-time 5 "http://127.0.0.1:$(port_of "$unit")/metrics" 2>/dev/null || true
    done | awk '/^queue_leases_held[{ ]/ { held += $NF } END { print held + 0 }'
}

protect=--no-protected-from-scale-in
(($(messages_held) == 0)) || protect=--protected-from-scale-in
# New instances are protected by the group.
[[ $(cat "$last" 2>/dev/null || echo --protected-from-scale-in) != "$protect" ]] || exit 0
aws autoscaling set-instance-protection --instance-ids "$(metadata instance-id)" --auto-scaling-group-name "$GROUP" "$protect"
echo "$protect" >"$last"
