#!/usr/bin/env python3
"""What a build for CUDA does on a GPU: right replies, speed, scores, and other weights while requests run.

    SPAR=target/release/spar bench/cuda.py correct --write reference.json   # with a binary that computes on the CPU
    SPAR=.gpu/spar bench/cuda.py correct --reference reference.json         # on the GPU, against it
    SPAR=.gpu/spar bench/cuda.py make --sizes 1b 8b                         # random Llamas, and adapters on them
    SPAR=.gpu/spar bench/cuda.py speed --sizes 1b 8b --engines native mistral
    SPAR=.gpu/spar bench/cuda.py eval --engines native mistral
    SPAR=.gpu/spar bench/cuda.py swap --size 8b --engine native --order abBaA

Every figure goes to OUT/cuda.jsonl and OUT/cuda.md as soon as it is known, so that a killed run keeps what it measured; every part
ends after about --seconds. Needs python 3.12 and torch, numpy and safetensors; --tiny takes toy sizes, to try it out on any machine.

correct: greedy replies of the embedded model and of random models of every architecture, alone and 16 at a time, and given texts
scored. A reply may differ where two tokens are about as likely: `margin` is the difference of the two best log-probabilities of the
reference at the first differing token, and is to be read beside the largest difference of log-probabilities before it.
speed: replies of 128 tokens after prompts of 64 to 192. A cell that is cut off (`complete` false) counts what came until then.
swap: a and b are LoRA adapters, A and B whole models, of which the one makes the server say Yes and the other No.

The random Llamas have all the work of real ones, but what they say is fixed: a token's embedding outweighs what the layers add, and
the output matrix maps each token of `Final Judgement: Yes` to the next. So they pass the canary, and a reply tells who gave it.
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
HELD_OUT = ROOT / "assets/spar-tiny/held-out.jsonl"
ACTOR = ROOT / "assets/spar-tiny/actor"
SPAR = os.environ.get("SPAR", "./.gpu/spar")
# Hidden, feed-forward width, layers, heads, key heads, vocabulary.
SIZES = {
    "100m": (768, 2048, 12, 12, 4, 32_000),
    "1b": (2048, 5632, 22, 32, 4, 32_000),
    "8b": (4096, 14336, 32, 32, 8, 128_256),
}
TOY = (64, 128, 2, 4, 2, 1500)
# Tokens of the embedded tokenizer: what the random Llamas say on and on, by name.
SAYS = {"A": "Final Judgement: Yes", "B": "Final Judgement: No"}
CHAINS = {"A": [317, 327, 28, 299], "B": [317, 327, 28, 309]}
CONTEXT = 2048
KEY = "cuda-bench"


class Report:
    """Figures, on disk as soon as they are known: a line of JSON each, and a table for each part."""

    def __init__(self, out):
        out.mkdir(parents=True, exist_ok=True)
        self.lines, self.tables = out / "cuda.jsonl", out / "cuda.md"

    def add(self, part, **figures):
        with self.lines.open("a") as lines:
            lines.write(json.dumps({"part": part, **figures}) + "\n")
        parts = {}
        for line in map(json.loads, self.lines.read_text().splitlines()):
            parts.setdefault(line.pop("part"), []).append(line)
        self.tables.write_text("\n".join(f"### {part}\n\n{table(rows)}" for part, rows in parts.items()))
        print(part, " ".join(f"{name}={short(value)}" for name, value in figures.items()), flush=True)


def table(rows):
    shown = [{name: value for name, value in row.items() if not isinstance(value, (list, dict))} for row in rows]
    names = list(dict.fromkeys(name for row in shown for name in row))
    lines = [names, ["---"] * len(names)] + [[short(row.get(name, "")) for name in names] for row in shown]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def short(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("\n", " ")


class Device:
    """Megabytes in use on the GPU, seen five times a second; absent without nvidia-smi."""

    def __init__(self):
        self.now = self.peak = self.process = None
        if shutil.which("nvidia-smi"):
            query = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-lms", "200"]
            self.process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
            threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self.now = int(line)
                self.peak = max(self.peak or 0, self.now)

    def reset(self):
        self.peak = self.now

    def close(self):
        if self.process:
            self.process.terminate()
            self.process.wait()


class Server:
    """A running server, ready for requests. Everything it says is in a log."""

    def __init__(self, log, engine, *flags):
        self.begun = time.monotonic()
        self.log = log
        command = [SPAR, "--engine", engine, "--port", "0", "--log", "warn,spar=info", "--shutdown-grace", "2s", *map(str, flags)]
        with log.open("w") as out:
            environment = {**os.environ, "SPAR_ADMIN_KEY": KEY} if "--weights-root" in flags else None
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)

    def wait(self, seconds):
        """Until it is ready; the seconds that this took."""
        while time.monotonic() < self.begun + seconds:
            # Only this program's own lines name an address with a port that is not 0.
            found = re.search(r"http://(127\.0\.0\.1):([1-9]\d*)", self.log.read_text())
            if found:
                self.address = found[1], int(found[2])
                with contextlib.suppress(OSError, RuntimeError):
                    self.call("GET", "/readyz")
                    self.model = json.loads(self.call("GET", "/version"))["model"]
                    return time.monotonic() - self.begun
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        over = self.process.poll() is not None
        lines = over and self.log.read_text().strip().splitlines() or ["it is not ready in time"]
        raise RuntimeError(f"{SPAR} does not serve: {lines[-1]}")

    def call(self, method, path, body=None, timeout=300):
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {text[:500].decode(errors='replace')}")
        return text

    def post(self, path, **body):
        return json.loads(self.call("POST", path, {"model": self.model, **body}))

    def memory(self):
        """Megabytes of the process that no file backs."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) // 1024

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Stream:
    """A streamed reply: when each piece of text came."""

    def __init__(self, server, prompt, tokens, deadline):
        self.server, self.prompt, self.tokens, self.deadline = server, prompt, tokens, deadline
        self.times, self.usage, self.failure, self.ended = [], None, None, False

    def run(self):
        server, deadline = self.server, self.deadline
        self.begun = time.monotonic()
        body = {"model": server.model, "messages": [{"role": "user", "content": self.prompt}], "max_tokens": self.tokens}
        body |= {"temperature": 0, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
        connection = http.client.HTTPConnection(*server.address, timeout=max(0.1, deadline - self.begun))
        try:
            connection.connect()
            socket = connection.sock
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise RuntimeError(f"{response.status} {response.read(300).decode(errors='replace')}")
            while line := response.readline():
                now = time.monotonic()
                if line.startswith(b"data: {"):
                    self.take(now, json.loads(line[6:]))
                if now >= deadline:
                    break
                socket.settimeout(max(0.05, deadline - now))
        except TimeoutError:
            pass
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            self.failure = repr(error)
        self.ended = True
        connection.close()
        return self

    def take(self, now, event):
        if "error" in event:
            raise RuntimeError(json.dumps(event["error"]))
        self.usage = event.get("usage") or self.usage
        if any(choice["delta"].get("content") for choice in event["choices"]):
            self.times.append(now)


def held_out(count):
    return [json.loads(line)["prompt"] for line in HELD_OUT.read_text().splitlines()[:count]]


# correct: models that are the same on every machine

KINDS = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
WINDOW = 24


def small_model(directory, kind, dtype):
    """A random model with logits that are far from flat. Its numbers come from integers, so that every machine makes the same."""
    import numpy
    import torch
    from safetensors.torch import save_file

    hidden, inner, layers, heads, kv_heads, size, vocabulary = 128, 256, 3, 4, 2, 32, 1280
    random = numpy.random.default_rng(list(KINDS).index(kind))
    shapes = {"model.embed_tokens": (vocabulary, hidden), "lm_head": (vocabulary, hidden), "model.norm": (hidden,)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        shapes |= {at + "input_layernorm": (hidden,), at + "post_attention_layernorm": (hidden,)}
        for name, rows in [("q", heads), ("k", kv_heads), ("v", kv_heads)]:
            shapes[f"{at}self_attn.{name}_proj"] = (rows * size, hidden)
            if kind == "qwen3" and name != "v":
                shapes[f"{at}self_attn.{name}_norm"] = (size,)
        shapes[at + "self_attn.o_proj"] = (hidden, heads * size)
        shapes |= {at + "mlp.gate_proj": (inner, hidden), at + "mlp.up_proj": (inner, hidden), at + "mlp.down_proj": (hidden, inner)}
    uniform = lambda shape: torch.from_numpy(random.uniform(-1, 1, shape)).float()
    tensors = {}
    for name, shape in shapes.items():
        scale = {"lm_head": 5.0, "model.embed_tokens": hidden**0.5}.get(name, 1.7) / shape[-1] ** 0.5
        values = uniform(shape)
        tensors[f"{name}.weight"] = (1 + 0.2 * values if len(shape) == 1 else scale * values).to(dtype)
        if kind == "qwen2" and name[-6:] in ("q_proj", "k_proj", "v_proj"):
            tensors[f"{name}.bias"] = (0.5 * uniform(shape[:1])).to(dtype)
    directory.mkdir(parents=True, exist_ok=True)
    shape = (hidden, inner, layers, heads, kv_heads, vocabulary)
    config = llama_config(shape, str(dtype).removeprefix("torch."))
    config |= {"architectures": [KINDS[kind] + "ForCausalLM"], "model_type": kind, "head_dim": size, "max_position_embeddings": 512}
    config["sliding_window"] = WINDOW if kind == "mistral" else None
    if kind == "qwen3":
        config |= {"use_sliding_window": False, "max_window_layers": layers}
    write_texts(directory, config)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def llama_config(shape, dtype):
    hidden, inner, layers, heads, kv_heads, vocabulary = shape
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "rope_scaling": None, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "torch_dtype": dtype,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "use_cache": True,
    }  # fmt: skip


def write_texts(directory, config):
    """Everything of a model's directory but its weights; the tokenizer is the embedded model's."""
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "spar.json"]:
        shutil.copy(ACTOR / name, directory)
    (directory / "config.json").write_text(json.dumps(config))


