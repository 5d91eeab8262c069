#!/usr/bin/env python3
"""Training speed against PyTorch eager: same weights, same batch, AdamW, two threads, rounds in turn.

    python3 training/benches/vs_pytorch.py [--rounds 7] [--steps 4] [--layers 4] [--batches mixed equal] [--profile]

PyTorch runs transformers' Llama with its fused attention and fused AdamW. Two batches: sequences of one length, and of
60 to 350 tokens; the latter go to PyTorch sorted, in groups padded to their longest, with the group size that is
fastest there. Only real tokens are counted. Prints medians, ratios and where our time goes (--profile needs `perf`).
Tokens per second of processor time are printed beside the wall clock's: on a busy machine they are what is left to compare.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))
import python_environment

python_environment.enter(["torch", "transformers"])

import torch
import transformers

transformers.utils.logging.disable_progress_bar()

THREADS = 2


def make_model(layers):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=1024, hidden_size=192, intermediate_size=512, num_hidden_layers=layers, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=512, tie_word_embeddings=True, attn_implementation="sdpa",
    )
    return transformers.LlamaForCausalLM(config)


def save(model, path):
    model.save_pretrained(path)
    saved = json.loads((path / "config.json").read_text())
    rope = saved.pop("rope_parameters", None) or {}
    saved.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
    (path / "config.json").write_text(json.dumps(saved))


def make_batch(kind):
    generator = torch.Generator().manual_seed(1)
    lengths = [257] * 32 if kind == "equal" else torch.randint(60, 351, (40,), generator=generator).tolist()
    return [torch.randint(0, 1024, (length,), generator=generator).tolist() for length in lengths]


class PyTorch:
    def __init__(self, model, batch, group, threads=THREADS, bf16=False):
        self.model, self.threads, self.bf16 = model, threads, bf16
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, betas=(0.9, 0.999), fused=True)
        batch = sorted(batch, key=len)
        self.tokens = sum(len(tokens) - 1 for tokens in batch)
        self.groups = [self.padded(batch[i : i + group]) for i in range(0, len(batch), group)]

    @staticmethod
    def padded(batch):
        # Padding is at the end, so causal attention needs no mask; its targets are ignored.
        longest = max(map(len, batch))
        inputs = torch.zeros(len(batch), longest - 1, dtype=torch.long)
        targets = torch.full((len(batch), longest - 1), -100)
        for row, tokens in enumerate(batch):
            inputs[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
            targets[row, : len(tokens) - 1] = torch.tensor(tokens[1:])
        return inputs, targets

    def run(self, steps):
        torch.set_num_threads(self.threads)
        started, used, first = time.perf_counter(), time.process_time(), None
        for _ in range(steps):
            total = 0.0
            for inputs, targets in self.groups:
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                    logits = self.model(inputs, use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")
                loss = loss / self.tokens
                loss.backward()
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            first = total if first is None else first
        seconds, used = time.perf_counter() - started, time.process_time() - used
        return {"tokens": steps * self.tokens, "seconds": seconds, "processor_s": used, "loss": first}


class Ours:
    def __init__(self, program, path, batch_path, arithmetic, rule="adamw"):
        arguments = [program, path, batch_path, arithmetic, rule, str(THREADS)]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, steps):
        used = self.processor_s()
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        result = json.loads(self.process.stdout.readline())
        return result | {"processor_s": self.processor_s() - used}

    def processor_s(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def fastest_group(path, batch):
    """By processor time on one thread, which other programs disturb least."""

    def cost(group):
        model = transformers.LlamaForCausalLM.from_pretrained(path, attn_implementation="sdpa")
        contender = PyTorch(model, batch, group, threads=1)
        return min(contender.run(1)["processor_s"] for _ in range(2))

    return min([4, 8, 16, len(batch)], key=cost)


def compare(kind, path, directory, program, options):
    batch = make_batch(kind)
    batch_path = directory / f"{kind}.json"
    batch_path.write_text(json.dumps(batch))
    group = fastest_group(path, batch)
    load = lambda: transformers.LlamaForCausalLM.from_pretrained(path, attn_implementation="sdpa")
    contenders = {
        "PyTorch f32": PyTorch(load(), batch, group),
        "PyTorch f32, 1 thread": PyTorch(load(), batch, group, threads=1),
        "PyTorch bf16 autocast": PyTorch(load(), batch, group, bf16=True),
        "ours f32": Ours(program, path, batch_path, "f32"),
        "ours bf16": Ours(program, path, batch_path, "bf16"),
        "ours bf16, Muon": Ours(program, path, batch_path, "bf16", "muon"),
    }
    first = {name: contender.run(1)["loss"] for name, contender in contenders.items()}
    assert abs(first["ours f32"] - first["PyTorch f32"]) < 1e-4, f"not the same model: {first}"
    rounds = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, contender in contenders.items():
            rounds[name].append(contender.run(options.steps))
    print(f"\n{kind} lengths, {sum(len(t) - 1 for t in batch)} tokens a step; PyTorch in groups of {group}")
    print(f"{'':24} {'tokens/s':>9} {'lowest':>9} {'highest':>9} {'ratio':>7} {'per processor s':>16}")
    base = [result["tokens"] / result["seconds"] for result in rounds["PyTorch f32"]]
    for name, results in rounds.items():
        rates = [result["tokens"] / result["seconds"] for result in results]
        ratio = statistics.median(rate / other for rate, other in zip(rates, base))
        busy = statistics.median(result["tokens"] / result["processor_s"] for result in results)
        print(f"{name:24} {statistics.median(rates):9.0f} {min(rates):9.0f} {max(rates):9.0f} {ratio:7.2f} {busy:16.0f}")
    for name in ["ours f32", "ours bf16", "ours bf16, Muon"]:
        share = statistics.median(result["gradient_s"] / result["seconds"] for result in rounds[name])
        print(f"{name}: {share:.0%} of the time in gradients, the rest in the update")
    for contender in contenders.values():
        if isinstance(contender, Ours):
            contender.close()


def profile(path, batch_path, program, arithmetic):
    """Shares of our time by function, from samples of the processor's clock."""
    with tempfile.NamedTemporaryFile(suffix=".data") as data:
        command = ["perf", "record", "-q", "-e", "cpu-clock", "-o", data.name, program, path, batch_path, arithmetic]
        subprocess.run(command, input="30\n", text=True, check=True, capture_output=True)
        report = ["perf", "report", "-i", data.name, "--stdio", "-g", "none", "-F", "overhead,sym", "--percent-limit", "1"]
        text = subprocess.run(report, check=True, capture_output=True, text=True).stdout
    print(f"\nwhere our time goes, {arithmetic}")
    print("\n".join(line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("#")))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batches", nargs="+", default=["mixed", "equal"], choices=["mixed", "equal"])
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    program = python_environment.example("speed")
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        model = make_model(options.layers)
        save(model, directory / "model")
        print(f"{sum(p.numel() for p in model.parameters())} parameters, torch {torch.__version__}, {THREADS} threads")
        for kind in options.batches:
            compare(kind, directory / "model", directory, program, options)
        if options.profile:
            for arithmetic in ["f32", "bf16"]:
                profile(directory / "model", directory / f"{kind}.json", program, arithmetic)


main()
