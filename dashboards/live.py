#!/usr/bin/env python3
"""Starts a server and a Prometheus, sends a scripted load, and asks every panel, annotation, variable and alert for data.

    SPAR=target/release/spar dashboards/live.py

The load has plain and streamed requests, searches of several strategies by votes and by scores, two named keys, a request that is refused,
a client that disconnects, a swap that goes live and one that is refused. A panel without data, or with nothing but NaN, is a failure, and so
is an alert whose series do not exist. The alert for refused swaps must fire. Needs prometheus and Python's standard library.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
SPAR = Path(os.environ.get("SPAR", TARGET / "spar")).resolve()
PROMPT = "Write about what the river does. Use at least 12 words. Do not use any commas. Include the word lantern somewhere."
SECONDS = float(os.environ.get("SECONDS_OF_LOAD", "10"))
START = 60  # seconds until the server and Prometheus must answer


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def call(url, body=None, key=None, timeout=60):
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=timeout) as response:
        return response.read()


def until_it_answers(url, process, what):
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"{what} ended with {process.returncode}")
        try:
            return call(url, timeout=2)
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    sys.exit(f"{what} does not answer at {url} within {START} s")


class Load:
    """What clients do, until the time is up."""

    PLAIN = [{}, {"stream": True}, {"max_tokens": 4}, {"n": 2}]
    SEARCHES = [
        {"search_budget": 2, "search": {"judging": "votes", "strategy": "bfs", "checks": "off", "judge_tokens": 64}},
        {"search_budget": 4, "search": {"strategy": "auto"}},
        {"search_budget": 2, "search": {"strategy": "best_of_n", "judge": "model"}},
        {"search_budget": 4, "search": {"strategy": "dfs", "deadline_ms": 1}},
    ]

    def __init__(self, url):
        self.url, self.done, self.failures = url, 0, []

    def chat(self, key, **fields):
        body = {"model": "spar-tiny", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 48, **fields}
        return call(f"{self.url}/v1/chat/completions", body, key)

    def client(self, key, requests, seconds):
        """Sends each of the requests at least once, one after the other, and goes through them again until the time is up."""
        number, end = 0, time.monotonic() + seconds
        while number < len(requests) or time.monotonic() < end:
            try:
                self.chat(key, seed=number, **requests[number % len(requests)])
                self.done += 1
            except (urllib.error.URLError, OSError) as error:
                self.failures.append(f"{requests[number % len(requests)]}: {error}")
            number += 1

    def disconnect(self, key):
        body = {"model": "spar-tiny", "messages": [{"role": "user", "content": PROMPT}], "stream": True, "search_budget": 16,
                "search": {"judging": "votes"}}
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", json.dumps(body).encode(), headers)
        urllib.request.urlopen(request, timeout=10).close()

    def refused(self, key):
        try:
            self.chat(key, n=0)
        except urllib.error.HTTPError as error:
            if error.code == 400:
                return
        self.failures.append("a request with n = 0 was not refused")

    def swap(self, model, accepted):
        body = {"role": "actor", "model_path": model}
        try:
            call(f"{self.url}/admin/generations", body, "admin", timeout=120)
            if not accepted:
                self.failures.append(f"the swap to {model} was not refused")
        except urllib.error.HTTPError as error:
            if accepted:
                self.failures.append(f"the swap to {model}: {error.code} {error.read().decode()}")

    def run(self, seconds):
        clients = [("alpha", self.PLAIN), ("beta", self.SEARCHES)]
        threads = [threading.Thread(target=self.client, args=(*client, seconds)) for client in clients]
        for thread in threads:
            thread.start()
        self.refused("alpha")
        self.disconnect("alpha")
        self.swap("actor", accepted=True)
        self.swap("nowhere", accepted=False)
        for thread in threads:
            thread.join()


class Prometheus:
    """What a dashboard asks."""

    def __init__(self, url):
        self.url = url

    def ask(self, path, **fields):
        return json.loads(call(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(fields)}"))["data"]

    def values(self, query):
        """Values that are numbers, of all series."""
        found = self.ask("query", query=query)["result"]
        return [float(series["value"][1]) for series in found if series["value"][1] != "NaN"]


def until_scraped_twice(prometheus):
    deadline = time.monotonic() + START
    while not any(count >= 2 for count in prometheus.values("count_over_time(up[1m])")):
        if time.monotonic() > deadline:
            sys.exit(f"Prometheus did not scrape the server twice within {START} s")
        time.sleep(0.2)


def filled_in(expr):
    """A query as Grafana would send it, with all instances chosen."""
    return re.sub(r"\$__(rate_interval|range)", "1m", expr).replace("$instance", ".*").replace("$model", ".*")


def selectors(expr):
    """The series that an alert looks at, whatever the values of their labels."""
    for name, labels in re.findall(r"\b((?:spar|process)_\w+|up)(?:\{([^}]*)\})?", expr):
        wanted = ",".join(re.sub(r'(\w+)\s*(?:=~|!~|!=|=)\s*"[^"]*"', r'\1!=""', label) for label in labels.split(",") if label)
        yield f"{name}{{{wanted}}}"


def check(prometheus):
    dashboard = json.loads((HERE / "spar.json").read_text("utf-8"))
    problems, asked = [], 0
    queries = [(f"panel `{panel['title']}`", target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries += [(f"annotation `{each['name']}`", each["expr"]) for each in dashboard["annotations"]["list"]]
    for what, expr in queries:
        # This server is not in front of a fleet; tests/http/metrics.rs looks for the series of one that is.
        if "spar_upstream_" in expr:
            continue
        asked += 1
        if not prometheus.values(filled_in(expr)):
            problems.append(f"{what} has no data: {filled_in(expr)}")
    for each in dashboard["templating"]["list"]:
        if each["type"] != "query":
            continue
        selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", each["definition"]).groups()
        asked += 1
        if not prometheus.ask(f"label/{label}/values", **{"match[]": filled_in(selector)}):
            problems.append(f"variable `{each['name']}` has no values: {each['definition']}")
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"] if rule["type"] == "alerting"]
    for rule in rules:
        for selector in selectors(rule["query"]):
            if selector.startswith("spar_upstream_"):
                continue
            asked += 1
            if not prometheus.values(f"count({selector})"):
                problems.append(f"alert {rule['name']} looks at series that do not exist: {selector}")
        if rule["health"] != "ok":
            problems.append(f"alert {rule['name']}: {rule.get('lastError')}")
    firing = {alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"}
    if "SparSwapFails" not in firing:
        problems.append(f"SparSwapFails does not fire after a refused swap; firing: {sorted(firing)}")
    if "SparDown" in firing:
        problems.append("SparDown fires for a server that answers")
    print(f"{asked} queries of {len(queries)} panels and annotations and {len(rules)} alerts were asked")
    return problems


def main():
    for tool in [shutil.which("prometheus"), SPAR if SPAR.is_file() else None]:
        if not tool:
            sys.exit(f"prometheus and a server are needed: apt-get install prometheus, and SPAR names the binary ({SPAR})")
    started, processes = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="spar-dashboards-") as folder:
        folder = Path(folder)
        port, metrics = free_port(), free_port()
        keys = "".join(f'[[keys]]\nname = "{name}"\nkey = "{name}"\n' for name in ["alpha", "beta"])
        (folder / "keys.toml").write_text(keys, "utf-8")
        shutil.copytree(ROOT / "assets/spar-tiny/actor", folder / "roots/actor")
        scrape = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [str(HERE / "alerts.yml")],
                  "scrape_configs": [{"job_name": "spar", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}]}
        (folder / "prometheus.yml").write_text(json.dumps(scrape), "utf-8")
        environment = {**os.environ, "SPAR_ADMIN_KEY": "admin", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        server = [SPAR, "--port", str(port), "--api-keys-file", folder / "keys.toml", "--weights-root", folder / "roots",
                  "--swap-dir", folder / "swaps", "--log", "warn"]
        store = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                 f"--web.listen-address=127.0.0.1:{metrics}", "--log.level=error"]
        try:
            for command in [server, store]:
                processes.append(subprocess.Popen([str(word) for word in command], env=environment, stdout=subprocess.DEVNULL))
            until_it_answers(f"http://127.0.0.1:{port}/readyz", processes[0], "the server")
            until_it_answers(f"http://127.0.0.1:{metrics}/-/ready", processes[1], "Prometheus")
            # Two scrapes before the load, so that every counter is seen at zero. Prometheus takes seconds to find its targets.
            until_scraped_twice(Prometheus(f"http://127.0.0.1:{metrics}"))
            load = Load(f"http://127.0.0.1:{port}")
            # A series that first appears with its first event has a rate from its second one on.
            load.run(0)
            time.sleep(2)
            load.run(SECONDS)
            time.sleep(2.5)
            problems = load.failures + check(Prometheus(f"http://127.0.0.1:{metrics}"))
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                try:
                    process.wait(timeout=15)
                except subprocess.TimeoutExpired:
                    process.kill()
    print(f"{load.done} requests, {time.monotonic() - started:.0f} s")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
