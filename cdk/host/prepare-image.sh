#!/usr/bin/env bash
# Makes an instance into what an image of our hosts is taken from. Run as root on an inf1
# builder, with Neuron's package repository set up as AWS's guide for torch-neuron says:
#
#   prepare-image.sh worker   Debian 12, for the workers
#   prepare-image.sh ecs      an ECS-optimised image of Amazon Linux 2023, for the online service
#
# Neuron's versions are the last that drive inf1. Then take an image, and put its id into the
# SSM parameter that the configuration names.
set -euo pipefail

what=${1:-}
[[ $what == worker || $what == ecs ]] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
((EUID == 0)) || { echo "run it as root" >&2; exit 1; }

# Older ones know too little of what the units ask for: 219 of Amazon Linux 2 reads a group of
# system calls that it does not know as none at all.
read -r _ systemd _ < <(systemctl --version)
((systemd >= 247)) || { echo "this image has systemd $systemd, and the units need 247; take another image" >&2; exit 1; }

# The templates encrypt and size the root volume by this name.
token=$(curl -fsS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)
root=$(curl -fsS -H "X-aws-ec2-metadata-token: $token" http://169.254.169.254/latest/meta-data/block-device-mapping/root)
[[ /dev/${root#/dev/} == /dev/xvda ]] ||
    { echo "the root volume of this image is $root, and the templates name /dev/xvda; take another image" >&2; exit 1; }

# torch-neuron's archived runtime needs this line of the driver.
driver=2.24
if command -v apt-get >/dev/null; then
    apt-get update
    apt-get install --yes --no-install-recommends "linux-headers-$(uname -r)" "aws-neuronx-dkms=$driver.*" \
        aws-neuronx-tools curl python3 python3-prometheus-client logrotate unzip ca-certificates
    apt-mark hold aws-neuronx-dkms
else
    dnf install --assumeyes "kernel-devel-$(uname -r)" "aws-neuronx-dkms-$driver.*" aws-neuronx-tools \
        amazon-cloudwatch-agent python3-pip 'dnf-command(versionlock)'
    python3 -m pip install --quiet prometheus-client==0.17.1
    dnf versionlock aws-neuronx-dkms
fi

needed=(amazon-cloudwatch-agent-ctl /opt/aws/neuron/bin/neuron-monitor /opt/aws/neuron/bin/neuron-monitor-prometheus.py)
case $what in
    worker) needed+=(aws) ;;
    ecs) needed+=(docker) ;;
esac
missing=()
for command in "${needed[@]}"; do
    command -v "$command" >/dev/null || missing+=("$command")
done
if ((${#missing[@]})); then
    echo "still missing: ${missing[*]}; install them from the packages of AWS" >&2
    exit 1
fi
# Hosts take no logins: what they are told comes by user data.
systemctl disable --now sshd ssh 2>/dev/null || true
ls /dev/neuron0
echo "ready: take the image, then aws ssm put-parameter --name /catalog-labels/image/$what --type String --value ami-..."
