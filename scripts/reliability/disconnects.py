#!/usr/bin/env python3
"""Clients that hang up: in the middle of headers, of bodies, of answers, of streams and of searches, on every route.

    scripts/reliability/disconnects.py target/release/spar [COUNT] [--seed N] [--model DIR]

COUNT (1,000) requests, eight at a time, in rounds; after each round everything that runs must end. Then one long answer at a time is
given up, and the metrics say how many tokens were generated after that. With the embedded model a step takes less than the
question for the metrics; with a larger one, named by --model, the count shows single steps.
"""

import argparse
import json
import random
import socket
import struct
import time
from pathlib import Path

from harness import ADMIN, Report, Server, together

TEXT = "Write about what the river does. Use at least 12 words. Do not use any commas. Include the word lantern somewhere."
MESSAGES = [{"role": "user", "content": TEXT}]
LONG = {"max_tokens": 600, "ignore_eos": True}
SEARCH = {"search_budget": 32, "search": {"votes": 5, "branch": 4, "keep": 4, "depth": 8}}
STREAM = {"stream": True}
TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
AT_ONCE, ROUND = 8, 48
# What a client may find after it has hung up: the time until nothing runs.
SOON = 5


def requests():
    """A method, a path and a body for every route, most of them in several forms."""
    chat = {"messages": MESSAGES}
    for body in [
        {**chat, **LONG}, {**chat, **LONG, **STREAM}, {**chat, **LONG, **STREAM, "n": 8, "logprobs": True, "top_logprobs": 5},
        {**chat, **SEARCH}, {**chat, **SEARCH, **STREAM}, {**chat, **STREAM, "n": 3, **SEARCH, "search": {"events": True}},
        {**chat, "response_format": SCHEMA, **STREAM}, {**chat, "tools": [{"type": "function", "function": TOOL}], "tool_choice": "required"},
    ]:
        yield "POST", "/v1/chat/completions", body
    yield "POST", "/v1/completions", {"prompt": [TEXT, "The river"], **LONG, "logprobs": 3}
    yield "POST", "/v1/completions", {"prompt": TEXT, "n": 4, **LONG, **STREAM}
    yield "POST", "/v1/completions", {"prompt": TEXT * 20, "echo": True, "logprobs": 5, "max_tokens": 0}
    for more in [{}, STREAM, {**STREAM, **SEARCH}]:
        yield "POST", "/v1/responses", {"input": TEXT, "max_output_tokens": 600, **more}
        yield "POST", "/v1/messages", {"messages": MESSAGES, "max_tokens": 600, **more}
    yield "POST", "/v1/messages/count_tokens", {"messages": MESSAGES * 50}
    yield "POST", "/v1/embeddings", {"input": [TEXT] * 64}
    yield "POST", "/v1/score", {"query": TEXT, "items": ["The river", "A garden"] * 50, "labels": [" waits", " sings"]}
    questions = [{"type": "predicate", "instructions": f"There are {count} rivers."} for count in range(16)]
    yield "POST", "/v1/decisions", {"input": TEXT, "questions": questions}
    yield "POST", "/v1/checks", {"messages": MESSAGES}
    yield "POST", "/tokenize", {"prompt": TEXT * 100}
    yield "POST", "/detokenize", {"tokens": [5] * 2000}
    yield "POST", "/v1/load_lora_adapter", {"lora_name": "none", "lora_path": "none"}
    yield "POST", "/admin/generations", {"role": "actor", "adapter_path": "none"}
    yield "POST", "/admin/generations/rollback", {}
    for path in ["/v1/models", "/metrics", "/openapi.json", "/docs/", "/", "/readyz", "/version", "/v1/searches/none", "/admin/generations"]:
        yield "GET", path, None


def written(method, path, body):
    """The request as bytes, and where its body begins."""
    content = b"" if body is None else json.dumps(body).encode()
    kind = "" if body is None else f"content-type: application/json\r\ncontent-length: {len(content)}\r\n"
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ADMIN}\r\n{kind}\r\n".encode()
    return head + content, len(head)