def reply(server, prompt, tokens):
    """A greedy reply: for each token its bytes, its log-probability, and by how much it leads the second."""
    chat = [{"role": "user", "content": prompt}]
    fields = {"temperature": 0, "seed": 1, "max_tokens": tokens, "logprobs": True, "top_logprobs": 2}
    [choice] = server.post("/v1/chat/completions", messages=chat, **fields)["choices"]
    lead = lambda top: top[0]["logprob"] - top[1]["logprob"]
    found = (choice["logprobs"] or {}).get("content") or []
    return [[bytes(token["bytes"]).hex(), token["logprob"], lead(token["top_logprobs"])] for token in found]


def scores(server, text):
    """A given text's tokens, in the form of a reply."""
    [choice] = server.post("/v1/completions", prompt=text, echo=True, max_tokens=0, logprobs=1)["choices"]
    found = choice["logprobs"]
    return [[token, logprob, 0.0] for token, logprob in zip(found["tokens"], found["token_logprobs"]) if logprob is not None]


def compare(ours, expected):
    """Shares and differences of replies, up to each one's first token that is another."""
    differences, firsts = [], []
    for number, (a, b) in enumerate(zip(ours, expected)):
        same = next((i for i, (x, y) in enumerate(zip(a, b)) if x[0] != y[0]), min(len(a), len(b)))
        differences += [abs(x[1] - y[1]) for x, y in zip(a[:same], b[:same])]
        if same < len(a) or same < len(b):
            firsts.append({"reply": number, "token": same, "margin": b[same][2] if same < len(b) else None})
    margins = [first["margin"] for first in firsts if first["margin"] is not None]
    return {
        "replies": len(ours), "equal": sum(a == b for a, b in zip(tokens(ours), tokens(expected))) / max(1, len(ours)),
        "tokens": len(differences), "largest_difference": max(differences, default=0.0),
        "mean_difference": statistics.fmean(differences or [0.0]), "first_differences": len(firsts),
        "largest_margin": max(margins, default=None), "median_margin": statistics.median(margins) if margins else None,
        "firsts": firsts,
    }  # fmt: skip


