#!/usr/bin/env python3
"""The run of bench/public_result.sh: training with several seeds, evaluations, and the table.

    public_result.py BIN DIR MODEL IFEVAL.jsonl IFBENCH.jsonl [--seeds 1,2,3] [--rounds 3] [--limit N] [--dry-run] …

Every step is a command of `spar` or `spar-train` that resumes by itself, so the whole resumes: a step that is finished is not made again.
"""

import argparse
import json
import pathlib
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys

from intervals import difference, over_runs, resampled, share
from real_model import trials

ROOT = pathlib.Path(__file__).resolve().parent.parent
JUDGES = {
    "model": ["--judge", "model"],
    "rules": ["--judge", "rules"],
    "both": ["--judge", "both", "--checks", "auto"],
}


class Plan:
    """The commands, in their order."""

    def __init__(self, options):
        self.options = options
        self.benchmarks = {"ifeval": options.ifeval, "ifbench": options.ifbench}

    def step(self, *command):
        """Runs a command, or prints it."""
        words = [str(word) for word in command]
        print(f"$ {shlex.join(words)}", flush=True)
        if not self.options.dry_run and subprocess.run(words, check=False).returncode != 0:
            raise SystemExit("this command failed; run the script again once its cause is gone, and it resumes here")

    def train(self, *words):
        self.step(self.options.bin / "spar-train", *words)

    def prompts(self):
        """The prompts from which the refiner is made: none is close to a prompt of the benchmarks."""
        out = self.options.dir / "train.jsonl"
        if not out.exists():
            self.train(
                "prompts", "--kind", "instructions", "--split", "train", "--count", self.options.refiner_prompts, "--out", out,
                "--against", self.options.ifeval, "--against", self.options.ifbench,
            )
        return out

    def first_refiner(self, seed):
        """The refiner of the first round: the one that was given, or one that rules have taught."""
        options, folder = self.options, self.options.dir / f"seed-{seed}"
        if options.refiner:
            return options.refiner
        made, merged = folder / "refiner", folder / "refiner-model"
        self.train(
            "bootstrap-refiner", "--recipe", options.refiner_recipe, "--model", options.model, "--prompts", self.prompts(),
            "--seed", seed, "--out", made,
        )
        if not (merged / "model.safetensors").exists():
            self.train("merge", "--base", options.model, "--adapter", made / "adapter", "--out", merged)
        # The calibration belongs to the adapter; the merged model is judged by it, too.
        if (made / "adapter" / "spar.json").exists() and not (merged / "spar.json").exists():
            shutil.copy(made / "adapter" / "spar.json", merged / "spar.json")
        return merged

    def recipe(self, seed, refiner):
        """The recipe of the rounds with this run's models, and the benchmarks that its prompts keep away from."""
        text = self.options.recipe.read_text("utf-8")
        changes = {"iterations": self.options.rounds, "actor": str(self.options.model), "refiner": str(refiner)}
        changes["against"] = [str(path) for path in self.benchmarks.values()]
        for name, value in changes.items():
            text = re.sub(rf"^{name} = .*$", lambda _: f"{name} = {json.dumps(value)}", text, flags=re.M)
        path = self.options.dir / f"seed-{seed}" / "rounds.toml"
        if not self.options.dry_run:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        return path

    def rounds(self, seed, refiner):
        """The models after each round, the first pair before any. In a dry run the gate is taken to accept everything."""
        out = self.options.dir / f"seed-{seed}" / "rounds"
        self.train("iterate", "--recipe", self.recipe(seed, refiner), "--seed", seed, "--out", out)
        pairs, actor = [(self.options.model, refiner)], self.options.model
        manifest = None if self.options.dry_run else json.loads((out / "manifest.json").read_text("utf-8"))
        for number in range(1, self.options.rounds + 1):
            gate = {"actor_accepted": True, "refiner_accepted": True}
            if manifest:
                gate = manifest["rounds"][number - 1]["gate"] or gate
            trained = {role: out / f"iter-{number}" / role for role in ("actor", "refiner")}
            there = lambda role: self.options.dry_run or trained[role].exists()
            actor = trained["actor"] if gate["actor_accepted"] and there("actor") else actor
            refiner = trained["refiner"] if gate["refiner_accepted"] and there("refiner") else refiner
            pairs.append((actor, refiner))
        return pairs

    def evaluate(self, name, benchmark, models, *flags):
        """One evaluation, and where its trials are."""
        options, out = self.options, self.options.dir / "results" / name / benchmark
        limit = ["--limit", options.limit] if options.limit else []
        self.step(
            options.bin / "spar", "eval", "--data", self.benchmarks[benchmark], *models, "--engine", "native", "--max-tokens", options.max_tokens,
            *limit, *flags, "--out", out,
        )
        return out / "trials"

    def all(self):
        """Trials by benchmark, line of the table, and seed."""
        found = {benchmark: {} for benchmark in self.benchmarks}
        for seed in self.options.seeds:
            pairs = self.rounds(seed, self.first_refiner(seed))
            for benchmark, lines in found.items():
                for number, (actor, _) in enumerate(pairs):
                    # Greedy answers of the base are the same for all seeds.
                    name = f"seed-{seed}/greedy-{number}" if number else "base"
                    line = lines.setdefault(f"after round {number}, greedy" if number else "base, greedy", {})
                    line[seed] = self.options.dir / "results" / name / benchmark / "trials" / "greedy-0.jsonl"
                    if number or seed == self.options.seeds[0]:
                        self.evaluate(name, benchmark, ["--model", actor], "--budgets", 0)
                for number in (0, len(pairs) - 1):
                    models = ["--model", pairs[number][0], "--refiner", pairs[number][1]]
                    for judge, flags in JUDGES.items():
                        name = f"seed-{seed}/search-{number}-{judge}"
                        flags = [*flags, "--budgets", "4,8", "--strategy", "auto,best_of_n", "--seed", seed]
                        folder = self.evaluate(name, benchmark, models, *flags)
                        for budget in (4, 8):
                            label = f"{f'after round {number}' if number else 'base'}, search {budget}, {judge}"
                            lines.setdefault(label, {})[seed] = folder / f"auto-{budget}.jsonl"
        return found


