#!/bin/sh
# workbench.sh up | down | logs: this user's workbench, by whichever compose is there. `make workbench` builds its image first.
# Every EVENKEEL_ variable of docs/workbench.md that is set already is kept.
set -eu
cd "$(dirname "$0")/.."

if docker compose version >/dev/null 2>&1; then
    compose="docker compose"
elif command -v docker-compose >/dev/null; then
    compose="docker-compose"
else
    echo "workbench: neither \`docker compose\` nor \`docker-compose\` is here; Debian and Ubuntu have docker-compose" >&2
    exit 3
fi

# Ports by uid, so that the users of a machine do not meet: the first (1000) has 8888 and 2222, root those before.
uid=$(id -u)
if [ "$uid" -ge 1000 ]; then offset=$(((uid - 1000) % 1000)); else offset=$((-1 - uid % 100)); fi
: "${EVENKEEL_USER:=$uid:$(id -g)}"
: "${EVENKEEL_JUPYTER_PORT:=$((8888 + offset))}"
: "${EVENKEEL_SSH_PORT:=$((2222 + offset))}"
: "${EVENKEEL_WORKBENCH:=$PWD/.cache/workbench}"
: "${EVENKEEL_DATA:=$PWD/data}"
: "${EVENKEEL_JOBS:=$PWD/jobs}"
: "${EVENKEEL_RUNS:=$PWD/runs}"
: "${EVENKEEL_BIND:=127.0.0.1}"
: "${EVENKEEL_TOKEN:=}"
: "${EVENKEEL_PROJECT:=evenkeel-workbench-$uid}"
if [ -z "${EVENKEEL_AUTHORIZED_KEYS+set}" ]; then
    EVENKEEL_AUTHORIZED_KEYS=$(cat "$HOME"/.ssh/*.pub 2>/dev/null || true)
fi
export EVENKEEL_USER EVENKEEL_JUPYTER_PORT EVENKEEL_SSH_PORT EVENKEEL_WORKBENCH EVENKEEL_DATA EVENKEEL_JOBS EVENKEEL_RUNS \
    EVENKEEL_BIND EVENKEEL_TOKEN EVENKEEL_AUTHORIZED_KEYS

files="-f compose/workbench.yaml"
if docker info --format '{{json .Runtimes}}' 2>/dev/null | grep -q '"nvidia"' && [ -e /proc/driver/nvidia/version ]; then
    files="$files -f compose/workbench.gpu.yaml"
fi
run() { $compose -p "$EVENKEEL_PROJECT" $files "$@"; }
answers='import urllib.request as r
r.build_opener(r.ProxyHandler({})).open("http://127.0.0.1:8888/api", timeout=10)'

case "${1:-}" in
up)
    # Docker would make a missing folder as root.
    mkdir -p "$EVENKEEL_WORKBENCH" "$EVENKEEL_DATA" "$EVENKEEL_JOBS" "$EVENKEEL_RUNS"
    run up -d
    # Jupyter writes its token before it answers. It is asked from inside, where neither a proxy of this machine nor EVENKEEL_BIND
    # stands between; a container that starts again and again refuses the question.
    deadline=$(($(date +%s) + 60))
    until run exec -T workbench python3 -c "$answers" </dev/null >/dev/null 2>&1; do
        if [ "$(date +%s)" -ge "$deadline" ]; then
            echo "workbench: Jupyter does not answer; its last lines:" >&2
            run logs --tail 20 >&2
            exit 1
        fi
        sleep 0.5
    done
    if [ ! -s "$EVENKEEL_WORKBENCH/token" ] || [ ! -s "$EVENKEEL_WORKBENCH/user" ]; then
        echo "workbench: it runs, but $EVENKEEL_WORKBENCH/token is gone; \`make workbench-down\`, then start it anew" >&2
        exit 1
    fi
    token=$(cat "$EVENKEEL_WORKBENCH/token")
    user=$(cat "$EVENKEEL_WORKBENCH/user")
    case $EVENKEEL_BIND in 0.0.0.0 | ::) host=127.0.0.1 ;; *) host=$EVENKEEL_BIND ;; esac
    echo "Jupyter   http://$host:$EVENKEEL_JUPYTER_PORT/lab?token=$token"
    echo "SSH       ssh -p $EVENKEEL_SSH_PORT $user@$host"
    echo "from afar ssh -L $EVENKEEL_JUPYTER_PORT:$host:$EVENKEEL_JUPYTER_PORT -L $EVENKEEL_SSH_PORT:$host:$EVENKEEL_SSH_PORT $(id -un)@$(hostname)"
    if [ -z "$EVENKEEL_AUTHORIZED_KEYS" ] && [ ! -f "$EVENKEEL_WORKBENCH/authorized_keys" ]; then
        echo "no public key in ~/.ssh: put one into $EVENKEEL_WORKBENCH/authorized_keys and start anew to log in by SSH"
    fi
    ;;
# Neither needs an image, but compose reads the whole file.
down) EVENKEEL_WORKBENCH_IMAGE=none run down ;;
logs) EVENKEEL_WORKBENCH_IMAGE=none run logs ;;
*)
    echo "usage: workbench.sh up | down | logs" >&2
    exit 2
    ;;
esac
