#!/usr/bin/env python3
"""Two keys: what one may take of the other's service, and whether one can tell what the other has sent.

    scripts/reliability/tenants.py target/release/spar [service] [prompts] [grammars]      # all three if none is named

`service`: key A sends 400 large searches; key B's plain requests must all be answered, 95 % of them within twice their time alone.
`prompts`, `grammars`: key A sends a prompt or a constraint; key B guesses the same and another one, in a random order. Cached tokens
and time to the first token must not tell them apart: a permutation test on the difference of medians, at p = 0.01.
"""

import http.client
import json
import random
import statistics
import sys
import threading
import time
from pathlib import Path

from harness import KEYS, Report, Server, percentile

A, B = KEYS
SEARCHES = 400
PLAIN = 40
PAIRS = 40
SHUFFLES = 5_000
OWN = 20


def service(binary, report):
    """A's searches beside B's plain requests."""
    with Server(binary, keys=KEYS) as server:
        plain = lambda: server.chat("Write about what the river does.", key=B, max_tokens=32, timeout=300)
        plain()
        alone = [plain().took for _ in range(PLAIN)]
        over = threading.Event()

        def search(_):
            while not over.is_set():
                answer = server.chat("Write about what the river does. Use at least 12 words.", key=A, n=4, search_budget=64,
                                     max_tokens=64, timeout=600)
                if answer.status == 429:
                    waits.append(float(answer.headers["retry-after"]))
                    over.wait(min(waits[-1], 20))

        waits = []
        loads = [threading.Thread(target=search, args=(index,), daemon=True) for index in range(SEARCHES)]
        for load in loads:
            load.start()
        time.sleep(5)
        answers = [plain() for _ in range(PLAIN)]
        running, waiting = server.metric("spar_requests_running"), server.metric("spar_requests_waiting")
        over.set()
        beside, statuses = [answer.took for answer in answers], [answer.status for answer in answers]
        first, then = percentile(alone, 0.95), percentile(beside, 0.95)
        report.check(statuses.count(429) == 0 and set(statuses) == {200},
                     f"{PLAIN} plain requests of B beside {SEARCHES} searches of A ({running:.0f} run, {waiting:.0f} wait, {len(waits)} "
                     f"refusals with Retry-After {min(waits, default=0):.0f} to {max(waits, default=0):.0f} s): {statuses.count(429)} × 429")
        report.check(then <= 2 * first, f"95 % within {then:.3f} s, alone within {first:.3f} s: {then / first:.2f} times")


def first_token(server, body):
    """Seconds to the first token of a stream, and its cached tokens."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    sent = {"content-type": "application/json", "authorization": f"Bearer {B}"}
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    connection.connect()
    started = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), sent)
    response, took, cached = connection.getresponse(), None, None
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if took is None and any(choice["delta"].get("content") for choice in chunk["choices"]):
            took = time.perf_counter() - started
        if usage := chunk.get("usage"):
            cached = usage["prompt_tokens_details"]["cached_tokens"]
    connection.close()
    return took if took is not None else time.perf_counter() - started, cached


def p_value(pairs):
    """How often a random assignment of each pair's two times shows as large a difference of medians."""
    draw = random.Random(7)
    difference = lambda chosen: abs(statistics.median(right for right, _ in chosen) - statistics.median(wrong for _, wrong in chosen))
    seen = difference(pairs)
    shuffled = (difference([pair if draw.random() < 0.5 else pair[::-1] for pair in pairs]) for _ in range(SHUFFLES))
    return (1 + sum(other >= seen for other in shuffled)) / (SHUFFLES + 1)


def guesses(server, request):
    """Times of right and of wrong guesses, pair by pair, and all counts of cached tokens."""
    draw, pairs, cached = random.Random(3), [], set()
    for index in range(PAIRS):
        secret, other = request(f"secret {index}"), request(f"others {index}")
        for _ in range(2):
            server.post("/v1/chat/completions", secret, key=A)
        times = {}
        for name, body in draw.sample([("right", secret), ("wrong", other)], 2):
            times[name], seen = first_token(server, body)
            cached.add(seen)
        pairs.append((times["right"], times["wrong"]))
    return pairs, cached


def told(binary, report, what, request, *flags):
    """Whether B can tell a right guess from a wrong one."""
    with Server(binary, *flags, keys=KEYS) as server:
        pairs, cached = guesses(server, request)
    right, wrong = (statistics.median(times) * 1e3 for times in zip(*pairs))
    words = f"{what}{' with ' + flags[0] if flags else ''}: {right:.2f} ms where the guess is right, {wrong:.2f} ms where it is not"
    return p_value(pairs), cached, words


def unknown(binary, report, what, request):
    """B cannot tell; where the keys share what is kept, it can, so the measurement would have seen it."""
    p, cached, words = told(binary, report, what, request)
    report.check(p > 0.01, f"{words}: p = {p:.4f}")
    # What B itself sent before begins in the same way.
    report.check(max(cached) < OWN, f"{what}: {max(cached)} cached tokens at most")
    p, cached, words = told(binary, report, what, request, "--shared-prefix-cache")
    report.check(p <= 0.01 or max(cached) >= OWN, f"{words}: p = {p:.4f}, cached tokens up to {max(cached)}; this must be seen")


def prompts(binary, report):
    """Prompts of 300 tokens."""
    def request(secret):
        text = f"{secret} " + "the river runs to the sea and the " * 30
        return {"messages": [{"role": "user", "content": text}], "max_tokens": 1, "temperature": 0}

    unknown(binary, report, "prompts", request)


def grammars(binary, report):
    """Constraints that take a while to compile."""
    def request(secret):
        schema = {"enum": [f"{secret} {index}" for index in range(1_000)]}
        return {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1, "structured_outputs": {"json": schema},
                "cache_salt": secret}

    unknown(binary, report, "grammars", request)


def main():
    """Those that are named."""
    report, named = Report(), sys.argv[2:]
    for work in (service, prompts, grammars):
        if not named or work.__name__ in named:
            work(str(Path(sys.argv[1]).resolve()), report)
    report.end()


if __name__ == "__main__":
    main()
