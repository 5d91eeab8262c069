#!/usr/bin/env python3
"""The comparison of bench/peers.sh, which installs the packages and then calls this.

    peers.py SPAR DIR MODEL PROMPTS [--count 30] [--seed 1] [--max-tokens 512] [--n 4] [--temperature 0.7] [--minutes 0] [--methods NAME,…]

A server of the model is started, and each prompt goes through all methods before the next one, so that an interrupted run has compared all
of them on the same prompts. One prompt is asked at a time. Calls and tokens are the differences of the server's own counters, so all that a
method makes the model do is counted, the judging included. Needs Python's standard library only; the packages run in environments of
their own (bench/peers_worker.py), behind a proxy that bounds every reply (bench/peers_proxy.py).
"""

import argparse
import hashlib
import json
import pathlib
import queue
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

from peers_proxy import Proxy
from peers_table import write_table

HERE = pathlib.Path(__file__).resolve().parent
MODEL = "model"
# A method that fails on so many prompts one after the other is given up.
FAILURES = 3


@dataclass
class Method:
    """A line of the table."""

    name: str
    # None: the server itself, asked with `body`.
    package: str | None
    label: str
    body: dict | None = None
    method: str = ""
    # Asked only if --methods names it: it is dear, or made for other tasks.
    extra: bool = False


def methods(n, temperature):
    """All methods, in the order of the table."""
    searched = {"temperature": 0}
    own = lambda name, label, body: Method(name, None, label, body)
    peer = lambda package, method, label, extra=False: Method(f"{package}-{method}", package, label, method=method, extra=extra)
    return [
        own("greedy", "greedy", searched),
        own("sampled", f"one sample, temperature {temperature}", {"temperature": temperature}),
        own("spar-4", "spar, budget 4", searched | {"search_budget": 4}),
        own("spar-8", "spar, budget 8", searched | {"search_budget": 8}),
        own("spar-8-model", "spar, budget 8, without rules", searched | {"search_budget": 8, "search": {"checks": "off"}}),
        own("spar-drafts", "best-of-N by spar's rules at the tokens of budget 8", searched | {"search_budget": 64, "search": {"strategy": "best_of_n"}}),
        peer("optillm", "re2", "optillm, re2"),
        peer("optillm", "cot_reflection", "optillm, cot_reflection", extra=True),
        peer("optillm", "bon", f"optillm, bon of {n}"),
        peer("optillm", "genselect", "optillm, genselect of 4", extra=True),
        peer("optillm", "moa", "optillm, moa (3 candidates)"),
        peer("optillm", "self_consistency", "optillm, self_consistency of 5"),
        peer("optillm", "plansearch", "optillm, plansearch (for programs)", extra=True),
        peer("optillm", "mcts", "optillm, mcts (2 simulations)", extra=True),
        peer("its_hub", "best_of_n", f"its_hub, BestOfN of {n} by LLMJudge"),
        peer("its_hub", "self_consistency", f"its_hub, SelfConsistency of {n}", extra=True),
        peer("llm_verifier", "select", f"LLM-as-a-Verifier, select of {n}"),
        peer("thinkbooster", "offline_bon", f"ThinkBooster, offline best-of-{n} by entropy"),
        peer("thinkbooster", "beam_search", "ThinkBooster, beam search by entropy", extra=True),
    ]


class Failure(Exception):
    """Why a method has no answer to a prompt."""


