#!/usr/bin/env bash
# Installs a release as people do and tries it: archive by the installer and Debian package in a clean root, wheel in a fresh environment.
#   dist/check.sh [FOLDER]      # what dist/build.sh has written; dist/out if none is named
# Each copy answers a request with a search from the embedded model. The clean root is Debian's minimal one, which debootstrap makes once and
# SPAR_DIST_ROOT or ~/.cache/spar/dist-root.tar keeps; without debootstrap or root rights the two are tried in this system's folders, aloud.
# SPAR_DIST_EMULATE=1 also runs the program as on a processor without AVX-512, and on one without AVX2: with qemu-user-static, some minutes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(realpath "${1:-$here/out}")
kept=${SPAR_DIST_ROOT:-$HOME/.cache/spar/dist-root.tar}
suite=${SPAR_DIST_SUITE:-bookworm}
work=$(mktemp -d)
server=
patience=120
trap 'end_server; rm -rf "$work"' EXIT

end_server() {
    [ -n "$server" ] || return 0
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}

# A command starts the server; it must answer with a search, say its version and have a manual.
answers() { # name, command...
    local name=$1 port log=$work/log
    shift
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    "$@" serve --port "$port" --log warn >"$log" 2>&1 &
    server=$!
    python3 - "$port" "$patience" <<'PY' || { echo "FAILED: $name"; cat "$log"; exit 1; }
import json, sys, time, urllib.request
base = f"http://127.0.0.1:{sys.argv[1]}"
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
patience = int(sys.argv[2])
end = time.monotonic() + patience
while True:
    try:
        opener.open(base + "/readyz", timeout=5)
        break
    except OSError as error:
        if time.monotonic() > end:
            sys.exit(f"the server is not ready: {error}")
        time.sleep(0.2)
# By rules, with time for a machine that is busy.
body = {"model": "spar-tiny", "search_budget": 2, "seed": 1, "search": {"judge": "rules", "deadline_ms": 120000},
        "messages": [{"role": "user", "content": "Write about what the river does. Use the word lantern somewhere."}]}
request = urllib.request.Request(base + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
answer = json.load(opener.open(request, timeout=patience))
assert "lantern" in answer["choices"][0]["message"]["content"], answer
assert answer["search"]["accepted"], answer
PY
    end_server
    echo "ok: $name"
}

(cd "$out" && sha256sum --quiet -c SHA256SUMS)
echo "ok: checksums"

clean=no
if [ "$(id -u)" = 0 ]; then
    if ! [ -s "$kept" ] && command -v debootstrap >/dev/null; then
        mkdir -p "$(dirname "$kept")"
        if debootstrap --variant=minbase "$suite" "$work/made" "${SPAR_DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$work/debootstrap" 2>&1; then
            tar -C "$work/made" --exclude='./var/cache/apt/archives/*.deb' --exclude=./var/lib/apt/lists -cf "$kept.new" . && mv "$kept.new" "$kept"
        else
            tail -3 "$work/debootstrap"
        fi
        rm -rf "$work/made"
    fi
    [ -s "$kept" ] && clean=yes
fi
new_root() {
    rm -rf "$work/root"
    mkdir "$work/root"
    tar -xf "$kept" -C "$work/root"
    mkdir -p "$work/root/release"
    cp "$out"/* "$work/root/release/"
}

if [ $clean = yes ]; then
    new_root
    chroot "$work/root" sh /release/install.sh --prefix /usr/local >/dev/null
    answers "archive by the installer in a clean root" chroot "$work/root" /usr/local/bin/spar
    for file in share/man/man1/spar.1 share/man/man1/spar-serve.1 share/bash-completion/completions/spar; do
        [ -s "$work/root/usr/local/$file" ] || { echo "FAILED: $file is not installed"; exit 1; }
    done
    printf 'x' >>"$work/root/release/$(basename "$out"/*.tar.gz)"
    if chroot "$work/root" sh /release/install.sh --prefix /opt >"$work/log" 2>&1; then echo "FAILED: a damaged archive was installed"; exit 1; fi
    grep -q 'is not what SHA256SUMS says' "$work/log" || { cat "$work/log"; exit 1; }
    chroot "$work/root" sh /release/install.sh --uninstall --prefix /usr/local >/dev/null
    [ -z "$(find "$work/root/usr/local" -type f)" ] || { echo "FAILED: files are left: $(find "$work/root/usr/local" -type f)"; exit 1; }
    echo "ok: a damaged archive is refused, and the installer takes everything away again"
    new_root
    chroot "$work/root" dpkg --install /release/"$(basename "$out"/*.deb)" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    answers "Debian package in a clean root" chroot "$work/root" spar
    chroot "$work/root" dpkg --purge spar-llm >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    [ ! -e "$work/root/usr/bin/spar" ] && [ ! -e "$work/root/etc/spar" ] || { echo "FAILED: purging leaves files"; exit 1; }
    echo "ok: the package is purged without a trace"
    rm -rf "$work/root"
else
    echo "SKIPPED: a clean root needs root rights and debootstrap; archive and package are tried in a folder of this system"
    sh "$out/install.sh" --prefix "$work/prefix" >/dev/null
    answers "archive by the installer in a folder" "$work/prefix/bin/spar"
    dpkg-deb -x "$out"/*.deb "$work/deb"
    answers "Debian package in a folder" "$work/deb/usr/bin/spar"
fi

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-index "$out"/*.whl
answers "wheel in a fresh environment" "$work/venv/bin/spar"
"$work/venv/bin/pip" uninstall --quiet --yes spar-llm
[ ! -e "$work/venv/bin/spar" ] || { echo "FAILED: pip leaves the command"; exit 1; }

if [ -z "${SPAR_DIST_EMULATE:-}" ]; then
    echo "not asked for: other processors (SPAR_DIST_EMULATE=1)"
elif command -v qemu-x86_64-static >/dev/null; then
    patience=900
    dpkg-deb -x "$out"/*.deb "$work/deb"
    # Its emulated processors have no AVX-512.
    answers "as on a processor without AVX-512" qemu-x86_64-static -cpu Haswell "$work/deb/usr/bin/spar"
    if qemu-x86_64-static -cpu Nehalem "$work/deb/usr/bin/spar" --version >/dev/null 2>&1; then
        echo "note: the program begins to run without AVX2, too"
    else
        echo "ok: without AVX2 it does not run, which is why the packages look for it"
    fi
else
    echo "SKIPPED: qemu-user-static is not installed, so other processors were not tried"
fi
echo "the release is good"
