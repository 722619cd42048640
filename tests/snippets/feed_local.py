"""Runs feed.handler over the whole stream of the label table of a local engine."""

import json

import boto3

import feed
import labels

streams = boto3.client("dynamodbstreams")


def records():
    table = labels.dynamodb.describe_table(TableName=labels.PREFIX + "labels")["Table"]
    stream = streams.describe_stream(StreamArn=table["LatestStreamArn"])["StreamDescription"]
    for shard in stream["Shards"]:
        cursor = streams.get_shard_iterator(
            StreamArn=stream["StreamArn"], ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while cursor:
            answer = streams.get_records(ShardIterator=cursor)
            # An open shard goes on for ever; what is there now is enough.
            if not answer["Records"]:
                break
            yield from answer["Records"]
            cursor = answer.get("NextShardIterator")


everything = list(records())
result = feed.handler({"Records": everything})
print(json.dumps({"records": len(everything), "result": result, "index": feed.index.documents}))