class Server:
    """The program on a free port, ended with the block."""

    def __init__(self, spar, model, threads, log):
        command = [spar, "--model", model, "--port", "0", "--served-name", MODEL, "--log", "error"]
        command += ["--threads", str(threads)] if threads else []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log.open("a"), text=True)
        self.log, self.url = log, ""

    def __enter__(self):
        for line in self.process.stdout:
            if found := re.match(r"serving .* on (http:\S+)$", line):
                self.url = found[1]
                self.wait(lambda: http(f"{self.url}/readyz", None, 5), 120)
                self.judge_tried(120)
                return self
        raise SystemExit(f"the server did not start; see {self.log}")

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def judge_tried(self, seconds):
        """Waits for the judge's trial at the start, so that its tokens are no method's; without a result it is over after `seconds`."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not re.search(rb"^spar_judge_state\{.*\} 1$", http(f"{self.url}/metrics", None, 10), re.M):
            time.sleep(0.2)

    def wait(self, ready, seconds):
        """Polls until `ready` is true."""
        until = time.monotonic() + seconds
        while True:
            try:
                if ready():
                    return
            except (OSError, Failure):
                pass
            if time.monotonic() > until or self.process.poll() is not None:
                raise SystemExit(f"the server is not ready after {seconds} s, or has ended; see {self.log}")
            time.sleep(0.1)

    def counters(self):
        """What the model has done so far: replies and judgements, tokens of prompts, generated tokens, and requests that run."""
        text = http(f"{self.url}/metrics", None, 10).decode()
        total = lambda name: sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.M))
        names = ("spar_engine_call_duration_seconds_count", "spar_prompt_tokens_total", "spar_generation_tokens_total")
        return [int(total(name)) for name in names], total("spar_requests_running")

    def settled(self, seconds):
        """The counters once nothing runs: what a method was cut off in counts as its work."""
        self.wait(lambda: self.counters()[1] == 0, seconds)
        return self.counters()[0]


def http(url, body, seconds):
    """The body of a reply; an error of the server's is a failure with its words."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=seconds) as reply:
            return reply.read()
    except urllib.error.HTTPError as error:
        raise Failure(f"{error.code}: {error.read().decode(errors='replace')[:300]}") from error


class Worker:
    """A package's method in its environment; restarted after a prompt that took too long."""

    def __init__(self, settings, environment, log):
        self.command = [environment / "bin" / "python", HERE / "peers_worker.py", json.dumps(settings)]
        self.log, self.process, self.said = log, None, queue.Queue()

    def start(self, seconds):
        self.said = said = queue.Queue()
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("a"), text=True, cwd=self.log.parent
        )
        output = self.process.stdout

        def read():
            for line in output:
                said.put(json.loads(line))
            said.put({"error": f"the package's process ended; see {self.log}"})

        threading.Thread(target=read, daemon=True).start()
        self.listen(seconds)

    def listen(self, seconds):
        try:
            said = self.said.get(timeout=seconds)
        except queue.Empty:
            self.stop()
            raise Failure(f"no answer within {seconds} s") from None
        if "error" in said:
            if self.process.poll() is not None:
                self.stop()
            raise Failure(said["error"])
        return said.get("response")

    def ask(self, prompt, seconds):
        self.process.stdin.write(json.dumps({"prompt": prompt}) + "\n")
        self.process.stdin.flush()
        return self.listen(seconds)

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        self.process = None


