#!/usr/bin/env bash
# A server with traffic. SPaR iterations beside it publish their models into it; an evaluation against the live server after each
# shows what they gained, and the traffic's log shows that no request failed.
#
#   bench/live_iteration.sh [RECIPE] [OUT]        ROUNDS=3 PROMPTS=500 BUDGETS=0,16 WATCH=5 PAUSE=0.1
#
# PAUSE: seconds between two requests of a client. OUT must be new. BIN names a directory with `spar` and `spar-train`; without it both are built.
set -euo pipefail
cd "$(dirname "$0")/.."
recipe=${1:-training/recipes/spar-tiny.toml}
out=${2:-runs/live}
rounds=${ROUNDS:-3} prompts=${PROMPTS:-500} budgets=${BUDGETS:-0,16} watch=${WATCH:-5} pause=${PAUSE:-0.1}
[ -f "$recipe" ] || { echo "no recipe $recipe" >&2; exit 2; }
[ ! -e "$out" ] || { echo "$out exists; name another directory, or remove it" >&2; exit 2; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
if [ -z "${BIN:-}" ]; then
    cargo build --release --workspace
    BIN=${CARGO_TARGET_DIR:-target}/release
fi
data=assets/spar-tiny/held-out.jsonl
SPAR_ADMIN_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export SPAR_ADMIN_KEY

"$BIN/spar" --port 0 --log warn --weights-root "$out" --swap-dir "$out/swap" >"$out/server.log" 2>&1 &
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

# Two clients that ask held-out prompts, one of them with a search, until the file is gone.
python3 - "$data" "$out" <<'PY'
import json, sys
lines = open(sys.argv[1]).read().splitlines()[:100]
for budget in (0, 2):
    with open(f"{sys.argv[2]}/traffic-{budget}.jsonl", "w") as out:
        for line in lines:
            turn = {"role": "user", "content": json.loads(line)["prompt"]}
            out.write(json.dumps({"model": "spar-tiny", "search_budget": budget, "messages": [turn]}) + "\n")
PY
ask() { # search budget
    while :; do
        while IFS= read -r body; do
            [ -e "$out/traffic.on" ] || return 0
            curl -sS -o /dev/null -w '%{http_code}\n' -H 'content-type: application/json' -d "$body" "$url/v1/chat/completions" || echo failed
            sleep "$pause"
        done <"$out/traffic-$1.jsonl"
    done
}
touch "$out/traffic.on"
{ ask 0 & ask 2 & wait; } >"$out/traffic.log" 2>&1 &
traffic=$!

evaluate() { # name
    echo "== after round $1, live: $(curl -fsS "$url/metrics" | grep '^spar_generation_info.* 1$' | tr '\n' ' ')"
    "$BIN/spar" eval --url "$url" --data "$data" --limit "$prompts" --budgets "$budgets" --out "$out/eval-$1"
}
evaluate 0
for round in $(seq "$rounds"); do
    # One round more each time: rounds that are finished are not made again.
    sed "s/^iterations = .*/iterations = $round/" "$recipe" >"$out/recipe.toml"
    printf '\n[publish]\nurl = "%s"\nwatch = %s\n' "$url" "$watch" >>"$out/recipe.toml"
    "$BIN/spar-train" iterate --recipe "$out/recipe.toml" --out "$out/run"
    evaluate "$round"
done
curl -fsS -H "authorization: Bearer $SPAR_ADMIN_KEY" "$url/admin/generations" >"$out/generations.json"
rm -f "$out/traffic.on"
wait "$traffic" || true
traffic=

# What each round left live, and how it answers: share of prompts followed, and the difference from the round before.
python3 - "$out" "$rounds" <<'PY'
import json, sys
out, rounds = sys.argv[1], int(sys.argv[2])
print("round  actor  refiner  strategy  budget  followed  [95 % interval]      change")
before = {}
for round in range(rounds + 1):
    report = json.load(open(f"{out}/eval-{round}/report.json"))
    live = report["settings"]["model"]["generation"]
    for point in report["points"]:
        score, key = point["prompt_strict"], (point["strategy"], point["budget"])
        change = f"{score['mean'] - before[key]:+.3f}" if key in before else ""
        before[key] = score["mean"]
        print(f"{round:5}  {live['actor']:5}  {live['refiner']:7}  {point['strategy'] or 'greedy':8}  {point['budget']:6}  "
              f"{score['mean']:8.3f}  [{score['low']:.3f}, {score['high']:.3f}]  {change:>12}")
for row in json.load(open(f"{out}/generations.json"))["data"]:
    print(row["id"], row["role"], row["state"], row.get("reason") or "")
PY
echo "traffic by status:"
sort "$out/traffic.log" | uniq -c
[ -s "$out/traffic.log" ] && ! grep -qvx 200 "$out/traffic.log"
