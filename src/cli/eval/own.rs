//! `spar bench --budgets`: greedy answers against searched ones, on prompts of one's own.

use std::path::PathBuf;

use serde_json::json;

use super::EvalArgs;
use crate::cli::output::print;
use crate::config::EngineArgs;
use crate::eval::Checks;
use crate::eval::own::read_own_prompts;
use crate::search::{Judge, Mode, SearchConfig, Strategy};

/// What is compared, and where the answers come from.
pub struct Own {
    /// The file of prompts.
    pub data: PathBuf,
    /// The budgets to compare with greedy answers.
    pub budgets: Vec<usize>,
    /// The running server; `None` for a model in this process.
    pub url: Option<String>,
    /// The model in this process.
    pub engine: EngineArgs,
    /// Tokens of an answer at most.
    pub max_tokens: Option<usize>,
    /// Prompts that are answered at the same time.
    pub parallel: usize,
    /// Whether the result is printed as JSON.
    pub json: bool,
}

/// Answers each prompt greedily and with each budget, and prints the differences.
///
/// # Errors
/// Fails if the file, the model or the server cannot be used, or if a call fails.
pub fn run(own: Own) -> anyhow::Result<()> {
    let Own { data, budgets, url, engine, max_tokens, parallel, json } = own;
    let cases = read_own_prompts(&data)?;
    let checked = cases.iter().filter(|case| !case.checks.is_empty()).count();
    let note = format!(
        "{checked} of {} prompts state something that rules can check: the scores are theirs. Searches judge by the same rules and by \
         the model, as a server does by default; where no rule was found, `accepted` is the model's own opinion.",
        cases.len()
    );
    let args = EvalArgs {
        data,
        budgets,
        strategy: vec![Strategy::Auto],
        mode: Mode::Eager,
        judge: Judge::Both,
        checks: Checks::File,
        judging: None,
        checklist: false,
        votes: SearchConfig::default().votes,
        temperature: 0.0,
        max_tokens,
        seed: 0,
        limit: None,
        parallel,
        url,
        out: None,
        engine,
    };
    args.check()?;
    let (report, _) = super::measure(&args, &cases)?;
    let text =
        if json { format!("{:#}\n", json!({"note": note, "report": report})) } else { format!("{report}\n{note}\n") };
    Ok(print(&text)?)
}
