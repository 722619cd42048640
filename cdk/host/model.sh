#!/usr/bin/env bash
# Keeps the model of this host at the pointer, an SSM parameter that holds
# {"id": ..., "uri": "s3://...", "sha256": ...}.
#
#   model.sh install   puts the model in place; workers are not running yet
#   model.sh follow    rolls a moved pointer out, one worker at a time; a worker that does
#                      not become ready rolls the host back, and that model is not tried again
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=host.sh
source "$here/host.sh"

link=$STATE/model
refused=$STATE/refused-models

# Prints the folder of the model that the pointer names, fetched and checked.
wanted_folder() {
    local pointer uri sha256 folder
    pointer=$(aws ssm get-parameter --name "$MODEL_POINTER" --query Parameter.Value --output text)
    uri=$(field uri <<<"$pointer")
    sha256=$(field sha256 <<<"$pointer")
    folder=$STATE/models/$sha256
    if grep -qxF "$folder" "$refused" 2>/dev/null; then
        say "$MODEL_POINTER names $uri, which was rolled back here before; move the pointer"
        return 1
    fi
    if [[ ! -d $folder ]]; then
        fetch "$uri" "$STATE/model.tar.gz" "$sha256"
        unpack "$STATE/model.tar.gz" "$folder"
        rm "$STATE/model.tar.gz"
    fi
    # The manifest, and the digest of every file.
    look "$folder" --config-only || { echo "$folder" >>"$refused"; return 1; }
    echo "$folder"
}

# Restarts the workers one at a time, so that the host goes on meanwhile. One that was started
# too often on a bad model may be started again.
restart_workers() {
    local unit
    for unit in $(workers); do
        systemctl reset-failed "$unit" || return 1
        systemctl restart "$unit" || return 1
        wait_ready "$unit" || return 1
    done
}

follow() {
    local previous wanted
    previous=$(readlink "$link")
    wanted=$(wanted_folder)
    [[ $wanted != "$previous" ]] || return 0
    say "rolling out $wanted"
    point "$link" "$wanted"
    if restart_workers; then
        say "rolled out $wanted"
        # Its volume would fill up with models; the previous one stays, to go back to.
        find "$STATE/models" -mindepth 1 -maxdepth 1 ! -path "$wanted" ! -path "$previous" -exec rm -rf {} +
        return 0
    fi
    say "rolling back to $previous"
    echo "$wanted" >>"$refused"
    point "$link" "$previous"
    restart_workers || say "the previous model is not ready either"
    return 1
}

case ${1:-} in
    install)
        folder=$(wanted_folder)
        point "$link" "$folder"
        ;;
    follow) follow ;;
    *)
        say "usage: model.sh install|follow"
        exit 2
        ;;
esac
