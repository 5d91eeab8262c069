#!/usr/bin/env python3
"""lm-evaluation-harness against the server: its `ifeval` next to `spar verify` on the same replies, and a task of log-likelihoods.

usage: bench/lm_eval.py SPAR MODEL PROMPTS [--count 100] [--max-tokens 512] [--out DIR]

SPAR is the program, MODEL a Hugging Face directory, and PROMPTS a file in IFEval's format. The harness is installed from the package index
into $XDG_CACHE_HOME/spar/lm-eval. It would fetch prompts and sentence data; here both are local: the prompts are PROMPTS, and the sentence
data is that which the package of LlamaIndex has inside. Where a prompt asks to count a letter that is none, such as #, the harness counts a
letter that it draws at random, so such prompts are left out. What is printed: the four scores of both, and the accuracy of the other task.
Exits with 1 where the scores of the two differ.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKAGES = ["lm-eval[api,ifeval]==0.4.13", "transformers", "jinja2"]
# Only for the sentence data inside of it, so without what it needs itself.
SENTENCES = "llama-index-core==0.14.25"
SCORES = ["prompt_level_strict_acc", "prompt_level_loose_acc", "inst_level_strict_acc", "inst_level_loose_acc"]
IFEVAL = """\
task: ifeval_local
dataset_path: json
dataset_kwargs: {{data_files: {{train: {prompts}}}}}
output_type: generate_until
test_split: train
num_fewshot: 0
doc_to_text: prompt
doc_to_target: 0
generation_kwargs: {{until: [], do_sample: false, temperature: 0.0, max_gen_toks: {max_tokens}}}
process_results: !function utils.process_results
metric_list:
  - {{metric: prompt_level_strict_acc, aggregation: mean, higher_is_better: true}}
  - {{metric: inst_level_strict_acc, aggregation: !function utils.agg_inst_level_acc, higher_is_better: true}}
  - {{metric: prompt_level_loose_acc, aggregation: mean, higher_is_better: true}}
  - {{metric: inst_level_loose_acc, aggregation: !function utils.agg_inst_level_acc, higher_is_better: true}}
"""
FACTS = """\
task: facts_local
dataset_path: json
dataset_kwargs: {{data_files: {{train: {facts}}}}}
output_type: multiple_choice
test_split: train
num_fewshot: 0
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
# The right choice is the first.
QUESTIONS = [
    ("The capital of France is", ["Paris", "Rome", "Berlin", "a carrot"]),
    ("Water is made of hydrogen and", ["oxygen", "iron", "gold", "sand"]),
    ("The sun rises in the", ["east", "west", "north", "cellar"]),
    ("Two plus two is", ["four", "five", "nine", "blue"]),
    ("A dog is an", ["animal", "hour", "ocean", "engine"]),
    ("The opposite of hot is", ["cold", "warm", "loud", "green"]),
    ("Bees make", ["honey", "milk", "bread", "glass"]),
    ("A week has seven", ["days", "months", "years", "minutes"]),
    ("Snow is", ["white", "purple", "loud", "square"]),
    ("Shakespeare wrote", ["plays", "operas", "software", "recipes"]),
    ("The Earth goes around the", ["Sun", "Moon", "Mars", "table"]),
    ("Fish live in", ["water", "trees", "clouds", "books"]),
]


def environment():
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "spar" / "lm-eval"
    python, wanted = cache / "bin" / "python", " ".join([*PACKAGES, SENTENCES])
    complete = cache / "complete"
    if not complete.exists() or complete.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", cache], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PACKAGES], check=True)
        subprocess.run([*pip, "--no-deps", SENTENCES], check=True)
        complete.write_text(wanted)
    [sentences] = cache.glob("lib/python3*/site-packages/llama_index/core/_static/nltk_cache")
    return python, sentences


class Server:
    """The program on a free port, ended with the block."""

    def __init__(self, spar, model, work):
        self.log = (work / "server.log").open("w")
        command = [spar, "--model", model, "--port", "0", "--served-name", "model", "--log", "warn"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)

    def __enter__(self):
        for line in self.process.stdout:
            if found := re.match(r"serving .* on (http:\S+)$", line):
                return found[1]
        raise SystemExit(f"the server did not start; see {self.log.name}")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)


