#!/usr/bin/env bash
# Other packages for inference-time search next to spar's own, on the same prompts, the same model and the same length of every reply.
#
# usage: bench/peers.sh DIR MODEL PROMPTS.jsonl [--count N] [--seed N] [--minutes N] [--methods NAME,…] …
#   DIR receives the answers, one file of JSON lines per method, and table.md; an interrupted run continues where it was.
#   MODEL is a Hugging Face directory or a .gguf file, PROMPTS a file in IFEval's format. `bench/peers.py --help` names all options.
# environment:
#   SPAR       the program; without it it is built
#   PEERS      the packages to compare with (default: "optillm its_hub llm_verifier thinkbooster"); "" for none
#   PEERS_ENV  the folder of their virtual environments (default: peers in the target folder). ThinkBooster needs PyTorch, about 6 GB.
#
# A package that cannot be installed is named with the reason, here and below the table, and the others run.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '4,12p' "$0" | cut -c3- >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../target}
environments=${PEERS_ENV:-$target/peers}
peers=${PEERS-optillm its_hub llm_verifier thinkbooster}
mkdir -p "$environments"

# optillm and ThinkBooster are installed without what they need for engines of their own (PyTorch, CUDA libraries, vLLM): the model is here
# behind a server. What follows their names is what their code for such a server imports.
declare -A alone=(
    [optillm]="optillm==0.4.0"
    [thinkbooster]="thinkbooster==0.1.1"
)
declare -A packages=(
    [optillm]="flask openai httpx numpy networkx aiohttp z3-solver<=4.15.4.0 sympy PyYAML math-verify cerebras_cloud_sdk"
    [its_hub]="its_hub[lm]==1.2.0"
    [llm_verifier]="llm-verifier==0.3.0"
    [thinkbooster]="lm-polygraph==0.7.0 fastapi pydantic-settings python-json-logger openai tiktoken parse omegaconf pylatexenc sympy regex word2number"
)

install() { # name
    local name=$1 place=$environments/$1 wanted
    [ -n "${packages[$name]:-}" ] || { echo "PEERS names $name; there are ${!packages[*]}" >&2; exit 2; }
    wanted="${alone[$name]:-} ${packages[$name]}"
    [ "$(cat "$place/complete" 2>/dev/null)" != "$wanted" ] || return 0
    rm -rf "$place"
    echo "installing $name into $place"
    local pip=("$place/bin/pip" install --quiet --disable-pip-version-check --retries 1 --timeout 60)
    # The lists are words without blanks inside.
    # shellcheck disable=SC2086
    if python3 -m venv "$place" >"$environments/$name.log" 2>&1 &&
        { [ -z "${alone[$name]:-}" ] || timeout 600 "${pip[@]}" --no-deps ${alone[$name]} >>"$environments/$name.log" 2>&1; } &&
        timeout 1200 "${pip[@]}" ${packages[$name]} >>"$environments/$name.log" 2>&1; then
        echo "$wanted" >"$place/complete"
    else
        local reason
        reason=$(grep -i error "$environments/$name.log" | head -n 1 || true)
        echo "NOT INSTALLED: $name: ${reason:-ended after its time limit} (all of it: $environments/$name.log)" >&2
    fi
}
for name in $peers; do install "$name"; done

if [ -z "${SPAR:-}" ]; then
    cargo build --release --locked --manifest-path "$here/../Cargo.toml" -p spar --bin spar
    SPAR=$target/release/spar
fi
exec python3 "$here/peers.py" "$SPAR" "$@" --packages "$(tr ' ' , <<<"$peers")" --environments "$environments"
