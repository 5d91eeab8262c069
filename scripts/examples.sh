#!/usr/bin/env bash
# Runs every example of examples/ against a server of the embedded model, and looks for the refinement in what it prints.
# `scripts/examples.sh BINARY [RUST_EXAMPLE]` starts BINARY on a free port and ends it again; RUST_EXAMPLE is the built examples/search.rs,
# which cargo builds if it is not given. Packages come from the package indexes into the target folder; an example whose tool or package
# is missing is skipped aloud, and SPAR_EXAMPLES=required makes that a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$1
target=${CARGO_TARGET_DIR:-target}
tools=$(mkdir -p "$target/examples-tools" && cd "$target/examples-tools" && pwd)
work=$(mktemp -d)
server=
cleanup() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT

"$binary" --port 0 --log warn >"$work/out" 2>"$work/log" &
server=$!
for _ in $(seq 300); do
    SPAR_URL=$(sed -n 's/^serving .* on \(http:.*\)$/\1/p' "$work/out")
    [ -z "$SPAR_URL" ] || break
    kill -0 "$server" || { cat "$work/log"; exit 1; }
    sleep 0.1
done
[ -n "$SPAR_URL" ] || { echo "the server did not say where it listens"; cat "$work/log"; exit 1; }
export SPAR_URL

passed=0 skipped=0 failed=()
skip() { # example, reason
    echo "SKIPPED: $1: $2"
    skipped=$((skipped + 1))
}
# The draft forgets the lantern, and the searched answer has it: the word must be in the output, and the search accepted.
try() { # example, command...
    echo "-- $1"
    if timeout 120 "${@:2}" >"$work/shown" 2>"$work/wrong" && grep -q lantern "$work/shown" && grep -q accepted "$work/shown"; then
        cat "$work/shown"
        passed=$((passed + 1))
    else
        cat "$work/shown" "$work/wrong"
        failed+=("$1")
    fi
}
has() { command -v "$1" >/dev/null; }
python_with() { # name of an environment, packages...
    local place=$tools/$1
    [ ! -e "$place/complete" ] || return 0
    rm -rf "$place"
    python3 -m venv "$place" >"$work/install" 2>&1 &&
        "$place/bin/pip" install --quiet --disable-pip-version-check --retries 1 --timeout 20 "${@:2}" >>"$work/install" 2>&1 &&
        touch "$place/complete"
}

if has curl && has python3; then try search.sh examples/search.sh; else skip search.sh "curl or python3 is missing"; fi
if has python3 && python_with openai openai; then
    try search.py "$tools/openai/bin/python" examples/search.py
else
    skip search.py "python3, or the package openai, cannot be had"
fi
if has python3 && python_with langchain langchain-openai; then
    try langchain_search.py "$tools/langchain/bin/python" examples/langchain_search.py
else
    skip langchain_search.py "python3, or the package langchain-openai, cannot be had"
fi
if has node && has npm && (cd "$tools" && { [ -d node_modules/openai ] || npm install --silent --no-fund --no-audit openai >"$work/install" 2>&1; }); then
    # Node looks for packages next to the file.
    cp examples/search.mjs "$tools/search.mjs"
    try search.mjs node "$tools/search.mjs"
else
    skip search.mjs "node, npm or the package openai cannot be had"
fi
if [ -n "${2:-}" ]; then
    try search.rs "$2"
elif has cargo; then
    try search.rs cargo run --quiet --release --locked --features spar/mistral --example search
else
    skip search.rs "cargo is missing"
fi
kill -0 "$server" 2>/dev/null || { echo "the server has ended:"; tail -n 40 "$work/log"; exit 1; }
echo "examples: $passed passed, ${#failed[@]} failed, $skipped skipped"
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
[ "$skipped" = 0 ] || [ "${SPAR_EXAMPLES:-}" != required ]
