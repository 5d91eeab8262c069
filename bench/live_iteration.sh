#!/usr/bin/env bash
# A server with traffic. SPaR iterations beside it publish their models into it; an evaluation against the live server after each
# shows what they gained, and the traffic's log shows that no request failed.
#
#   bench/live_iteration.sh [RECIPE] [OUT]        ROUNDS=3 PROMPTS=200 BUDGETS=0,4
set -euo pipefail
cd "$(dirname "$0")/.."
recipe=${1:-training/recipes/smoke.toml}
out=$(mkdir -p "${2:-runs/live}" && cd "${2:-runs/live}" && pwd)
rounds=${ROUNDS:-3} prompts=${PROMPTS:-200} budgets=${BUDGETS:-0,4}
cargo build --release --workspace
bin=${CARGO_TARGET_DIR:-target}/release
data=assets/spar-tiny/held-out.jsonl
SPAR_ADMIN_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export SPAR_ADMIN_KEY

"$bin/spar" --port 0 --weights-root "$out" --swap-dir "$out/swap" >"$out/server.log" 2>&1 &
server=$!
traffic=
stop() {
    rm -f "$out/traffic.on"
    [ -z "$traffic" ] || wait "$traffic" || true
    kill "$server" 2>/dev/null || true
    wait "$server" || true
}
trap stop EXIT
url=
for _ in $(seq 300); do
    url=$(grep -o -m1 'http://[0-9.:]*' "$out/server.log" || true)
    [ -n "$url" ] && curl -fsS "$url/readyz" >/dev/null 2>&1 && break
    kill -0 "$server"
    sleep 0.2
done
curl -fsS "$url/version"
echo

# Two clients that ask held-out prompts, one of them with a search, until the file is gone.
ask() { # search budget
    local line=0 body
    while [ -e "$out/traffic.on" ]; do
        line=$((line % 100 + 1))
        body=$(sed -n "${line}p" "$data" | python3 -c 'import json, sys
print(json.dumps({"model": "spar-tiny", "search_budget": int(sys.argv[1]),
                  "messages": [{"role": "user", "content": json.loads(sys.stdin.readline())["prompt"]}]}))' "$1")
        curl -sS -o /dev/null -w '%{http_code}\n' -H 'content-type: application/json' -d "$body" "$url/v1/chat/completions" || echo failed
    done
}
touch "$out/traffic.on"
{ ask 0 & ask 2 & wait; } >"$out/traffic.log" 2>&1 &
traffic=$!

evaluate() { # name
    "$bin/spar" eval --url "$url" --data "$data" --limit "$prompts" --budgets "$budgets" --out "$out/eval-$1" | tee "$out/eval-$1.txt"
}
evaluate 0
for round in $(seq "$rounds"); do
    # One round more each time: rounds that are finished are not made again.
    sed "s/^iterations = .*/iterations = $round/" "$recipe" >"$out/recipe.toml"
    printf '\n[publish]\nurl = "%s"\nwatch = 5.0\n' "$url" >>"$out/recipe.toml"
    "$bin/spar-train" iterate --recipe "$out/recipe.toml" --out "$out/run"
    curl -fsS "$url/version"
    echo
    evaluate "$round"
done
curl -fsS -H "authorization: Bearer $SPAR_ADMIN_KEY" "$url/admin/generations"
echo
rm -f "$out/traffic.on"
wait "$traffic" || true
traffic=
echo "traffic by status:"
sort "$out/traffic.log" | uniq -c
! grep -qvx 200 "$out/traffic.log"