def evaluated(python, sentences, work, task, model, arguments, *more):
    """The results of a task, and its samples."""
    out = work / task
    arguments = ",".join(f"{key}={value}" for key, value in arguments.items())
    command = [python, "-m", "lm_eval", "run", "--model", model, "--model_args", arguments, "--tasks", task]
    command += ["--include_path", work, "--output_path", out, "--log_samples", *more]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(work / "datasets"), "NLTK_DATA": str(sentences)}
    run = subprocess.run(command, env={**os.environ, **offline, "OPENAI_API_KEY": "none"}, capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(f"lm_eval failed:\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}")
    [results] = out.rglob("results_*.json")
    [samples] = out.rglob("samples_*.jsonl")
    return json.loads(results.read_text())["results"][task], [json.loads(line) for line in samples.open()]


def drawn_letter(kwargs):
    """A letter of an instruction in place of which the harness draws another."""
    letter = kwargs.get("letter")
    return None if letter is None or re.fullmatch("[A-Za-z]", letter) else letter


def ifeval(options, python, sentences, work, url):
    rows = [json.loads(line) for line in options.prompts.open() if line.strip()]
    chosen = [row for row in rows if all(drawn_letter(kwargs) is None for kwargs in row["kwargs"])][: options.count]
    prompts = work / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(prompt) + "\n" for prompt in chosen))
    (work / "utils.py").write_text("from lm_eval.tasks.ifeval.utils import agg_inst_level_acc, process_results  # noqa: F401\n")
    (work / "ifeval_local.yaml").write_text(IFEVAL.format(prompts=prompts, max_tokens=options.max_tokens))
    arguments = {"model": "model", "base_url": f"{url}/v1/chat/completions", "num_concurrent": 8, "max_retries": 1, "timeout": 600}
    started = time.monotonic()
    results, samples = evaluated(python, sentences, work, "ifeval_local", "local-chat-completions", arguments, "--apply_chat_template")
    took = time.monotonic() - started
    theirs = [results[f"{score},none"] for score in SCORES]
    replies = work / "replies.jsonl"
    said = [{"prompt": sample["doc"]["prompt"], "response": sample["resps"][0][0]} for sample in samples]
    replies.write_text("".join(json.dumps(reply) + "\n" for reply in said))
    command = [options.spar, "verify", "--prompts", prompts, "--responses", replies, "--json"]
    verdicts = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    (work / "verify.json").write_text(json.dumps(verdicts))
    return len(samples), took, theirs, verdicts


def facts(python, sentences, work, url, model):
    rows = work / "facts.jsonl"
    rows.write_text("".join(json.dumps({"question": q, "choices": c, "answer": 0}) + "\n" for q, c in QUESTIONS))
    (work / "facts_local.yaml").write_text(FACTS.format(facts=rows))
    arguments = {"model": "model", "base_url": f"{url}/v1/completions", "tokenizer_backend": "huggingface", "tokenizer": model}
    arguments |= {"tokenized_requests": True, "max_retries": 1}
    results, samples = evaluated(python, sentences, work, "facts_local", "local-completions", arguments)
    likelihoods = [resp[0][0] for sample in samples for resp in sample["resps"]]
    assert all(math.isfinite(float(one)) and float(one) < 0 for one in likelihoods), likelihoods
    return results["acc,none"], len(likelihoods)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spar", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--out", type=Path, help="where tasks, replies and results are written; absent: a new directory")
    options = parser.parse_args()
    options.model = options.model.resolve()
    python, sentences = environment()
    work = (options.out or Path(tempfile.mkdtemp(prefix="lm-eval-"))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    print(f"everything is written to {work}")
    with Server(options.spar, options.model, work) as url:
        accuracy, count = facts(python, sentences, work, url, options.model)
        print(f"facts: accuracy {accuracy:.3f} on {len(QUESTIONS)} questions, {count} log-likelihoods", flush=True)
        count, took, theirs, verdicts = ifeval(options, python, sentences, work, url)
    ours = [verdicts[name] for name in ("prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose")]
    print(f"ifeval: {count} prompts in {took:.0f} s")
    for name, harness, spar in zip(SCORES, theirs, ours):
        print(f"{name:<24} lm-eval {harness:.6f}  spar verify {spar:.6f}")
    if any(abs(harness - spar) > 1e-9 for harness, spar in zip(theirs, ours)):
        raise SystemExit("the scores differ")


if __name__ == "__main__":
    main()
