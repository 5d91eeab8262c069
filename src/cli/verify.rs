//! `spar verify`: scores a file of responses by the rules of IFEval or IFBench.

use std::path::PathBuf;

use super::output::print;
use crate::verify::data::{join, read_prompts, read_responses};
use crate::verify::score::{Report, Verdicts};

/// The files to score, and the output format.
#[derive(clap::Args, Debug)]
pub struct VerifyArgs {
    /// Prompts in the JSONL format of IFEval and IFBench: key, prompt, instruction_id_list, kwargs
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Responses as JSONL: prompt, response; prompts without a response are counted but not scored
    #[arg(long, value_name = "FILE")]
    responses: PathBuf,
    /// Print JSON with every verdict instead of a table
    #[arg(long)]
    json: bool,
}

/// Prints the scores to standard output.
///
/// # Errors
/// Fails if a file cannot be used or standard output cannot be written.
pub fn run(args: &VerifyArgs) -> anyhow::Result<()> {
    let text = scores(args)?;
    Ok(print(&text)?)
}

fn scores(args: &VerifyArgs) -> anyhow::Result<String> {
    let prompts = read_prompts(&args.prompts)?;
    let responses = read_responses(&args.responses)?;
    let joined = join(&prompts, &responses)?;
    for &position in &joined.reworded {
        let key = &prompts.items[position].key;
        eprintln!("note: prompt {key} differs between the two files; its response was joined by position");
    }
    let (mut results, mut missing) = (Vec::new(), Vec::new());
    for (prompt, response) in prompts.items.iter().zip(joined.responses) {
        match response {
            Some(response) => results.push(Verdicts::check(prompt, response)),
            None => missing.push(prompt.key.clone()),
        }
    }
    let report = Report::new(results, missing);
    Ok(if args.json { format!("{}\n", serde_json::to_string(&report)?) } else { report.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn files_become_scores() {
        let folder = tempfile::tempdir().unwrap();
        let [prompts, responses] = ["p.jsonl", "r.jsonl"].map(|name| folder.path().join(name));
        let prompt = |key: usize| json!({"key": key, "prompt": format!("p{key}"), "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]});
        std::fs::write(&prompts, format!("{}\n{}\n", prompt(1), prompt(2))).unwrap();
        std::fs::write(
            &responses,
            "{\"prompt\": \"p2\", \"response\": \"a, b\"}\n{\"prompt\": \"p1\", \"response\": \"a\"}",
        )
        .unwrap();
        let args = |json| VerifyArgs { prompts: prompts.clone(), responses: responses.clone(), json };

        let report: Value = serde_json::from_str(&scores(&args(true)).unwrap()).unwrap();
        assert_eq!(report["prompt_strict"], json!(0.5));
        assert_eq!(report["results"][1], json!({"key": 2, "strict": [false], "loose": [false]}));
        assert!(scores(&args(false)).unwrap().contains("1/2  50.00%"));

        std::fs::write(&responses, "{\"prompt\": \"p2\", \"response\": \"a\"}").unwrap();
        let report: Value = serde_json::from_str(&scores(&args(true)).unwrap()).unwrap();
        assert_eq!((&report["prompt_strict"], &report["missing"]), (&json!(1.0), &json!([1])));
        let table = scores(&args(false)).unwrap();
        assert!(table.contains("1/1 100.00%") && table.contains("1 of 2 prompts: 1\n"), "{table}");

        std::fs::write(&responses, "{\"prompt\": \"p3\", \"response\": \"a\"}").unwrap();
        let error = scores(&args(true)).unwrap_err().to_string();
        assert!(error.contains("r.jsonl:1: no such prompt in "), "{error}");
    }
}
