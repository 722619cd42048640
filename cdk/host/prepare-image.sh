#!/usr/bin/env bash
# Makes an instance into what the worker's image is taken from: Debian 12 on an inf1 builder,
# as root, with Neuron's apt repository set up as AWS's guide for torch-neuron says. The
# versions are the last that drive inf1. Run it, take an image, and put the image's id into
# the SSM parameter that the configuration names.
set -euo pipefail

# torch-neuron's archived runtime needs this line of the driver.
DRIVER='aws-neuronx-dkms=2.24.*'
((EUID == 0)) || { echo "run it as root" >&2; exit 1; }
apt-cache show aws-neuronx-dkms >/dev/null 2>&1 || {
    echo "aws-neuronx-dkms is in no apt repository of this machine: set Neuron's repository up first" >&2
    exit 1
}

apt-get update
apt-get install --yes --no-install-recommends "linux-headers-$(uname -r)" "$DRIVER" aws-neuronx-tools \
    curl python3 python3-prometheus-client logrotate unzip ca-certificates
apt-mark hold aws-neuronx-dkms

missing=()
for command in aws amazon-cloudwatch-agent-ctl /opt/aws/neuron/bin/neuron-monitor /opt/aws/neuron/bin/neuron-monitor-prometheus.py; do
    command -v "$command" >/dev/null || missing+=("$command")
done
if ((${#missing[@]})); then
    echo "still missing: ${missing[*]}; install the AWS CLI 2 and the CloudWatch agent from AWS's own packages" >&2
    exit 1
fi
# Hosts take no logins: what they are told comes by user data.
systemctl disable --now ssh 2>/dev/null || true
ls /dev/neuron0
echo "ready: take the image, then aws ssm put-parameter --name /catalog-labels/image/worker --type String --value ami-..."
