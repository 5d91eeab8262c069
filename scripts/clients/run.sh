#!/usr/bin/env bash
# Runs every client of this folder that is written in Python against a server of the embedded model.
# `scripts/clients/run.sh [BINARY]` starts BINARY on a free port and ends it again; without BINARY it builds one. The clients come from
# the package index, into virtual environments in the target folder. Where the index cannot be reached nothing is tried, and the script
# says so; SPAR_CLIENTS=required makes that a failure.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target}
tools=$target/clients

skipped() { # reason
    echo "SKIPPED: $1, so no client was tried"
    [ "${SPAR_CLIENTS:-}" != required ]
    exit
}

# The frameworks want older versions of the packages that the others are tried with, so they have an environment of their own.
environment() { # name, packages...
    local place=$tools/$1
    shift
    [ ! -e "$place/complete" ] || return 0
    rm -rf "$place"
    python3 -m venv "$place" || skipped "python3 cannot make a virtual environment"
    "$place/bin/pip" install --quiet --disable-pip-version-check --retries 1 --timeout 20 "$@" ||
        skipped "the package index cannot be reached, or lacks a package ($*)"
    touch "$place/complete"
}
environment sdks openai anthropic
environment frameworks litellm langchain-openai instructor

binary=${1:-}
if [ -z "$binary" ]; then
    cargo build --release --locked -p spar --bin spar
    binary=$target/release/spar
fi
work=$(mktemp -d)
server=
cleanup() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT

"$binary" --port 0 --log warn --search-budget 2 >"$work/out" 2>"$work/log" &
server=$!
url=
for _ in $(seq 300); do
    url=$(sed -n 's/^serving .* on \(http:.*\)$/\1/p' "$work/out")
    [ -z "$url" ] || break
    kill -0 "$server" || { cat "$work/log"; exit 1; }
    sleep 0.1
done
[ -n "$url" ] || { echo "the server did not say where it listens"; cat "$work/log"; exit 1; }

failed=()
try() { # environment, script
    echo "-- $2"
    timeout 120 "$tools/$1/bin/python" "$here/$2" "$url" || failed+=("$2")
}
for script in openai_smoke.py openai_chat.py openai_responses.py anthropic_messages.py; do try sdks "$script"; done
for script in litellm_chat.py langchain_chat.py instructor_chat.py; do try frameworks "$script"; done
kill -0 "$server" 2>/dev/null || { echo "the server has ended:"; tail -n 40 "$work/log"; exit 1; }
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
echo "all clients passed"
