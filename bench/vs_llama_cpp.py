#!/usr/bin/env python3
"""Tokens per second of llama.cpp on the random Llamas that the native engine is measured on.

    python3 bench/vs_llama_cpp.py [--sizes "100 M" "1 B"] [--types bf16 q8_0] [--batches 1 8 32] [--threads 2] [--rounds 3]
        [--turns 1] [--native TEST_BINARY]

Prints rows of the table in bench/native_engine.md: greedy replies after prompts of 30 tokens, median of all rounds [least, most].
llama-cpp-python is built from source at the first run. Weights repeat one small random table, since only speed is asked.
With the path of spar's library tests (`cargo test --release -p spar --lib --no-run` says it) the native engine takes turns with it, and the
ratio of the medians of each turn is printed too.
"""

import argparse
import ctypes
import multiprocessing
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "training" / "tests"))
import python_environment

python_environment.enter(["llama-cpp-python", "gguf", "numpy"])

import gguf
import llama_cpp
import numpy

# Width, feed-forward width, layers, heads, key heads, tokens per reply.
SIZES = {"100 M": (768, 2048, 12, 12, 4, 64), "1 B": (2048, 5632, 22, 32, 4, 24)}
TYPES = {"bf16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
VOCABULARY, HEAD, PROMPT = 32_000, 64, 30


def write(path, shape, kind):
    """Writes a model, and returns the bytes that are read for every token and the number of parameters."""
    hidden, inner, layers, heads, key_heads, _ = shape
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_block_count(layers)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    table = numpy.random.default_rng(7).uniform(-1, 1, 1 << 16).astype(numpy.float32)
    total = [0, 0]

    def matrix(name, rows, columns):
        packed = gguf.quants.quantize((table / columns**0.5).reshape(-1, 32), TYPES[kind]).reshape(-1).view(numpy.uint8)
        size = rows * columns // 32 * (len(packed) // (len(table) // 32))
        data = numpy.resize(packed, size).reshape(rows, -1)
        writer.add_tensor(name, data, raw_dtype=TYPES[kind])
        total[0] += size
        total[1] += rows * columns

    def norm(name):
        writer.add_tensor(name, numpy.ones(hidden, numpy.float32))

    # The output matrix is the embedding.
    matrix("token_embd.weight", VOCABULARY, hidden)
    norm("output_norm.weight")
    for layer in range(layers):
        norm(f"blk.{layer}.attn_norm.weight")
        matrix(f"blk.{layer}.attn_q.weight", heads * HEAD, hidden)
        matrix(f"blk.{layer}.attn_k.weight", key_heads * HEAD, hidden)
        matrix(f"blk.{layer}.attn_v.weight", key_heads * HEAD, hidden)
        matrix(f"blk.{layer}.attn_output.weight", hidden, heads * HEAD)
        norm(f"blk.{layer}.ffn_norm.weight")
        matrix(f"blk.{layer}.ffn_gate.weight", inner, hidden)
        matrix(f"blk.{layer}.ffn_up.weight", inner, hidden)
        matrix(f"blk.{layer}.ffn_down.weight", hidden, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return total


def kilobytes(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


class Batch:
    """Replies that run side by side in one context."""

    def __init__(self, context, replies):
        self.context, self.replies = context, replies
        self.batch = llama_cpp.llama_batch_init(max(replies, PROMPT), 0, 1)
        self.last = []
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        for reply in range(replies):
            prompt = [(7 * reply + 13 * i) % VOCABULARY for i in range(PROMPT)]
            self.compute([(token, at, reply, at + 1 == PROMPT) for at, token in enumerate(prompt)])
            self.last.append(self.likeliest(PROMPT - 1))
        self.position = PROMPT

    def compute(self, rows):
        self.batch.n_tokens = len(rows)
        for i, (token, position, reply, wanted) in enumerate(rows):
            self.batch.token[i], self.batch.pos[i], self.batch.logits[i] = token, position, wanted
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, reply
        if llama_cpp.llama_decode(self.context, self.batch):
            raise RuntimeError("llama_decode failed")

    def likeliest(self, row):
        logits = llama_cpp.llama_get_logits_ith(self.context, row)
        return int(numpy.ctypeslib.as_array(logits, (VOCABULARY,)).argmax())

    def step(self):
        self.compute([(token, self.position, reply, True) for reply, token in enumerate(self.last)])
        self.last = [self.likeliest(row) for row in range(self.replies)]
        self.position += 1

    def speed(self, tokens):
        begun = time.perf_counter()
        for _ in range(tokens):
            self.step()
        speed = tokens * self.replies / (time.perf_counter() - begun)
        llama_cpp.llama_batch_free(self.batch)
        return speed


def measure(size, kind, args, told):
    """Tells the bytes read for every token, the number of parameters, peak memory in MB, and speeds by batch."""
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "model.gguf"
        # The weights are made elsewhere, so that the peak is the engine's own.
        with multiprocessing.Pool(1) as pool:
            read, parameters = pool.apply(write, (path, SIZES[size], kind))
        before = kilobytes("VmRSS")
        # Silent: the log tells of every tensor.
        quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_seq_max = 32 * 128, 512, 32
        params.n_threads = params.n_threads_batch = args.threads
        context = llama_cpp.llama_init_from_model(model, params)
        speeds = {batch: [] for batch in args.batches}
        for _ in range(args.rounds):
            for replies, found in speeds.items():
                found.append(Batch(context, replies).speed(SIZES[size][-1]))
        told.put((read, parameters, (kilobytes("VmHWM") - before) / 1e3, speeds))


def of_llama_cpp(size, kind, args):
    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    process = context.Process(target=measure, args=(size, kind, args, told))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)
    return told.get()


def of_native(size, args):
    """Speeds by type and batch."""
    found = {}
    for batch in args.batches:
        env = os.environ | {"SPAR_BENCH_SIZE": size, "SPAR_BENCH_BATCH": str(batch), "SPAR_BENCH_ROUNDS": str(args.rounds)}
        command = [args.native, "native::measures::large", "--ignored", "--nocapture"]
        printed = subprocess.run(command, env=env, text=True, check=True, capture_output=True).stdout
        for kind, speed in re.findall(r"round \d+, native, (\w+), batch \d+: ([\d.]+)", printed):
            found.setdefault((kind, batch), []).append(float(speed))
    return found


def shown(numbers, digits=1):
    return f"{statistics.median(numbers):.{digits}f} [{min(numbers):.{digits}f}, {max(numbers):.{digits}f}]"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=TYPES)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--native")
    args = parser.parse_args()
    for size in args.sizes:
        turns = []
        for _ in range(args.turns):
            native = of_native(size, args) if args.native else {}
            turns.append((native, {kind: of_llama_cpp(size, kind, args) for kind in args.types}))
        for kind in args.types:
            read, parameters, _, _ = turns[0][1][kind]
            theirs = {batch: [turn[kind][3][batch] for _, turn in turns] for batch in args.batches}
            peak = max(turn[kind][2] for _, turn in turns)
            cells = [shown(sum(theirs[batch], [])) for batch in args.batches]
            rate = f", {statistics.median(sum(theirs[1], [])) * read / 1e9:.1f} GB/s at batch 1" if 1 in theirs else ""
            name = f"{size} ({parameters / 1e6:.0f} M)"
            print(f"| {name} | llama.cpp, {kind} | {' | '.join(cells)} | {peak:.0f} MB{rate} |", flush=True)
            if args.native:
                own = kind.split("_")[0]
                ours = {batch: [turn[own, batch] for turn, _ in turns] for batch in args.batches}
                cells = [shown(sum(ours[batch], [])) for batch in args.batches]
                print(f"| {name} | native, {own} | {' | '.join(cells)} | |", flush=True)
                ratios = [
                    [statistics.median(a) / statistics.median(b) for a, b in zip(ours[batch], theirs[batch])]
                    for batch in args.batches
                ]
                print(f"| {name} | native / llama.cpp | {' | '.join(shown(r, 2) for r in ratios)} | |", flush=True)


if __name__ == "__main__":
    main()
