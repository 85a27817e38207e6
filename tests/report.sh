#!/bin/sh
# Reports of real runs in a real browser: report.sh EVENKEEL OUTPUT. The browser comes from Debian, into an image of its own that is made once,
# and has no network while it looks. Screenshots are left in OUTPUT.
set -eu
evenkeel=$(realpath "$1")
mkdir -p "$2"
output=$(realpath "$2")
root=$(cd "$(dirname "$0")/.." && pwd)
debian=$("$evenkeel" image build debian)
"$evenkeel" image build worker > /dev/null
browser=evenkeel/check-browser:${debian##*:}
if ! docker image inspect "$browser" > /dev/null 2>&1; then
    docker build --quiet --tag "$browser" - << DOCKERFILE
FROM $debian
RUN set -eu; apt-get update -q; \
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium python3-minimal python3 fonts-dejavu-core; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*
DOCKERFILE
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cd "$work"
"$evenkeel" dataset shapes shapes --images 64 --imgsz 96 > /dev/null
cat > good.yaml << 'JOB'
name: good
trainer: native
model: yolov8n.yaml
data: shapes/data.yaml
epochs: 12
imgsz: 96
batch: {target: 32, micro: 16, on_oom: step_down}
device: [{cpu: 1, memory: 300MiB}, {cpu: 1}]
JOB
"$evenkeel" train good.yaml --progress quiet
# Out of memory once, then again for good: launches that failed, and no steps.
cat > bad.yaml << JOB
name: bad
trainer: command
image: $debian
command: [bash, -c, 'echo "<script>alert(1)</script>"; sleep 0.2; echo CUDA out of memory >&2; exit 1']
batch: 32
device: cpu:2
network: none
max_restarts: 2
JOB
"$evenkeel" train bad.yaml --progress quiet && exit 1
for name in good bad; do
    cp "runs/$name/latest/report.html" "$name.html"
done
chmod 644 ./*.html
docker run --rm --init --network none --shm-size 512m --volume "$work:/reports:ro" --volume "$root/tests/report.py:/report.py:ro" \
    --volume "$output:/output" "$browser" python3 /report.py /output /reports/good.html /reports/bad.html
