//! Renders the page as one HTML file without scripts or external resources.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use similar::{ChangeTag, TextDiff};
use spar::eval::stats::Estimate;

use super::chart::{Curve, Point, draw, smooth};
use super::{Example, Refused, Report, Share};
use crate::loss::PreferenceMetrics;
use crate::stages::funnel::Funnel;
use crate::stages::gate::{Comparison, Decision};
use crate::stages::scores::Summary;
use crate::trainer::StepMetrics;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem;color:#222}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem;border-bottom:1px solid #ddd}\
table{border-collapse:collapse;margin:.6rem 0}td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #eee}\
td:first-child,th:first-child{text-align:left}.charts{display:flex;flex-wrap:wrap;gap:8px}\
svg{max-width:100%;height:auto}del{background:#fdd;color:#900}ins{background:#dfd;color:#060;text-decoration:none}\
.pair{border:1px solid #ddd;border-radius:6px;padding:.6rem .9rem;margin:.6rem 0}.pair pre{white-space:pre-wrap;margin:.3rem 0}\
.wide{overflow-x:auto}.ask{color:#555}.yes{color:#060}.no{color:#900}";

pub(super) fn render(report: &Report) -> Result<String> {
    let mut html =
        String::from("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>SPaR iterations</title>");
    write!(html, "<style>{STYLE}</style><h1>SPaR iterations</h1>")?;
    let recipe = &report.manifest.recipe;
    if !report.finished {
        let (done, all) = (report.manifest.rounds.len(), recipe.iterations);
        write!(html, "<p><b>Unfinished:</b> {done} of {all} rounds are here.</p>")?;
    }
    write!(
        html,
        "<p>seed {}, {} rounds of {} prompts with {} drafts; search: {} nodes, {} votes.</p>",
        recipe.seed,
        recipe.iterations,
        recipe.prompts.per_iteration,
        recipe.sample.per_prompt,
        recipe.search.budget,
        recipe.search.votes
    )?;
    write!(
        html,
        "<p>Actor: {}; refiner: {}; judge: {}; learning rate of the actor {}, of the refiner {}.</p>",
        escape(&recipe.actor.display().to_string()),
        escape(&recipe.refiner.display().to_string()),
        format!("{:?}", recipe.search.judge).to_lowercase(),
        recipe.dpo.train.optimizer.lr,
        recipe.sft.train.optimizer.lr
    )?;
    scores(&mut html, report)?;
    rounds(&mut html, report)?;
    curves(&mut html, report)?;
    times(&mut html, report)?;
    html.push_str("<h2>Pairs</h2>");
    if report.examples.is_empty() {
        html.push_str("<p>No pair came out; the counts of the rounds show where they were lost.</p>");
    } else {
        html.push_str(
            "<p>The rejected draft, with what its chosen response <del>takes away</del> and <ins>adds</ins>.</p>",
        );
    }
    for shown in &report.examples {
        example(&mut html, shown)?;
    }
    if !report.refused.is_empty() {
        html.push_str("<h2>Refused</h2><p>The best responses of searches in which nothing was accepted.</p>");
    }
    for Refused { prompt, response, critique } in &report.refused {
        let [prompt, response, critique] = [prompt, response, critique].map(|text| escape(text));
        write!(
            html,
            "<div class=\"pair\"><div class=\"ask\">{prompt}</div><pre>{response}</pre>{}</div>",
            details(&critique)
        )?;
    }
    html.push_str("</html>\n");
    Ok(html)
}

fn scores(html: &mut String, report: &Report) -> Result<()> {
    let manifest = &report.manifest;
    let after = manifest.rounds.iter().filter_map(|round| round.gate.as_ref()).map(|gate| gate.scores);
    let validation: Vec<Summary> = manifest.start.into_iter().chain(after).collect();
    html.push_str("<h2>Scores by round</h2><div class=\"charts\">");
    for (name, summaries) in [("validation", &validation), ("held out", &manifest.held_out)] {
        let curve = |label: &str, value: fn(&Summary) -> Estimate| Curve {
            name: label.into(),
            points: summaries.iter().enumerate().map(|(round, summary)| at(round, value(summary))).collect(),
        };
        html.push_str(&draw(
            &format!("Share of prompts followed, {name}"),
            "round",
            &[curve("greedy", |s| s.greedy), curve("search", |s| s.search)],
        )?);
    }
    html.push_str("</div>");
    for (name, summaries) in [("Validation", &validation), ("Held out", &manifest.held_out)] {
        if summaries.is_empty() {
            continue;
        }
        write!(
            html,
            "<div class=\"wide\"><table><tr><th>{name}<th>greedy<th>search<th>one refinement<th>judge, balanced<th>characters"
        )?;
        for (round, s) in summaries.iter().enumerate() {
            let (greedy, search, once) = (s.greedy, s.search, s.refine_once);
            write!(
                html,
                "<tr><td>after round {round}<td>{greedy}<td>{search}<td>{once} (n {})<td>{:.3}<td>{:.0}",
                once.n, s.judge, s.length
            )?;
        }
        html.push_str("</table></div>");
    }
    Ok(())
}

fn at(round: usize, e: Estimate) -> Point {
    Point { x: round as f64, y: e.mean, interval: Some((e.low, e.high)) }
}

fn rounds(html: &mut String, report: &Report) -> Result<()> {
    for (t, round) in report.manifest.rounds.iter().enumerate() {
        write!(html, "<h2>Round {}</h2>", t + 1)?;
        if let Some(gate) = &round.gate {
            decision(html, gate)?;
        }
        let alike = report.similarity[t];
        let pairs = |name: &str, mean: f64, count: usize| match count {
            0 => format!("{name}: none"),
            count => format!("{name} {mean:.3} ({count})"),
        };
        write!(
            html,
            "<p>Similarity inside pairs: {}, {}.</p>",
            pairs("refined", alike.refined, alike.refined_pairs),
            pairs("independent", alike.independent, alike.independent_pairs)
        )?;
        funnel(html, &round.counts)?;
        kinds(html, &report.kinds[t])?;
    }
    Ok(())
}

/// Steps of the funnel that count the same things as the step before.
const SHARES: [&str; 6] = ["judged", "accepted", "pairs agreed on", "pairs above the floor", "pairs balanced", "pairs"];

/// The counts in the order in which a round shrinks, with shares where two steps count the same things; then all counts.
fn funnel(html: &mut String, counts: &BTreeMap<String, BTreeMap<String, u64>>) -> Result<()> {
    let funnel = Funnel::from_counts(counts);
    html.push_str("<div class=\"wide\"><table><tr><th>from prompts to data<th>count<th>of the step before");
    let mut before = 0;
    for step in &funnel.steps {
        let share = (SHARES.contains(&step.name) && before > 0)
            .then(|| format!("{:.0} %", 100.0 * step.count as f64 / before as f64));
        write!(html, "<tr><td>{}<td>{}<td>{}", step.name, step.count, share.unwrap_or_default())?;
        before = step.count;
    }
    html.push_str("</table></div>");
    if let Some(advice) = funnel.advice() {
        write!(html, "<p>What to change: {}.</p>", escape(advice))?;
    }
    html.push_str("<details><summary>All counts</summary><table><tr><th>stage<th>what<th>count");
    for stage in ["sample", "search", "build", "dpo", "sft"] {
        for (name, count) in counts.get(stage).into_iter().flatten() {
            write!(html, "<tr><td>{stage}<td>{name}<td>{count}")?;
        }
    }
    html.push_str("</table></details>");
    Ok(())
}

fn kinds(html: &mut String, kinds: &BTreeMap<String, Share>) -> Result<()> {
    if kinds.is_empty() {
        return Ok(());
    }
    html.push_str("<details><summary>Drafts by kind of instruction</summary><table><tr><th>instruction<th>followed<th>drafts<th>share");
    for (id, Share { followed, drafts }) in kinds {
        let share = 100.0 * *followed as f64 / (*drafts).max(1) as f64;
        write!(html, "<tr><td>{id}<td>{followed}<td>{drafts}<td>{share:.0} %")?;
    }
    html.push_str("</table></details>");
    Ok(())
}

fn decision(html: &mut String, gate: &Decision) -> Result<()> {
    let verdict = |accepted: bool| if accepted { "<b class=yes>accepted</b>" } else { "<b class=no>rejected</b>" };
    let compared = |c: &Comparison| {
        let same = if c.difference.mean == 0.0 { ", the same score" } else { "" };
        format!("{:.3} → {:.3}, difference {}{same}", c.before, c.after, c.difference)
    };
    if let Some(actor) = &gate.actor {
        write!(html, "<p>Actor, greedy: {}: {}.</p>", compared(actor), verdict(gate.actor_accepted))?;
    }
    if let (Some(refiner), Some((before, after))) = (&gate.refiner, gate.judge) {
        write!(
            html,
            "<p>Refiner, search: {}; judge {before:.3} → {after:.3}: {}.</p>",
            compared(refiner),
            verdict(gate.refiner_accepted)
        )?;
    }
    Ok(())
}

fn curves(html: &mut String, report: &Report) -> Result<()> {
    html.push_str("<h2>Training</h2><div class=\"charts\">");
    for (name, steps) in &report.curves {
        let curve = |label: &str, value: &dyn Fn(&StepMetrics) -> Option<f64>| {
            let values: Vec<(f64, f64)> =
                steps.iter().filter_map(|step| Some((step.step as f64, value(step)?))).collect();
            smooth(label, &values)
        };
        html.push_str(&draw(&format!("{name}: loss"), "step", &[curve("loss", &|step| Some(step.loss))])?);
        if steps.iter().all(|step| step.preference.is_none()) {
            continue;
        }
        let reward =
            |label: &str, value: fn(PreferenceMetrics) -> f64| curve(label, &|step| step.preference.map(value));
        let rewards = [
            reward("rewards/chosen", |p| p.chosen),
            reward("rewards/rejected", |p| p.rejected),
            reward("rewards/margins", |p| p.margin),
        ];
        html.push_str(&draw(&format!("{name}: rewards"), "step", &rewards)?);
        let parts = [
            reward("loss/preference", |p| p.loss_preference),
            reward("loss/sft", |p| p.loss_sft),
            reward("loss/kept", |p| p.loss_kept),
        ];
        html.push_str(&draw(&format!("{name}: parts of the loss"), "step", &parts)?);
        let accuracy = [reward("rewards/accuracies", |p| p.accuracy)];
        html.push_str(&draw(&format!("{name}: share of pairs in the right order"), "step", &accuracy)?);
    }
    html.push_str("</div>");
    Ok(())
}

fn times(html: &mut String, report: &Report) -> Result<()> {
    let all: f64 = report.times.values().sum();
    write!(html, "<h2>Time</h2><table><tr><th>stage<th>seconds<th>share")?;
    for (stage, seconds) in &report.times {
        write!(html, "<tr><td>{stage}<td>{seconds:.0}<td>{:.0} %", 100.0 * seconds / all.max(1e-9))?;
    }
    write!(html, "<tr><td>all<td>{all:.0}<td></table>")?;
    Ok(())
}

/// A critique that can be folded out.
fn details(critique: &str) -> String {
    if critique.is_empty() {
        return String::new();
    }
    format!("<details><summary>Critique</summary><pre>{critique}</pre></details>")
}

fn example(html: &mut String, Example { pair, critique }: &Example) -> Result<()> {
    write!(html, "<div class=\"pair\"><div class=\"ask\">{}</div><pre>", escape(&pair.instruction))?;
    for change in TextDiff::from_words(&pair.rejected_text, &pair.chosen_text).iter_all_changes() {
        let text = escape(change.value());
        match change.tag() {
            ChangeTag::Delete => write!(html, "<del>{text}</del>")?,
            ChangeTag::Insert => write!(html, "<ins>{text}</ins>")?,
            ChangeTag::Equal => html.push_str(&text),
        }
    }
    write!(html, "</pre>{}</div>", details(&escape(critique)))?;
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
