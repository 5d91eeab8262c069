#!/usr/bin/env python3
"""Runs the commands that the pages show, so that they cannot go stale.

    scripts/docs_commands.py [PAGE...]      # all of README.md, CONTRIBUTING.md, docs/*.md and bench/*.md if none is named
    SPAR=target/release/spar SPAR_TRAIN=target/release/spar-train scripts/docs_commands.py docs/api.md

Every line of a fenced `sh` block is a command:

- curl to port 8080 runs against a server of the embedded model that is started for the page, and must succeed;
- `cargo run` runs the binaries of the last build in a dry form: all its flags with `--help` behind them, and its features must exist;
- other cargo commands: their features, profiles and targets must exist;
- scripts must exist, be executable and have no syntax error.

Blocks of `json` and `python` must be valid. What differs is said by an HTML comment in the line before a block:

    <!-- commands: run prompts checks -->     cargo commands with one of these words, and scripts of that name, run in full
    <!-- commands: not run, WHY -->           no command of the block is tried

Everything runs in a temporary folder with links to this repository. Needs curl and Python's standard library only.
"""

import ast
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
BINARIES = {
    "spar": Path(os.environ.get("SPAR", TARGET / "spar")).resolve(),
    "spar-training": Path(os.environ.get("SPAR_TRAIN", TARGET / "spar-train")).resolve(),
}
MANIFESTS = {"spar": ROOT / "Cargo.toml", "spar-training": ROOT / "training/Cargo.toml"}
LIMIT = 120  # seconds of one command


class Problem(Exception):
    """Why a command does not do what its page promises."""


def blocks(page):
    """Line, language, mark and text of every fenced block."""
    lines, mark = page.read_text("utf-8").split("\n"), ""
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.startswith("```"):
            end = next(index for index in range(number + 1, len(lines)) if lines[index].startswith("```"))
            yield number + 2, line[3:].strip(), mark, "\n".join(lines[number + 1 : end])
            number = end
        if line.strip():
            said = re.fullmatch(r"<!-- commands: (.*) -->", line.strip())
            mark = said.group(1) if said else ""
        number += 1


def commands(start, text):
    """Line and text of every command of a block; a backslash continues a line."""
    number, whole = start, ""
    for offset, line in enumerate(text.split("\n")):
        if not whole:
            number = start + offset
        whole += line
        if whole.endswith("\\"):
            whole = whole[:-1]
            continue
        if whole.strip() and not whole.lstrip().startswith("#"):
            yield number, whole.strip()
        whole = ""


def run(arguments, where, shell=False, **environment):
    """Runs a command to its end and returns its output; an exit status other than 0 is a problem."""
    done = subprocess.run(
        arguments, cwd=where, shell=shell, executable="/bin/bash" if shell else None, timeout=LIMIT, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment},
    )
    if done.returncode != 0:
        raise Problem(f"it ended with {done.returncode}: {done.stdout.strip()[-600:]}")
    return done.stdout


class Server:
    """A server of the embedded model in the scratch folder, started when the first command needs it."""

    def __init__(self, scratch):
        self.scratch, self.process, self.url = scratch, None, ""

    def start(self):
        """The server's URL."""
        if self.process:
            return self.url
        flags = ["--port", "0", "--log", "error", "--weights-root", "runs", "--swap-dir", "swaps"]
        self.process = subprocess.Popen(
            [BINARIES["spar"], *flags], cwd=self.scratch, text=True, stdout=subprocess.PIPE,
            env={**os.environ, "SPAR_ADMIN_KEY": "secret"},
        )
        for line in self.process.stdout:
            if address := re.match(r"serving \S+ on (http://\S+)", line):
                self.url = address.group(1)
                break
        else:
            raise Problem("the server did not start")
        deadline = time.monotonic() + LIMIT
        while subprocess.run(["curl", "-sf", "-o", "/dev/null", f"{self.url}/readyz"], check=False).returncode:
            if time.monotonic() > deadline:
                raise Problem("the server is not ready in time")
            time.sleep(0.05)
        return self.url

    def stop(self):
        """Ends the server."""
        if self.process:
            self.process.kill()
            self.process.wait()


