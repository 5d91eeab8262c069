#!/usr/bin/env python3
"""Clients that never read: four, forty and four hundred ask for long streams and take no byte, while others are served.

    scripts/reliability/readers.py target/release/spar [COUNT...]

Each number twice: once they have a key of their own, on default limits, and the others another one; once there are no keys, so that
all wait in one line, which a write timeout of 5 s keeps moving.
"""

import json
import resource
import socket
import sys
import time
from pathlib import Path

from harness import KEYS, Health, Report, Server, percentile

LONG = {"messages": [{"role": "user", "content": "Write about what the river does."}], "stream": True, "n": 8, "logprobs": True,
        "top_logprobs": 20, "max_tokens": 900, "ignore_eos": True}


def never_reads(server):
    """A connection with the smallest buffer, on which a long stream was asked for."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.settimeout(20)
    connection.connect((server.host, server.port))
    body = json.dumps(LONG).encode()
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEYS[0]}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n")
    connection.sendall(head.encode() + body)
    return connection


def served(server, seconds):
    """Statuses and times of plain requests, one after the other, for `seconds`."""
    until, answers = time.monotonic() + seconds, []
    while time.monotonic() < until:
        answers.append(server.chat("Write about the river.", key=KEYS[1], timeout=300))
    return [answer.status for answer in answers], [answer.took for answer in answers]


def main():
    """Each number of such clients at a server of its own."""
    binary, counts = str(Path(sys.argv[1]).resolve()), [int(count) for count in sys.argv[2:]] or [4, 40, 400]
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    report = Report()
    in_line = ("--max-waiting", "1000", "--write-timeout", "5s")
    for count, keys, flags in [(count, *setting) for count in counts for setting in ((KEYS, ()), ((), in_line))]:
        with Server(binary, *flags, keys=keys, log="error") as server:
            _, alone = served(server, 5)
            with Health(server) as health:
                clients = [never_reads(server) for _ in range(count)]
                time.sleep(1)
                statuses, times = served(server, 30)
            report.check(
                set(statuses) == {200},
                f"{count} clients that never read{', with a key of their own' if keys else ', no keys'}: {len(statuses)} plain requests beside them, statuses {sorted(set(statuses))}, 95 % "
                f"within {percentile(times, 0.95):.2f} s (alone {percentile(alone, 0.95):.2f} s), the slowest {max(times):.1f} s",
            )
            print(f"       /healthz took {health.longest:.2f} s at most")
            for client in clients:
                client.close()
            until = time.monotonic() + 90
            while (running := server.metric("spar_requests_running")) > 0 and time.monotonic() < until:
                time.sleep(0.2)
            report.check(running == 0 and server.alive(), f"{count} clients: nothing of them runs on after they have gone")
    report.end()


if __name__ == "__main__":
    main()
