#!/usr/bin/env python3
"""Makes a Python wheel that carries the binary: `pip install` puts the command `spar` into the environment. dist/build.sh calls it.

The wheel has no Python code. It is tagged for the platforms whose glibc is new enough, and is the same byte for byte for the same input.
"""

import argparse
import base64
import hashlib
import os
import time
import zipfile
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ["binary", "readme", "license", "out"]:
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--glibc", required=True, help="newest version of glibc whose symbols the binary uses, such as 2.35")
    args = parser.parse_args()

    tag = f"py3-none-manylinux_{args.glibc.replace('.', '_')}_x86_64"
    stem = f"spar_llm-{args.version}"
    metadata = (
        "Metadata-Version: 2.4\nName: spar-llm\n"
        f"Version: {args.version}\n"
        "Summary: OpenAI-compatible inference server with judge-and-refine tree search\n"
        "License-Expression: Apache-2.0\nLicense-File: LICENSE\nRequires-Python: >=3.8\n"
        "Classifier: Operating System :: POSIX :: Linux\nClassifier: Programming Language :: Rust\n"
        f"Description-Content-Type: text/markdown\n\n{args.readme.read_text('utf-8')}"
    )
    wheel = f"Wheel-Version: 1.0\nGenerator: spar-dist\nRoot-Is-Purelib: false\nTag: {tag}\n"
    files = [
        (f"{stem}.data/scripts/spar", args.binary.read_bytes(), 0o755),
        (f"{stem}.dist-info/METADATA", metadata.encode(), 0o644),
        (f"{stem}.dist-info/WHEEL", wheel.encode(), 0o644),
        (f"{stem}.dist-info/licenses/LICENSE", args.license.read_bytes(), 0o644),
    ]
    record = f"{stem}.dist-info/RECORD"
    lines = []
    for name, content, _ in files:
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    files.append((record, "".join([*lines, f"{record},,\n"]).encode(), 0o644))

    when = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", "1700000000")))[:6]
    with zipfile.ZipFile(args.out / f"{stem}-{tag}.whl", "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, content, mode in files:
            entry = zipfile.ZipInfo(name, when)
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)


if __name__ == "__main__":
    main()
