//! `spar checks`: measures how well the checks that are found in prompts agree with those that the file states.

use std::path::PathBuf;

use super::output::print;
use crate::verify::data::read_prompts;
use crate::verify::find::measure::Agreement;

/// The file to compare, and the output format.
#[derive(clap::Args, Debug)]
pub struct ChecksArgs {
    /// Prompts in IFEval's JSONL format: key, prompt, instruction_id_list, kwargs
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Print JSON with every difference instead of a table
    #[arg(long)]
    json: bool,
}

/// Prints the agreement to standard output.
///
/// # Errors
/// Fails if the file cannot be used or standard output cannot be written.
pub fn run(args: &ChecksArgs) -> anyhow::Result<()> {
    let text = agreement(args)?;
    Ok(print(&text)?)
}

fn agreement(args: &ChecksArgs) -> anyhow::Result<String> {
    let agreement = Agreement::measure(&read_prompts(&args.prompts)?.items);
    Ok(if args.json { format!("{}\n", serde_json::to_string(&agreement)?) } else { agreement.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_file_becomes_an_agreement() {
        let folder = tempfile::tempdir().unwrap();
        let prompts = folder.path().join("p.jsonl");
        let line = json!({
            "key": 7, "prompt": "Say it without commas, in JSON.",
            "instruction_id_list": ["punctuation:no_comma", "detectable_format:title"], "kwargs": [{}, {}],
        });
        std::fs::write(&prompts, format!("{line}\n")).unwrap();
        let args = |json| ChecksArgs { prompts: prompts.clone(), json };
        assert!(agreement(&args(false)).unwrap().ends_with("0 of 1 prompts exactly right (0.000)\n"));
        let report: Value = serde_json::from_str(&agreement(&args(true)).unwrap()).unwrap();
        assert_eq!(report["kinds"]["punctuation:no_comma"], json!({"stated": 1, "found": 1, "right": 1}));
        assert_eq!(report["differences"][0]["missed"][0]["id"], "detectable_format:title");
        std::fs::write(&prompts, "{}").unwrap();
        assert!(agreement(&args(false)).unwrap_err().to_string().contains("p.jsonl:1: missing field"));
    }
}
