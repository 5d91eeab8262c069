#!/usr/bin/env python3
"""Writes tests/data/peft: a tiny Llama, a LoRA adapter over it as PEFT saves it, and what PEFT's own merge gives.

The Rust test `merging_is_pefts` compares with it. Needs torch, transformers and peft; installs them into a virtual
environment of its own where they are missing.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

NEEDED = ["torch", "transformers", "peft"]
if any(importlib.util.find_spec(name) is None for name in NEEDED):
    venv = Path(__file__).resolve().parent.parent / "target" / "golden-peft"
    python = venv / "bin" / "python"
    if Path(sys.prefix) == venv:
        sys.exit(f"{NEEDED} cannot be imported in {venv}")
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *NEEDED], check=True)
    os.execv(str(python), [str(python), __file__])

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

out = Path(__file__).resolve().parent.parent / "tests" / "data" / "peft"
torch.manual_seed(1)
config = LlamaConfig(
    vocab_size=24, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
)
model = LlamaForCausalLM(config)
model.save_pretrained(out / "base")
for name, lora in {
    "plain": LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"], lora_dropout=0.05),
    "patterns": LoraConfig(
        r=4, lora_alpha=5, use_rslora=True, target_modules=r".*\.(self_attn\.[qk]_proj|mlp\.up_proj)",
        rank_pattern={"up_proj": 2}, alpha_pattern={r"layers\.1\.self_attn\.k_proj": 9}, layers_to_transform=None,
    ),
}.items():
    base = LlamaForCausalLM.from_pretrained(out / "base")
    wrapped = get_peft_model(base, lora)
    with torch.no_grad():
        for key, value in wrapped.named_parameters():
            if "lora_B" in key:
                value.normal_(0.0, 0.1)
    wrapped.peft_config["default"].base_model_name_or_path = "base"
    wrapped.save_pretrained(out / name)
    merged = wrapped.merge_and_unload().state_dict()
    changed = {k: v.contiguous() for k, v in merged.items() if k.endswith("_proj.weight")}
    save_file(changed, out / name / "merged.safetensors")
    (out / name / "README.md").unlink(missing_ok=True)
(out / "base" / "generation_config.json").unlink(missing_ok=True)
