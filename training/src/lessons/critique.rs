//! Writes critiques and reflections by program, in the form that the server reads from a judge and a refiner.

use spar::prompts::Templates;
use spar::verify::Check;

use super::evidence::evidence;
use super::text::capitalised;

/// A critique that goes through the rules, quotes or counts what decides each, names what has to change, and ends with the verdict.
#[must_use]
pub fn critique(templates: &Templates, checks: &[Check], response: &str) -> String {
    let line = |(i, check): (usize, &Check)| {
        let state = if check.strict(response) { "Met" } else { "Not met" };
        format!("{}. {}. {} {state}.", i + 1, capitalised(&check.describe()), evidence(check, response))
    };
    let mut lines: Vec<String> = checks.iter().enumerate().map(line).collect();
    let failed = failed(checks, response);
    if !failed.is_empty() {
        lines.push(format!("To change: {}.", failed.join("; ")));
    }
    templates.with_verdict(&lines.join("\n"), failed.is_empty())
}

/// The broken rules, one clause each, as a search passes them on to the refiner.
#[must_use]
pub fn failed(checks: &[Check], response: &str) -> Vec<String> {
    checks.iter().filter(|check| !check.strict(response)).map(Check::describe).collect()
}

/// What a refiner writes before the corrected response: which rules are broken, what decides that, and what is done.
#[must_use]
pub fn reflection(checks: &[Check], response: &str, notes: &[String]) -> String {
    let broken = checks.iter().filter(|check| !check.strict(response));
    let mut sentences: Vec<String> =
        broken.map(|check| format!("Missed: {}. {}", check.describe(), evidence(check, response))).collect();
    sentences.push(match notes {
        [] => "I change only that and keep the rest.".into(),
        notes => format!("I {}, and keep the rest.", notes.join(", ")),
    });
    sentences.join(" ")
}

/// An instruction as an item of a checklist: one sentence.
#[must_use]
pub fn item(check: &Check) -> String {
    format!("{}.", capitalised(&check.describe()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use spar::prompts::Verdict;

    use super::*;
    use crate::lessons::cases::tests::check;

    #[test]
    fn critiques_quote_count_and_end_with_a_readable_verdict() {
        let checks = [
            check("punctuation:no_comma", json!({})),
            check("length_constraints:number_words", json!({"num_words": 3, "relation": "at least"})),
        ];
        let templates = Templates::general();
        let text = critique(&templates, &checks, "The old, quiet river");
        assert_eq!(
            text,
            "1. Use no commas. It has 1 comma: \"The old, quiet river\". Not met.\n\
             2. Use at least 3 words. It has 4 words; at least 3 are asked for. Met.\n\
             To change: use no commas.\n\
             Final Judgement: No"
        );
        assert_eq!(templates.parse_verdict(&text), Some(Verdict::No));
        let right = critique(&templates, &checks, "The old river");
        assert_eq!(templates.parse_verdict(&right), Some(Verdict::Yes));
        assert!(!right.contains("Not met") && !right.contains("To change"), "{right}");
    }

    #[test]
    fn reflections_name_what_is_broken_and_what_is_done() {
        let checks = [check("punctuation:no_comma", json!({})), check("startend:quotation", json!({}))];
        let text = reflection(&checks[..1], "The old, quiet river", &["remove the commas".into()]);
        assert_eq!(
            text,
            "Missed: use no commas. It has 1 comma: \"The old, quiet river\". I remove the commas, and keep the rest."
        );
        assert!(reflection(&checks[1..], "A", &[]).ends_with("I change only that and keep the rest."));
        assert_eq!(item(&checks[0]), "Use no commas.");
        assert_eq!(failed(&checks, "\"a, b\""), ["use no commas"]);
    }
}
