#!/usr/bin/env python3
"""Mixed load for a long time: plain and streamed answers, searches, constraints, clients that leave, bad input, swaps and broken swaps.

    scripts/reliability/soak.py target/release/spar [MINUTES] [SEED]      # an hour by default

Every minute a line says what was answered, how long plain requests took, and what the process holds. At the end: no answer but
the documented ones, no wait of `/healthz` above a second, no more memory, threads or open files than after the first minutes.
"""

import json
import os
import random
import shutil
import socket
import sys
import threading
import time
from pathlib import Path

import bodies
import directories
from harness import Health, Report, Server, percentile

SLOW = float(os.environ.get("SPAR_SLOW", "1"))
FLAGS = ("--max-running", "8", "--max-waiting", "64", "--request-timeout", "20s", "--kv-cache-bytes", "32000000", "--grammar-bytes",
         "33554432", "--kept-search-bytes", "4000000", "--max-search-budget", "8", "--search-budget", "4", "--search-deadline", "5s", "--max-search-deadline", "5s",
         "--write-timeout", "5s", "--body-timeout", "5s")
TEXT = "Write about what the {} does. Use at least 12 words. Do not use any commas. Include the word {} somewhere."
NOUNS = ["river", "teacher", "garden", "window", "market", "lantern", "mountain", "winter"]
# What may be answered: success, the client's fault, a full queue, or weights that are being swapped.
EXPECTED = {200, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 503}


class Soak:
    """The load and what came of it."""

    def __init__(self, server, seed):
        self.server, self.seed = server, seed
        self.lock, self.over = threading.Lock(), threading.Event()
        self.statuses, self.plain, self.faults, self.swaps, self.left = {}, [], [], {}, 0

    def note(self, kind, answer):
        """Counts an answer."""
        with self.lock:
            self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
            if kind == "plain" and answer.status == 200:
                self.plain.append(answer.took)
            if answer.status not in EXPECTED:
                self.faults.append(f"{kind}: {answer.status} {answer.body[:300]!r}")

    def one(self, draw):
        """One request of a client that was drawn."""
        server, kind = self.server, draw.randrange(20)
        text = TEXT.format(draw.choice(NOUNS), draw.choice(NOUNS))
        if kind < 7:
            self.note("plain", server.chat(text, max_tokens=32, seed=draw.randrange(9)))
        elif kind < 9:
            self.note("stream", server.chat(text, max_tokens=48, stream=True, n=draw.choice((1, 1, 4))))
        elif kind < 12:
            self.note("search", server.chat(text, max_tokens=48, search_budget=draw.choice((1, 2, 8)), seed=draw.randrange(99)))
        elif kind < 14:
            schema = {"type": "object", "properties": {f"p{draw.randrange(999)}": {"type": "integer"}}}
            self.note("schema", server.chat(text, structured_outputs={"json": schema}))
        elif kind < 17:
            route, body = bodies.hostile(draw)
            if "rollback" not in route:
                self.note("hostile", server.post(route, body))
        else:
            self.leave(draw, text, kind)

    def leave(self, draw, text, kind):
        """Asks for a long stream or sends half a request, and goes away."""
        body = json.dumps({"messages": [{"role": "user", "content": text}], "stream": True, "max_tokens": 400, "n": 4,
                           "search_budget": 4 if kind == 18 else 0}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        sent = head.encode() + body
        with self.lock:
            self.left += 1
        try:
            with socket.create_connection((self.server.host, self.server.port), 20) as connection:
                connection.sendall(sent[: draw.randrange(len(sent))] if kind == 19 else sent)
                self.over.wait(draw.random())
        except OSError:
            pass

    def client(self, index):
        """One request after the other."""
        draw = random.Random(f"{self.seed} {index}")
        while not self.over.is_set():
            self.one(draw)
            self.over.wait(draw.random() * 0.2)

    def swapper(self):
        """Swaps until the end; a swapper that fails is a fault of this script or of the machine, and is reported."""
        try:
            self.swap()
        except (OSError, shutil.Error) as error:
            self.faults.append(f"no swaps any more: {error!r}"[:400])

    def swap(self):
        """Good and broken weights in turns, with rollbacks."""
        draw, root = random.Random(self.seed), self.server.path / "weights"
        own, damages = directories.own_model(self.server), list(directories.DAMAGES.values())
        for number in range(10**6):
            made = directories.copied(own, root / f"next{number}")
            if number % 2:
                draw.choice(damages)(made / draw.choice(directories.FILES))
            else:
                with open(made / "model.safetensors", "r+b") as weights:
                    weights.seek(-4, os.SEEK_END)
                    weights.write(draw.randbytes(2) + b"\0\0")
            answer = self.server.post("/admin/generations", {**directories.ORDER, "model_path": made.name})
            self.note("swap", answer)
            with self.lock:
                self.swaps[answer.status] = self.swaps.get(answer.status, 0) + 1
            if answer.status == 200 and draw.random() < 0.5:
                self.note("rollback", self.server.post("/admin/generations/rollback", {}))
            shutil.rmtree(made)
            if self.over.wait(3):
                return


def main():
    """The load for so many minutes."""
    binary = str(Path(sys.argv[1]).resolve())
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 60
    report = Report()
    with Server(binary, *FLAGS, log="error") as server, Health(server) as health:
        soak = Soak(server, sys.argv[3] if len(sys.argv) > 3 else "7")
        work = [threading.Thread(target=soak.client, args=(index,), daemon=True) for index in range(16)]
        work.append(threading.Thread(target=soak.swapper, daemon=True))
        for thread in work:
            thread.start()
        held = lambda: (server.memory(), len(os.listdir(f"/proc/{server.pid}/task")), len(os.listdir(f"/proc/{server.pid}/fd")))
        until, series = time.monotonic() + 60 * minutes, []
        while time.monotonic() < until and server.process.poll() is None and len(soak.faults) < 20:
            time.sleep(min(60, max(1, until - time.monotonic())))
            if server.process.poll() is not None:
                break
            series.append(held())
            memory, threads, files = series[-1]
            with soak.lock:
                plain, soak.plain = soak.plain, []
                print(f"{len(series):4} min  {sum(soak.statuses.values())} answers {dict(sorted(soak.statuses.items()))}, {soak.left} left, swaps "
                      f"{soak.swaps}; plain 50 % {percentile(plain or [0], 0.5):.2f} s, 95 % {percentile(plain or [0], 0.95):.2f} s; "
                      f"{memory:.0f} MB, {threads} threads, {files} files; /healthz {health.longest:.2f} s", flush=True)
        soak.over.set()
        for thread in work:
            thread.join(60)
        for fault in soak.faults[:20]:
            report.check(False, fault)
        report.check(server.alive(), f"the process lives after {len(series)} minutes and {sum(soak.statuses.values())} answers")
        report.check(health.longest <= SLOW, f"/healthz took {health.longest:.2f} s at most")
        if server.process.poll() is None and series:
            after, (memory, threads, files) = None, series[min(2, len(series) - 1)]
            after = server.settled(memory)
            _, last_threads, last_files = held()
            report.check(after <= memory + 64, f"memory: {memory:.0f} MB in the third minute, {after:.0f} MB a minute after the end")
            report.check(last_threads <= threads + 8, f"threads: {threads} then, {last_threads} now")
            report.check(last_files <= files + 8, f"open files: {files} then, {last_files} now")
        log = (server.path / "log").read_text("utf-8", "replace")
        report.check("panicked" not in log, f"no panic in the log: {log[:500]}")
    report.end()


if __name__ == "__main__":
    main()
