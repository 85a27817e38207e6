#!/bin/sh
# Runs an already compiled test program as another user, who reaches the engine by the group of its socket alone:
#
#     tests/as-other-user.sh PROGRAM-OF-TESTS PROGRAM-UNDER-TEST [ARGUMENTS...]
#
# Needs root, to become that user. Where it cannot, it says SKIPPED with the reason and succeeds.
set -eu

uid=12345
skip() { echo "SKIPPED: tests as another user: $1" >&2; exit 0; }

[ $# -ge 2 ] || { echo "usage: $0 PROGRAM-OF-TESTS PROGRAM-UNDER-TEST [ARGUMENTS...]" >&2; exit 2; }
[ "$(id -u)" = 0 ] || skip "only root can become another user"
command -v setpriv > /dev/null || skip "there is no setpriv (package util-linux)"
host=${DOCKER_HOST:-unix:///var/run/docker.sock}
socket=${host#unix://}
[ -S "$socket" ] || skip "there is no engine's socket at $socket"
gid=$(stat -L -c %g "$socket")
[ "$gid" != 0 ] || skip "the socket $socket belongs to root's own group"

# Copies: the build may lie where only root can go.
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cp "$1" "$place/tests"
cp "$2" "$place/evenkeel"
shift 2
mkdir "$place/home" "$place/tmp" "$place/cache"
chown -R "$uid:$gid" "$place"
chmod 755 "$place" "$place/tests" "$place/evenkeel"

cd "$place"
setpriv --reuid "$uid" --regid "$gid" --clear-groups \
    env HOME="$place/home" TMPDIR="$place/tmp" USER=tester LOGNAME=tester \
    EVENKEEL_TEST_PROGRAM="$place/evenkeel" EVENKEEL_TEST_CACHE="$place/cache" \
    ./tests "$@"
