#!/usr/bin/env bash
# Greedy decoding against search, with curl and jq alone, on a running server.
#
# usage: greedy_vs_search.sh DATA.jsonl [URL]       (default http://127.0.0.1:8080)
#   DATA.jsonl is in IFEval's format; the answers are written as PREFIX-greedy.jsonl and PREFIX-search-N.jsonl, which
#   `spar verify --prompts DATA.jsonl --responses FILE` scores by the rules.
# environment: BUDGETS="1 4 16"  LIMIT=50  STRATEGY=bfs  JUDGE=model  PREFIX=greedy-vs-search  API_KEY=...
#
# Prints what the server itself says of every budget: accepted answers, value, calls, tokens, depth, seconds.
set -euo pipefail

data=${1:?usage: greedy_vs_search.sh DATA.jsonl [URL]}
url=${2:-http://127.0.0.1:8080}
budgets=${BUDGETS:-1 4 16}
limit=${LIMIT:-50}
strategy=${STRATEGY:-bfs}
judge=${JUDGE:-model}
prefix=${PREFIX:-greedy-vs-search}
[ "$limit" -ge 1 ] || { echo "LIMIT must be at least 1, got $limit" >&2; exit 1; }

model=$(curl -sSf "$url/version" | jq -r .model)

# One line of DATA and a budget become a request.
request='{
    model: $model, temperature: 0, seed: 1, messages: [{role: "user", content: .prompt}]
} + if $budget == 0 then {} else {
    search_budget: $budget,
    search: ({strategy: $strategy, judge: $judge, trace: "none"} + if $judge == "model" then {} else {
        checks: [.instruction_id_list, .kwargs] | transpose | map({id: .[0], kwargs: (.[1] | with_entries(select(.value != null)))})
    } end)
} end'

# Asks every prompt with one budget; prints a line of JSON per answer.
answers() {
    head -n "$limit" "$data" | while IFS= read -r line; do
        body=$(jq -c --arg model "$model" --argjson budget "$1" --arg strategy "$strategy" --arg judge "$judge" "$request" <<<"$line")
        reply=$(curl -sS "$url/v1/chat/completions" -H 'content-type: application/json' \
            -H "authorization: Bearer ${API_KEY:-none}" -d "$body" -w '\n{"seconds": %{time_total}}')
        jq -cs --argjson asked "$line" '
            if .[0].error then error(.[0].error.message) else {
                prompt: $asked.prompt, response: .[0].choices[0].message.content, tokens: .[0].usage.completion_tokens,
                search: .[0].search, seconds: .[1].seconds
            } end' <<<"$reply"
    done
}

summary='
def mean(f): (map(f) | add) / length;
def shown: . * 1000 | round / 1000 | tostring;
[ $name, length, (if .[0].search then (mean(if .search.accepted then 1 else 0 end) | shown) else "-" end),
  (if .[0].search then (mean(.search.root_value // 0) | shown) else "-" end),
  (if .[0].search then (mean(.search.value // 0) | shown) else "-" end),
  (if .[0].search then mean(.search.calls.answer + .search.calls.judge + .search.calls.refine) else 1 end | shown),
  (mean(.tokens) | shown), (mean(.search.depth // 0) | shown), (mean(.seconds) | shown) ] | @tsv'

printf 'run\tprompts\taccepted\tdraft value\tvalue\tcalls\ttokens\tdepth\tseconds\n'
for budget in 0 $budgets; do
    name=$([ "$budget" = 0 ] && echo greedy || echo "search-$budget")
    answers "$budget" >"$prefix-$name.jsonl"
    jq -rs --arg name "$name" "$summary" "$prefix-$name.jsonl"
done
