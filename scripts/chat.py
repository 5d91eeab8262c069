#!/usr/bin/env python3
"""Tries `spar chat` in a terminal and through a pipe.

usage: scripts/chat.py [BINARY]      (default target/release/spar)

The terminal is a pseudo terminal. Answers come from a server of the embedded model, and, where an answer must last, from a scripted
server in this process. Needs Python's standard library only; exits with 1 at the first broken promise.
"""

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import fcntl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BINARY = sys.argv[1] if len(sys.argv) > 1 else "target/release/spar"
QUESTION = "Write about what the river does. Use at least 12 words. Do not use any commas. Include the word lantern somewhere."
PATIENCE = 60
# The editor draws an empty prompt and puts the cursor behind it.
PROMPT = r"> \r\x1b\[2C(?:\x1b\[\?2026l)?"


class Slow(BaseHTTPRequestHandler):
    """A server whose answers say one word every 50 ms, for minutes."""

    protocol_version = "HTTP/1.0"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer("application/json")
        self.wfile.write(json.dumps({"data": [{"id": "slow"}]}).encode())

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer("text/event-stream")
        try:
            for number in range(3000):
                chunk = {"choices": [{"index": 0, "delta": {"content": f"word{number} "}}]}
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                self.wfile.flush()
                time.sleep(0.05)
        except (BrokenPipeError, ConnectionResetError):
            self.server.left.set()

    def answer(self, kind):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.end_headers()


class Terminal:
    """`spar chat` in a pseudo terminal."""

    def __init__(self, url, *flags, **env):
        self.seen = ""
        pid, self.file = pty.fork()
        if pid == 0:
            os.environ.update({"TERM": "xterm", "SPAR_API_KEY": "", **env})
            os.execv(BINARY, [BINARY, "chat", "--url", url, *flags])
        self.pid = pid
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.expect("> ")

    def expect(self, pattern):
        """Waits until the output has the pattern, and takes everything up to its end."""
        until = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.file], [], [], max(0, until - time.monotonic()))
            assert ready, f"{pattern!r} did not come: {self.seen!r}"
            try:
                self.seen += os.read(self.file, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"the program ended before {pattern!r}: {self.seen!r}") from None
        taken, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return taken

    def type(self, text):
        os.write(self.file, text.encode())

    def say(self, line, *patterns):
        """Types a line and waits for the patterns and the next prompt."""
        self.type(line + "\r")
        shown = "".join(self.expect(pattern) for pattern in patterns)
        return shown + self.expect(PROMPT)

    def end(self):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                os.read(self.file, 65536)
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def searched(url, folder):
    chat = Terminal(url, "--search", "8", "--seed", "2")
    shown = chat.say(QUESTION, r"accepted · value 1\.00 · \d+ refinements · \d+ tokens")
    assert "└─ 1" in shown and "lantern" in shown, shown
    assert "\x1b[32m✓" in shown, f"an accepted node is green: {shown!r}"
    assert re.search(r"\x1b\[\d+A\x1b\[J", shown), f"the tree is drawn again as it grows: {shown!r}"
    shown = chat.say("/diff", "0 → 1: ")
    shown = chat.say("/tree", "← answer")
    assert "\x1b[31m✗" in shown, shown
    chat.say("/diff 0", "node 0 is a draft")
    chat.say("/diff 9", "error: there is no node 9")
    chat.say("/nonsense", "error: there is no command /nonsense")
    chat.say("/search 0", "answers are not searched")
    chat.say("/system Be brief.", "has these instructions")
    chat.say("/retry", r"\d+ tokens · ")
    chat.say("/tree", "error: there is no tree")
    path = os.path.join(folder, "chat.json")
    chat.say(f"/save {path}", "written to")
    with open(path, encoding="utf-8") as file:
        saved = json.load(file)
    roles = [turn["role"] for turn in saved["messages"]]
    assert roles == ["system", "user", "assistant"] and saved["search"] is None, saved
    chat.say("/help", "/retry")
    # An arrow brings the last line back.
    chat.type("\x1b[A")
    chat.expect("/help")
    chat.type("\x15\x04")
    assert chat.end() == 0


def stopped():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.left = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    chat = Terminal(url)
    chat.type("hello\r")
    chat.expect("word3 ")
    chat.type("\x03")
    chat.expect("stopped; /retry asks again")
    assert server.left.wait(PATIENCE), "the server learns that nobody listens"
    chat.expect("> ")
    # At the prompt Ctrl-C clears the line and leaves the program alone.
    chat.type("half a line\x03")
    chat.expect("half a line")
    chat.expect(PROMPT)
    chat.type("/retry\r")
    chat.expect("word3 ")
    os.kill(chat.pid, signal.SIGINT)
    chat.expect("stopped")
    chat.expect("> ")
    chat.type("/quit\r")
    assert chat.end() == 0
    server.shutdown()


def piped(url):
    def run(text, *flags, **env):
        command = [BINARY, "chat", "--url", url, "--seed", "2", *flags]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, **env})
        return done.returncode, done.stdout, done.stderr

    code, out, errors = run(f"{QUESTION}\n\n{QUESTION}\n", "--search", "8")
    assert (code, errors) == (0, ""), (code, errors)
    lines = out.splitlines()
    assert len(lines) >= 2 and "lantern" in lines[0] and "\x1b" not in out, out
    code, out, errors = run("/nonsense\nhello\n", "--max-tokens", "5")
    assert code == 1 and "there is no command /nonsense" in errors and out.strip(), (code, out, errors)
    code, out, errors = run("hello\n", "--max-tokens", "-1")
    assert code == 2, errors
    done = subprocess.run([BINARY, "chat", "--url", "http://127.0.0.1:9"], input="x\n", capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and "is a server running there?" in done.stderr, done.stderr


def plain_terminals(url):
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        chat = Terminal(url, "--search", "8", "--seed", "2", **env)
        chat.type(QUESTION + "\r")
        shown = chat.expect(r"accepted · value")
        assert "\x1b[32m" not in shown and "\x1b[2m" not in shown, f"{env}: {shown!r}"
        chat.type("/quit\r")
        assert chat.end() == 0


def main():
    with tempfile.TemporaryDirectory() as folder:
        log = open(os.path.join(folder, "log"), "w+", encoding="utf-8")
        server = subprocess.Popen([BINARY, "--port", "0", "--log", "warn"], stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            url = next((line.split(" on ")[1].strip() for line in server.stdout if line.startswith("serving ")), None)
            assert url, open(log.name, encoding="utf-8").read()
            for name, step in [
                ("a searched conversation", lambda: searched(url, folder)),
                ("Ctrl-C stops the answer and not the program", stopped),
                ("questions through a pipe", lambda: piped(url)),
                ("no colours where they are not wanted", lambda: plain_terminals(url)),
            ]:
                step()
                print(f"ok      {name}")
        finally:
            server.kill()
            server.wait()


main()
