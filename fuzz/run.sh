#!/usr/bin/env bash
# Fuzzes the parsers for a minute (or for $1 seconds). Needs clang's runtime only through libfuzzer-sys, so a C++ compiler, and
# no nightly toolchain: the compiler's coverage instrumentation is unlocked by RUSTC_BOOTSTRAP.
set -euo pipefail
cd "$(dirname "$0")"
host=$(rustc -vV | sed -n 's/^host: //p')
passes="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1"
target=${CARGO_TARGET_DIR:-target}
RUSTC_BOOTSTRAP=1 RUSTFLAGS="$passes" CARGO_TARGET_DIR="$target" cargo build --release --target "$host"
mkdir -p corpus artifacts
printf 'So.\nFinal Judgement: Yes' >corpus/verdict
printf 'I change it. [[start]]\nA *text*, é.\n\nP.S. b\n[[end]]' >corpus/refinement
exec "$target/$host/release/parsers" -max_total_time="${1:-60}" -max_len=2000 -artifact_prefix=artifacts/ corpus
