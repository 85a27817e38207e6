#!/bin/sh
# controller.sh ARGUMENTS: the controller in a container, for people without Rust; `make controller ARGS='...'` is the same.
# Builds its image with the docker command alone, then runs what compose/controller.yaml says: by whichever compose is there.
# Every variable of controller.yaml that is set already is kept.
set -eu
cd "$(dirname "$0")/.."

if docker compose version >/dev/null 2>&1; then
    compose="docker compose"
elif command -v docker-compose >/dev/null; then
    compose="docker-compose"
else
    echo "controller: neither \`docker compose\` nor \`docker-compose\` is here; Debian and Ubuntu have docker-compose" >&2
    exit 3
fi
socket=${DOCKER_HOST:-unix:///var/run/docker.sock}
case $socket in
unix:///*) socket=${socket#unix://} ;;
*)
    echo "controller: the engine must be this machine's, at a unix socket, not at $socket; unset DOCKER_HOST" >&2
    exit 3
    ;;
esac

# What the builds need from this machine; an argument that is not set stays the Dockerfile's own.
settings=
for name in DEBIAN_IMAGE DEBIAN_MIRROR HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy; do
    if [ -n "$(printenv "$name" || true)" ]; then settings="$settings --build-arg $name"; fi
done

: "${EVENKEEL_CONTROLLER_IMAGE:=}"
if [ -z "$EVENKEEL_CONTROLLER_IMAGE" ]; then
    EVENKEEL_CONTROLLER_IMAGE=evenkeel/controller:dev
    # The checkout, its own .dockerignore applied, and beside it this machine's certificate authorities and cargo's settings.
    context=$(mktemp -d)
    trap 'rm -rf "$context"' EXIT
    cp -R images crates src tests benches Cargo.toml Cargo.lock build.rs rustfmt.toml .dockerignore "$context"
    bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
    if [ -f "$bundle" ]; then cp "$bundle" "$context/ca-bundle.pem"; fi
    for file in "${CARGO_HOME:-$HOME/.cargo}/config.toml" "${CARGO_HOME:-$HOME/.cargo}/config"; do
        if [ -f "$file" ]; then cp "$file" "$context/cargo-config.toml" && break; fi
    done
    # Progress and questions are for people: what a controller prints to stdout may be for a program.
    docker build $settings -t evenkeel/base:controller -f images/base/Dockerfile "$context" >&2
    docker build $settings --build-arg BASE_IMAGE=evenkeel/base:controller -t "$EVENKEEL_CONTROLLER_IMAGE" \
        -f images/controller/Dockerfile "$context" >&2
    rm -rf "$context"
    trap - EXIT
fi

: "${EVENKEEL_USER:=$(id -u):$(id -g)}"
: "${EVENKEEL_DOCKER_GROUP:=$(stat -L -c %g "$socket")}"
: "${EVENKEEL_DOCKER_SOCKET:=$socket}"
: "${EVENKEEL_HOME:=$HOME}"
: "${EVENKEEL_CHECKOUT:=$PWD}"
: "${EVENKEEL_TTY:=$([ -t 0 ] && [ -t 1 ] && echo true || echo false)}"
export EVENKEEL_CONTROLLER_IMAGE EVENKEEL_USER EVENKEEL_DOCKER_GROUP EVENKEEL_DOCKER_SOCKET EVENKEEL_HOME EVENKEEL_CHECKOUT EVENKEEL_TTY
# Docker would make a missing folder as root.
mkdir -p "$EVENKEEL_HOME/.cache/evenkeel"

files="-f compose/controller.yaml"
if docker info --format '{{json .Runtimes}}' 2>/dev/null | grep -q '"nvidia"' && [ -e /proc/driver/nvidia/version ]; then
    files="$files -f compose/controller.gpu.yaml"
fi
terminal=
if [ "$EVENKEEL_TTY" = false ]; then terminal=-T; fi
exec $compose -p "evenkeel-controller-$(id -u)" $files run --rm $terminal controller "$@"
