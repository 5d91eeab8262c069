#!/usr/bin/env bash
# SmolLM2-135M-Instruct on IFEval and IFBench: greedy, searches at budgets 2, 4 and 8 judged by the model, by the file's own
# rules, and by rules that are found in the prompts, each with best-of-N at as many tokens.
# Usage: bench/real_model.sh DIR IFEVAL.jsonl IFBENCH.jsonl [PROMPTS]
# DIR receives the model and the results; an interrupted run continues where it was. PROMPTS bounds the prompts of each file.
# Needs Python with pip; without DIR/hf it makes a virtual environment in DIR for the conversion. Hours on two cores.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
limit=()
[ -z "${4:-}" ] || limit=(--limit "$4")

if [ ! -f "$dir/hf/model.safetensors" ]; then
    python3 -m venv "$dir/venv"
    "$dir/venv/bin/pip" install -q torch transformers gguf safetensors accelerate
    "$dir/venv/bin/python" "$here/real_model.py" fetch "$dir"
fi
cargo build --release --locked --manifest-path "$here/../Cargo.toml"
spar=${CARGO_TARGET_DIR:-$here/../target}/release/spar

evaluate() { # name, prompts, flags...
    echo "== $1"
    "$spar" eval --data "$2" --model "$dir/hf" --engine native --max-tokens 512 --budgets 2,4,8 \
        --strategy auto,best_of_n "${limit[@]}" --out "$dir/results/$1" "${@:3}"
    python3 "$here/real_model.py" compare "$dir/results/$1"
}

for benchmark in ifeval ifbench; do
    prompts=$2
    [ $benchmark = ifeval ] || prompts=$3
    evaluate $benchmark-model "$prompts" --judge model
    evaluate $benchmark-rules "$prompts" --judge rules
    evaluate $benchmark-auto "$prompts" --judge both --checks auto
done
