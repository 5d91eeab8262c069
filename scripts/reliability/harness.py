"""A server process for measurements, requests to it, and what is watched meanwhile. Python's standard library only."""

import http.client
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ADMIN = "admin"
KEYS = ("alpha", "beta")


def percentile(values, share):
    """The smallest value that is not below `share` of all values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


class Answer:
    """A status, headers in lower case, and a body; a status of 0 says that there was none and why."""

    def __init__(self, status, headers, body, took):
        self.status, self.headers, self.body, self.took = status, headers, body, took

    def json(self):
        """The body as JSON, or an empty object where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return {}

    def error(self):
        """`code`, `param` and the beginning of the message of an error."""
        error = self.json().get("error", {}) if isinstance(self.json(), dict) else {}
        return f"{error.get('code')} {error.get('param')}: {str(error.get('message'))[:120]}"


class Server:
    """A server of its own on a free port, which ends with the block."""

    def __init__(self, binary, *flags, keys=(), model=None, log="warn", environment=None):
        self.folder = tempfile.TemporaryDirectory(prefix="spar-reliability-")
        self.path = Path(self.folder.name)
        for name in ("weights", "swaps"):
            (self.path / name).mkdir()
        model = ["--model", model] if model else []
        self.command = [binary, "--port", "0", "--log", log, "--weights-root", str(self.path / "weights"),
                        "--swap-dir", str(self.path / "swaps"), *model, *flags]
        self.environment = {**os.environ, "SPAR_ADMIN_KEY": ADMIN, **(environment or {})}
        if keys:
            self.environment["SPAR_API_KEYS"] = ",".join(keys)

    def __enter__(self):
        self.log = open(self.path / "log", "w+b")
        self.process = subprocess.Popen(
            self.command, env=self.environment, stdout=subprocess.PIPE, stderr=self.log, text=True, cwd=self.path
        )
        self.pid = self.process.pid
        for line in self.process.stdout:
            if address := re.match(r"serving .* on http://([^:]+):(\d+)", line):
                self.host, self.port = address.group(1), int(address.group(2))
                break
        else:
            raise SystemExit(f"the server did not start: {(self.path / 'log').read_text()[-2000:]}")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        deadline = time.monotonic() + 120
        while self.get("/readyz").status != 200:
            if time.monotonic() > deadline:
                raise SystemExit("the server is not ready after two minutes")
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()
        self.folder.cleanup()

    def ask(self, method, path, body=None, key=ADMIN, timeout=120, headers=None):
        """Sends one request on a connection of its own. A body that is no bytes is sent as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        sent = {"content-type": "application/json", "authorization": f"Bearer {key}", **(headers or {})}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        started = time.monotonic()
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            text = response.read()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, text, time.monotonic() - started)
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, {}, repr(error).encode(), time.monotonic() - started)
        finally:
            connection.close()

    def get(self, path, **options):
        """A GET request."""
        return self.ask("GET", path, **options)

    def post(self, path, body, **options):
        """A POST request."""
        return self.ask("POST", path, body, **options)

    def chat(self, text, key=ADMIN, timeout=120, **fields):
        """A chat completion of one user turn."""
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "seed": 1, **fields}
        return self.post("/v1/chat/completions", body, key=key, timeout=timeout)

    def metric(self, name):
        """The sum of a metric's series."""
        lines = self.get("/metrics").body.decode().splitlines()
        series = [line for line in lines if re.match(rf"{re.escape(name)}(\{{| )", line)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in series)

    def memory(self, field="VmRSS"):
        """Megabytes that the process holds, or held at most (`VmHWM`)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+)", status).group(1)) / 1024

    def settled(self, most, seconds=60):
        """Megabytes once there are at most `most`, or after `seconds`."""
        deadline = time.monotonic() + seconds
        while (held := self.memory()) > most and time.monotonic() < deadline:
            time.sleep(0.5)
        return held

    def alive(self):
        """Whether the process lives and answers."""
        return self.process.poll() is None and self.get("/healthz", timeout=30).status == 200


class Health:
    """Asks for `/healthz` every 50 ms for as long as the block runs and keeps the longest wait."""

    def __init__(self, server):
        self.server, self.longest, self.over = server, 0.0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self):
        """Runs until the block ends."""
        while not self.over.wait(0.05):
            answer = self.server.get("/healthz", timeout=30)
            self.longest = max(self.longest, answer.took if answer.status == 200 else 99.0)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Report:
    """Prints findings as they come and ends the program with 1 where something is wrong."""

    def __init__(self):
        self.faults = []

    def check(self, holds, words):
        """Notes one promise and whether it holds."""
        print(f"{'ok    ' if holds else 'FAULT '} {words}", flush=True)
        if not holds:
            self.faults.append(words)

    def end(self):
        """The end of the program."""
        print(f"{len(self.faults)} faults")
        sys.exit(1 if self.faults else 0)


def together(count, work):
    """Runs `work(0)` to `work(count - 1)` at the same time and returns what they return."""
    results = [None] * count

    def one(index):
        results[index] = work(index)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
