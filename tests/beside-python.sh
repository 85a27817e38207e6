#!/bin/sh
# Builds a program of a crate's examples/ in the builder image and runs a script of its tests/python beside it where Python has torch:
# beside-python.sh BUILDER-IMAGE ULTRALYTICS-IMAGE CRATE EXAMPLE SCRIPT [ARGUMENT...]
# CRATE is the crate's folder. The script gets the program's path and the arguments. What it writes to /output lands in the folder $OUTPUT.
set -eu
builder=$1 ultralytics=$2 crate=$3 example=$4 script=$5
shift 5
case "${DOCKER_ARGS:-}" in
*--gpus*)
    if ! nvidia-smi > /dev/null 2>&1; then
        echo "this machine has no NVIDIA GPU: nothing was measured" >&2
        exit 3
    fi
    ;;
esac
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# With the features of the image's own program, whose C++ is compiled already.
container=$(docker create --network none "$builder" \
    cargo build --release --locked --offline --manifest-path "$crate/Cargo.toml" --features tch-distributed/nccl --example "$example")
trap 'docker rm -f "$container" > /dev/null; rm -rf "$work"' EXIT
docker start --attach "$container"
docker cp "$container:/build/target/release/examples/$example" "$work/$example"
chmod 755 "$work" "$work/$example"
mkdir -p "${OUTPUT:=$work/output}"
# One container without a network; bytecode is not written, as the scripts are mounted for reading only.
docker run --rm --init --network none --shm-size 1g --user "$(id -u):$(id -g)" --env HOME=/tmp --env PYTHONDONTWRITEBYTECODE=1 \
    --env YOLO_OFFLINE=true --env YOLO_CONFIG_DIR=/tmp --volume "$work/$example:/program:ro" \
    --volume "$root/$crate/tests/python:/scripts:ro" --volume "$OUTPUT:/output" ${DOCKER_ARGS:-} \
    "$ultralytics" /opt/venv/bin/python3 "/scripts/$script" /program "$@"
