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
if [ -z "${EVENKEEL_AUTHORIZED_KEYS+set}" ]; then
    EVENKEEL_AUTHORIZED_KEYS=$(cat "$HOME"/.ssh/*.pub 2>/dev/null || true)
fi
export EVENKEEL_USER EVENKEEL_JUPYTER_PORT EVENKEEL_SSH_PORT EVENKEEL_WORKBENCH EVENKEEL_DATA EVENKEEL_JOBS EVENKEEL_RUNS \
    EVENKEEL_BIND EVENKEEL_TOKEN EVENKEEL_AUTHORIZED_KEYS

files="-f compose/workbench.yaml"
if docker info --format '{{json .Runtimes}}' 2>/dev/null | grep -q '"nvidia"' && [ -e /proc/driver/nvidia/version ]; then
    files="$files -f compose/workbench.gpu.yaml"
fi
run() { $compose -p "evenkeel-workbench-$uid" $files "$@"; }

case "${1:-}" in
up)
    # Docker would make a missing folder as root.
    mkdir -p "$EVENKEEL_WORKBENCH" "$EVENKEEL_DATA" "$EVENKEEL_JOBS" "$EVENKEEL_RUNS"
    rm -f "$EVENKEEL_WORKBENCH/token"
    run up -d
    waited=0
    until code=$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$EVENKEEL_JUPYTER_PORT/api" 2>/dev/null) && [ "$code" = 200 ]; do
        waited=$((waited + 1))
        if [ "$waited" -gt 120 ]; then
            echo "workbench: Jupyter does not answer; its last lines:" >&2
            run logs --tail 20 >&2
            exit 1
        fi
        sleep 0.5
    done
    token=$(cat "$EVENKEEL_WORKBENCH/token")
    user=$(cat "$EVENKEEL_WORKBENCH/user")
    echo "Jupyter   http://127.0.0.1:$EVENKEEL_JUPYTER_PORT/lab?token=$token"
    echo "SSH       ssh -p $EVENKEEL_SSH_PORT $user@127.0.0.1"
    echo "from afar ssh -L $EVENKEEL_JUPYTER_PORT:127.0.0.1:$EVENKEEL_JUPYTER_PORT -L $EVENKEEL_SSH_PORT:127.0.0.1:$EVENKEEL_SSH_PORT $(id -un)@$(hostname)"
    if [ -z "$EVENKEEL_AUTHORIZED_KEYS" ] && [ ! -f "$EVENKEEL_WORKBENCH/authorized_keys" ]; then
        echo "no public key in ~/.ssh: put one into $EVENKEEL_WORKBENCH/authorized_keys and start anew to log in by SSH"
    fi
    ;;
down) run down ;;
logs) run logs ;;
*)
    echo "usage: workbench.sh up | down | logs" >&2
    exit 2
    ;;
esac
