#!/usr/bin/env python3
"""What `transformers` computes with small random models of every family, for the native engine's tests.

    python3 tests/golden/make.py
    python3 tests/golden/make.py --all

Installs what it needs into an environment of its own and writes beside itself `configurations.json`, log-probabilities of texts for
what a configuration can ask for, and with `--all` also `logits.json`. Weights are not stored: both sides draw them from the
tensor's name (`spar::testing::TinyModel`), so a case is its config.json, tokens, and what was computed.
"""

import hashlib
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


CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "smollm3": "SmolLM3",
           "phi3": "Phi3", "granite": "Granite", "olmo2": "Olmo2", "gemma2": "Gemma2", "gemma3_text": "Gemma3"}


def config(family, **changes):
    whole = {
        "architectures": [CLASSES[family] + "ForCausalLM"], "model_type": family, "hidden_act": "silu",
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 320, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float32",
        "bos_token_id": 0, "eos_token_id": 1, "attention_bias": False, "mlp_bias": False, **changes,
    }
    # `...` leaves a field out, so that the family's own default counts.
    return {name: value for name, value in whole.items() if value is not ...}


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


def yarn(**changes):
    return {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, **changes}


LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.25, 1.5, 2.0], "long_factor": [1.0, 4.0, 8.0, 16.0]}
THREE = {"num_hidden_layers": 3}
GEMMA = {**THREE, "hidden_act": ..., "query_pre_attn_scalar": 12, "sliding_window": 16}
GRANITE = {"embedding_multiplier": 3.0, "attention_multiplier": 0.5, "residual_multiplier": 0.4, "logits_scaling": 2.5}
FULL, SLIDING = "full_attention", "sliding_attention"

