"""The table of bench/peers.py: accuracy by `spar verify` with paired intervals, calls, tokens and seconds."""

import json
import statistics
import subprocess

from intervals import difference, resampled, share


def verdicts(options, name, lines):
    """Whether each answered prompt is followed, strictly and loosely, by its key."""
    responses = options.dir / "answers" / f"{name}.responses.jsonl"
    responses.write_text("".join(json.dumps({key: line[key] for key in ("prompt", "response")}) + "\n" for line in lines.values()), "utf-8")
    command = [options.spar, "verify", "--prompts", options.dir / "prompts.jsonl", "--responses", responses, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"spar verify failed on {responses}: {done.stderr.strip()}")
    return {row["key"]: (all(row["strict"]), all(row["loose"])) for row in json.loads(done.stdout)["results"]}


def cells(followed, greedy, level):
    """The share of prompts that are followed, and its difference from greedy decoding on the same prompts."""
    both = [key for key in followed if key in greedy]
    followed_share = share(statistics.fmean(followed[key][level] for key in followed))
    if followed is greedy:
        return [followed_share, ""]
    differences = [followed[key][level] - greedy[key][level] for key in both]
    return [followed_share, difference(resampled(differences, statistics.fmean))]


def write_table(options, chosen, done, installed, given_up):
    """table.md and report.json in the folder of the run."""
    followed = {method.name: verdicts(options, method.name, done[method.name]) for method in chosen if done[method.name]}
    greedy = followed.get("greedy")
    if not greedy:
        raise SystemExit("greedy answers are missing, and everything is compared with them; name greedy in --methods")
    head = ["method", "n", "strict", "− greedy [95 %]", "loose", "− greedy [95 %]", "calls", "prompt tokens", "generated", "seconds", "failed"]
    rows, report = [], []
    for method in chosen:
        lines = [line for line in done[method.name].values() if line["key"] in greedy]
        if not lines:
            continue
        kept = {line["key"]: followed[method.name][line["key"]] for line in lines} if method.name != "greedy" else greedy
        mean = lambda key: statistics.fmean(line[key] for line in lines)
        failed = sum("error" in line for line in lines)
        figures = [f"{mean('calls'):.1f}", f"{mean('sent'):,.0f}", f"{mean('generated'):,.0f}", f"{mean('seconds'):.1f}", str(failed)]
        rows.append([method.label, str(len(lines)), *cells(kept, greedy, 0), *cells(kept, greedy, 1), *figures])
        report.append({"method": method.name, "label": method.label, "prompts": len(lines), "failed": failed, "followed": kept} | {
            key: mean(key) for key in ("calls", "sent", "generated", "seconds")
        })
    text = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    text += ["", f"Calls, tokens and seconds are means per prompt. Packages: {', '.join(name for name in installed.values() if name) or 'none'}."]
    text += [f"{package} could not be installed, so it is not compared." for package, name in installed.items() if not name]
    text += [f"{name} was given up: {error}" for name, error in given_up.items()]
    errors = {line["error"][:160] for method in chosen for line in done[method.name].values() if "error" in line}
    text += [f"Failed: {error}" for error in sorted(errors)]
    (options.dir / "table.md").write_text("\n".join(text) + "\n", "utf-8")
    (options.dir / "report.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print("\n".join(text))
    print(f"\nwritten to {options.dir / 'table.md'}")
