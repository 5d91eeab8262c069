#!/usr/bin/env python3
"""Trains as arguments.json says, with TRL, on tokens in the order of data.jsonl.

BASE in the environment replaces the base's path, and OUTPUT the directory of the result. The losses of every update are in log.jsonl there.
"""

import json
import math
import os
import pathlib

import datasets
import torch
import transformers
import trl

HERE = pathlib.Path(__file__).resolve().parent


def factor(step, warmup, steps, schedule):
    """The share of the peak learning rate at an update, counted from 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(steps - warmup, 1)
    if schedule == "linear":
        return max(1 - done, 0.0)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0))) if schedule == "cosine" else 1.0


def ordered(trainer):
    """A trainer that takes tokens as they are, in their order, with the schedule of the recipe."""

    class Ordered(trainer):
        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset

        def _get_train_sampler(self, *args, **kwargs):
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def create_scheduler(self, num_training_steps, optimizer=None):
            if self.lr_scheduler is None:
                rate = lambda step: factor(step, self.rates["warmup"], num_training_steps, self.rates["schedule"])
                self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, rate)
            return self.lr_scheduler

    return Ordered


def main():
    settings = json.loads((HERE / "arguments.json").read_text())
    base = os.environ.get("BASE", settings["base"])
    output = os.environ.get("OUTPUT", str(HERE / "output"))
    data = datasets.load_dataset("json", data_files=str(HERE / "data.jsonl"), split="train")
    pairs = settings["method"] == "dpo"
    configuration, trainer = (trl.DPOConfig, trl.DPOTrainer) if pairs else (trl.SFTConfig, trl.SFTTrainer)
    # Made before the model is loaded, so that DeepSpeed divides the weights while they are read.
    arguments = configuration(output_dir=output, **settings["arguments"])
    adapter = {}
    if settings["peft"]:
        import peft

        adapter = {"peft_config": peft.LoraConfig(**settings["peft"])}
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, settings["dtype"]))
    model.config.use_cache = False
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    run = ordered(trainer)(model=model, args=arguments, train_dataset=data, processing_class=tokenizer, **adapter)
    run.rates = {"warmup": settings["warmup"], "schedule": settings["schedule"]}
    if settings["initial_adapter"]:
        # The reference stays the base without an adapter.
        start = peft.load_peft_weights(str(HERE / settings["initial_adapter"]), device="cpu")
        peft.set_peft_model_state_dict(run.model, start)
    run.train()
    run.save_model(output)
    if run.is_world_process_zero():
        lines = [json.dumps(line) for line in run.state.log_history]
        (pathlib.Path(output) / "log.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