def hang_up(server, request, dice):
    """Sends all or a part, waits or reads, and closes the connection by an end or by a reset. Says where that was."""
    sent, body = written(*request)
    phase = dice.choice(["head", "body", "silence", "answer", "answer"])
    connection = socket.create_connection((server.host, server.port), timeout=30)
    try:
        if phase == "head":
            connection.sendall(sent[: dice.randrange(body)])
        elif phase == "body" and len(sent) > body:
            connection.sendall(sent[: dice.randrange(body, len(sent))])
        else:
            connection.sendall(sent)
        if dice.random() < 0.7:
            time.sleep(dice.uniform(0, 0.1))
        if phase == "answer":
            connection.settimeout(0.3)
            try:
                for _ in range(dice.randrange(1, 6)):
                    if not connection.recv(dice.randrange(1, 5000)):
                        break
            except TimeoutError:
                pass
        if dice.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        connection.close()
    return phase


def ended(server):
    """Seconds until nothing runs or waits; infinite where something runs on."""
    started = time.monotonic()
    while time.monotonic() - started < SOON:
        if server.metric("spar_requests_running") == 0 and server.metric("spar_requests_waiting") == 0:
            return time.monotonic() - started
        time.sleep(0.01)
    return float("inf")


def tokens(server):
    return server.metric("spar_generation_tokens_total")


def given_up(server, body):
    """Tokens in the second before a long answer is given up, and those that come later than 50 ms after that."""
    sent, _ = written("POST", "/v1/chat/completions", body)
    before = tokens(server)
    connection = socket.create_connection((server.host, server.port), timeout=30)
    connection.sendall(sent)
    time.sleep(1)
    running = tokens(server) - before
    connection.close()
    closed = tokens(server)
    time.sleep(0.05)
    soon = tokens(server)
    time.sleep(0.5)
    return running, soon - closed, tokens(server) - soon


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("count", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model")
    options = parser.parse_args()
    report, known = Report(), list(requests())
    with Server(str(options.binary.resolve()), "--search-budget", "4", model=options.model) as server:
        pid, phases, slowest, done = server.pid, {}, 0.0, 0
        while done < options.count:
            count = min(ROUND, options.count - done)

            def some(worker, first=done, count=count):
                dices = [(at, random.Random(options.seed * 1_000_003 + at)) for at in range(first + worker, first + count, AT_ONCE)]
                return [hang_up(server, dice.choice(known), dice) for _, dice in dices]

            for phase in sum(together(AT_ONCE, some), []):
                phases[phase] = phases.get(phase, 0) + 1
            done += count
            slowest = max(slowest, ended(server))
            if slowest == float("inf") or not server.alive():
                break
        text = f"{done} disconnects ({', '.join(f'{phase}: {count}' for phase, count in sorted(phases.items()))})"
        report.check(slowest < SOON, f"{text}: after each round everything ended within {slowest:.2f} s")
        report.check(server.alive() and server.pid == pid, "the process lives and answers")
        faults = [server.metric(f"spar_engine_{kind}_total") for kind in ("restarts", "errors")]
        report.check(faults[0] == 0, f"{faults[0]:.0f} restarts of an engine, {faults[1]:.0f} errors of engines")
        log = (server.path / "log").read_text(errors="replace")
        report.check("panicked" not in log, "nothing has panicked")
        for name, body in [
            ("a stream of eight", {"messages": MESSAGES, **STREAM, "n": 8, "max_tokens": 900, "ignore_eos": True}),
            ("a whole answer", {"messages": MESSAGES, "n": 8, "max_tokens": 900, "ignore_eos": True}),
            ("eight searches", {"messages": MESSAGES, "n": 8, **SEARCH, "search": {**SEARCH["search"], "mode": "paper"}, "search_budget": 64}),
        ]:
            running, soon, later = given_up(server, body)
            report.check(later == 0, f"{name}: {running:.0f} tokens within a second, {soon:.0f} until 50 ms after it was given up, then {later:.0f}")
        report.check(server.chat("Write about the river.").status == 200, "another client is answered")
    report.end()


if __name__ == "__main__":
    main()
