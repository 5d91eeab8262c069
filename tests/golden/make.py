#!/usr/bin/env python3
"""Logits of `transformers` on small random models of every family, for the native engine's tests.

    python3 tests/golden/make.py

Installs what it needs into an environment of its own and writes `logits.json` beside itself. Weights are not stored: both
sides draw them from the tensor's name (`spar::testing::TinyModel`), so a case is its config.json, tokens and logits.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "training" / "tests"))
import python_environment

python_environment.enter(["torch", "transformers"])

import numpy
import torch
import transformers

transformers.utils.logging.disable_progress_bar()

MASK = (1 << 64) - 1


def derive_seed(seed, index):
    """`spar::engine::derive_seed`; `index` may be an array."""
    with numpy.errstate(over="ignore"):
        index = numpy.asarray(index, dtype=numpy.uint64)
        z = numpy.uint64(seed & MASK) + (index + numpy.uint64(1)) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        return z ^ (z >> numpy.uint64(31))


def values(name, shape):
    """`TinyModel::values` with its default seed."""
    key = 1
    for byte in name.encode():
        key = int(derive_seed(key, byte))
    count = int(numpy.prod(shape))
    uniform = (derive_seed(key, numpy.arange(count)) >> numpy.uint64(40)).astype(numpy.float32) / numpy.float32(1 << 24)
    uniform -= numpy.float32(0.5)
    if "norm" in name:
        drawn = 1 + numpy.float32(0.4) * uniform
    elif "embed" in name:
        drawn = 2 * uniform
    elif name.endswith("bias"):
        drawn = uniform
    else:
        drawn = numpy.float32(3.46) / numpy.sqrt(numpy.float32(shape[-1])) * uniform
    return torch.from_numpy(drawn.astype(numpy.float32).reshape(shape))


def config(family, **changes):
    classes = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    return {
        "architectures": [classes[family] + "ForCausalLM"], "model_type": family, "hidden_act": "silu",
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 320, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float32",
        "bos_token_id": 0, "eos_token_id": 1, "attention_bias": False, "mlp_bias": False, **changes,
    }


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}

CASES = {
    "llama 2": config("llama", num_key_value_heads=4),
    "llama 3 with scaled rotation": config("llama", rope_theta=500000.0, rope_scaling=LLAMA3),
    "llama with linear rotation": config("llama", rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "llama with biases": config("llama", attention_bias=True, mlp_bias=True),
    "smollm, tied": config("llama", tie_word_embeddings=True, num_attention_heads=3, num_key_value_heads=1, head_dim=16,
                           hidden_size=48, intermediate_size=70),
    "mistral with a sliding window": config("mistral", sliding_window=24),
    "mistral with a whole window": config("mistral", sliding_window=None, rms_norm_eps=1e-6),
    "qwen 2, tied": config("qwen2", tie_word_embeddings=True, rope_theta=1000000.0),
    "qwen 3, heads wider than the model": config("qwen3", head_dim=16, rope_theta=1000000.0),
}
LENGTH = 90
# Positions whose logits are kept: before, at and after the ends of blocks and windows, and the last.
POSITIONS = [0, 23, 40, 89]


def golden(number, config):
    settings = {name: value for name, value in config.items() if name not in ("architectures", "torch_dtype")}
    family = transformers.AutoConfig.for_model(**settings, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(family).eval()
    state = {name: values(name, list(tensor.shape)) for name, tensor in model.state_dict().items()}
    if config["tie_word_embeddings"]:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    tokens = (derive_seed(1000 + number, numpy.arange(LENGTH)) % numpy.uint64(320)).astype(int).tolist()
    with torch.no_grad():
        logits = model.double()(torch.tensor([tokens])).logits[0]
    rows = [[round(float(x), 6) for x in logits[position]] for position in POSITIONS]
    return {"config": config, "tokens": tokens, "positions": POSITIONS, "logits": rows}


out = {"transformers": transformers.__version__}
for number, (name, case) in enumerate(CASES.items()):
    out[name] = golden(number, case)
    largest = max(abs(x) for row in out[name]["logits"] for x in row)
    print(f"{name}: logits up to {largest:.2f}")
(HERE / "logits.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")
