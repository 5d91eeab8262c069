#!/usr/bin/env python3
"""DPO steps against TRL and peft: same weights, same pairs, f32, AdamW, two threads, rounds in turn; speed and peak memory.

    python3 training/benches/dpo_vs_trl.py [--rounds 3] [--steps 2] [--cases tiny-full large-lora] [--keep everything]

tiny-full: the embedded actor's shape, all weights, 16 pairs of about 200 tokens. large-lora: 12 layers of width 768, 100 M
parameters, rank 16 on every product, 2 pairs of 512 + 512 tokens. Replies to a prompt either differ from their first token on, or
share their first three quarters, as refined ones do. Tokens are those of both sequences in full, which is what TRL computes.
The reference's log-probabilities are computed beforehand on both sides and are not counted.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))
import python_environment

python_environment.enter(["torch", "transformers", "peft", "trl"])

THREADS = 2
CASES = {
    "tiny-full": dict(
        shape=dict(vocab_size=1024, hidden_size=192, intermediate_size=512, num_hidden_layers=5, num_attention_heads=3,
                   num_key_value_heads=1, tie_word_embeddings=True), pairs=16, prompt=120, reply=80, rank=0, unit=1024),
    "large-lora": dict(
        shape=dict(vocab_size=16000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
                   num_key_value_heads=4, tie_word_embeddings=False), pairs=2, prompt=256, reply=256, rank=16, unit=512),
}


def make_pairs(case, refined):
    import torch

    generator = torch.Generator().manual_seed(1)
    draw = lambda n: torch.randint(3, case["shape"]["vocab_size"], (n,), generator=generator).tolist()
    pairs = []
    for _ in range(case["pairs"]):
        prompt, chosen, rejected = draw(case["prompt"]), draw(case["reply"]), draw(case["reply"])
        if refined:
            shared = case["reply"] * 3 // 4
            rejected = chosen[:shared] + rejected[shared:]
        pairs.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    return pairs


def save_model(case, path):
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(max_position_embeddings=1024, **case["shape"])).float()
    model.save_pretrained(path)
    saved = json.loads((path / "config.json").read_text())
    rope = saved.pop("rope_parameters", None) or {}
    saved.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
    (path / "config.json").write_text(json.dumps(saved))
    return sum(p.numel() for p in model.parameters())


def serve_trl(path, pairs_path, rank):
    """Answers numbers of steps on standard input as our program does."""
    import resource
    import time

    import datasets
    import peft
    import tokenizers
    import torch
    import transformers
    import trl

    torch.set_num_threads(THREADS)
    transformers.utils.logging.disable_progress_bar()
    pairs = json.loads(pathlib.Path(pairs_path).read_text())
    model = transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    if rank:
        every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        lora = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=every, task_type="CAUSAL_LM")

    class Trainer(trl.DPOTrainer):
        def _prepare_dataset(self, dataset, *_args, **_kwargs):
            return dataset

    class Clock(transformers.TrainerCallback):
        seconds = 0.0

        def on_step_begin(self, *_args, **_kwargs):
            self.started = time.perf_counter()

        def on_step_end(self, *_args, **_kwargs):
            self.seconds += time.perf_counter() - self.started

    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="a", eos_token="b", unk_token="a")
    answers, sys.stdout = sys.stdout, sys.stderr
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        config = trl.DPOConfig(
            output_dir=directory, per_device_train_batch_size=len(pairs), max_steps=1, learning_rate=1e-4, optim="adamw_torch",
            max_grad_norm=1.0, beta=0.1, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.1], precompute_ref_log_probs=True,
            logging_strategy="no", report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
            disable_tqdm=True, max_length=None, remove_unused_columns=False,
        )
        trainer = Trainer(
            model=model, args=config, train_dataset=datasets.Dataset.from_list(pairs), processing_class=tokenizer, callbacks=[clock],
            peft_config=lora if rank else None,
        )
        for line in sys.stdin:
            # An optimizer and a schedule of its own for every line.
            trainer.args.max_steps, trainer.optimizer, trainer.lr_scheduler, clock.seconds = int(line), None, None, 0.0
            trainer.train()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(json.dumps({"seconds": clock.seconds, "peak_mib": peak}), file=answers, flush=True)


class Contender:
    def __init__(self, command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def run(self, steps):
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def compare(name, refined, program, options):
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        parameters = save_model(case, folder / "model")
        pairs = make_pairs(case, refined)
        (folder / "pairs.json").write_text(json.dumps(pairs))
        tokens = sum(2 * len(p["prompt_ids"]) + len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in pairs)
        arguments = [folder / "model", folder / "pairs.json", str(case["rank"])]
        contenders = {
            "TRL": Contender([sys.executable, __file__, "--serve", *map(str, arguments)]),
            "ours": Contender([program, *map(str, arguments), options.keep, str(THREADS), str(case["unit"])]),
        }
        rounds = {key: [] for key in contenders}
        for contender in contenders.values():
            contender.run(1)
        for _ in range(options.rounds):
            for key, contender in contenders.items():
                rounds[key].append(contender.run(options.steps))
        for contender in contenders.values():
            contender.close()
    kind = "refined" if refined else "independent"
    print(f"\n{name}, {kind} pairs, {parameters / 1e6:.1f} M parameters, {tokens} tokens a step")
    rates = {key: [options.steps * tokens / r["seconds"] for r in results] for key, results in rounds.items()}
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["TRL"]))
    for key, values in rates.items():
        peak = max(r["peak_mib"] for r in rounds[key])
        print(f"{key:5} {statistics.median(values):8.0f} tokens/s [{min(values):.0f}, {max(values):.0f}], peak {peak:.0f} MiB")
    peaks = [max(r["peak_mib"] for r in rounds[key]) for key in ["ours", "TRL"]]
    print(f"ratio {ratio:.2f} of the speed, {peaks[0] / peaks[1]:.2f} of the memory")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--kinds", nargs="+", default=["independent", "refined"], choices=["independent", "refined"])
    parser.add_argument("--keep", default="everything", choices=["everything", "streams"])
    parser.add_argument("--serve", nargs=3)
    options = parser.parse_args()
    if options.serve:
        path, pairs, rank = options.serve
        return serve_trl(path, pairs, int(rank))
    program = python_environment.example("dpo_speed")
    for name in options.cases:
        for kind in options.kinds:
            compare(name, kind == "refined", program, options)


main()
