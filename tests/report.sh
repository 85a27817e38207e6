#!/bin/sh
# A report in a real browser, where there is no network: report.sh EVENKEEL [RUN]. The browser is Debian's, in an image that is made on the
# project's own and kept by the engine; pictures of the pages are left in target/report. Without RUN, a record is made up (report.py makes it).
set -eu
evenkeel=$(realpath "$1")
run=${2:-}
root=$(cd "$(dirname "$0")/.." && pwd)
place=$root/target/report
# Charts of a run that somebody names, at least; of the made-up ones, all.
whole=1
mkdir -p "$place"
rm -f "$place"/*.html "$place"/*.png
base=$("$evenkeel" image build base)
image=evenkeel-check/report:latest
docker build --quiet --tag "$image" --build-arg "BASE=$base" - > /dev/null << 'DOCKERFILE'
ARG BASE
FROM ${BASE}
RUN set -eu; \
    apt-get update -q; \
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium fonts-dejavu-core python3; \
    rm -rf /var/lib/apt/lists/*
DOCKERFILE
in_container() {
    docker run --rm -i --network none --user "$(id -u):$(id -g)" --env HOME=/tmp --shm-size 512m \
        --volume "$root/tests/report.py:/report.py:ro" --volume "$place:/report" "$image" python3 /report.py "$@"
}
if [ -z "$run" ]; then
    whole=15
    rm -rf "$place/runs"
    in_container make /report/runs
    run=$place/runs/shapes/20261124-034501
    # A run that tells of nothing, and one of hostile names and a hundred thousand steps.
    for name in bare/20261124-034501 long/20261124-034501; do
        "$evenkeel" report "$place/runs/$name" --output "$place/${name%%/*}.html" > /dev/null
    done
fi
"$evenkeel" report "$run" --output "$place/report.html" > /dev/null
# A check that finds nothing wrong with this page would find nothing at all.
mkdir -p "$place/control"
cat > "$place/control/bad.html" << 'PAGE'
<!DOCTYPE html><title>bad</title><p style="width:900px;font-size:9px;color:#ddd">x</p><img src="http://127.0.0.1:9/x"><script>console.error(1)</script>
PAGE
in_container look /report/control/bad.html > /dev/null 2> "$place/control/found" && { echo "the check finds nothing" >&2; exit 1; }
for found in 'asked for something else' 'told its console' 'too wide' 'letters below' 'letters too pale' 'scripts' 'no chart'; do
    grep -q "$found" "$place/control/found" || { echo "the check does not find: $found" >&2; exit 1; }
done
failed=0
for page in "$place"/*.html; do
    case $(basename "$page") in
        bare.html) charts=0 ;;
        long.html) charts=12 ;;
        *) charts=$whole ;;
    esac
    in_container look "/report/$(basename "$page")" "$charts" || failed=1
done
exit "$failed"
