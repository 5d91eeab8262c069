#!/bin/sh
# Installs spar from a release's archive: the command, its manual pages and completions.
#   sh install.sh                                     the archive next to this script
#   sh install.sh --from https://example.com/v1       the folder of a release
#   sh install.sh --prefix /usr/local                 instead of ~/.local
#   sh install.sh --uninstall [--prefix /usr/local]   takes it away again
# The archive's checksum must be that of SHA256SUMS next to it.
set -eu

prefix=${HOME:-}/.local
from=$(cd "$(dirname "$0")" && pwd)
uninstall=no
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) prefix=${2:?--prefix needs a folder}; shift 2 ;;
        --from) from=${2:?--from needs a folder or the URL of one}; shift 2 ;;
        --uninstall) uninstall=yes; shift ;;
        -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "install.sh: $1 is no option; --help lists them" >&2; exit 2 ;;
    esac
done

fail() { echo "install.sh: $1" >&2; exit 1; }
list=$prefix/share/doc/spar-llm/installed

if [ "$uninstall" = yes ]; then
    [ -f "$list" ] || fail "$list does not exist: spar was not installed to $prefix by this script"
    while IFS= read -r file; do rm -f "$prefix/$file"; done <"$list"
    rm -f "$list"
    find "$prefix/share/doc/spar-llm" -depth -type d -empty -exec rmdir {} \; 2>/dev/null || :
    echo "spar is no longer in $prefix"
    exit 0
fi

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "there is no archive for $(uname -s) on $(uname -m); build spar with cargo"
if [ -r /proc/cpuinfo ] && ! { grep -qw avx2 /proc/cpuinfo && grep -qw fma /proc/cpuinfo; }; then
    fail "spar needs a processor with AVX2 and FMA, and this one has not both"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fetch() { # name
    case $from in
        http://* | https://*)
            if command -v curl >/dev/null; then curl -fsSL "$from/$1" -o "$work/$1"
            elif command -v wget >/dev/null; then wget -q "$from/$1" -O "$work/$1"
            else fail "curl or wget is needed to fetch $from/$1"; fi ;;
        *) cp "$from/$1" "$work/$1" ;;
    esac || fail "$from/$1 cannot be fetched"
}
fetch SHA256SUMS
archive=$(sed -n 's/^[0-9a-f]\{64\}  \(spar-llm-[0-9A-Za-z.+-]*-x86_64-linux\.tar\.gz\)$/\1/p' "$work/SHA256SUMS")
[ -n "$archive" ] || fail "$from/SHA256SUMS names no archive for x86-64 Linux"
fetch "$archive"
(cd "$work" && grep -F "  $archive" SHA256SUMS | sha256sum -c - >/dev/null 2>&1) || fail "$archive is not what SHA256SUMS says; fetch it again"
tar -xzf "$work/$archive" -C "$work"
tree=$work/${archive%.tar.gz}
"$tree/bin/spar" --version >"$work/version" 2>"$work/why" || fail "the program does not run here: $(head -1 "$work/why")"

(cd "$tree" && find . -type f | sed 's|^\./||') >"$work/installed"
while IFS= read -r file; do
    mkdir -p "$prefix/$(dirname "$file")" || fail "$prefix cannot be written; choose another place by --prefix"
    # Renamed into place, so that a running server keeps its program.
    cp "$tree/$file" "$prefix/$file.new" && mv -f "$prefix/$file.new" "$prefix/$file" || fail "$prefix/$file cannot be written"
done <"$work/installed"
cp "$work/installed" "$list"
echo "$(cat "$work/version") is at $prefix/bin/spar"
case :$PATH: in
    *:"$prefix/bin":*) ;;
    *) echo "add $prefix/bin to PATH to call it by its name" ;;
esac