# What a configuration can ask for, in the spelling of transformers 4 and of transformers 5.
CONFIGURATIONS = {
    "llama, yarn": config("llama", rope_scaling=yarn()),
    "llama, yarn in rope_parameters": config("llama", rope_theta=..., rope_parameters=yarn(rope_theta=50000.0)),
    "llama, yarn without numbers": config("llama", rope_scaling={"type": "yarn", "factor": 2.0}),
    "llama, yarn with all numbers": config(
        "llama", rope_scaling=yarn(beta_fast=8.0, beta_slow=2.0, mscale=0.7, mscale_all_dim=0.5, truncate=False)),
    "llama, yarn with an attention factor": config("llama", rope_scaling=yarn(attention_factor=0.8)),
    "llama, dynamic": config("llama", rope_scaling={"type": "dynamic", "factor": 4.0}),
    "llama, linear in rope_parameters": config(
        "llama", rope_theta=..., rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 20000.0}),
    "llama, llama3 in rope_parameters": config(
        "llama", rope_theta=..., rope_scaling=None, rope_parameters={**LLAMA3, "rope_theta": 500000.0}),
    "llama, longrope": config("llama", max_position_embeddings=256, original_max_position_embeddings=128,
                              rope_scaling=LONG),
    "llama, few fields": config("llama", num_key_value_heads=..., rope_theta=..., rms_norm_eps=..., head_dim=...,
                                tie_word_embeddings=..., hidden_act=..., attention_bias=..., mlp_bias=...),
    "llama, gelu": config("llama", hidden_act="gelu_pytorch_tanh"),
    "llama, a window that its class does not read": config("llama", sliding_window=8),
    "mistral, window of its class, linear": config("mistral", rope_scaling={"rope_type": "linear", "factor": 2.0}),
    "mistral, wide heads": config("mistral", head_dim=16, sliding_window=12),
    "qwen 2, yarn": config("qwen2", rope_theta=1000000.0, rope_scaling={
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
    "qwen 2, window in the upper layers": config(
        "qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=2, **THREE),
    "qwen 2, window that is not used": config("qwen2", use_sliding_window=False, sliding_window=8, max_window_layers=0),
    "qwen 2, window by layer": config(
        "qwen2", use_sliding_window=True, sliding_window=8, layer_types=[SLIDING, FULL, SLIDING], **THREE),
    "qwen 3, yarn": config("qwen3", rope_theta=1000000.0, rope_scaling=yarn()),
    "qwen 3, window by layer": config(
        "qwen3", use_sliding_window=True, sliding_window=8, layer_types=[SLIDING, FULL, SLIDING], **THREE),
    "qwen 3, biases": config("qwen3", attention_bias=True),
    "qwen 3, heads of its class": config("qwen3", head_dim=..., hidden_size=16, num_attention_heads=2,
                                         num_key_value_heads=1),
    "smollm 3": config("smollm3", num_hidden_layers=4, rope_theta=...),
    "smollm 3, layers without rotation by list": config(
        "smollm3", no_rope_layers=[0, 1, 0], rope_theta=..., rope_parameters={"rope_type": "default", "rope_theta": 5e6},
        tie_word_embeddings=..., **THREE),
    "smollm 3, window, biases, yarn": config(
        "smollm3", no_rope_layer_interval=2, use_sliding_window=True, sliding_window=8, attention_bias=True,
        mlp_bias=True, rope_scaling=yarn(), **THREE),
    "phi 3": config("phi3", sliding_window=20),
    "phi 3, a part of heads": config("phi3", partial_rotary_factor=0.5, head_dim=...),
    "phi 3, longrope": config("phi3", original_max_position_embeddings=128, rope_theta=..., rope_parameters={
        **LONG, "rope_theta": 10000.0, "partial_rotary_factor": 1.0}),
    "granite": config("granite", **GRANITE),
    "granite, biases, tied": config("granite", attention_bias=True, mlp_bias=True, tie_word_embeddings=True, **GRANITE),
    "olmo 2": config("olmo2", head_dim=..., rms_norm_eps=...),
    "olmo 2, biases, all heads": config("olmo2", attention_bias=True, num_key_value_heads=4),
    "gemma 2": config("gemma2", attn_logit_softcapping=5.0, final_logit_softcapping=3.0, **GEMMA),
    "gemma 2, caps of its class, biases": config("gemma2", attention_bias=True, tie_word_embeddings=True, **GEMMA),
    "gemma 3": config("gemma3_text", rope_theta=50000.0, rope_local_base_freq=1000.0, sliding_window_pattern=3,
                      rope_scaling={"rope_type": "linear", "factor": 8.0}, tie_word_embeddings=True, **GEMMA),
    "gemma 3 in rope_parameters": config(
        "gemma3_text", rope_theta=..., layer_types=[FULL, SLIDING, FULL], tie_word_embeddings=..., rope_parameters={
            SLIDING: {"rope_type": "default", "rope_theta": 2000.0},
            FULL: {"rope_type": "linear", "factor": 4.0, "rope_theta": 90000.0}}, **GEMMA),
}


def computed(number, config):
    """Tokens, and the logits of every position in 64 bits."""
    settings = {name: value for name, value in config.items() if name not in ("architectures", "torch_dtype")}
    # The usual one of some classes is no token of so small a vocabulary; nothing here is padded.
    family = transformers.AutoConfig.for_model(**{"pad_token_id": 1, **settings}, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(family).eval()
    names = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    state = {name: values(name, shape) for name, shape in names.items()}
    if family.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        names.pop("lm_head.weight", None)
    # Scales of embeddings are buffers.
    model.load_state_dict({name: tensor for name, tensor in state.items() if "embed_scale" not in name}, strict=False)
    tokens = (derive_seed(1000 + number, numpy.arange(LENGTH)) % numpy.uint64(320)).astype(int).tolist()
    with torch.no_grad():
        logits = model.double()(torch.tensor([tokens])).logits[0]
    return names, tokens, logits


def golden(number, config):
    _, tokens, logits = computed(number, config)
    rows = [[round(float(x), 6) for x in logits[position]] for position in POSITIONS]
    return {"config": config, "tokens": tokens, "positions": POSITIONS, "logits": rows}


def scored(number, config):
    """The log-probability of each token after the first, and a digest of the names and shapes of all tensors."""
    names, tokens, logits = computed(number, config)
    logprobs = torch.log_softmax(logits, -1)[range(LENGTH - 1), tokens[1:]]
    tensors = "".join(sorted(f"{name} {shape}\n" for name, shape in names.items()))
    digest = hashlib.sha256(tensors.encode()).hexdigest()[:16]
    return {"config": config, "tokens": tokens, "logprobs": [round(float(x), 5) for x in logprobs], "tensors": digest}


def write(name, cases, make):
    out = {"transformers": transformers.__version__}
    for number, (case, config) in enumerate(cases.items()):
        out[case] = make(number, config)
    lines = ",\n".join(f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in out.items())
    (HERE / name).write_text("{" + lines + "}\n")


write("configurations.json", CONFIGURATIONS, scored)
if "--all" in sys.argv:
    out = {"transformers": transformers.__version__}
    for number, (name, case) in enumerate(CASES.items()):
        out[name] = golden(number, case)
        largest = max(abs(x) for row in out[name]["logits"] for x in row)
        print(f"{name}: logits up to {largest:.2f}")
    (HERE / "logits.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")