class Run:
    """Everything that answers prompts."""

    def __init__(self, options, server, proxy):
        self.options, self.server, self.proxy = options, server, proxy
        self.done, self.workers, self.failed_in_a_row, self.given_up = {}, {}, {}, {}

    def path(self, method):
        return self.options.dir / "answers" / f"{method.name}.jsonl"

    def answered(self, method):
        """The lines of a method by the prompt's key. A line that was cut off is dropped."""
        path, kept = self.path(method), {}
        if path.exists():
            for line in path.read_text("utf-8").splitlines():
                try:
                    answer = json.loads(line)
                    kept[answer["key"]] = answer
                except ValueError:
                    continue
            path.write_text("".join(json.dumps(answer) + "\n" for answer in kept.values()), "utf-8")
        return kept

    def own(self, method, row):
        """The server's answer, and why its search stopped."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": row["prompt"]}], "max_tokens": self.options.max_tokens}
        body |= {"seed": self.options.seed} | json.loads(json.dumps(method.body))
        if "search_budget" in body:
            # The proxy bounds what packages ask for; these are the same bounds for what a search asks for.
            most = self.options.max_tokens
            body["search"] = body.get("search", {}) | {"refine_tokens": min(most, 2048), "judge_tokens": min(most, 512)}
        if method.name == "spar-drafts":
            spent = self.done["spar-8"].get(row["key"])
            if not spent:
                raise Failure("spar-8 has no answer to this prompt, so the tokens to spend are not known")
            body["search"]["max_tokens"] = max(spent["generated"], 16)
        reply = json.loads(http(f"{self.server.url}/v1/chat/completions", body, self.options.prompt_seconds))
        return reply["choices"][0]["message"]["content"] or "", (reply.get("search") or {}).get("stop_reason")

    def peer(self, method, row):
        """A package's answer; its process is started for the first prompt."""
        options = self.options
        if method.name not in self.workers:
            settings = {"package": method.package, "method": method.method, "url": self.proxy.url, "model": MODEL}
            settings |= {"max_tokens": options.max_tokens, "n": options.n, "temperature": options.temperature}
            log = options.dir / "logs" / f"{method.name}.log"
            self.workers[method.name] = Worker(settings, options.environments / method.package, log)
        worker = self.workers[method.name]
        if worker.process is None:
            worker.start(180)
        self.proxy.restart_seeds(options.seed * 1_000_000 + int(row["position"]) * 1_000)
        before, started = self.server.settled(60), time.monotonic()
        return worker.ask(row["prompt"], options.prompt_seconds), None, before, started

    def answer(self, method, row):
        """One line of a method's file."""
        line = {"key": row["key"], "prompt": row["prompt"], "response": ""}
        before, started = self.server.settled(60), time.monotonic()
        try:
            if method.package:
                line["response"], line["stop"], before, started = self.peer(method, row)
            else:
                line["response"], line["stop"] = self.own(method, row)
            self.failed_in_a_row[method.name] = 0
        # A failed prompt counts as not followed, with what it cost.
        except (Failure, OSError) as error:
            line["error"] = " ".join(str(error).split())
            self.failed_in_a_row[method.name] = self.failed_in_a_row.get(method.name, 0) + 1
        line["seconds"] = round(time.monotonic() - started, 3)
        after = self.server.settled(self.options.prompt_seconds + 60)
        line["calls"], line["sent"], line["generated"] = (b - a for a, b in zip(before, after))
        return line

    def all(self, chosen, rows):
        """Asks every prompt of every method, as far as the time goes."""
        until = time.monotonic() + self.options.minutes * 60 if self.options.minutes else float("inf")
        try:
            for position, row in enumerate(rows):
                if time.monotonic() > until:
                    print(f"{self.options.minutes} minutes are over after {position} of {len(rows)} prompts; a later run continues")
                    return
                for method in chosen:
                    if row["key"] in self.done[method.name] or method.name in self.given_up:
                        continue
                    line = self.answer(method, row)
                    self.done[method.name][row["key"]] = line
                    with self.path(method).open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
                    print(
                        f"{position + 1}/{len(rows)} {method.name}: {line['calls']} calls, {line['generated']} tokens,"
                        f" {line['seconds']:.1f} s {line.get('error', '')}", flush=True
                    )
                    if self.failed_in_a_row[method.name] >= FAILURES and line.get("error"):
                        self.given_up[method.name] = line["error"]
                        print(f"GIVEN UP: {method.name} failed on {FAILURES} prompts one after the other: {line['error']}")
        finally:
            for worker in self.workers.values():
                worker.stop()


