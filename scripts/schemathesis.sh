#!/usr/bin/env bash
# Sends generated requests, right ones and wrong ones, to every operation of a served API document and compares the answers with
# it. `scripts/schemathesis.sh BINARY [EXAMPLES] [SECONDS] [SEED]` starts BINARY with small limits on a free port and ends it
# again; EXAMPLES are those per operation and phase (default 60), SECONDS bound the whole run (default 600).
# Needs Python 3.10 or newer; schemathesis is installed into a directory of its own, SPAR_SCHEMATHESIS or ~/.cache/spar/schemathesis.
# Ends with 77 where it cannot be installed.
set -euo pipefail
version=4.32.5
binary=$(realpath "${1:?usage: scripts/schemathesis.sh BINARY [EXAMPLES] [SECONDS] [SEED]}")
examples=${2:-60}
seconds=${3:-600}
seed=${4:-7}
tool=${SPAR_SCHEMATHESIS:-$HOME/.cache/spar/schemathesis}
scripts=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
cleanup() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT

if ! "$tool/bin/schemathesis" --version 2>/dev/null | grep -q "$version"; then
    if ! { python3 -m venv "$tool" && "$tool/bin/pip" install --quiet --retries 1 --timeout 15 "schemathesis==$version"; }; then
        echo "skipped: schemathesis $version cannot be installed from the package index"
        exit 77
    fi
fi

mkdir "$work/weights"
# It keeps what it found in the directory that it runs in.
cd "$work"
SPAR_ADMIN_KEY=admin "$binary" --port 0 --log warn --weights-root "$work/weights" --swap-dir "$work/swaps" \
    --max-running 4 --request-timeout 3s --max-body 200000 --max-choices 4 --max-search-budget 4 --search-budget 2 --max-search-deadline 1s \
    --search-deadline 1s >"$work/out" 2>"$work/log" &
server=$!
url=
for _ in $(seq 300); do
    url=$(sed -n 's/^serving .* on \(http:.*\)$/\1/p' "$work/out")
    [ -z "$url" ] || break
    kill -0 "$server" || { cat "$work/log"; exit 1; }
    sleep 0.1
done
for _ in $(seq 300); do
    python3 -c "import urllib.request as u; u.urlopen('$url/readyz')" 2>/dev/null && break
    sleep 0.1
done

# Left out: that every request of the right types is accepted. Much that JSON Schema cannot say, such as fields that need each
# other or a conversation that fits the context, is refused by name.
status=0
SCHEMATHESIS_HOOKS=schemathesis_hooks PYTHONPATH=$scripts timeout --signal=INT "$((seconds + 60))" "$tool/bin/schemathesis" run "$url/openapi.json" --url "$url" \
    --header "Authorization: Bearer admin" --max-examples "$examples" --seed "$seed" --request-timeout 30 --workers 2 \
    --exclude-checks positive_data_acceptance --continue-on-failure --no-color --max-time "$seconds" || status=$?
[ "$status" != 124 ] || { echo "the time was over before the run was"; status=0; }

if ! kill -0 "$server" 2>/dev/null; then
    echo "the server has ended:"
    tail -n 40 "$work/log"
    exit 1
fi
requests=$(python3 -c "
import urllib.request as u
lines = u.urlopen('$url/metrics').read().decode().splitlines()
total = sum(float(line.rsplit(' ', 1)[1]) for line in lines if line.startswith('spar_http_requests_total{'))
print(int(total))")
echo "requests answered in all: $requests"
echo "warnings and errors of the server: $(wc -l <"$work/log")"
sed 's/^/  /' "$work/log" | sort | uniq -c | sort -rn | head -n 10
exit "$status"
