#!/usr/bin/env python3
"""The whole way on a real model: export, TRL, import and a swap into a running server; TRL's losses against ours at every step.

    python3 training/tests/external_trl.py MODEL      # a model directory, such as SmolLM2 135M's; minutes on two cores

Twenty steps of DPO and of SFT, each with two pairs or replies an update, in f32, without dropout, from the same LoRA adapter and in the same
order: once by `spar-train`, once by TRL from `spar-train export --for trl --initial-adapter`. Losses must be within 1e-3 of each other. Each
result is imported; the actor's is swapped into a server under its admin route, whose answers must name the new generation.

SPAR and SPAR_TRAIN name the binaries (default: those of the last release build), SPAR_VENV the environment with torch, transformers, peft,
trl, datasets and accelerate.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts" / "reliability"))
import python_environment

python_environment.enter(["torch", "transformers", "peft", "trl", "datasets", "accelerate"])

import transformers
from harness import Server

BAR, STEPS, PER_STEP = 1e-3, 20, 2
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", python_environment.ROOT / "target")) / "release"
SPAR = os.environ.get("SPAR", str(TARGET / "spar"))
SPAR_TRAIN = os.environ.get("SPAR_TRAIN", str(TARGET / "spar-train"))
THINGS = ["river", "garden", "teacher", "letter", "boat", "bridge", "market", "forest", "window", "village"]
PLACES = ["morning", "evening", "winter", "summer"]


def lines(name):
    """Pairs or chats of about equal lengths, so that every update holds two."""
    found = []
    for time_of_day in PLACES:
        for thing in THINGS:
            prompt = f"Describe the {thing} in the {time_of_day} in one sentence without commas."
            good = f"The {thing} is quiet in the {time_of_day} and a soft light falls on the old stones."
            bad = f"In the {time_of_day}, the {thing} is loud, busy, and full of people who hurry home."
            found.append({"prompt": prompt, "chosen": good, "rejected": bad} if name == "dpo" else {"prompt": prompt, "completion": good})
    return found


def tokens(tokenizer, name, line):
    """About how many rows a line has in an update: what both replies of a pair share counts once."""
    count = lambda text: len(tokenizer(text)["input_ids"])
    replies = [line["completion"]] if name == "sft" else [line["chosen"], line["rejected"]]
    told = tokenizer.apply_chat_template([{"role": "user", "content": line["prompt"]}], add_generation_prompt=True, tokenize=False)
    return count(told) + sum(count(reply) for reply in replies)


def recipe(folder, name, model, tokenizer):
    data = lines(name)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in data))
    counts = [tokens(tokenizer, name, line) for line in data]
    # Two always fit into an update, three never.
    budget = int(2.5 * sum(counts) / len(counts))
    loss = "[preference]\nsft = 0.1\nbeta = 0.1\n" if name == "dpo" else ""
    rate = 5e-5 if name == "dpo" else 2e-4
    text = f"""base = '{model}'
data = '{folder}/{name}.jsonl'
tokens_per_step = {budget}
epochs = 1.0
{loss}[train]
out_dir = '{folder}/own-{name}'
seed = 7
warmup = 4
checkpoint_every = 0
[train.optimizer]
lr = {rate}
beta2 = 0.999
[train.lora]
rank = 8
alpha = 16.0
"""
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def run(*command, **options):
    started = time.monotonic()
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, timeout=1800, **options)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return time.monotonic() - started


def losses(path):
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    return [step["loss"] for step in steps if "loss" in step]


def compare(folder, name, model, tokenizer):
    """Trains twice, compares every step, and imports TRL's adapter."""
    path, export = recipe(folder, name, model, tokenizer), folder / f"export-{name}"
    own_seconds = run(SPAR_TRAIN, name, "--recipe", path)
    run(SPAR_TRAIN, "export", "--for", "trl", "--recipe", path, "--cards", "0", "--initial-adapter", "--out", export)
    if "Nothing that is known" not in (export / "README.md").read_text():
        raise SystemExit(f"{name}: the export differs from our training:\n{(export / 'README.md').read_text()}")
    trl_seconds = run(export / "run.sh", env={**os.environ, "PYTHON": sys.executable, "HF_HUB_OFFLINE": "1"})
    own, theirs = losses(folder / f"own-{name}" / "metrics.jsonl"), losses(export / "output" / "log.jsonl")
    if len(own) != STEPS or len(theirs) != STEPS:
        raise SystemExit(f"{name}: {len(own)} steps of ours and {len(theirs)} of TRL's, expected {STEPS}")
    print(f"{name}: step, spar-train, TRL, difference")
    for step, (one, other) in enumerate(zip(own, theirs), 1):
        print(f"{step:4} {one:.6f} {other:.6f} {abs(one - other):.1e}")
    worst = max(abs(one - other) for one, other in zip(own, theirs))
    print(f"{name}: at most {worst:.1e} apart; {own_seconds:.0f} s and {trl_seconds:.0f} s")
    run(SPAR_TRAIN, "import", "--export", export, "--from", export / "output")
    return worst, export / "model"


def swap(model, new):
    """Swaps the imported model into a server that serves the base, and back."""
    with Server(SPAR, model=str(model)) as server:
        ask = {"model": "default", "max_tokens": 24, "temperature": 0, "messages": [{"role": "user", "content": lines("sft")[0]["prompt"]}]}
        name = json.loads(server.get("/v1/models").body)["data"][0]["id"]
        before = server.post("/v1/chat/completions", ask | {"model": name})
        shutil.copytree(new, server.path / "weights" / "actor")
        url = f"http://{server.host}:{server.port}"
        environment = {**os.environ, "SPAR_ADMIN_KEY": "admin"}
        run(SPAR_TRAIN, "swap", "--url", url, "--role", "actor", "--model", server.path / "weights" / "actor", env=environment)
        after = server.post("/v1/chat/completions", ask | {"model": name})
        for answer in (before, after):
            if answer.status != 200:
                raise SystemExit(f"the server answered {answer.status}: {answer.body[:500]}")
        generations = [answer.headers.get("x-spar-generation") for answer in (before, after)]
        texts = [answer.json()["choices"][0]["message"]["content"] for answer in (before, after)]
        print(f"swap: {generations[0]} -> {generations[1]}")
        print(f"before: {texts[0]}\nafter:  {texts[1]}")
        if generations[0] == generations[1]:
            raise SystemExit("the generation has not changed")


def main():
    if len(sys.argv) != 2 or not pathlib.Path(sys.argv[1]).is_dir():
        raise SystemExit(__doc__)
    model = pathlib.Path(sys.argv[1]).resolve()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    with tempfile.TemporaryDirectory(prefix="spar-external-") as name:
        folder = pathlib.Path(name)
        sft, _ = compare(folder, "sft", model, tokenizer)
        dpo, new = compare(folder, "dpo", model, tokenizer)
        swap(model, new)
    if max(sft, dpo) > BAR:
        raise SystemExit(f"losses are up to {max(sft, dpo):.1e} apart, allowed are {BAR:.0e}")
    print("export, TRL, import and swap: passed")


if __name__ == "__main__":
    main()
