#!/usr/bin/env bash
# Moves the model pointer of a stage: the hosts roll out what it names within minutes.
#
#   publish-model.sh STAGE FOLDER     uploads the artifact in FOLDER and points to it
#   publish-model.sh STAGE --back     points to what the pointer named before
#
# Needs the AWS CLI, AWS_REGION, and permission to write the stage's model bucket and pointer.
set -euo pipefail

(($# == 2)) || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
stage=$1
pointer=/catalog-labels-$stage/model

if [[ $2 == --back ]]; then
    value=$(aws ssm get-parameter-history --name "$pointer" --query 'sort_by(Parameters, &Version)[-2].Value' --output text)
    [[ $value != None ]] || { echo "$pointer has no earlier value" >&2; exit 1; }
else
    id=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["model_id"])' <"$2/manifest.json")
    account=$(aws sts get-caller-identity --query Account --output text)
    bucket=catalog-labels-$stage-models-$account-${AWS_REGION:?set it to the region of the stage}
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # Sorted and without times: one artifact is one archive.
    tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --directory "$2" . | gzip -n >"$work/model.tar.gz"
    sum=$(sha256sum "$work/model.tar.gz" | cut -d' ' -f1)
    uri=s3://$bucket/models/$id-${sum:0:12}.tar.gz
    aws s3 cp --only-show-errors "$work/model.tar.gz" "$uri"
    value=$(printf '{"id":"%s","uri":"%s","sha256":"%s"}' "$id" "$uri" "$sum")
fi
aws ssm put-parameter --name "$pointer" --type String --overwrite --value "$value" >/dev/null
echo "$pointer is now $value"
