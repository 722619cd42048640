"""A Lambda function behind the stream of the label table: keeps `duplicates` in a search index."""

import labels


class Index:
    """Stands for the search engine's client; `update` is a partial update of one document."""

    def __init__(self):
        self.documents = {}

    def update(self, id, fields):
        self.documents.setdefault(id, {}).update(fields)


index = Index()


def handler(event, context=None):
    """Records of a stream come in order; the first that fails is where the next try begins."""
    model = labels.active_model()
    for record in event["Records"]:
        try:
            for id in affected(record, model):
                # What the table says now, not what the record said: right in any order, and
                # when a record comes twice.
                index.update(id, {"duplicates": labels.duplicates_of(id)})
        except Exception as error:
            print(f"record {record['dynamodb']['SequenceNumber']}: {error}")
            return {"batchItemFailures": [{"itemIdentifier": record["dynamodb"]["SequenceNumber"]}]}
    return {"batchItemFailures": []}


def affected(record, model):
    """The products whose duplicates may be others than before this change."""
    change = record["dynamodb"]
    if change["Keys"]["model"]["S"] != model:
        return []
    before, after = image(change, "OldImage"), image(change, "NewImage")
    if state(before) == state(after) and before["pairs"] == after["pairs"]:
        return []
    # One entry may contest the others, so that all other sides are looked at.
    return sorted({change["Keys"]["id"]["S"]} | before["pairs"].keys() | after["pairs"].keys())


def image(change, name):
    item = {key: labels.plain(value) for key, value in change.get(name, {}).items()}
    return {"pairs": {}, **item}


def state(item):
    """What makes the labels of a product count or not, besides the labels."""
    return item.get("text_hash"), item.get("deleted", False)
