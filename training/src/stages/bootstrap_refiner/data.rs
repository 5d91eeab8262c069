//! Responses become turns: cases are judged and edited, turns are chosen within their limits, and a funnel says where turns were lost.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use spar::engine::derive_seed;
use spar::prompts::Templates;

use super::responses::Answered;
use super::settings::Settings;
use crate::chats::Chats;
use crate::lessons::Draws;
use crate::lessons::cases::{Case, Made};
use crate::lessons::turns::{Group, Kind, turns};
use crate::records::ChatLine;
use crate::stages::manifest::{Record, Stage};
use crate::stages::write_lines;

/// Counts of a stage in their order, from the prompts to the turns.
pub type Funnel = Vec<(String, u64)>;

/// The cases of `lines`; the seed and the position among all prompts determine each.
///
/// # Errors
/// Names the prompt whose rules cannot be read.
pub fn cases<'a>(settings: &Settings, lines: impl Iterator<Item = (usize, &'a Answered)>) -> Result<Vec<Case>> {
    let case = |(index, line): (usize, &Answered)| {
        let checks = line.asked.checks().with_context(|| format!("prompt {}", line.asked.key))?;
        let seed = derive_seed(!settings.seed, index as u64);
        Ok(Case::new(&line.asked.prompt, checks, &line.responses, settings.turns.edits, seed))
    };
    lines.filter(|(_, line)| !line.responses.is_empty()).map(case).collect()
}

/// Writes the turns of the training cases to `out`.
///
/// # Errors
/// Fails if a file cannot be written, or with the whole funnel if there are too few turns.
pub fn write(
    settings: &Settings,
    base: &Path,
    responses: (&Path, &Record),
    cases: &[Case],
    out: &Path,
) -> Result<(Record, Funnel)> {
    let (responses, sampled) = responses;
    let decides = (settings.seed, settings.turns, settings.held_out);
    let inputs = [("responses", responses), ("model", base)];
    let record = out.with_extension("stage.json");
    let running = match Stage::begin(&record, "turns", &decides, &inputs)? {
        Stage::Finished(record) => {
            let funnel = funnel(sampled, &record);
            return Ok((record, funnel));
        }
        Stage::Running(running) => running,
    };
    let chats = Chats::open(base)?;
    let (lines, counts) = choose(settings, &chats, cases);
    let counts: Vec<(&str, u64)> = counts.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    if lines.len() < settings.turns.least {
        // Nothing was made, so other settings may be tried in the same folder.
        std::fs::remove_file(&record).with_context(|| format!("removing {}", record.display()))?;
        let counts = counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let counted = Record { counts, ..Record::default() };
        bail!(
            "{} turns are too few to learn from: turns.least is {}, so nothing is trained.\n{}{}",
            lines.len(),
            settings.turns.least,
            show(&funnel(sampled, &counted)),
            advice(&counted)
        );
    }
    write_lines(out, &lines)?;
    let record = running.finish(&counts, Vec::new(), &[("turns", out)])?;
    let funnel = funnel(sampled, &record);
    Ok((record, funnel))
}

/// Chooses turns and counts what they come from.
fn choose(settings: &Settings, chats: &Chats, cases: &[Case]) -> (Vec<ChatLine>, Funnel) {
    let limits = &settings.turns;
    let longest = limits.max_length.min(chats.context());
    let templates: &Templates = &chats.model.templates;
    let mut too_long = 0;
    let mut groups: Vec<Group> = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let seed = derive_seed(derive_seed(settings.seed, 1), i as u64);
        for group in turns(templates, case, &limits.per_prompt, seed) {
            let fits = |line: &ChatLine| {
                let (answer, before) = line.messages.split_last().expect("a turn ends with its answer");
                chats.answered(before, &answer.content, longest).is_ok()
            };
            if group.turns.iter().all(fits) { groups.push(group) } else { too_long += group.turns.len() }
        }
    }
    groups.shuffle(&mut Draws::seed_from_u64(derive_seed(settings.seed, 2)));
    let mut taken: BTreeMap<(Kind, Option<String>), usize> = BTreeMap::new();
    let mut beyond = 0;
    groups.retain(|group| {
        let of_kind = (group.kind, None);
        let of_instruction = (group.kind, Some(group.about.clone()));
        let count = |key: &(Kind, Option<String>)| taken.get(key).copied().unwrap_or_default();
        let kept = count(&of_kind) < limits.per_kind && count(&of_instruction) < limits.per_instruction;
        if kept {
            *taken.entry(of_kind).or_default() += 1;
            *taken.entry(of_instruction).or_default() += 1;
        } else {
            beyond += group.turns.len();
        }
        kept
    });
    let counts = counts(cases, &groups, too_long, beyond);
    (groups.into_iter().flat_map(|group| group.turns).collect(), counts)
}