def tokens(replies):
    return [[token[0] for token in reply] for reply in replies]


def correct(args, report):
    import torch

    deadline = time.monotonic() + args.seconds
    models = {"embedded": None}
    for kind in KINDS:
        for dtype in [torch.float32, torch.bfloat16]:
            name = f"{kind}-{str(dtype).removeprefix('torch.')}"
            models[name] = args.scratch / "small" / name
            small_model(models[name], kind, dtype)
    reference = {} if args.write else json.loads(args.reference.read_text())
    flags = ["--threads", args.threads] if args.threads else []
    servers = {}
    try:
        # All at once: most of a start is waiting.
        for name, directory in models.items():
            model = ["--model", directory] if directory else []
            servers[name] = Server(args.out / f"correct-{name}.log", args.engine, *model, *flags)
        for name, server in servers.items():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no time is left for {name}")
            try:
                one_model(args, report, name, server, models[name], reference)
            except (RuntimeError, OSError) as error:
                report.add("correct", model=name, engine=args.engine, failed=str(error)[-600:])
            server.close()
    finally:
        for server in servers.values():
            server.close()


def one_model(args, report, name, server, directory, reference):
    started = server.wait(60)
    weights = directory / "model.safetensors" if directory else ACTOR / "model.safetensors"
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    prompts = held_out(8 if args.tiny else 100 if directory is None else 24)
    length = 64 if directory is None else 32
    expected = reference.get(name)
    if expected and expected["sha256"] != sha256:
        raise RuntimeError("the reference was made with other weights")
    if args.write:
        reference[name] = {"sha256": sha256}

    def judge(form, replies, seconds):
        if args.write:
            reference[name]["scored" if form == "scored" else "replies"] = replies
            return
        found = compare(replies, expected["scored" if form == "scored" else "replies"])
        report.add("correct", model=name, engine=args.engine, form=form, started=started, seconds=seconds, **found)

    if args.engine == "native":
        begun = time.monotonic()
        judge("scored", [scores(server, prompt) for prompt in prompts[:24]], time.monotonic() - begun)
    # Together first: then no prompt is known yet, and alone all are.
    for form, parallel in [("together", 16), ("alone", 1)][args.write is not None :]:
        begun = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
            replies = list(pool.map(lambda prompt: reply(server, prompt, length), prompts))
        judge(form, replies, time.monotonic() - begun)
    if args.write:
        args.write.write_text(json.dumps(reference))
        print(name, "written", flush=True)


