#!/usr/bin/env python3
"""Well-formed inputs that once took the server down or told a stranger something, each sent to a running server as it was found.

    scripts/reliability/inputs.py target/release/spar [GROUP...]     # all groups if none is named

Every input must be answered as its line says while the process lives, `/healthz` answers within a second (SPAR_SLOW=10 in the
environment allows a build without optimisation ten times as long), and a minute after a group the process holds at most 64 MB
more than before it, bounded grammars aside. SPAR_MODEL names another model than the embedded one.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import directories
from harness import Health, Report, Server, together

SLOW = float(os.environ.get("SPAR_SLOW", "1"))
KEPT = 64  # megabytes
REPORT = Report()
OBJECT = {"type": "object"}


def chain(count, wrap):
    """Definitions of which each refers to the next."""
    definitions = {f"d{index}": wrap({"$ref": f"#/$defs/d{index + 1}"}) for index in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{count}": {"type": "string"}}}


def data_model(objects):
    """Objects with three references each."""
    fields = lambda index: {f"f{k}": {"$ref": f"#/$defs/o{(index * 7 + k * 13) % objects}"} for k in range(1, 4)}
    return {"$ref": "#/$defs/o0", "$defs": {f"o{index}": {**OBJECT, "properties": fields(index)} for index in range(objects)}}


def say(answer):
    """What came back, in a few words."""
    return f"{answer.status or answer.body} in {answer.took:.2f} s {answer.error() if answer.status >= 400 else ''}"


def expect(name, answer, statuses, param=None, seconds=15):
    """Checks a status, the field that an error names, and the time."""
    named = str(answer.json().get("error", {}).get("param", "")) if answer.status >= 400 else ""
    right = answer.status in statuses and (param is None or answer.status == 200 or named.startswith(param))
    REPORT.check(right and answer.took <= seconds * SLOW, f"{name}: {say(answer)}")


def schemas(server):
    """Schemas that overflowed the stack of their compiler or kept it busy."""
    smallest = -9223372036854775808
    keys = lambda count: {"const": {f"key{index}": index for index in range(count)}}
    found = {
        "the smallest integer": {"const": smallest},
        "the smallest integer in a list": {"enum": [smallest]},
        "the smallest integer as both bounds": {"type": "integer", "minimum": smallest, "maximum": smallest},
        "a constant of -9.2e18": {"const": -9200000000000000000},
        "254 nested objects in a chain": chain(254, lambda next: {**OBJECT, "properties": {"a": next}, "required": ["a"]}),
        "274 choices in a chain": chain(274, lambda next: {"anyOf": [next, {"type": "integer"}]}),
        "664 references in a chain": chain(664, lambda next: next),
        "a constant of 10,000 keys": keys(10_000),
        "500 object types": data_model(500),
        "300 object types": data_model(300),
        "a constant of 60,000 keys": keys(60_000),
    }
    for name, schema in found.items():
        outputs = {"structured_outputs": {"json": schema}}
        expect(f"{name}", server.chat("a", **outputs), [200, 400], "structured_outputs")
        shape = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}
        expect(f"{name}, by response_format", server.chat("a", **shape), [200, 400], "response_format")
        expect(f"{name}, in a search", server.chat("a", search_budget=2, **shape), [200, 400], "response_format")


def expressions(server):
    """Rules whose expressions were compiled before admission."""
    for count in (200, 400, 1_000, 60_000):
        words = [f"\\w{{80}}x{index}" for index in range(count)]
        for budget in (0, 2):
            checks = [{"id": "keywords:existence", "kwargs": {"keywords": words}}]
            answer = server.chat("a", search_budget=budget, search={"checks": checks})
            expect(f"{count} expressions with budget {budget}", answer, [400], "search.checks", 2)


def bodies(server):
    """Bodies of 4 MB of an ignored field, more of them than run."""
    body = b'{"messages":[{"role":"user","content":"a"}],"max_tokens":200,"metadata":['
    body += b",".join([b'{"a":0}'] * ((4 << 20) // 8 - 20)) + b"]}"
    before = server.memory()
    answers = together(16, lambda _: server.post("/v1/chat/completions", body))
    REPORT.check({answer.status for answer in answers} <= {200, 429}, f"16 bodies of {len(body):,} bytes: {say(answers[0])}")
    grown = server.memory("VmHWM") - before
    REPORT.check(grown < 400, f"16 bodies took {grown:.0f} MB at most")


def grammars(server):
    """Grammars whose compiled form is far larger than their text."""
    separator = {"type": "array", "items": {"type": "integer"}, "x-guidance": {"item_separator": "a?" * 3_000}}
    for index in range(8):
        schema = {**separator, "x-guidance": {"item_separator": "a?" * (3_000 + index)}}
        expect(f"a separator of {3_000 + index} options", server.chat("a", n=16, structured_outputs={"json": schema}), [200, 400])
    enum = {"enum": [f"value number {index}" for index in range(30_000)]}
    expect("a list of 30,000 texts", server.chat("a", n=16, structured_outputs={"json": enum}), [200, 400, 503])
    dates = {**OBJECT, "properties": {f"day{index}": {"type": "string", "format": "date"} for index in range(40)}}
    expect("40 dates", server.chat("a", n=16, structured_outputs={"json": dates}), [200, 400, 503])
    held = server.metric("spar_grammar_bytes")
    REPORT.check(held <= 256 << 20, f"compiled grammars take {held / 1e6:.0f} MB")


def prompts(server):
    """Prompts of 4 MB, which cannot fit."""
    text = "the river " * 400_000
    long = lambda: server.chat(text)
    answers = together(9, lambda index: server.chat("hello") if index == 8 else long())
    for answer in answers[:8]:
        expect("a prompt of 4 MB", answer, [400, 429], "messages", 5)
    expect("a chat beside them", answers[8], [200], seconds=5)
    expect("a completion of 4 MB", server.post("/v1/completions", {"prompt": text}), [400], "prompt", 5)
    together(8, lambda _: expect("tokens of 4 MB", server.post("/tokenize", {"prompt": text}), [200, 400, 413, 429], None, 10))


def numbers(server):
    """Penalties that make scores infinite are no failure of the model."""
    failed = server.metric("spar_engine_errors_total")
    for penalty in (1e-38, 1e-40, 1e-308, 5e-324, 0.0, -1.0, 1e30):
        expect(f"repetition_penalty {penalty}", server.chat("a", repetition_penalty=penalty), [400], "repetition_penalty", 1)
    REPORT.check(server.metric("spar_engine_errors_total") == failed, "no failure of the model was counted")


def words(server):
    """Answers whose words, status or `param` misled."""
    swap = "/admin/generations"
    for name, answer, statuses, says in [
        ("no admin key", server.get(swap, headers={"authorization": ""}), [401], "admin key"),
        ("`bearer` in lower case", server.get(swap, headers={"authorization": "bearer admin"}), [200], ""),
        ("a name that is no UTF-8", server.get("/v1/models/%ff"), [400], "error"),
        ("a path above the documentation", server.get("/docs/.."), [404], "error"),
        ("a schema that cannot be used", server.chat("a", response_format={"type": "json_schema", "json_schema": {
            "name": "a", "schema": {"type": "wizard"}}}), [400], '"param":"response_format"'),
        ("an expression that cannot be used", server.chat("a", structured_outputs={"regex": "("}), [400],
         '"param":"structured_outputs.regex"'),
        ("an empty prompt", server.post("/v1/completions", {"prompt": ""}), [200, 400], ""),
        ("a long prompt", server.post("/v1/completions", {"prompt": "river " * 9_000}), [400], '"param":"prompt"'),
        ("a field that occurs twice", server.post("/v1/chat/completions", b'{"messages":[{"role":"user","content":"a"}],"n":1,"n":2}'),
         [400], "n"),
        ("a rollback to what is not live", server.ask("POST", swap + "/rollback", {"expected_generation": "g-999"}), [404, 409], ""),
        ("the same without its content type", without_type(server, swap + "/rollback", b'{"expected_generation":"g-999"}'), [404, 409, 415], ""),
    ]:
        body = answer.body.decode("utf-8", "replace")
        REPORT.check(answer.status in statuses and says in body, f"{name}: {answer.status} {body[:160]}")
    page = server.get("/").headers
    REPORT.check("frame-ancestors" in page.get("content-security-policy", "") or page.get("x-frame-options") == "DENY",
                 "the playground may not be framed")


def without_type(server, path, body):
    """A POST whose body is not declared."""
    answer = server.ask("POST", path, body, headers={"content-type": ""})
    raw = (f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer admin\r\nconnection: close\r\n"
           f"content-length: {len(body)}\r\n\r\n").encode() + body
    with socket.create_connection((server.host, server.port), 30) as connection:
        connection.sendall(raw)
        whole = b""
        while part := connection.recv(65536):
            whole += part
    answer.status, answer.body = int(whole.split(b" ")[1]), whole.split(b"\r\n\r\n", 1)[1]
    return answer


GROUPS = [schemas, expressions, bodies, grammars, prompts, numbers, words]


def timeouts(binary):
    """Half requests and idle connections, with few descriptors."""
    short = ("--header-timeout", "2s", "--idle-timeout", "2s", "--body-timeout", "2s")
    server = Server(binary, *short)
    server.command = ["bash", "-c", 'ulimit -n 64; exec "$0" "$@"', *server.command]
    with server:
        heads = {
            "nothing": b"", "half a header": b"POST /tokenize HTTP/1.1\r\nhost: lo",
            "half a body": b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{",
            "half an order": b"POST /admin/generations HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer admin\r\n"
                             b"content-type: application/json\r\ncontent-length: 99\r\n\r\n{",
        }
        for name, head in heads.items():
            held = [socket.create_connection((server.host, server.port), 5) for _ in range(100)]
            for connection in held:
                connection.sendall(head)
            answer = server.get("/healthz", timeout=5)
            REPORT.check(answer.status == 200, f"100 connections with {name}, 64 descriptors: /healthz {say(answer)}")
            time.sleep(3.5 + SLOW)
            expect(f"a chat after {name}", server.chat("hello"), [200])
            for connection in held:
                connection.close()


def starts(binary):
    """Settings that opened a server or failed late."""
    def outcome(*flags, seconds=10, **environment):
        command = ["timeout", str(seconds), binary, "--port", "0", *flags]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    for keys in (",", "", " , "):
        status, text = outcome(SPAR_API_KEYS=keys)
        REPORT.check(status == 1, f"SPAR_API_KEYS={keys!r}: {status} {text.strip().splitlines()[-1]}")
    status, text = outcome("--host", "0.0.0.0", seconds=3)
    REPORT.check("everybody who can reach" in text, "an open host without keys is warned of")
    status, text = outcome("--cors-origins", "not a url")
    REPORT.check(status not in (0, 124), f"--cors-origins 'not a url': {status}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        started = time.monotonic()
        done = subprocess.run([binary, "--port", str(taken.getsockname()[1])], capture_output=True, text=True, timeout=30, check=False)
        REPORT.check(done.returncode == 1 and time.monotonic() - started < 2 * SLOW, f"a taken port: {done.stderr.strip()[-120:]}")
    with Server(binary) as server:
        slow = subprocess.Popen(["bash", "-c", "sleep 60"])
        server.process.terminate()
        started = time.monotonic()
        server.process.wait(40)
        slow.kill()
        REPORT.check(time.monotonic() - started < 28, f"SIGTERM without work ends the process in {time.monotonic() - started:.1f} s")


def main():
    """Runs the groups that are named."""
    binary, named = str(Path(sys.argv[1]).resolve()), sys.argv[2:]
    chosen = lambda group: not named or group.__name__ in named
    with Server(binary, model=os.environ.get("SPAR_MODEL")) as server:
        for _ in range(3):
            server.chat("Write about what the river does.", n=16, search_budget=2)
            server.chat("a", structured_outputs={"json": OBJECT})
        for group in filter(chosen, GROUPS):
            before = server.memory()
            with Health(server) as health:
                group(server)
            if server.process.poll() is not None:
                REPORT.check(False, f"{group.__name__}: the server has ended with {server.process.returncode}")
                REPORT.end()
            REPORT.check(health.longest <= SLOW, f"{group.__name__}: /healthz took {health.longest:.2f} s at most")
            grammars_kept = server.metric("spar_grammar_bytes") / 1e6
            after = server.settled(before + KEPT)
            REPORT.check(after <= before + KEPT + grammars_kept, f"{group.__name__}: {before:.0f} MB before, {after:.0f} MB after, "
                         f"of which bounded grammars {grammars_kept:.0f} MB")
            REPORT.check(server.alive(), f"{group.__name__}: the server lives")
            expect(f"{group.__name__}: a chat after it", server.chat("hello"), [200])
    for group in filter(chosen, [timeouts, starts]):
        group(binary)
    if chosen(directories.hostile):
        directories.hostile(binary, REPORT, SLOW)
    REPORT.end()


if __name__ == "__main__":
    main()
