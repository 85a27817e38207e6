#!/bin/sh
# What a machine without GPUs cannot check, on the user's own: the preflight over NCCL and every collective's values. Run by
# `make test-gpu`; writes target/gpu-report.txt. Exit code 3: there is no GPU, or the engine cannot hand one out.
set -eu

report=target/gpu-report.txt
evenkeel=target/release/evenkeel

say() { printf '%s\n' "$*" | tee -a "$report"; }
unready() { printf 'test-gpu: %s\n' "$*" >&2; exit 3; }

command -v nvidia-smi > /dev/null || unready "no GPU here: there is no nvidia-smi, which comes with NVIDIA's driver"
gpus=$(nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null | wc -l)
[ "$gpus" -gt 0 ] || unready "no GPU here: nvidia-smi lists none"

builder=$("$evenkeel" image build builder)
image=$("$evenkeel" image build ultralytics)
docker run --rm --gpus all "$image" true || unready "the engine hands out no GPU; \`evenkeel doctor\` says why"

mkdir -p target/gpu
: > "$report"
say "# GPU report"
say "$(date -u +%Y-%m-%dT%H:%MZ), $gpus GPUs"
nvidia-smi --query-gpu=index,name,driver_version,memory.total --format=csv,noheader | tee -a "$report"
say ""
nvidia-smi topo -m 2> /dev/null | tee -a "$report" || true

# The programs are linked in the builder and run where the CUDA libraries are; paths are the same in both.
programs="target/gpu"
docker run --rm --network none -v "$PWD/$programs:/out" "$builder" sh -euc '
    cargo test --release --locked --offline -p tch-distributed --features nccl --test grid --test nccl --no-run
    for name in grid nccl; do cp "$(ls -t target/release/deps/$name-* | grep -v "\.d$" | head -n 1)" "/out/$name"; done'

failed=0
check() {
    name=$1
    shift
    say ""
    say "## $name"
    if "$@" > "$programs/output" 2>&1; then outcome=passed; else outcome="FAILED ($?)"; failed=1; fi
    cat "$programs/output" >> "$report"
    say "$name: $outcome"
}
inside() {
    docker run --rm --network none --shm-size 1g --gpus all -v "$PWD/$programs:/tests:ro" --tmpfs /tmp:exec "$@"
}
# A process a GPU, as in a pod: one network, one IPC namespace, every GPU visible to all.
preflight() {
    inside -e EVENKEEL_DEVICE=cuda -e MASTER_ADDR=127.0.0.1 -e MASTER_PORT=29500 -e WORLD_SIZE="$gpus" "$image" sh -euc '
        ranks=""
        rank=0
        while [ "$rank" -lt "$WORLD_SIZE" ]; do
            RANK=$rank LOCAL_RANK=$rank EVENKEEL_EVENTS_FD=7 evenkeel-trainer preflight 7>&1 &
            ranks="$ranks $!"
            rank=$((rank + 1))
        done
        code=0
        for rank in $ranks; do wait "$rank" || code=1; done
        exit $code'
}
collectives() {
    inside -e TCHD_DEVICE=cuda "$image" sh -euc '
        /tests/nccl --nocapture
        /tests/grid --nocapture every_collective'
}
# One GPU has nobody to reach: the preflight then says just that.
check preflight preflight
check collectives collectives
say ""
say "report: $report"
exit $failed
