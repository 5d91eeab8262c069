#!/usr/bin/env python3
"""Reads the exports of the 70B recipes with the parsers of the programs that they are for.

    python3 training/tests/external_parsers.py

The base has the shape of Llama 3 70B and no weights, which exports do not need. LLaMA-Factory's YAML must be accepted by its dataclasses without a
key that is left over, and the data by its own description of data sets; deepspeed.json by DeepSpeed's configuration, after the values that the
trainer puts where `auto` is; accelerate.yaml by accelerate; arguments.json by TRL's dataclasses; axolotl.yaml by Axolotl's schema. What is not
installed in SPAR_VENV (default: target/venv) is skipped aloud; `--all` makes that an error.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import python_environment

python_environment.enter(["torch", "transformers", "pyyaml"])

import transformers
import yaml

ROOT = python_environment.ROOT
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
SPAR_TRAIN = os.environ.get("SPAR_TRAIN", str(TARGET / "spar-train"))
SHAPE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
    "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False,
    "hidden_act": "silu", "torch_dtype": "bfloat16",
}
os.environ.setdefault("DISABLE_VERSION_CHECK", "1")
skipped = []


def base(folder):
    """The texts of the embedded actor with the shape of a 70B model."""
    actor, to = ROOT / "assets" / "spar-tiny" / "actor", folder / "base"
    to.mkdir()
    for file in actor.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, to)
    config = json.loads((to / "config.json").read_text())
    tokens = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in config}
    (to / "config.json").write_text(json.dumps(SHAPE | tokens))
    return to


def data(folder):
    turn = lambda role, content: {"role": role, "content": content}
    things = ["river", "garden", "teacher", "mountain", "letter", "boat"]
    pairs = [{"prompt": f"Write about the {t}.", "chosen": f"The {t} waits.", "rejected": f"The {t} sings."} for t in things]
    chats = [{"messages": [turn("user", "a"), turn("assistant", "b"), turn("user", f"Write about the {t}."), turn("assistant", f"The {t} waits.")]} for t in things]
    for name, lines in [("dpo", pairs), ("sft", chats)]:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def export(folder, framework, kind, role):
    text = (ROOT / "training" / "recipes" / f"llama3-70b-{kind}.toml").read_text()
    for name in ("actor", "refiner"):
        text = text.replace(f"models/llama3-70b-{name}", str(folder / "base"))
    recipe, out = folder / "recipe.toml", folder / f"{framework}-{kind}-{role}"
    recipe.write_text(text)
    nodes = ["--nodes", "4"] if kind == "full" else []
    command = [SPAR_TRAIN, "export", "--for", framework, "--recipe", recipe, "--role", role, "--data", folder, "--out", out, *nodes]
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, timeout=120)
    if done.returncode:
        raise SystemExit(f"{framework}, {kind}, {role}: {done.stderr}")
    return out


def has(package):
    if importlib.util.find_spec(package):
        return True
    if package not in skipped:
        skipped.append(package)
        print(f"skipped: {package} is not installed, so its parser reads nothing")
    return False


@contextlib.contextmanager
def at(folder, **variables):
    """In a folder; and as on a machine whose cards compute in bf16, which the dataclasses of trainers ask for."""
    before, asked = os.getcwd(), transformers.training_args.is_torch_bf16_gpu_available
    os.chdir(folder)
    transformers.training_args.is_torch_bf16_gpu_available = lambda: True
    try:
        yield
    finally:
        os.chdir(before)
        transformers.training_args.is_torch_bf16_gpu_available = asked


def llama_factory(out, kind, role):
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments, TrainingArguments

    settings = yaml.safe_load((out / "llama-factory.yaml").read_text())
    # DeepSpeed itself reads this file below; the dataclass would open connections between processes.
    file = settings.pop("deepspeed")
    classes = [ModelArguments, DataArguments, TrainingArguments, FinetuningArguments, GeneratingArguments]
    with at(out):
        parsed = transformers.HfArgumentParser(classes).parse_dict(settings, allow_extra_keys=False)
        (described,) = get_dataset_list(parsed[1].dataset, parsed[1].dataset_dir)
    model, _, training, tuning, _ = parsed
    expect(file, "deepspeed.json")
    expect(tuning.stage, "dpo" if role == "actor" else "sft")
    expect(tuning.finetuning_type, kind)
    expect(training.learning_rate, {"full": {"actor": 2e-7, "refiner": 2e-6}, "lora": {"actor": 5e-6, "refiner": 2e-5}}[kind][role])
    expect(training.adam_beta2, 0.999)
    expect(described.ranking, role == "actor")
    lines = [json.loads(line) for line in (out / "data.jsonl").read_text().splitlines()]
    for line in lines:
        for turn in line[described.messages]:
            assert turn[described.role_tag] in (described.user_tag, described.assistant_tag), turn
        if role == "actor":
            expect(tuning.pref_ftx, 0.1)
            expect(line[described.chosen][described.role_tag], described.assistant_tag)
    if kind == "lora":
        expect((tuning.lora_rank, tuning.lora_alpha, len(tuning.lora_target)), (64, 128, 7))


def deepspeed(out, steps=8, processes=32):
    from deepspeed.runtime.config import DeepSpeedConfig

    settings = json.loads((out / "deepspeed.json").read_text())
    zero, values = settings["zero_optimization"], {"lr": 1e-5, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}
    settings |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": steps, "gradient_clipping": 1.0}
    settings["train_batch_size"] = steps * processes
    settings["bf16"] = {"enabled": True}
    if "optimizer" in settings:
        settings["optimizer"]["params"] = values
    zero |= {"reduce_bucket_size": 8192**2, "stage3_prefetch_bucket_size": int(0.9 * 8192**2), "stage3_param_persistence_threshold": 81920}
    assert "auto" not in json.dumps(settings), settings
    os.environ["WORLD_SIZE"] = str(processes)
    config = DeepSpeedConfig(settings)
    os.environ.pop("WORLD_SIZE")
    expect(config.zero_config.stage, 3)
    expect(config.zero_config.gather_16bit_weights_on_model_save, True)


def trl(out):
    import trl as library

    settings = json.loads((out / "arguments.json").read_text())
    configuration = library.DPOConfig if settings["method"] == "dpo" else library.SFTConfig
    with at(out):
        parsed = configuration(output_dir="output", **settings["arguments"])
    expect((parsed.max_length, parsed.bf16, parsed.gradient_checkpointing), (None, True, True))
    if has("accelerate"):
        from accelerate.commands.config.config_args import load_config_from_file

        config = load_config_from_file(str(out / "accelerate.yaml"))
        expect(config.deepspeed_config["deepspeed_config_file"], "deepspeed.json")
        expect(config.num_processes % config.num_machines, 0)


def axolotl(out):
    from axolotl.utils.dict import DictDefault
    from axolotl.utils.schemas.config import AxolotlInputConfig

    settings = yaml.safe_load((out / "axolotl.yaml").read_text())
    config = AxolotlInputConfig(**DictDefault(settings).to_dict())
    for name in settings:
        if name not in type(config).model_fields:
            raise SystemExit(f"axolotl.yaml: Axolotl does not know {name}")
    expect(config.learning_rate, settings["learning_rate"])


def expect(found, expected):
    if found != expected:
        raise SystemExit(f"found {found!r}, expected {expected!r}")


def main():
    with tempfile.TemporaryDirectory(prefix="spar-parsers-") as name:
        folder = pathlib.Path(name)
        base(folder)
        data(folder)
        for kind in ("full", "lora"):
            for role in ("actor", "refiner"):
                out = export(folder, "llama-factory", kind, role)
                if has("llamafactory"):
                    llama_factory(out, kind, role)
                    print(f"LLaMA-Factory reads {out.name}")
                if has("deepspeed"):
                    deepspeed(out)
                    print(f"DeepSpeed reads {out.name}")
                out = export(folder, "trl", kind, role)
                if has("trl"):
                    trl(out)
                    print(f"TRL reads {out.name}")
                out = export(folder, "axolotl", kind, role)
                if has("axolotl"):
                    axolotl(out)
                    print(f"Axolotl reads {out.name}")
    if skipped and "--all" in sys.argv:
        raise SystemExit(f"not installed: {', '.join(skipped)}")


if __name__ == "__main__":
    main()
