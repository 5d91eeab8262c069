#!/usr/bin/env bash
# Runs every client of this folder against a server of the embedded model.
# `scripts/clients/run.sh [BINARY]` starts BINARY on a free port and ends it again; without BINARY it builds one. The clients come from
# the package indexes, into environments in the target folder. Where Python's index cannot be reached nothing is tried, and where Node 20
# or npm's index is missing its clients are not; the script says so, and SPAR_CLIENTS=required makes that a failure.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target}
tools=$target/clients

skipped() { # reason
    echo "SKIPPED: $1, so no client was tried"
    [ "${SPAR_CLIENTS:-}" != required ]
    exit
}

# The frameworks want older versions of the packages that the others are tried with, so they have environments of their own. Whatever
# is installed has the versions that are written here.
environment() { # name, packages...
    local place=$tools/$1
    shift
    [ "$(cat "$place/complete" 2>/dev/null)" != "$*" ] || return 0
    rm -rf "$place"
    python3 -m venv "$place" || skipped "python3 cannot make a virtual environment"
    "$place/bin/pip" install --quiet --disable-pip-version-check --retries 1 --timeout 20 "$@" ||
        skipped "the package index cannot be reached, or lacks a package ($*)"
    echo "$*" >"$place/complete"
}
environment sdks openai==3.57.0 anthropic==2.14.0 llm==0.36
environment frameworks litellm==1.110.2 langchain-openai==1.7.4 instructor==1.17.0
environment llama-index llama-index-llms-openai-like==0.8.1 llama-index-embeddings-openai-like==0.4.0

packages=(openai@6.49.0 ai@6.0.326 @ai-sdk/openai-compatible@2.0.92 @ai-sdk/openai@3.0.141 zod@4.6.7)
node_is_ready() {
    local place=$tools/node
    command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' || return 1
    [ "$(cat "$place/complete" 2>/dev/null)" != "${packages[*]}" ] || return 0
    rm -rf "$place"
    mkdir -p "$place"
    echo '{"private": true}' >"$place/package.json"
    npm install --prefix "$place" --save-exact --no-audit --no-fund --silent "${packages[@]}" || return 1
    echo "${packages[*]}" >"$place/complete"
}

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
for script in openai_smoke.py openai_chat.py openai_responses.py anthropic_messages.py llm_chat.py; do try sdks "$script"; done
for script in litellm_chat.py langchain_chat.py instructor_chat.py; do try frameworks "$script"; done
try llama-index llama_index_chat.py
if node_is_ready; then
    for script in openai_smoke.mjs openai_chat.mjs ai_sdk.mjs; do
        echo "-- $script"
        (cd "$tools/node" && timeout 120 node "$here/$script" "$url/v1") || failed+=("$script")
    done
else
    echo "SKIPPED: Node 20 or its packages (${packages[*]}) are missing, so no client of Node was tried"
    if [ "${SPAR_CLIENTS:-}" = required ]; then failed+=("the clients of Node"); fi
fi
kill -0 "$server" 2>/dev/null || { echo "the server has ended:"; tail -n 40 "$work/log"; exit 1; }
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
echo "all clients passed"