def chosen_prompts(options):
    """A seeded choice in a seeded order, written where `spar verify` finds it."""
    rows = [json.loads(line) for line in options.prompts.read_text("utf-8").splitlines() if line.strip()]
    random.Random(options.seed).shuffle(rows)
    rows = rows[: options.count]
    (options.dir / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return [row | {"position": position} for position, row in enumerate(rows)]


def same_settings(options):
    """Answers of other settings are not mixed with those of this run. `--count` may change: a smaller choice is the beginning of a larger one."""
    digest = hashlib.sha256(options.prompts.read_bytes()).hexdigest()[:16]
    now = {name: getattr(options, name) for name in ("seed", "max_tokens", "n", "temperature", "prompt_seconds")}
    now |= {"model": str(options.model.resolve()), "prompts": digest}
    path = options.dir / "settings.json"
    if path.exists() and (before := json.loads(path.read_text("utf-8"))) != now:
        changed = ", ".join(f"{name} {before.get(name)} → {now[name]}" for name in now if before.get(name) != now[name])
        raise SystemExit(f"{options.dir} has answers of other settings ({changed}); name another folder, or remove it")
    path.write_text(json.dumps(now, indent=1) + "\n", "utf-8")


def versions(options, packages):
    """What is installed of each package, or None."""
    found = {}
    for package in packages:
        place = options.environments / package
        if (place / "complete").exists():
            names = [path.name.removesuffix(".dist-info") for path in place.glob(f"lib/python3*/site-packages/{package}-*.dist-info")]
            found[package] = names[0].replace("-", " ") if names else package
        else:
            found[package] = None
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("spar", "dir", "model", "prompts"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--count", type=int, default=30, help="prompts, drawn by the seed; a later run may ask more")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=512, help="of every reply, whichever method asks for it")
    parser.add_argument("--n", type=int, default=4, help="candidates, where a method takes a number")
    parser.add_argument("--temperature", type=float, default=0.7, help="of candidates, where a method takes one")
    parser.add_argument("--prompt-seconds", type=int, default=180, help="for one prompt by one method")
    parser.add_argument("--threads", type=int, help="of the server; absent: all cores. Fewer are faster where other work takes the rest")
    parser.add_argument("--minutes", type=float, default=0, help="no prompt begins later; 0: no limit")
    parser.add_argument("--list", action="store_true", help="print the names of all methods, the dear ones in brackets, and end")
    parser.add_argument("--methods", default="", help="names, separated by commas; without it, the cheaper ones")
    parser.add_argument("--packages", default="optillm,its_hub,llm_verifier,thinkbooster")
    parser.add_argument("--environments", type=pathlib.Path, default=HERE.parent / "target" / "peers")
    options = parser.parse_args()
    # An end by a signal ends the server and the packages, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.count < 1 or options.n < 2 or options.max_tokens < 16:
        parser.error("--count is at least 1, --n at least 2, --max-tokens at least 16")
    every, packages = methods(options.n, options.temperature), [name for name in options.packages.split(",") if name]
    named = [name for name in options.methods.split(",") if name]
    listed = ", ".join(f"({method.name})" if method.extra else method.name for method in every)
    if options.list:
        return print(listed)
    if unknown := set(named) - {method.name for method in every}:
        parser.error(f"unknown method {', '.join(sorted(unknown))}; there are {listed}")
    installed = versions(options, packages)
    wanted = [method for method in every if (method.name in named if named else not method.extra)]
    chosen = [method for method in wanted if not method.package or installed.get(method.package)]
    for folder in ("answers", "logs"):
        (options.dir / folder).mkdir(parents=True, exist_ok=True)
    options.dir, options.environments = options.dir.resolve(), options.environments.resolve()
    same_settings(options)
    rows = chosen_prompts(options)
    with Server(options.spar, options.model, options.threads, options.dir / "logs" / "server.log") as server:
        proxy = Proxy(server.url, MODEL, options.max_tokens, options.prompt_seconds + 60)
        run = Run(options, server, proxy)
        # What earlier runs asked is in the table, too.
        run.done = {method.name: run.answered(method) for method in every}
        run.all(chosen, rows)
    write_table(options, [method for method in every if run.done[method.name]], run.done, installed, run.given_up)


if __name__ == "__main__":
    sys.exit(main())
