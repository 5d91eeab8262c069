#!/usr/bin/env bash
# SPaR on a model that anybody can fetch and on benchmarks that were not written here: the base, the model after each round greedily, and
# searches at budgets 4 and 8 with the trained model as the judge, with rules, and with both, next to best-of-N at the same tokens.
#
# usage: bench/public_result.sh DIR MODEL IFEVAL.jsonl IFBENCH.jsonl [--seeds 1,2,3] [--rounds 3] [--limit N] [--dry-run] …
#   DIR receives models, trials and results.md; an interrupted run continues where it was. MODEL is a model directory, such as the one
#   that `bench/real_model.py fetch` makes. --dry-run prints every command instead. `bench/public_result.py --help` names all options.
# environment:
#   BIN  a folder with spar and spar-train; without it both are built
#
# The same in miniature, with the embedded models:
#   bench/public_result.sh runs/tiny assets/spar-tiny/actor held-out.jsonl held-out.jsonl --refiner assets/spar-tiny/refiner \
#       --recipe training/recipes/smoke.toml --limit 8 --seeds 1,2 --rounds 1 --max-tokens 120
#
# TODO: bits per byte of plain texts, lengths and repetition before and after the rounds, the ablations (`spar-train ablate` runs them for
# one recipe) and the sweeps of depth, rounds and interference are not part of it.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '5,14p' "$0" | cut -c3- >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${BIN:-}" ]; then
    BIN=${CARGO_TARGET_DIR:-$here/../target}/release
    case " $* " in
    *" --dry-run "*) ;;
    *) cargo build --release --locked --workspace --manifest-path "$here/../Cargo.toml" ;;
    esac
fi
exec python3 "$here/public_result.py" "$BIN" "$@"
