#!/usr/bin/env bash
# Everything that can be said about the code without running it: format, structure, lints, documentation, licences.
# `scripts/check.sh fast` leaves out what needs the engine crate compiled.
set -uo pipefail
cd "$(dirname "$0")/.."
scope=${1:-all}
failed=()

step() { # name, command...
    local name=$1 started=$SECONDS
    shift
    if "$@"; then echo "ok      $name ($((SECONDS - started)) s)"; else echo "FAILED  $name" && failed+=("$name"); fi
}

# Files with their unit tests cut off, as `file:line:text`.
sources() {
    find "$@" -name '*.rs' -not -name 'tests.rs' -not -path '*/tests/*' 2>/dev/null | sort | while read -r file; do
        sed '/^#\[cfg(test)\]$/,$d' "$file" | awk -v file="$file" '{ print file ":" NR ":" $0 }'
    done
}

# No code line of these files matches the pattern; comments may.
absent() { # message, pattern, files...
    local message=$1 pattern=$2 found
    shift 2
    found=$(sources "$@" | grep -vE '^[^:]+:[0-9]+:\s*//' | grep -E "^[^:]+:[0-9]+:.*($pattern)") || return 0
    printf '%s:\n%s\n' "$message" "$found"
    return 1
}

except() { # folder to look through, files or folders to leave out
    local left_out=() path
    for path in "${@:2}"; do left_out+=(-not -path "$path" -not -path "$path/*"); done
    find "$1" -name '*.rs' "${left_out[@]}"
}

inner_layers() {
    absent 'search, prompts, verify and chat know no HTTP, metrics, command line or model runtime' \
        '\b(axum|hyper|tower|tower_http|reqwest|utoipa|clap|metrics|mistralrs|candle_core|candle_nn)::|crate::(http|cli|config|telemetry|openai|anthropic)\b' \
        src/search src/prompts src/verify src/chat.rs
}
one_runtime_folder() {
    # shellcheck disable=SC2046
    absent 'only engine/mistral names mistralrs' '\bmistralrs\b' $(except src src/engine/mistral) training/src
}
one_metrics_folder() {
    # shellcheck disable=SC2046
    absent 'only telemetry/metrics names metrics' '\b(metrics::)?(counter|gauge|histogram|describe_(counter|gauge|histogram))!' \
        $(except src src/telemetry/metrics) training/src
}
one_status_file() {
    # shellcheck disable=SC2046
    absent 'status codes only in http/error.rs, and where an upstream answers with them' '\bStatusCode::[A-Z]' \
        $(except src src/http/error.rs src/engine/upstream/failure.rs) training/src
}
# The default build, and the one with mistral.rs that the tests use.
fast=(--release --locked --workspace)
full=("${fast[@]}" --features spar/mistral)
# The workspace's lints, which deny unsafe code and unwrap, and what guards their exceptions: `#[expect(lint, reason = "...")]`,
# and a SAFETY comment at every unsafe block.
denied=(-D warnings -D clippy::undocumented_unsafe_blocks -D clippy::allow_attributes -D clippy::allow_attributes_without_reason)

# Clippy as the compiler of the workspace's own crates: `cargo clippy` would check all dependencies of the engine crate anew,
# this takes them as the tests have built them.
lints_with_engine() {
    RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS="$(printf '%s__CLIPPY_HACKERY__' "${denied[@]}")" \
        cargo test "${full[@]}" --no-run
}
documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --no-deps "${fast[@]}"; }
licences() {
    if cargo deny --version >/dev/null 2>&1; then
        cargo deny --offline check licenses bans sources
    else
        echo "skipped: cargo-deny is not installed"
    fi
}

step "format" cargo fmt --all --check
step "links and doc comments" scripts/docs_check.py
step "circles and layers" scripts/structure.py
step "inner layers" inner_layers
step "one runtime folder" one_runtime_folder
step "one metrics folder" one_metrics_folder
step "one status file" one_status_file
step "licences" licences
step "documentation" documentation
step "lints" cargo clippy "${fast[@]}" --all-targets -- "${denied[@]}"
step "the library alone builds" cargo check --release --locked -p spar --lib --no-default-features
[ "$scope" = fast ] || step "lints with the engine crate" lints_with_engine

if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "$(IFS=,; echo "${failed[*]}")"
    exit 1
fi
echo "all checks passed"
