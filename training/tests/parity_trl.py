#!/usr/bin/env python3
"""Fifty DPO steps by TRL and peft on a random Llama of two layers: the values that tests/parity.rs compares ours with.

    python3 training/tests/parity_trl.py            # writes training/tests/golden/
    python3 training/tests/parity_trl.py ADAPTER    # loads an adapter that we trained in peft and prints how far logits are

The steps: two pairs each, TRL's sigmoid loss (beta 0.1) with a tenth of its SFT loss, AdamW, a linear decay, the gradient's norm
clipped at 1; once with all weights, once with a LoRA adapter. Losses, rewards and norms of gradients are written at full precision.
"""

import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import python_environment

python_environment.enter(["torch", "transformers", "peft", "trl"])

import datasets
import peft
import tokenizers
import torch
import transformers
import trl

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"
STEPS, PER_STEP = 50, 2
PROBE = [1, 5, 9, 2, 60, 33, 7, 7, 12, 40]
METRICS = ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"]


def make_model():
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, tie_word_embeddings=False, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config).float()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.mul_(1 + 0.2 * torch.randn_like(tensor) if "norm" in name else 3.0)
    return model


def save(model, path):
    model.save_pretrained(path)
    saved = json.loads((path / "config.json").read_text())
    rope = saved.pop("rope_parameters", None) or {}
    saved.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
    (path / "config.json").write_text(json.dumps(saved, indent=1) + "\n")
    (path / "generation_config.json").unlink(missing_ok=True)


def make_pairs():
    """Replies that share a beginning, that differ at once, and that differ in one token."""
    generator = torch.Generator().manual_seed(5)
    draw = lambda n: torch.randint(3, 61, (n,), generator=generator).tolist()
    pairs = []
    for i in range(STEPS * PER_STEP):
        prompt, chosen = draw(3 + i % 9), draw(4 + i % 13)
        rejected = draw(4 + (i * 5) % 11)
        if i % 3 == 0:
            rejected = chosen[: len(chosen) // 2] + rejected
        if i % 7 == 0:
            rejected = chosen[:-1] + [3 + (chosen[-1] - 2) % 58]
        pairs.append({"prompt_ids": prompt, "chosen_ids": chosen + [2], "rejected_ids": rejected + [2]})
    return pairs


class Trainer(trl.DPOTrainer):
    """In the order of the data, from tokens, with every number kept."""

    def _prepare_dataset(self, dataset, *_args, **_kwargs):
        return dataset

    def _get_train_sampler(self, *_args, **_kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def _compute_loss(self, model, inputs, return_outputs):
        loss = super()._compute_loss(model, inputs, return_outputs)
        self.kept.append({"loss": loss.item()} | {name: self._metrics["train"][name][-1] for name in METRICS})
        return loss


class Norms(transformers.TrainerCallback):
    def __init__(self):
        self.norms = []

    def on_log(self, _args, _state, _control, logs=None, **_kwargs):
        if "grad_norm" in logs:
            self.norms.append(float(logs["grad_norm"]))


def train(model, pairs, lr):
    with tempfile.TemporaryDirectory() as directory:
        config = trl.DPOConfig(
            output_dir=directory, per_device_train_batch_size=1, gradient_accumulation_steps=PER_STEP, max_steps=STEPS,
            learning_rate=lr, lr_scheduler_type="linear", warmup_steps=0, optim="adamw_torch", adam_beta1=0.9, adam_beta2=0.95,
            adam_epsilon=1e-8, weight_decay=0.0, max_grad_norm=1.0, beta=0.1, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.1],
            precompute_ref_log_probs=False, logging_steps=1, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
            save_strategy="no", disable_tqdm=True, max_length=None, remove_unused_columns=False, dataloader_num_workers=0,
        )
        vocabulary = {f"t{i}": i for i in range(61)}
        raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="t0"))
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="t0", eos_token="t2", unk_token="t0")
        norms = Norms()
        trainer = Trainer(
            model=model, ref_model=None if isinstance(model, peft.PeftModel) else make_model(), args=config, train_dataset=datasets.Dataset.from_list(pairs), processing_class=tokenizer, callbacks=[norms],
        )
        trainer.kept = []
        trainer.train()
    steps = []
    for i in range(STEPS):
        parts = trainer.kept[i * PER_STEP : (i + 1) * PER_STEP]
        mean = {name: sum(part[name] for part in parts) / PER_STEP for name in parts[0]}
        steps.append(mean | {"grad_norm": norms.norms[i]})
    return steps


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(torch.tensor([PROBE])).logits[0].tolist()


def write():
    GOLDEN.mkdir(exist_ok=True)
    pairs = make_pairs()
    base = make_model()
    save(base, GOLDEN / "model")
    golden = {"versions": {m.__name__: m.__version__ for m in [torch, transformers, trl, peft]}, "pairs": pairs, "probe": PROBE}
    golden["full"] = train(make_model(), pairs, 1e-3)
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], task_type="CAUSAL_LM")
    torch.manual_seed(9)
    model = peft.get_peft_model(make_model(), lora)
    model.save_pretrained(GOLDEN / "adapter-start")
    golden["lora"] = train(model, pairs, 1e-2)
    model.save_pretrained(GOLDEN / "adapter-end", selected_adapters=["default"])
    golden["adapter_logits"] = logits(model)
    for name in ["adapter-start", "adapter-end"]:
        (GOLDEN / name / "README.md").unlink(missing_ok=True)
    (GOLDEN / "dpo.json").write_text(json.dumps(golden) + "\n")
    first, last = golden["full"][0], golden["full"][-1]
    print("full:", first["loss"], "->", last["loss"], "lora:", golden["lora"][0]["loss"], "->", golden["lora"][-1]["loss"])


def check(adapter):
    base = transformers.LlamaForCausalLM.from_pretrained(GOLDEN / "model", dtype=torch.float32)
    theirs = torch.tensor(logits(peft.PeftModel.from_pretrained(base, adapter)))
    ours = torch.tensor(json.loads((pathlib.Path(adapter) / "logits.json").read_text()))
    golden = torch.tensor(json.loads((GOLDEN / "dpo.json").read_text())["adapter_logits"])
    print(f"peft with our adapter, our logits: {(theirs - ours).abs().max().item():.2e} apart")
    print(f"peft with our adapter, peft with its own after the same steps: {(theirs - golden).abs().max().item():.2e} apart")
    sys.exit((theirs - ours).abs().max().item() > 1e-4)


if len(sys.argv) > 1:
    check(sys.argv[1])
else:
    write()
