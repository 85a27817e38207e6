#!/bin/sh
# A training beside a real MLflow server that is killed in the middle and away for a minute; then the official packages are asked what they
# have of it: trackers.sh EVENKEEL [KEY=VALUE...]. Python 3 and its package index are needed; everything is installed below target/trackers.
# The worker's image is built before this is called, or named by image=NAME.
set -eu
evenkeel=$(realpath "$1")
shift
root=$(cd "$(dirname "$0")/.." && pwd)
place=$root/target/trackers
mkdir -p "$place"
if ! "$place/venv/bin/python" -c 'import mlflow, tensorboard' 2> /dev/null; then
    python3 -m venv --clear "$place/venv"
    "$place/venv/bin/pip" install --quiet mlflow==3.17.2 tensorboard==2.21.0
fi
work=$(mktemp -d "$place/run-XXXXXX")
server=
stop_server() {
    if [ -n "$server" ]; then
        # The server has workers, all in its own session.
        kill -KILL "-$server" 2> /dev/null || true
        server=
    fi
}
training=
stop_training() {
    if [ -n "$training" ]; then
        kill -TERM "$training" 2> /dev/null && wait "$training" || true
    fi
}
trap 'stop_training; stop_server; rm -rf "$work"' EXIT
port=$("$place/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export MLFLOW_TRACKING_URI="http://127.0.0.1:$port" NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
start_server() {
    setsid "$place/venv/bin/mlflow" server --host 127.0.0.1 --port "$port" --workers 1 \
        --backend-store-uri "sqlite:///$work/mlflow.db" --artifacts-destination "$work/artifacts" >> "$work/server.log" 2>&1 &
    server=$!
}
cd "$work"
# Where the folder is another user's, containers could not enter it.
chmod 755 "$work"
"$evenkeel" dataset shapes shapes --images 64
cat > job.yaml << 'JOB'
name: tracked
trainer: native
model: yolov8n.yaml
data: shapes/data.yaml
epochs: 60
imgsz: 64
batch: {target: 16, micro: 4}
device: cpu:2
JOB
start_server
"$place/venv/bin/python" "$root/tests/trackers.py" wait-server
"$evenkeel" train job.yaml "$@" --progress plain > train.log 2>&1 &
training=$!
"$place/venv/bin/python" "$root/tests/trackers.py" wait-epochs 2 || { cat train.log >&2; exit 1; }
stop_server
echo "the server is gone for 60 s"
sleep 60
start_server
"$place/venv/bin/python" "$root/tests/trackers.py" wait-server
wait "$training" || { cat train.log >&2; exit 1; }
training=
tail -n 4 train.log
# Nothing may be left; if the training ended while the server was away, all of it is.
"$evenkeel" sync
"$place/venv/bin/python" "$root/tests/trackers.py" check "$work/runs/tracked/latest"
