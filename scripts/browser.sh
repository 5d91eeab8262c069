#!/usr/bin/env bash
# Tests the page at / in Chromium: `scripts/browser.sh [BINARY]`; BINARY is target/release/spar if it is not named.
# Needs Node 20 or newer with npm, and Debian's chromium; installs what is missing of these where apt-get is, and the packages of
# scripts/browser/package-lock.json into the target folder. Where that is impossible, it says so and skips the tests, unless
# SPAR_BROWSER=required. Screenshots stay in the target folder, under browser/screenshots.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-${SPAR_TARGET_DIR:-$here/../target}}
binary=$(realpath "${1:-$target/release/spar}")
room=$target/browser
seconds=${SPAR_BROWSER_SECONDS:-300}

skipped() {
    echo "SKIPPED: the page was not tested in a browser: $1"
    if [ "${SPAR_BROWSER:-}" = required ]; then exit 1; fi
    exit 0
}

[ -x "$binary" ] || { echo "$binary is missing: cargo build --release, or name a binary"; exit 1; }
missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || skipped "${missing[*]} must be installed"
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo -n)
    "${as_root[@]}" apt-get update -q >/dev/null || true
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -yq --no-install-recommends "${missing[@]}" >/dev/null ||
        skipped "apt-get cannot install ${missing[*]}"
fi
node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' || skipped "Node 20 or newer is needed, this is $(node --version)"

# The tests run from a copy next to their packages: the checkout stays as it is.
mkdir -p "$room/scripts" "$room/assets"
rm -rf "$room/assets/page" "$room/screenshots"
cp -r "$here/../assets/page" "$room/assets/"
mkdir -p "$room/scripts/browser"
cp "$here"/browser/* "$room/scripts/browser/"
cd "$room/scripts/browser"
if ! cmp -s package-lock.json node_modules/.installed; then
    npm ci --no-audit --no-fund --silent || skipped "npm cannot install playwright-core and axe-core"
    cp package-lock.json node_modules/.installed
fi

SPAR_BIN=$binary SPAR_CHROMIUM=$(command -v chromium) SPAR_SCREENSHOTS=$room/screenshots \
    timeout "$seconds" node --test --test-reporter=spec page.test.mjs
echo "screenshots: $room/screenshots"
