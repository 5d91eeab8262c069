#!/usr/bin/env python3
"""Broken and hostile model directories as orders to swap: each is answered within 30 s and 2 GB while the live weights serve on.

    scripts/reliability/directories.py target/release/spar

Then a SIGTERM at many moments of a swap, each of which must end the process within its grace.
"""

import json
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path

from harness import Report, Server

ORDER = {"role": "actor", "changes": ["tokenizer", "chat_template", "templates"]}
FILES = ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja", "spar.json", "manifest.json"]
FIELDS = ["max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
          "num_key_value_heads", "vocab_size", "rope_theta", "rms_norm_eps", "eos_token_id", "head_dim", "hidden_act"]
VALUES = {"nothing": None, "zero": 0, "negative": -1, "a thousand millions": 10**9, "all of 64 bits": 2**64 - 1,
          "a large fraction": 1e308, "a text": "x", "a million entries": list(range(1_000_000))}


def pipe(file):
    """A named pipe, at which a reader would wait for ever."""
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def folder(file):
    """A folder in place of a file."""
    file.unlink(missing_ok=True)
    file.mkdir()


def sparse(file):
    """A file of 100 GB that takes no room."""
    with open(file, "ab") as opened:
        opened.truncate(100 << 30)


def halved(file):
    """The first half of a file."""
    content = file.read_bytes() if file.exists() else b"{}"
    file.write_bytes(content[: len(content) // 2])


def to_itself(file):
    """A link to itself."""
    file.unlink(missing_ok=True)
    file.symlink_to(file.name)


def outside(file):
    """A link to a file that is not the client's."""
    file.unlink(missing_ok=True)
    file.symlink_to("/etc/passwd")


DAMAGES = {
    "missing": lambda file: file.unlink(missing_ok=True), "empty": lambda file: file.write_bytes(b""), "halved": halved,
    "zeros": lambda file: file.write_bytes(bytes(100_000)), "a list": lambda file: file.write_text("[]"),
    "deep": lambda file: file.write_text("[" * 1_000_000), "100 GB": sparse, "a pipe": pipe, "a folder": folder,
    "a link to itself": to_itself, "a link to a stranger's file": outside,
    "endless": lambda file: file.write_text("{% for a in range(20000) %}{% for b in range(20000) %}{% endfor %}{% endfor %}"),
    "doubling": lambda file: file.write_text("{% set x = 'x' %}" + "{% set x = x ~ x %}" * 60 + "{{ x }}"),
    "long": lambda file: file.write_text("x" * 3_000_000),
}


def own_model(server):
    """The folder of the model that is served."""
    said = server.get("/admin/generations").body.decode()
    for path in re.findall(r'"(/[^"]+)"', said):
        if (Path(path) / "config.json").exists():
            return Path(path)
    folders = sorted(Path.home().glob(".cache/spar/spar-tiny-*/actor"), key=lambda path: path.stat().st_mtime)
    return folders[-1]


def copied(model, folder):
    """A copy that may be damaged."""
    shutil.copytree(model, folder)
    return folder


def broken(model, root):
    """Names and folders of all damages."""
    for file in FILES:
        for name, damage in DAMAGES.items():
            made = copied(model, root / f"{file}: {name}")
            damage(made / file)
            yield made
    config = json.loads((model / "config.json").read_text())
    for field in FIELDS:
        for name, value in VALUES.items():
            made = copied(model, root / f"{field}: {name}")
            (made / "config.json").write_text(json.dumps({**config, field: value}))
            yield made


def held(server):
    """What the directory for swaps holds, by name and size."""
    files = (path for path in (server.path / "swaps").rglob("*") if path.is_file() and path.name != "lock")
    return {(str(path), path.stat().st_size) for path in files}


def hostile(binary, report, slow):
    """Orders to swap to every broken directory."""
    with Server(binary, "--shutdown-grace", "3s", log="error") as server:
        model, before = own_model(server), held(server)
        count, longest, statuses, refused = 0, 0.0, {}, 0
        for made in broken(model, server.path / "weights"):
            answer = server.post("/admin/generations", {**ORDER, "model_path": made.name})
            count, longest = count + 1, max(longest, answer.took)
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
            if answer.status not in (200, 400, 422) or answer.took > 30 * slow:
                report.check(False, f"{made.name}: {answer.status} after {answer.took:.1f} s: {answer.error()}")
            if answer.status == 200:
                # Harmless, such as a file that need not be there.
                back = server.post("/admin/generations/rollback", {})
                if back.status != 200:
                    report.check(False, f"{made.name}: no way back: {back.status} {back.error()}")
                before = held(server)
            elif held(server) != before:
                report.check(False, f"{made.name}: the directory for swaps has changed")
                before = held(server)
            refused += answer.status != 200
            shutil.rmtree(made)
        peak = server.memory("VmHWM")
        report.check(refused >= 115, f"{count} directories, {refused} refused: {statuses}, the slowest in {longest:.1f} s")
        report.check(peak < 2_048, f"directories: {peak:.0f} MB at most")
        report.check(held(server) == before, f"after {refused} refused swaps the directory for swaps holds what it held")
        report.check(server.chat("hello").status == 200, "directories: a chat after them")


def terminated(binary, report, slow):
    """A SIGTERM at many moments of a swap."""
    longest = 0.0
    for moment in range(16):
        with Server(binary, "--shutdown-grace", "3s", log="error") as server:
            made = copied(own_model(server), server.path / "weights" / "next")
            with open(made / "model.safetensors", "r+b") as weights:
                weights.seek(-4, os.SEEK_END)
                weights.write(bytes(4))
            order = {**ORDER, "model_path": "next"}
            swap = threading.Thread(target=server.post, args=("/admin/generations", order), daemon=True)
            swap.start()
            time.sleep(moment * 0.04 * slow)
            server.process.terminate()
            began = time.monotonic()
            server.process.wait(60)
            longest = max(longest, time.monotonic() - began)
            swap.join(5)
    report.check(longest <= 5 + slow / 2, f"SIGTERM at 16 moments of a swap, grace 3 s: the process ended within {longest:.1f} s")


if __name__ == "__main__":
    REPORT, SLOW = Report(), float(os.environ.get("SPAR_SLOW", "1"))
    for work in (hostile, terminated):
        work(str(Path(sys.argv[1]).resolve()), REPORT, SLOW)
    REPORT.end()
