#!/bin/sh
# Builds a program of examples/ in the builder image and runs a script of this folder beside it where Python has torch:
# run.sh BUILDER-IMAGE ULTRALYTICS-IMAGE EXAMPLE SCRIPT [ARGUMENT...]
# The script gets the program's path and the arguments. What it writes to /output lands in the folder $OUTPUT.
set -eu
builder=$1 ultralytics=$2 example=$3 script=$4
shift 4
case "${DOCKER_ARGS:-}" in
*--gpus*)
    if ! nvidia-smi > /dev/null 2>&1; then
        echo "this machine has no NVIDIA GPU: nothing was measured" >&2
        exit 3
    fi
    ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# With the features of the image's own program, whose C++ is compiled already.
container=$(docker create --network none "$builder" \
    cargo build --release --locked --offline --package tch-distributed --features nccl --example "$example")
trap 'docker rm -f "$container" > /dev/null; rm -rf "$work"' EXIT
docker start --attach "$container"
docker cp "$container:/build/target/release/examples/$example" "$work/$example"
chmod 755 "$work" "$work/$example"
mkdir -p "${OUTPUT:=$work/output}"
# One container without a network; bytecode is not written, as the scripts are mounted for reading only.
docker run --rm --init --network none --shm-size 1g --user "$(id -u):$(id -g)" --env HOME=/tmp --env PYTHONDONTWRITEBYTECODE=1 \
    --volume "$work/$example:/program:ro" --volume "$here:/scripts:ro" --volume "$OUTPUT:/output" ${DOCKER_ARGS:-} \
    "$ultralytics" /opt/venv/bin/python3 "/scripts/$script" /program "$@"
