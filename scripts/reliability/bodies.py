#!/usr/bin/env python3
"""Hostile bodies: right requests that were cut, flipped, nested, repeated or mixed, by a fixed seed.

    scripts/reliability/bodies.py target/release/spar [COUNT] [SEED]      # 30,000 by default

No answer may be a 5xx but 503, none may take longer than 30 s, and the process must live and give its memory back.
"""

import json
import random
import sys
import threading
import time
from pathlib import Path

from harness import Health, Report, Server

WORKERS = 16
FLAGS = ("--max-running", "8", "--max-waiting", "64", "--request-timeout", "5s", "--max-body", "200000", "--max-choices", "4",
         "--max-search-budget", "4", "--search-budget", "2", "--max-search-deadline", "1s", "--search-deadline", "1s",
         "--grammar-bytes", "33554432", "--kv-cache-bytes", "16000000")
SMALL = {"max_tokens": 4, "seed": 1}
TURN = [{"role": "user", "content": "Write about the river. Use at least 9 words."}]
RIGHT = [
    ("/v1/chat/completions", {"messages": TURN, **SMALL}),
    ("/v1/chat/completions", {"messages": TURN, **SMALL, "stream": True, "n": 2, "logprobs": True, "top_logprobs": 3}),
    ("/v1/chat/completions", {"messages": TURN, **SMALL, "search_budget": 2, "search": {"strategy": "bfs", "trace": "full"}}),
    ("/v1/chat/completions", {"messages": TURN, **SMALL, "structured_outputs": {"regex": "[a-z ]{1,9}"}}),
    ("/v1/chat/completions", {"messages": TURN, **SMALL, "response_format": {"type": "json_schema", "json_schema": {
        "name": "a", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}}}),
    ("/v1/chat/completions", {"messages": TURN, **SMALL, "tools": [{"type": "function", "function": {
        "name": "f", "parameters": {"type": "object", "properties": {"a": {"enum": [1, 2]}}}}}]}),
    ("/v1/completions", {"prompt": "The river ", **SMALL, "echo": True, "logprobs": 2}),
    ("/v1/checks", {"messages": TURN}),
    ("/tokenize", {"prompt": "The river"}),
    ("/tokenize", {"messages": TURN}),
    ("/detokenize", {"tokens": [5, 6, 7]}),
    ("/admin/generations", {"role": "actor", "model_path": "none", "mode": "auto", "dry_run": True}),
    ("/admin/generations/rollback", {"expected_generation": "g-999"}),
    ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "none"}),
]
ODD = [None, True, 0, -1, 1, 2**31, 2**63, 2**64, -2**63, 1e308, 1e-320, "", "\0", "a" * 999, "\u202e\U0010ffff", [], [[]], {},
       {"": None}, [None] * 50, "auto", "none", {"type": "object"}]


def places(value, path=()):
    """Paths to all values within a value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield from places(one, (*path, name))


def replaced(value, path, by):
    """A copy in which the value at a path is another one."""
    if not path:
        return by
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], by)
    return copy


def hostile(draw):
    """A route and a body."""
    route, right = draw.choice(RIGHT)
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
        right = replaced(right, draw.choice(list(places(right))), draw.choice(ODD))
    text = json.dumps(right, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    kind = draw.randrange(8)
    at = draw.randrange(len(text) + 1)
    if kind == 0:
        text = text[:at]
    elif kind == 1 and text:
        flipped = bytearray(text)
        for _ in range(draw.randrange(1, 6)):
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        text = bytes(flipped)
    elif kind == 2:
        opening = draw.choice((b"[", b'{"a":', b'{"messages":['))
        text = text[:at] + opening * draw.choice((10, 127, 129, 5_000)) + text[at:]
    elif kind == 3:
        text = draw.randbytes(draw.randrange(300))
    elif kind == 4:
        text = text[:at] + draw.choice((b"\xff\xfe", b"\\ud800", b"\0", b"1e999999", b"-", b'"', b",", b"NaN")) + text[at:]
    return route, text


def main():
    """Sends them all."""
    binary = str(Path(sys.argv[1]).resolve())
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 30_000
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 7
    report, draw, lock = Report(), random.Random(seed), threading.Lock()
    statuses, slowest, left = {}, 0.0, count
    with Server(binary, *FLAGS, log="error") as server, Health(server) as health:
        for route, right in RIGHT:
            server.post(route, right)
        before, started = server.memory(), time.monotonic()

        def work():
            nonlocal left, slowest
            while True:
                with lock:
                    if left == 0 or len(report.faults) > 20:
                        return
                    left -= 1
                    route, body = hostile(draw)
                answer = server.post(route, body, timeout=60)
                with lock:
                    statuses[answer.status] = statuses.get(answer.status, 0) + 1
                    slowest = max(slowest, answer.took)
                    if answer.status in (0, 500, 501, 502, 504) or answer.took > 30:
                        report.check(False, f"{route} {body[:300]!r}: {answer.status} in {answer.took:.1f} s {answer.body[:300]!r}")
                    if answer.status >= 400 and not answer.json().get("error", {}).get("code"):
                        report.check(False, f"{route} {body[:300]!r}: {answer.status} without the envelope: {answer.body[:300]!r}")

        workers = [threading.Thread(target=work) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        took = time.monotonic() - started
        most = before + 64 + server.metric("spar_grammar_bytes") / 1e6
        after = server.settled(most)
        report.check(server.alive(), f"{count} bodies in {took:.0f} s, statuses {dict(sorted(statuses.items()))}, the slowest {slowest:.1f} s")
        report.check(after <= most, f"memory: {before:.0f} MB before, {after:.0f} MB a minute after at most")
        log = (server.path / "log").read_text("utf-8", "replace")
        report.check("panicked" not in log, f"no panic; the log has {len(log.splitlines())} lines of errors: {log[:300]}")
    print(f"/healthz took {health.longest:.2f} s at most")
    report.end()


if __name__ == "__main__":
    main()