fn counts(cases: &[Case], groups: &[Group], too_long: usize, beyond: usize) -> Funnel {
    let responses = || cases.iter().flat_map(|case| &case.responses);
    let own = || responses().filter(|response| response.is_own());
    let both = |case: &&Case| {
        let right = case.responses.iter().filter(|response| response.right()).count();
        right > 0 && right < case.responses.len()
    };
    let mut counts: Funnel = vec![
        ("prompts for training".into(), cases.len() as u64),
        ("own responses".into(), own().count() as u64),
        ("own responses, right".into(), own().filter(|response| response.right()).count() as u64),
        ("repaired by rule".into(), responses().filter(|r| matches!(r.made, Made::Repaired(..))).count() as u64),
        ("near misses".into(), responses().filter(|r| matches!(r.made, Made::Damaged(_))).count() as u64),
        ("prompts with right and wrong responses".into(), cases.iter().filter(both).count() as u64),
        ("turns too long".into(), too_long as u64),
        ("turns above the limits".into(), beyond as u64),
    ];
    for kind in Kind::ALL {
        let of_kind = groups.iter().filter(|group| group.kind == kind);
        counts.push((format!("turns, {}", kind.name()), of_kind.map(|group| group.turns.len() as u64).sum()));
    }
    let mut instructions: BTreeMap<&str, u64> = BTreeMap::new();
    for group in groups.iter().filter(|group| group.kind == Kind::Item) {
        *instructions.entry(&group.about).or_default() += group.turns.len() as u64;
    }
    counts.extend(instructions.into_iter().map(|(id, count)| (format!("item turns, {id}"), count)));
    counts.push(("turns".into(), groups.iter().map(|group| group.turns.len() as u64).sum()));
    counts
}

/// The order of the funnel. Counts by instruction follow in the order of their names.
const ORDER: [&str; 21] = [
    "prompts",
    "prompts too long",
    "replies",
    "looped",
    "cut at a sentence",
    "without text",
    "equal",
    "responses",
    "prompts for training",
    "own responses",
    "own responses, right",
    "repaired by rule",
    "near misses",
    "prompts with right and wrong responses",
    "turns too long",
    "turns above the limits",
    "turns, score",
    "turns, item",
    "turns, critique",
    "turns, rewrite",
    "turns, refine",
];

/// The counts of both stages in order.
fn funnel(sampled: &Record, turns: &Record) -> Funnel {
    let all: BTreeMap<&String, u64> = sampled.counts.iter().chain(&turns.counts).map(|(name, n)| (name, *n)).collect();
    let place = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
    let mut found: Funnel = all.into_iter().map(|(name, count)| (name.clone(), count)).collect();
    found.sort_by_key(|(name, _)| place(name));
    found
}

/// The funnel as lines.
#[must_use]
pub fn show(funnel: &Funnel) -> String {
    funnel.iter().fold(String::new(), |mut text, (name, count)| {
        let _ = writeln!(text, "  {name:60} {count:>8}");
        text
    })
}

/// What to change where too few turns come out.
fn advice(record: &Record) -> String {
    let count = |name: &str| record.counts.get(name).copied().unwrap_or_default();
    let most = count("turns too long") + count("turns above the limits");
    let said = if count("prompts for training") < 50 {
        "give more prompts"
    } else if count("own responses, right") + count("repaired by rule") == 0 {
        "the model follows none of the prompts, and no edit helps: give easier prompts, or sample more responses (sample.per_temperature)"
    } else if most > count("turns") {
        "most turns are too long or above their limits: raise turns.max_length or turns.per_kind"
    } else {
        "few prompts have right and wrong responses: raise sample.per_temperature or turns.edits, or give more prompts"
    };
    format!("What to change: {said}.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lessons::cases::tests::case;

    fn embedded() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/spar-tiny/refiner"))
    }

    fn stage(folder: &Path, settings: &Settings, cases: &[Case]) -> Result<(Record, Funnel)> {
        let responses = folder.join("responses.jsonl");
        std::fs::write(&responses, "").unwrap();
        let sampled = Record { counts: [("replies".to_owned(), 8)].into(), ..Record::default() };
        write(settings, embedded(), (&responses, &sampled), cases, &folder.join("turns.jsonl"))
    }

    #[test]
    fn turns_are_written_within_their_limits() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.turns.least = 1;
        settings.turns.per_kind = 2;
        let cases: Vec<Case> = (0..3).map(|_| case()).collect();
        let (record, funnel) = stage(folder.path(), &settings, &cases).unwrap();
        let written: Vec<ChatLine> = crate::stages::read_lines(&folder.path().join("turns.jsonl")).unwrap().unwrap();
        assert_eq!(record.counts["turns"], written.len() as u64);
        assert_eq!(record.counts["turns, score"], 4, "two pairs");
        assert!(record.counts["turns above the limits"] > 0);
        let names: Vec<&str> = funnel.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names[0], *names.last().unwrap()), ("replies", "turns"));
    }

    #[test]
    fn too_few_turns_are_an_error_with_the_funnel() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.turns.least = 500;
        let message = stage(folder.path(), &settings, &[case()]).unwrap_err().to_string();
        for part in ["too few to learn from", "own responses, right", "near misses", "give more prompts"] {
            assert!(message.contains(part), "{message}");
        }
        settings.turns.max_length = 3;
        let message = stage(folder.path(), &Settings { seed: 1, ..settings }, &[case()]).unwrap_err().to_string();
        assert!(message.contains("0 turns are too few") && message.contains("turns too long"), "{message}");
    }
}
