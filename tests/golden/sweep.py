#!/usr/bin/env python3
"""Random small models of `transformers`, as it saves them, and what it computes with them: families, rotary scaling, windows, tying,
biases, widths of heads, element types and shards, in random combinations.

    python3 tests/golden/sweep.py DIRECTORY [COUNT] [SEED]
    SPAR_SWEEP=DIRECTORY cargo test --release -p spar --lib --features tensors -- --ignored sweep --nocapture

The test loads each with the native engine and prints how many agree, how many are refused and by which message, and how many are
wrong, of which there must be none.
"""

import json
import pathlib
import random
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "training" / "tests"))
import python_environment

python_environment.enter(["torch", "transformers"])

import torch
import transformers

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

LENGTH = 70
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "granite", "olmo2", "gemma2", "gemma3_text"]


def rope(draw, family, dims):
    """Rotary settings that the family's class takes, in one spelling or the other."""
    theta = draw.choice([1e4, 5e5, 1e6])
    factor = draw.choice([1.5, 2.0, 4.0, 8.0])
    kinds = {
        "default": {},
        "linear": {"factor": factor},
        "dynamic": {"factor": factor},
        "llama3": {"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": draw.choice([32, 64])},
        "yarn": {"factor": factor, "original_max_position_embeddings": draw.choice([32, 64]),
                 **draw.choice([{}, {"beta_fast": 16.0, "beta_slow": 2.0}, {"attention_factor": 0.9}, {"truncate": False}])},
    }
    if family == "phi3":
        half = dims // 2
        kinds = {"default": {}, "longrope": {"short_factor": [1.0 + draw.random() for _ in range(half)],
                                             "long_factor": [2.0 + draw.random() for _ in range(half)]}}
    kind = draw.choice(list(kinds))
    settings = {"rope_type": kind, **kinds[kind]}
    if family == "gemma3_text":
        return {"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": factor, "rope_theta": theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0}}}
    return {"rope_parameters": {**settings, "rope_theta": theta}}


def settings(draw, family):
    heads, kv_heads = draw.choice([(4, 4), (4, 2), (4, 1), (6, 2), (3, 1)])
    size = draw.choice([8, 12, 16])
    hidden = heads * (size if draw.random() < 0.6 else 8)
    layers = draw.choice([2, 3, 4])
    config = {
        "hidden_size": hidden, "intermediate_size": draw.choice([40, 48, 70]), "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": size, "vocab_size": 300,
        "max_position_embeddings": draw.choice([128, 256]), "rms_norm_eps": draw.choice([1e-5, 1e-6]),
        "tie_word_embeddings": draw.random() < 0.5, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
    }
    if family == "olmo2":
        config["head_dim"] = hidden // heads
    window = draw.choice([8, 20])
    kinds = ["full_attention", "sliding_attention"]
    by_layer = [draw.choice(kinds) for _ in range(layers)]
    if family in ("mistral", "phi3") and draw.random() < 0.6:
        config["sliding_window"] = window
    if family in ("qwen2", "qwen3", "smollm3") and draw.random() < 0.6:
        config |= {"use_sliding_window": True, "sliding_window": window}
        config |= draw.choice([{"layer_types": by_layer}, {"max_window_layers": draw.choice([0, 1, 2])}])
    if family.startswith("gemma"):
        config |= {"sliding_window": window, "query_pre_attn_scalar": draw.choice([8, 12])}
        config |= draw.choice([{}, {"layer_types": by_layer}])
        if family == "gemma2":
            caps = [None, 5.0, 50.0]
            config |= {"attn_logit_softcapping": draw.choice(caps), "final_logit_softcapping": draw.choice(caps)}
    if family == "smollm3":
        config |= draw.choice([{"no_rope_layer_interval": draw.choice([2, 3])},
                               {"no_rope_layers": [draw.choice([0, 1]) for _ in range(layers)]}])
    if family == "granite":
        config |= {"embedding_multiplier": 2.0, "attention_multiplier": 0.3, "residual_multiplier": 0.5, "logits_scaling": 1.5}
        config.pop("head_dim")
        config["hidden_size"] = heads * size
    if family in ("llama", "qwen3", "smollm3", "granite", "olmo2", "gemma2", "gemma3_text"):
        config["attention_bias"] = draw.random() < 0.3
    if family in ("llama", "smollm3", "granite"):
        config["mlp_bias"] = draw.random() < 0.3
    if family in ("llama", "gemma2", "gemma3_text"):
        # These classes check it although they need not.
        config["hidden_size"] = heads * draw.choice([8, 16])
    dims = config.get("head_dim", config["hidden_size"] // heads)
    if family == "phi3":
        config["original_max_position_embeddings"] = 128
        config.pop("head_dim")
        dims = config["hidden_size"] // heads
    return config | rope(draw, family, dims)


def older(config):
    """The spelling of transformers 4, where there is one."""
    parameters = config.get("rope_parameters")
    if not parameters or "full_attention" in parameters:
        return config
    config = {name: value for name, value in config.items() if name != "rope_parameters"}
    scaling = {name: value for name, value in parameters.items() if name != "rope_theta"}
    config["rope_theta"] = parameters["rope_theta"]
    config["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
    return config


def write(directory, number, seed):
    draw = random.Random(f"{seed} {number}")
    family = FAMILIES[number % len(FAMILIES)]
    chosen = settings(draw, family)
    config = transformers.AutoConfig.for_model(family, **chosen, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    dtype = draw.choice([torch.float32, torch.bfloat16, torch.float16])
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            uniform = torch.rand(tensor.shape, generator=generator) - 0.5
            center = 0.0 if family.startswith("gemma") else 1.0
            scale = 0.4 if "norm" in name else 2.0 if "embed" in name else 1.0 if name.endswith("bias") else 3.46 / tensor.shape[-1] ** 0.5
            tensor.copy_((center if "norm" in name else 0.0) + scale * uniform)
    model = model.to(dtype)
    target = directory / f"{number:03}-{family}"
    model.save_pretrained(target, max_shard_size=draw.choice(["10MB", "40KB"]))
    path = target / "config.json"
    saved = json.loads(path.read_text())
    if draw.random() < 0.5:
        path.write_text(json.dumps(older(saved)))
    # Buffers such as a Gemma's scale of embeddings are computed anew in 64 bits, as from weights in f32.
    model = transformers.AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32, attn_implementation="eager").eval().double()
    tokens = [draw.randrange(2, 300) for _ in range(LENGTH)]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    logprobs = torch.log_softmax(logits, -1)[range(LENGTH - 1), tokens[1:]]
    (target / "expected.json").write_text(json.dumps({"tokens": tokens, "logprobs": logprobs.tolist()}))


directory = pathlib.Path(sys.argv[1])
count = int(sys.argv[2]) if len(sys.argv) > 2 else 200
seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
for number in range(count):
    write(directory, number, seed)
print(f"{count} models in {directory}")