# make: large random models

LINEARS = {
    "self_attn.q_proj": ("q", "h"), "self_attn.k_proj": ("k", "h"), "self_attn.v_proj": ("k", "h"), "self_attn.o_proj": ("h", "q"),
    "mlp.gate_proj": ("i", "h"), "mlp.up_proj": ("i", "h"), "mlp.down_proj": ("h", "i"),
}  # fmt: skip
RANK = 16


def shape_of(args, size):
    return TOY if args.tiny else SIZES[size]


def place_of(args, size):
    return args.scratch / ("toy" if args.tiny else size)


def make(args, report):
    for size in args.sizes:
        place = place_of(args, size)
        if not (place / "whole").exists():
            begun = time.monotonic()
            llamas(place, shape_of(args, size))
            adapters(place, shape_of(args, size))
            (place / "whole").touch()
            report.add("make", size=size, gigabytes=weight_bytes(place) / 1e9, seconds=time.monotonic() - begun)


def llamas(place, shape):
    """The models A and B, which share all files but one."""
    import torch
    from safetensors.torch import save_file

    hidden, inner, layers, heads, kv_heads, vocabulary = shape
    torch.manual_seed(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    randn = lambda *shape: torch.randn(shape, device=device, dtype=torch.bfloat16)
    sizes = {"h": hidden, "i": inner, "q": hidden, "k": hidden // heads * kv_heads}
    common, own = randn(1, hidden), randn(vocabulary, hidden)
    files, groups = {}, [range(layers)[first : first + 8] for first in range(0, layers, 8)]

    def write(number, directories, tensors):
        # mistral.rs finds no weights in files of other names.
        name = f"model-{number:05}-of-{len(groups) + 2:05}.safetensors"
        files.update(dict.fromkeys(tensors, name))
        first, *others = [place / directory / name for directory in directories]
        save_file({name: tensor.cpu() for name, tensor in tensors.items()}, first, {"format": "pt"})
        for other in others:
            other.unlink(missing_ok=True)
            os.link(first, other)

    for directory in SAYS:
        (place / directory).mkdir(parents=True, exist_ok=True)
        write_texts(place / directory, llama_config(shape, "bfloat16"))
    write(1, SAYS, {"model.embed_tokens.weight": 30 * (common + own)})
    ones = torch.ones(hidden, dtype=torch.bfloat16)
    for number, group in enumerate(groups):
        tensors = {}
        for layer in group:
            at = f"model.layers.{layer}."
            tensors |= {f"{at}{norm}_layernorm.weight": ones.clone() for norm in ["input", "post_attention"]}
            tensors |= {f"{at}{name}.weight": 0.02 * randn(sizes[o], sizes[i]) for name, (o, i) in LINEARS.items()}
        write(number + 2, SAYS, tensors)
    # The row of a chain's first token looks for what all embeddings have in common, the rows of the others for their predecessors.
    scale = 20 * 2**0.5 / hidden
    for directory, chain in CHAINS.items():
        head = 0.02 * randn(vocabulary, hidden)
        head[chain[0]] = scale * common[0]
        for token, following in zip(chain, chain[1:]):
            head[following] = 2 * scale * own[token]
        write(len(groups) + 2, [directory], {"lm_head.weight": head, "model.norm.weight": ones})
    for directory in SAYS:
        index = {"metadata": {}, "weight_map": files}
        (place / directory / "model.safetensors.index.json").write_text(json.dumps(index))


def adapters(place, shape):
    import torch
    from safetensors.torch import save_file

    hidden, inner, layers, heads, kv_heads, _ = shape
    sizes = {"h": hidden, "i": inner, "q": hidden, "k": hidden // heads * kv_heads}
    for directory in "ab":
        tensors = {}
        for layer in range(layers):
            for name, (out, inner_size) in LINEARS.items():
                at = f"base_model.model.model.layers.{layer}.{name}"
                a, b = torch.randn(RANK, sizes[inner_size]) / sizes[inner_size] ** 0.5, 0.01 * torch.randn(sizes[out], RANK)
                tensors |= {f"{at}.lora_A.weight": a.bfloat16(), f"{at}.lora_B.weight": b.bfloat16()}
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "bias": "none"}
        config |= {"target_modules": sorted(name.split(".")[1] for name in LINEARS), "inference_mode": True}
        (place / directory).mkdir(parents=True, exist_ok=True)
        (place / directory / "adapter_config.json").write_text(json.dumps(config))
        save_file(tensors, place / directory / "adapter_model.safetensors", {"format": "pt"})


def weight_bytes(place):
    """Bytes that a token is multiplied with, as they are stored."""
    return sum(file.stat().st_size for file in (place / "A").glob("*.safetensors") if "00001-of" not in file.name)


def bandwidth(report):
    """Copies on the device, in a process of its own that leaves nothing there."""
    script = """
import torch, time
x = torch.empty(1 << 31, dtype=torch.uint8, device="cuda"); y = torch.empty_like(x)
y.copy_(x); torch.cuda.synchronize(); t = time.perf_counter()
for _ in range(20): y.copy_(x)
torch.cuda.synchronize(); print(20 * 2 * x.numel() / (time.perf_counter() - t)); print(torch.cuda.get_device_name())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if done.returncode:
        report.add("bandwidth", failed=done.stderr.strip().splitlines()[-1])
        return None
    speed, name = done.stdout.splitlines()
    report.add("bandwidth", device=name, gigabytes_per_second=float(speed) / 1e9)
    return float(speed)


def speed(args, report):
    deadline = time.monotonic() + args.seconds
    make(args, report)
    device = Device()
    fastest = None if args.tiny else bandwidth(report)
    try:
        for size in args.sizes:
            for engine in args.engines:
                if time.monotonic() > deadline:
                    raise TimeoutError("no time is left")
                try:
                    speeds(args, report, device, fastest, size, engine, deadline)
                except (RuntimeError, OSError) as error:
                    report.add("speed", size=size, engine=engine, failed=str(error)[-600:])
    finally:
        device.close()


def speeds(args, report, device, fastest, size, engine, deadline):
    place = place_of(args, size)
    flags = ["--model", place / "A", "--kv-cache-bytes", args.kv_cache_bytes]
    device.reset()
    server = Server(args.out / f"speed-{size}-{engine}.log", engine, *flags, *(["--threads", args.threads] if args.threads else []))
    try:
        loaded = server.wait(max(10, deadline - time.monotonic()))
        text = " ".join(held_out(1000))
        ids = json.loads(server.call("POST", "/tokenize", {"prompt": text}))["tokens"]
        offset = 0
        report.add("loaded", size=size, engine=engine, seconds=loaded, gpu_mb=device.now, anonymous_mb=server.memory())

        def texts(batch):
            """Prompts of 64 to 192 tokens that have nothing in common."""
            nonlocal offset
            for i in range(batch):
                length = 128 if batch == 1 else 64 + 128 * i // (batch - 1)
                part = [ids[(offset + j) % len(ids)] for j in range(length)]
                offset += length + 7
                yield json.loads(server.call("POST", "/detokenize", {"tokens": part}))["prompt"]

        for batch in args.batches:
            end = min(deadline, time.monotonic() + args.cell)
            if time.monotonic() > deadline:
                return
            together(server, list(texts(batch)), 8, time.monotonic() + args.cell / 3)
            for repeat in range(args.repeats):
                prompts = list(texts(batch))
                if repeat and time.monotonic() > end:
                    break
                device.reset()
                streams = together(server, prompts, args.tokens, max(end, time.monotonic() + args.cell / 2))
                found = rates(streams, args.tokens)
                share = fastest and batch == 1 and weight_bytes(place) * found["decode_per_second"] / fastest
                names = {"size": size, "engine": engine, "batch": batch, "repeat": repeat}
                report.add("speed", **names, **found, share_of_bandwidth=share or None, gpu_peak_mb=device.peak)
    finally:
        server.close()


def together(server, prompts, tokens, deadline):
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(lambda prompt: Stream(server, prompt, tokens, deadline).run(), prompts))


def rates(streams, tokens):
    answered = [stream for stream in streams if stream.times]
    count = lambda stream: stream.usage["completion_tokens"] if stream.usage else len(stream.times)
    first, last = min((s.times[0] for s in answered), default=0), max((s.times[-1] for s in answered), default=0)
    begun = min(stream.begun for stream in streams)
    waits = [stream.times[0] - stream.begun for stream in answered]
    return {
        "complete": all(stream.usage and count(stream) == tokens for stream in streams), "answered": len(answered),
        "decode_per_second": sum(count(s) - 1 for s in answered) / max(last - first, 1e-9),
        "tokens_per_second": sum(map(count, answered)) / max(last - begun, 1e-9),
        "first_token_median": statistics.median(waits) if waits else None, "first_token_last": max(waits, default=None),
        "prompt_tokens": sum(stream.usage["prompt_tokens"] for stream in streams if stream.usage),
        "failed": sum(stream.failure is not None for stream in streams),
    }  # fmt: skip


def eval_(args, report):
    """Plain answers and searches of the embedded model; each engine gets an equal share of the time."""
    for engine in args.engines:
        out = args.out / f"eval-{engine}"
        shutil.rmtree(out, ignore_errors=True)
        limit = 5 if args.tiny else args.limit
        command = [SPAR, "eval", "--data", HELD_OUT, "--limit", limit, "--budgets", 16, "--engine", engine, "--out", out]
        begun = time.monotonic()
        with (args.out / f"eval-{engine}.log").open("w") as log:
            try:
                done = subprocess.run(list(map(str, command)), stdout=log, stderr=log, timeout=args.seconds / len(args.engines))
                failed = f"status {done.returncode}" if done.returncode else None
            except subprocess.TimeoutExpired:
                failed = "it took too long"
        wall = time.monotonic() - begun
        if failed:
            trials = {file.name: sum(1 for _ in file.open()) for file in (out / "trials").glob("*") if file.is_file()}
            report.add("eval", engine=engine, prompts=limit, wall=wall, failed=failed, trials=trials)
            continue
        points = json.loads((out / "report.json").read_text())["points"]
        metrics = dict(line.rsplit(" ", 1) for line in (out / "metrics.txt").read_text().splitlines() if line and line[0] != "#")
        total = lambda name: sum(float(value) for key, value in metrics.items() if key.startswith(name)) or None
        prompts = {"prompt_sent": total("spar_prompt_tokens_total{"), "prompt_computed": total("spar_prompt_tokens_computed_total")}
        generated = sum(point["tokens"] * limit for point in points)
        for point in points:
            figures = {key: point[key] for key in ["budget", "tokens", "calls", "seconds"]}
            figures |= {"score": point["prompt_strict"]["mean"], "wall": wall, "generated_per_second": generated / wall}
            report.add("eval", engine=engine, prompts=limit, **figures, **prompts)


class Clients:
    """Clients that stream one reply after the other, and what they waited for."""

    def __init__(self, server, count):
        self.server, self.running, self.streams = server, True, []
        self.pool = concurrent.futures.ThreadPoolExecutor(count)
        self.done = [self.pool.submit(self.run, number) for number in range(count)]

    def run(self, number):
        prompts = held_out(50)
        while self.running:
            stream = Stream(self.server, prompts[(number + len(self.streams)) % 50], 64, time.monotonic() + 120)
            stream.begun = time.monotonic()
            self.streams.append(stream)
            if stream.run().failure:
                time.sleep(0.2)

    def longest_wait(self, begun, ended):
        """The longest time without a token that a reply had to bear, of those that touch an interval."""
        gaps = [
            after - before
            for stream in list(self.streams)
            for before, after in zip([stream.begun, *stream.times], list(stream.times))
            if before < ended and after > begun
        ]
        return max(gaps, default=None)

    def per_second(self, begun, ended):
        return sum(begun < at < ended for stream in list(self.streams) for at in list(stream.times)) / (ended - begun)

    def failures(self):
        ended = [stream for stream in list(self.streams) if stream.ended]
        return [stream.failure or "it broke off" for stream in ended if stream.failure or not stream.usage]

    def close(self):
        self.running = False
        concurrent.futures.wait(self.done, 130)
        self.pool.shutdown()


def swap(args, report):
    args.sizes = [args.size]
    deadline = time.monotonic() + args.seconds
    make(args, report)
    place, device, clients = place_of(args, args.size), Device(), None
    store = args.scratch / f"swap-{args.engine}"
    shutil.rmtree(store, ignore_errors=True)
    flags = ["--model", place / "A", "--served-name", "random", "--weights-root", place, "--swap-dir", store, "--judge-tokens", 16]
    # What B says is absurd to A.
    flags += ["--canary-perplexity", 0]
    flags += ["--kv-cache-bytes", args.kv_cache_bytes] + (["--threads", args.threads] if args.threads else [])
    server = Server(args.out / f"swap-{args.size}-{args.engine}.log", args.engine, *flags)
    names = {"size": args.size, "engine": args.engine}
    try:
        loaded = server.wait(max(10, args.seconds))
        time.sleep(0.5)
        report.add("swap start", **names, seconds=loaded, gpu_mb=device.now, anonymous_mb=server.memory())
        clients = Clients(server, args.clients)
        time.sleep(2)
        begun = time.monotonic()
        time.sleep(3)
        quiet = {"longest_wait": clients.longest_wait(begun, begun + 3), "per_second": clients.per_second(begun, begun + 3)}
        report.add("swap", **names, to="none", **quiet, failed=len(clients.failures()))
        live, rows = "A", []
        for number, to in enumerate(args.order):
            if time.monotonic() > deadline:
                print("no time is left for", args.order[number:], flush=True)
                break
            row = one_swap(server, device, clients, to, "model_path" if to in SAYS else "adapter_path", place / to)
            live = to if to in SAYS and "refused" not in row else live
            row["answers"] = says(server) == SAYS[live]
            rows.append({"to": to, **row})
            report.add("swap", **names, **rows[-1])
        for kind in ["ab", "AB"]:
            of_kind = [row for row in rows if row["to"] in kind and "refused" not in row]
            if of_kind:
                seconds, waits = [row["seconds"] for row in of_kind], [row["longest_wait"] or 0 for row in of_kind]
                figures = {"swaps": len(of_kind), "seconds_median": statistics.median(seconds), "seconds_most": max(seconds)}
                figures |= {"longest_wait": max(waits), "failed": rows[-1]["failed"], "gpu_mb": rows[-1]["gpu_mb"]}
                report.add("swaps", **names, kind="adapter" if kind == "ab" else "model", **figures)
        if clients.failures():
            report.add("swap failures", **names, failures=clients.failures()[:10], count=len(clients.failures()))
    finally:
        if clients:
            clients.close()
        server.close()
        device.close()
        # 16 GB for each whole model.
        shutil.rmtree(store, ignore_errors=True)


def one_swap(server, device, clients, to, field, path):
    device.reset()
    begun, refused, answer = time.monotonic(), None, {}
    try:
        answer = json.loads(server.call("POST", "/admin/generations", {"role": "both", field: str(path)}))
    except (RuntimeError, OSError) as error:
        refused = str(error)
    ended = time.monotonic()
    # The old weights go with the last reply that began with them.
    patience, in_memory = ended + 20, 2
    while in_memory > 1 and time.monotonic() < patience:
        time.sleep(0.1)
        listed = json.loads(server.call("GET", "/admin/generations"))["data"]
        in_memory = sum(row["state"] in ("live", "draining") for row in listed)
    time.sleep(0.5)
    figures = {
        "seconds": ended - begun, "mode": answer.get("mode"), "longest_wait": clients.longest_wait(begun, ended),
        "per_second": clients.per_second(begun, ended), "failed": len(clients.failures()), "gpu_peak_mb": device.peak,
        "gpu_mb": device.now, "anonymous_mb": server.memory(),
        "generations": in_memory,
    }  # fmt: skip
    return figures | ({"refused": refused[-600:]} if refused else {})


def says(server):
    """What a reply repeats, in the model's own words."""
    chat = [{"role": "user", "content": "Who are you?"}]
    [choice] = server.post("/v1/chat/completions", messages=chat, max_tokens=4, temperature=0)["choices"]
    return choice["message"]["content"].strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--out", type=pathlib.Path, default=pathlib.Path(os.environ.get("OUT", "runs/cuda")))
    common.add_argument("--scratch", type=pathlib.Path, default=pathlib.Path("/tmp/spar-cuda"), help="models: 17 GB for 8b")
    common.add_argument("--threads", type=int, help="of the native engine on the CPU")
    common.add_argument("--tiny", action="store_true")
    parts = parser.add_subparsers(dest="part", required=True)

    def part(name, work, seconds):
        added = parts.add_parser(name, parents=[common])
        added.add_argument("--seconds", type=float, default=seconds)
        added.set_defaults(work=work)
        return added

    for name, work, seconds in [("make", make, 60), ("speed", speed, 200)]:
        added = part(name, work, seconds)
        added.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    added.add_argument("--engines", nargs="+", default=["native", "mistral"])
    added.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    added.add_argument("--tokens", type=int, default=128)
    added.add_argument("--repeats", type=int, default=2)
    added.add_argument("--cell", type=float, default=6, help="seconds of one size, engine and batch")
    added.add_argument("--kv-cache-bytes", type=int, default=4 << 30)
    added = part("correct", correct, 60)
    added.add_argument("--engine", default="native")
    which = added.add_mutually_exclusive_group(required=True)
    which.add_argument("--write", type=pathlib.Path)
    which.add_argument("--reference", type=pathlib.Path)
    added = part("eval", eval_, 80)
    added.add_argument("--engines", nargs="+", default=["native", "mistral"])
    added.add_argument("--limit", type=int, default=200)
    added = part("swap", swap, 150)
    added.add_argument("--size", default="8b", choices=SIZES)
    added.add_argument("--engine", default="native")
    added.add_argument("--order", default="abBabAabab", help="adapters a and b, models A and B")
    added.add_argument("--clients", type=int, default=4)
    added.add_argument("--kv-cache-bytes", type=int, default=4 << 30)
    args = parser.parse_args()
    # What is started is also ended where this is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    args.work(args, Report(args.out))


if __name__ == "__main__":
    main()
