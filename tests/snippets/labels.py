"""Labels of a results page, of one product and of one query, with boto3 alone."""

import json
import random
import sys
import time
import unicodedata

import boto3
from boto3.dynamodb.types import TypeDeserializer

PREFIX = "catalog-labels-"
ROUNDS_MAX = 4
# From this score on two products are more likely the same than not.
RATHER_SAME = 0.5
# Of so many look-alikes, some were never compared: that there is no label says nothing.
CROWDED_FROM = 10

dynamodb = boto3.client("dynamodb")
plain = TypeDeserializer().deserialize


def active_model():
    """The model whose labels count. A service keeps it for 30 seconds, not for ever."""
    return get("control", {"name": "model"})["model"]


def labels_for_page(ids):
    """Groups the page, given in rank order: each list starts with the product to show."""
    ids = list(dict.fromkeys(ids))
    items = label_items(ids, active_model())
    groups = []
    for product in ids:
        kept = (g for g in groups if verdict(items.get(g[0]), items.get(product)) == "duplicate")
        group = next(kept, None)
        if group:
            group.append(product)
        else:
            groups.append([product])
    return {"groups": groups, "missing": [id for id in ids if id not in items]}


def duplicates_of(id):
    """The products that are the same as this one, wherever they rank."""
    model = active_model()
    own = label_items([id], model).get(id)
    others = list(own["pairs"]) if own else []
    others = label_items(others, model) if others else {}
    return sorted(id for id, other in others.items() if verdict(own, other) == "duplicate")


def intent_for(query):
    """product, media, help or other; None where there is no live label."""
    query = normalise(query)
    item = get("intents", {"query": query, "model": active_model()}) if query else None
    return item["intent"] if item and item["expires_at"] > time.time() else None


def verdict(a, b):
    """duplicate, review, or None: what the newer of both sides says. A contested duplicate is for review."""
    entries = [entry for entry in (current_entry(a, b), current_entry(b, a)) if entry]
    # Without the Z, so that a time with fractions comes after the one without.
    newest = max(entries, key=lambda entry: entry["labelled_at"].rstrip("Z"), default=None)
    if newest and newest["verdict"] == "duplicate" and is_contested(a, b, newest["score"]):
        return "review"
    return newest and newest["verdict"]


def is_contested(a, b, score):
    """Whether one of the two is more surely the same as a third product, which the other rather is not."""
    return any(
        third != other["id"] and entry["score"] > score and is_told_apart(other["pairs"], third)
        for own, other in ((a, b), (b, a))
        for third, entry in own["pairs"].items()
    )


def is_told_apart(pairs, third):
    if third not in pairs:
        return len(pairs) < CROWDED_FROM
    return pairs[third]["score"] < RATHER_SAME


def current_entry(own, other):
    """What `own` says of `other`, unless one of the two is gone or has another text now."""
    if not own or not other or own.get("deleted") or other.get("deleted"):
        return None
    entry = own["pairs"].get(other["id"])
    return entry if entry and entry["other_hash"] == other["text_hash"] else None


def label_items(ids, model):
    """By id, at most 100: one BatchGetItem, and more only for what was throttled."""
    table = PREFIX + "labels"
    keys = [{"id": {"S": id}, "model": {"S": model}} for id in ids]
    # `pairs` and `text_hash` are what counts; `distinct` would double the bytes.
    names = {"#i": "id", "#h": "text_hash", "#d": "deleted", "#p": "pairs"}
    wanted = {"Keys": keys, "ProjectionExpression": ", ".join(names), "ExpressionAttributeNames": names}
    request, found = {table: wanted}, {}
    for attempt in range(ROUNDS_MAX):
        answer = dynamodb.batch_get_item(RequestItems=request)
        for item in answer["Responses"].get(table, []):
            found[item["id"]["S"]] = {name: plain(value) for name, value in item.items()}
        request = answer.get("UnprocessedKeys")
        if not request:
            break
        time.sleep(random.uniform(0, 0.02 * 2**attempt))
    return found


def get(table, key):
    key = {name: {"S": value} for name, value in key.items()}
    item = dynamodb.get_item(TableName=PREFIX + table, Key=key).get("Item")
    return item and {name: plain(value) for name, value in item.items()}


def normalise(query):
    """Compatibility forms folded, lower case letter by letter, single spaces."""
    folded = "".join(c.lower() for c in unicodedata.normalize("NFKC", query))
    return " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in folded).split())


if __name__ == "__main__":
    page, queries = sys.argv[1].split(), sys.argv[2:]
    print(json.dumps({"page": labels_for_page(page), "intents": [intent_for(query) for query in queries]}))