def counts(case):
    """What a trial adds to the four scores: for strict and loose whether the prompt is followed, prompts, instructions that are, and all."""
    whole = not case.get("unchecked")
    return [(whole and all(case[level]), whole, sum(case[level]), len(case[level])) for level in ("strict", "loose")]


def four(cases):
    """The mean of the four scores of counted trials: prompts and instructions, strict and loose."""
    scores = []
    for level in zip(*cases):
        followed, prompts, right, instructions = (sum(column) for column in zip(*level))
        scores += [followed / max(prompts, 1), right / max(instructions, 1)]
    return statistics.fmean(scores)


def drafts_of_equal_cost(path, cost):
    """The trials of best-of-N that cost at least as much, or the dearest that were measured."""
    files = sorted(path.parent.glob("best_of_n-*.jsonl"), key=lambda file: int(file.stem.rsplit("-", 1)[1]))
    read = [list(trials(file).values()) for file in files]
    return next((cases for cases in read if statistics.fmean(case["tokens"] for case in cases) >= cost), read[-1] if read else None)


def row(label, seeds, base):
    """A line of the table: over prompts for all seeds together, and over seeds."""
    runs = {seed: trials(path) for seed, path in seeds.items()}
    shared = sorted(set(base).intersection(*runs.values()))
    cases = [[counts(base[index]), *(counts(run[index]) for run in runs.values())] for index in shared]
    # Each case has the base's counts and then those of each seed.
    gains = lambda drawn: [four(seed) - four(first) for first, *others in [list(zip(*drawn))] for seed in others]
    gain = lambda drawn: statistics.fmean(gains(drawn))
    score = statistics.fmean(four(seed) for seed in list(zip(*cases))[1:])
    mean = lambda key: statistics.fmean(case[key] for run in runs.values() for case in run.values())
    by_seed = over_runs(gains(cases))
    cells = [label, str(len(shared)), share(score), difference(resampled(cases, gain)), difference(by_seed) if by_seed else "–"]
    drafts = []
    if "search" in label:
        drafts = [drafts_of_equal_cost(path, mean("tokens")) for path in seeds.values()]
        drafts = [four([counts(case) for case in found]) for found in drafts if found]
    return [*cells, share(statistics.fmean(drafts)) if drafts else "", f"{mean('tokens'):,.0f}", f"{mean('seconds'):.1f}"]


def write_tables(options, found):
    """results.md in the folder of the run."""
    head = ["", "prompts", "mean of four", "− base, over prompts", "− base, over seeds", "best-of-N at its tokens", "tokens", "seconds"]
    text = [f"Seeds {', '.join(map(str, options.seeds))}; {options.rounds} rounds; max_tokens {options.max_tokens}.", ""]
    for benchmark, lines in found.items():
        base = trials(next(iter(lines["base, greedy"].values())))
        rows = [head, ["---"] * len(head), *(row(label, seeds, base) for label, seeds in lines.items())]
        text += [f"## {benchmark}", "", *("| " + " | ".join(cells) + " |" for cells in rows), ""]
    (options.dir / "results.md").write_text("\n".join(text), "utf-8")
    print("\n".join(text))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bin", "dir", "model", "ifeval", "ifbench"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="prompts of each benchmark; absent: all")
    parser.add_argument("--max-tokens", type=int, default=768)
    parser.add_argument("--recipe", type=pathlib.Path, default=ROOT / "training/recipes/smollm2.toml", help="of the rounds")
    parser.add_argument("--refiner-recipe", type=pathlib.Path, default=ROOT / "training/recipes/refiner-smollm2.toml")
    parser.add_argument("--refiner-prompts", type=int, default=600)
    parser.add_argument("--refiner", type=pathlib.Path, help="a model that judges and refines already; absent: one is made of MODEL")
    parser.add_argument("--dry-run", action="store_true", help="print every command instead")
    options = parser.parse_args()
    # An end by a signal ends the command that runs, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    for path in (options.model, options.ifeval, options.ifbench, options.recipe, options.refiner_recipe, options.refiner):
        if path and not path.exists():
            parser.error(f"there is no {path}")
    if not options.dry_run:
        options.dir.mkdir(parents=True, exist_ok=True)
    found = Plan(options).all()
    if not options.dry_run:
        write_tables(options, found)


if __name__ == "__main__":
    sys.exit(main())
