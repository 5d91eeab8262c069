//! Renders the page as one HTML file without scripts or external resources.

use std::fmt::Write;

use anyhow::Result;
use similar::{ChangeTag, TextDiff};
use spar::eval::stats::Estimate;

use super::Report;
use super::chart::{Curve, Point, draw, smooth};
use crate::loss::PreferenceMetrics;
use crate::records::PairLine;
use crate::stages::gate::{Comparison, Decision};
use crate::stages::scores::Summary;
use crate::trainer::StepMetrics;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem;color:#222}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem;border-bottom:1px solid #ddd}\
table{border-collapse:collapse;margin:.6rem 0}td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #eee}\
td:first-child,th:first-child{text-align:left}.charts{display:flex;flex-wrap:wrap;gap:8px}\
svg{max-width:100%;height:auto}del{background:#fdd;color:#900}ins{background:#dfd;color:#060;text-decoration:none}\
.pair{border:1px solid #ddd;border-radius:6px;padding:.6rem .9rem;margin:.6rem 0}.pair pre{white-space:pre-wrap;margin:.3rem 0}\
.ask{color:#555}.yes{color:#060}.no{color:#900}";

pub(super) fn render(report: &Report) -> Result<String> {
    let mut html =
        String::from("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>SPaR iterations</title>");
    write!(html, "<style>{STYLE}</style><h1>SPaR iterations</h1>")?;
    let recipe = &report.manifest.recipe;
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
    scores(&mut html, report)?;
    rounds(&mut html, report)?;
    curves(&mut html, report)?;
    times(&mut html, report)?;
    html.push_str("<h2>Pairs</h2><p>The rejected draft, with what its accepted refinement <del>takes away</del> and <ins>adds</ins>.</p>");
    for pair in &report.examples {
        example(&mut html, pair)?;
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
        write!(html, "<table><tr><th>{name}<th>greedy<th>search<th>one refinement<th>judge, balanced<th>characters")?;
        for (round, s) in summaries.iter().enumerate() {
            let (greedy, search, once) = (s.greedy, s.search, s.refine_once);
            write!(
                html,
                "<tr><td>after round {round}<td>{greedy}<td>{search}<td>{once} (n {})<td>{:.3}<td>{:.0}",
                once.n, s.judge, s.length
            )?;
        }
        html.push_str("</table>");
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
        write!(
            html,
            "<p>Similarity inside pairs: refined {:.3} ({}), independent {:.3} ({}).</p><table><tr><th>stage<th>what<th>count",
            alike.refined, alike.refined_pairs, alike.independent, alike.independent_pairs
        )?;
        for stage in ["sample", "search", "build", "dpo", "sft"] {
            for (name, count) in round.counts.get(stage).into_iter().flatten() {
                write!(html, "<tr><td>{stage}<td>{name}<td>{count}")?;
            }
        }
        html.push_str("</table>");
    }
    Ok(())
}

fn decision(html: &mut String, gate: &Decision) -> Result<()> {
    let verdict = |accepted: bool| if accepted { "<b class=yes>accepted</b>" } else { "<b class=no>rejected</b>" };
    let compared = |c: &Comparison| format!("{:.3} → {:.3}, difference {}", c.before, c.after, c.difference);
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

fn example(html: &mut String, pair: &PairLine) -> Result<()> {
    write!(html, "<div class=\"pair\"><div class=\"ask\">{}</div><pre>", escape(&pair.instruction))?;
    for change in TextDiff::from_words(&pair.rejected_text, &pair.chosen_text).iter_all_changes() {
        let text = escape(change.value());
        match change.tag() {
            ChangeTag::Delete => write!(html, "<del>{text}</del>")?,
            ChangeTag::Insert => write!(html, "<ins>{text}</ins>")?,
            ChangeTag::Equal => html.push_str(&text),
        }
    }
    html.push_str("</pre></div>");
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
