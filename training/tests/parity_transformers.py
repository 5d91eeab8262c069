#!/usr/bin/env python3
"""Our logits against transformers' on the same checkpoint: at most 1e-4 apart.

    python3 training/tests/parity_transformers.py [MODEL_DIR ...]

Without a directory, transformers makes random models: tied and untied, with grouped and with single heads.
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
    shapes = [
        dict(hidden_size=192, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True),
        dict(hidden_size=96, num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=False),
        dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True, rms_norm_eps=1e-6),
    ]
    for i, shape in enumerate(shapes):
        torch.manual_seed(i)
        config = transformers.LlamaConfig(
            vocab_size=700, intermediate_size=200, num_hidden_layers=3, max_position_embeddings=512, **shape
        )
        model = transformers.LlamaForCausalLM(config)
        with torch.no_grad():
            # Norms away from 1 and logits of a trained model's size, so that a difference can show.
            for name, tensor in model.named_parameters():
                tensor.mul_(1 + 0.3 * torch.randn_like(tensor) if "norm" in name else 3.0)
        path = pathlib.Path(directory) / str(i)
        model.save_pretrained(path)
        # The classic layout of the file; newer releases nest the rotary base.
        saved = json.loads((path / "config.json").read_text())
        rope = saved.pop("rope_parameters", None) or {}
        saved.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
        (path / "config.json").write_text(json.dumps(saved))
        yield path


def largest_difference(program, path):
    model = transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    worst = 0.0
    for length, seed in [(1, 1), (63, 2), (64, 3), (200, 4), (450, 5)]:
        length = min(length, model.config.max_position_embeddings)
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, model.config.vocab_size, (length,), generator=generator)
        out = subprocess.run([program, path, ",".join(map(str, ids.tolist()))], check=True, capture_output=True, text=True)
        ours = torch.tensor([json.loads(line) for line in out.stdout.splitlines()])
        with torch.no_grad():
            theirs = model(ids[None]).logits[0]
        assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
        worst = max(worst, (ours - theirs).abs().max().item())
    return worst, theirs.abs().max().item()


def main():
    program = python_environment.example("logits")
    failed = 0
    with tempfile.TemporaryDirectory() as directory:
        for path in sys.argv[1:] or random_models(directory):
            worst, size = largest_difference(program, path)
            failed += worst > BAR
            print(f"{path}: largest difference {worst:.2e}, largest logit {size:.1f}")
    print(f"{'failed' if failed else 'passed'}: bar {BAR:.0e}, torch {torch.__version__}, transformers {transformers.__version__}")
    sys.exit(bool(failed))


main()
