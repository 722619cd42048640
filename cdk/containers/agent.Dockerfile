# The CloudWatch agent beside the online service, as AWS publishes it: in the account's own
# registry, since tasks have no way to another one. What it scrapes is told by its environment.
# Never built in this repository: there is no Docker where its tests run.
FROM public.ecr.aws/cloudwatch-agent/cloudwatch-agent:1.300062.0b1304
