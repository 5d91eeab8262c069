#!/usr/bin/env python3
"""Our logits against transformers' on the same checkpoint: at most 1e-4 apart, or as near to the exact ones.

    python3 training/tests/parity_transformers.py [MODEL_DIR ...]

Without a directory, transformers makes random models: Llamas, tied and untied, with grouped and with single heads, a Qwen 2 with
biases and a Qwen 3 with norms of its heads, which are wider together than the stream.

Both sides compute in f32, and some trained models amplify its rounding beyond the bar, above all on random tokens. So
the exact logits are computed in f64 too, everything included that transformers keeps in f32 whatever its dtype (angles,
norms, softmax). Above the bar ours may be at most twice as far from them as transformers' at the worst logit, and at
most 1.5 times as far on root mean square: another order of the same sums moves both by less, a mistake by far more.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import python_environment

python_environment.enter(["torch", "transformers"])

import torch
import transformers

transformers.utils.logging.disable_progress_bar()

BAR = 1e-4


def random_models(directory):
    grouped = dict(hidden_size=96, num_attention_heads=6, num_key_value_heads=2)
    shapes = [
        ("Llama", dict(hidden_size=192, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True)),
        ("Llama", dict(tie_word_embeddings=False, **grouped)),
        ("Llama", dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True, rms_norm_eps=1e-6)),
        ("Qwen2", dict(tie_word_embeddings=True, **grouped)),
        ("Qwen3", dict(tie_word_embeddings=False, head_dim=24, **grouped)),
    ]
    for i, (family, shape) in enumerate(shapes):
        torch.manual_seed(i)
        config = getattr(transformers, f"{family}Config")(
            vocab_size=700, intermediate_size=200, num_hidden_layers=3, max_position_embeddings=512, **shape
        )
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            # Norms away from 1, biases from 0 and logits of a trained model's size, so that a difference can show.
            for name, tensor in model.named_parameters():
                if name.endswith("bias"):
                    tensor.normal_(0, 0.3)
                else:
                    tensor.mul_(1 + 0.3 * torch.randn_like(tensor) if "norm" in name else 3.0)
        path = pathlib.Path(directory) / str(i)
        model.save_pretrained(path)
        # The classic layout of the file; newer releases nest the rotary base.
        saved = json.loads((path / "config.json").read_text())
        rope = saved.pop("rope_parameters", None) or {}
        saved.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
        (path / "config.json").write_text(json.dumps(saved))
        yield path


def exact_logits(model, ids):
    """The network in f64, written out."""
    config, weights = model.config, {name: tensor.double() for name, tensor in model.state_dict().items()}
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    theta = config.rope_parameters["rope_theta"]
    frequencies = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.arange(len(ids), dtype=torch.float64)[:, None] * frequencies
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    future = torch.full((len(ids), len(ids)), float("-inf"), dtype=torch.float64).triu(1)

    def norm(x, gain):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps) * gain

    def turned(x):
        return x * cos + torch.cat([-x[..., dim // 2 :], x[..., : dim // 2]], -1) * sin

    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(config.num_hidden_layers):

        def weight(name):
            return weights[f"model.layers.{layer}.{name}.weight"]

        def project(h, name, count):
            bias = weights.get(f"model.layers.{layer}.self_attn.{name}.bias", 0)
            x = (h @ weight(f"self_attn.{name}").T + bias).view(len(ids), count, dim).transpose(0, 1)
            gain = weights.get(f"model.layers.{layer}.self_attn.{name[0]}_norm.weight")
            return x if gain is None else norm(x, gain)

        h = norm(x, weight("input_layernorm"))
        q, k, v = turned(project(h, "q_proj", heads)), turned(project(h, "k_proj", groups)), project(h, "v_proj", groups)
        k, v = (t.repeat_interleave(heads // groups, 0) for t in (k, v))
        attention = (q @ k.transpose(1, 2) / dim**0.5 + future).softmax(-1)
        x = x + (attention @ v).transpose(0, 1).flatten(1) @ weight("self_attn.o_proj").T
        h = norm(x, weight("post_attention_layernorm"))
        gated = torch.nn.functional.silu(h @ weight("mlp.gate_proj").T) * (h @ weight("mlp.up_proj").T)
        x = x + gated @ weight("mlp.down_proj").T
    return norm(x, weights["model.norm.weight"]) @ weights["lm_head.weight"].T


def distances(program, path):
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    passed, largest = True, 0.0
    shown = {"ours to theirs": 0.0, "ours to exact": 0.0, "theirs to exact": 0.0}
    for length, seed in [(1, 1), (63, 2), (64, 3), (200, 4), (450, 5)]:
        length = min(length, model.config.max_position_embeddings)
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, model.config.vocab_size, (length,), generator=generator)
        out = subprocess.run([program, path, ",".join(map(str, ids.tolist()))], check=True, capture_output=True, text=True)
        ours = torch.tensor([json.loads(line) for line in out.stdout.splitlines()], dtype=torch.float64)
        with torch.no_grad():
            theirs, exact = model(ids[None]).logits[0].double(), exact_logits(model, ids)
        assert ours.shape == theirs.shape == exact.shape, (ours.shape, theirs.shape, exact.shape)
        gaps = {"ours to theirs": ours - theirs, "ours to exact": ours - exact, "theirs to exact": theirs - exact}
        worst = {name: gap.abs().max().item() for name, gap in gaps.items()}
        mean = {name: gap.pow(2).mean().sqrt().item() for name, gap in gaps.items()}
        near = worst["ours to exact"] <= 2 * worst["theirs to exact"] and mean["ours to exact"] <= 1.5 * mean["theirs to exact"]
        passed = passed and (worst["ours to theirs"] <= BAR or near)
        shown = {name: max(shown[name], worst[name]) for name in shown}
        largest = max(largest, exact.abs().max().item())
    return passed, ", ".join(f"{name} {gap:.2e}" for name, gap in shown.items()), largest


def main():
    program = python_environment.example("logits")
    failed = 0
    with tempfile.TemporaryDirectory() as directory:
        for path in sys.argv[1:] or random_models(directory):
            passed, gaps, size = distances(program, path)
            failed += not passed
            print(f"{path}: {'passed' if passed else 'failed'}: at most {gaps}, largest logit {size:.1f}")
    print(f"{'failed' if failed else 'passed'}: bar {BAR:.0e}, torch {torch.__version__}, transformers {transformers.__version__}")
    sys.exit(bool(failed))


main()