def adapter(folder):
    """A LoRA adapter of the embedded actor that changes nothing, as PEFT writes it."""
    folder.mkdir(parents=True)
    model = json.loads((ROOT / "assets/spar-tiny/actor/config.json").read_text("utf-8"))
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings), "utf-8")
    # The query heads of the embedded actor are together as wide as its stream.
    width, header, end = model["hidden_size"], {}, 0
    for layer in range(model["num_hidden_layers"]):
        for factor, shape in (("A", [1, width]), ("B", [width, 1])):
            name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{factor}.weight"
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 4 * width]}
            end += 4 * width
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def scratch_folder(scratch):
    """What commands find in the folder in which they run."""
    for name in ("assets", "bench", "benches", "dashboards", "deploy", "dist", "fuzz", "prompts", "scripts", "training", ".ci", "Cargo.toml"):
        (scratch / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", scratch / "docs")
    shutil.copytree(ROOT / "assets/spar-tiny", scratch / "runs/spar-tiny")
    adapter(scratch / "runs/my-lora")
    few = (ROOT / "assets/spar-tiny/held-out.jsonl").read_text("utf-8").split("\n")[:20]
    (scratch / "held-out.jsonl").write_text("\n".join(few) + "\n", "utf-8")


def curl(command, server):
    """A request to the page's server; a stream must end as it should."""
    url = server.start()
    command = re.sub(r"(?:http://)?(?:127\.0\.0\.1|localhost):8080", url, command)
    output = run(re.sub(r"^curl ", "curl -sS --fail-with-body --max-time 60 ", command), server.scratch, shell=True)
    if '"stream": true' in command:
        if not output.rstrip().endswith("data: [DONE]"):
            raise Problem(f"the stream does not end with [DONE]: {output[-300:]}")
    elif not output.startswith("Success: "):
        # vLLM's routes for adapters answer in these words, all others in JSON.
        json.loads(output)


def check_features(package, names):
    """Every feature must be one of the package, or of the one that it names."""
    for name in filter(None, names.replace(",", " ").split()):
        owner, _, feature = name.rpartition("/")
        manifest = tomllib.loads(MANIFESTS[owner or package].read_text("utf-8"))
        if feature not in manifest["features"]:
            raise Problem(f"there is no feature {name}")


def cargo(words, mark, server):
    """`cargo run` in a dry form or in full; of other commands, what they name."""
    words, behind = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    options = {words[index]: words[index + 1] for index in range(len(words) - 1) if words[index].startswith("-")}
    package = options.get("-p", "spar")
    if package not in MANIFESTS:
        raise Problem(f"there is no package {package}")
    check_features(package, options.get("--features", ""))
    manifest = tomllib.loads(MANIFESTS[package].read_text("utf-8"))
    for option, kinds in (("--test", "test"), ("--bench", "bench"), ("--bin", "bin")):
        named = [target["name"] for target in manifest.get(kinds, [])]
        if option in options and options[option] not in [*named, *[path.stem for path in (ROOT / "tests").glob("*.rs")]]:
            raise Problem(f"there is no {kinds} {options[option]}")
    if "--profile" in options and options["--profile"] not in manifest["profile"]:
        raise Problem(f"there is no profile {options['--profile']}")
    if words[1] != "run":
        return "dry"
    arguments = [BINARIES[package], *behind]
    full = mark.startswith("run ") and set(mark.split()[1:]) & set(behind)
    if full and behind[0] == "swap":
        arguments += ["--url", server.start()]
    elif not full:
        arguments += ["--help"]
    run(arguments, server.scratch)
    return "ran" if full else "dry"


def script(words, mark, server):
    """A script of the repository: runs where it is named in the mark, and is parsed otherwise."""
    path = server.scratch / words[1 if words[0] == "python3" else 0]
    if not path.exists():
        raise Problem(f"there is no {path.relative_to(server.scratch)}")
    if words[0] != "python3" and not os.access(path, os.X_OK):
        raise Problem(f"{path.relative_to(server.scratch)} is not executable")
    if mark.startswith("run ") and path.name in mark.split():
        command = " ".join(word if word in (">", "|") else shlex.quote(word) for word in words)
        if ":8080" in command:
            command = command.replace("http://127.0.0.1:8080", server.start())
        run(command, server.scratch, shell=True)
        return "ran"
    if path.suffix == ".py":
        ast.parse(path.read_text("utf-8"))
    else:
        run(["bash", "-n", path], server.scratch)
    return "dry"


def attempt(command, mark, server):
    """Tries one command and says how."""
    if mark.startswith("not run"):
        return "not run"
    if command.startswith("curl "):
        curl(command, server)
        return "ran"
    words = shlex.split(command, comments=True)
    environment = {}
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    kept = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        return cargo(words, mark, server) if words[0] == "cargo" else script(words, mark, server)
    finally:
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def try_page(page):
    """Problems of a page, and how often each form was tried."""
    problems, forms = [], {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        scratch_folder(scratch)
        server = Server(scratch)
        try:
            for start, language, mark, text in blocks(page):
                tries = {"sh": commands(start, text), "json": [(start, text)], "python": [(start, text)]}.get(language, [])
                for number, command in tries:
                    try:
                        if language == "sh":
                            form = attempt(command, mark, server)
                        else:
                            json.loads(command) if language == "json" else ast.parse(command)
                            form = "parsed"
                        forms[form] = forms.get(form, 0) + 1
                    except (Problem, ValueError, SyntaxError, OSError, subprocess.TimeoutExpired) as error:
                        problems.append(f"{page.relative_to(ROOT)}:{number}: {command.splitlines()[0][:100]}\n    {error}")
        finally:
            server.stop()
    return problems, forms


def main(names):
    """Tries the named pages, or all."""
    for binary in BINARIES.values():
        if not binary.exists():
            sys.exit(f"{binary} is missing: cargo build --release --workspace, or name it by SPAR and SPAR_TRAIN")
    every = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("bench/*.md"))]
    failed = False
    for page in [Path(name).resolve() for name in names] or every:
        problems, forms = try_page(page)
        print(f"{page.relative_to(ROOT)}: {', '.join(f'{count} {form}' for form, count in forms.items()) or 'no commands'}")
        print("".join(f"{problem}\n" for problem in problems), end="", flush=True)
        failed |= bool(problems)
    sys.exit(failed)


if __name__ == "__main__":
    main(sys.argv[1:])
