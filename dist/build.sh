#!/usr/bin/env bash
# Makes a release for x86-64 Linux of a built server: archive, Debian package, Python wheel, installer and checksums, in dist/out or FOLDER.
#   cargo build --release --locked && SPAR=target/release/spar dist/build.sh [FOLDER]
# The Debian package is for Debian 12, Ubuntu 22.04 and newer. The same binary and version give the same files byte for byte. dist/check.sh
# installs and tries them. Needs binutils, dpkg-deb and python3.
#
# The packages are called spar-llm: `spar` is another program's name on PyPI and on crates.io. The command is `spar` everywhere.
#
# The binary needs AVX2 and FMA (x86-64-v3: Intel since Haswell, AMD since Excavator) and finds AVX-512 at run time: without it the matrix kernels
# use AVX2, and answers are the same up to rounding. The packages refuse older processors, on which the program would end with
# "illegal instruction".
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
spar=$(realpath "${SPAR:-${CARGO_TARGET_DIR:-$root/target}/release/spar}")
out=$(realpath -m "${1:-$here/out}")
for tool in strip objdump dpkg-deb python3 sha256sum; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed (Debian: apt-get install binutils dpkg python3 coreutils)" >&2; exit 2; }
done
[ -x "$spar" ] || { echo "$spar is no program; build it, or name it by SPAR" >&2; exit 2; }

# Times in archives; a release sets it to the time of its commit.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1700000000}
version=$("$spar" --version | cut -d' ' -f2)
# The newest version of glibc whose symbols it uses.
glibc=$(objdump -T "$spar" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -1 | cut -d_ -f2)
name=spar-llm-$version-x86_64-linux
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
rm -f "$out"/spar*llm* "$out"/SHA256SUMS "$out"/install.sh

# What every form of it holds.
tree=$work/$name
install -D -m 755 "$spar" "$tree/bin/spar"
strip "$tree/bin/spar"
"$spar" man --out "$tree/share/man/man1"
for shell in bash zsh fish; do
    "$spar" completions $shell >"$work/$shell"
done
install -D -m 644 "$work/bash" "$tree/share/bash-completion/completions/spar"
install -D -m 644 "$work/zsh" "$tree/share/zsh/site-functions/_spar"
install -D -m 644 "$work/fish" "$tree/share/fish/vendor_completions.d/spar.fish"
install -D -m 644 -t "$tree/share/doc/spar-llm" "$root/LICENSE" "$root/README.md" "$root/CHANGELOG.md"
install -D -m 644 -t "$tree/share/doc/spar-llm/systemd" "$root/deploy/systemd/spar.service" "$root/deploy/systemd/spar.env"
install -D -m 644 -t "$tree/share/doc/spar-llm/dashboards" "$root/dashboards/spar.json" "$root/dashboards/alerts.yml"
find "$tree" -type d -exec chmod 755 {} +

tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$work" -c "$name" | gzip -6n >"$out/$name.tar.gz"

deb=$work/deb
mkdir -p "$deb/DEBIAN" "$deb/usr"
cp -a "$tree/bin" "$tree/share" "$deb/usr"
rm -r "$deb/usr/share/doc/spar-llm/systemd"
mv "$deb/usr/share/doc/spar-llm/LICENSE" "$deb/usr/share/doc/spar-llm/copyright"
install -d "$deb/usr/share/zsh/vendor-completions"
mv "$deb/usr/share/zsh/site-functions/_spar" "$deb/usr/share/zsh/vendor-completions/"
rmdir "$deb/usr/share/zsh/site-functions"
gzip -9n "$deb"/usr/share/man/man1/*.1
install -D -m 644 "$root/deploy/systemd/spar.service" "$deb/lib/systemd/system/spar.service"
install -D -m 644 "$root/deploy/systemd/spar.env" "$deb/etc/spar/spar.env"
echo /etc/spar/spar.env >"$deb/DEBIAN/conffiles"
install -m 755 -t "$deb/DEBIAN" "$here/deb/preinst" "$here/deb/postinst" "$here/deb/prerm" "$here/deb/postrm"
sed -e "s/@VERSION@/$version/" -e "s/@GLIBC@/$glibc/" -e "s/@KIB@/$(du -sk --exclude=DEBIAN "$deb" | cut -f1)/" "$here/deb/control" >"$deb/DEBIAN/control"
chmod 644 "$deb/DEBIAN/control" "$deb/DEBIAN/conffiles"
find "$deb" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zzstd -z12 --build "$deb" "$out/spar-llm_${version}_amd64.deb" >/dev/null

python3 "$here/wheel.py" --binary "$tree/bin/spar" --version "$version" --glibc "$glibc" --readme "$root/README.md" --license "$root/LICENSE" --out "$out"
install -m 755 "$here/install.sh" "$out/install.sh"
(cd "$out" && sha256sum -- *.tar.gz *.deb *.whl install.sh >SHA256SUMS)
echo "spar $version, glibc $glibc or newer:"
(cd "$out" && wc -c -- *.tar.gz *.deb *.whl | grep -v total)
