//! What is measured, and where the calibration is written.

use std::path::PathBuf;

/// What is measured, and where the calibration is written.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The judge's model directory.
    #[arg(long)]
    pub model: PathBuf,
    /// Prompts in IFEval's JSONL format; their rules decide which responses are right.
    #[arg(long)]
    pub prompts: PathBuf,
    /// File of lines with `prompt` and `response` to judge; by default the prompts are answered first.
    #[arg(long, conflicts_with = "actor")]
    pub responses: Option<PathBuf>,
    /// The model directory that answers the prompts; default: the judge's.
    #[arg(long)]
    pub actor: Option<PathBuf>,
    /// The spar.json to write; default: the one in the model directory.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Replaces an existing spar.json.
    #[arg(long)]
    pub force: bool,
    /// Maximum number of prompts to use.
    #[arg(long)]
    pub count: Option<usize>,
    /// Number of sampled responses per prompt in addition to the greedy one, alternating between temperatures of 0.7 and 1.0.
    #[arg(long, default_value_t = 2)]
    pub samples: usize,
    /// Maximum tokens of a response.
    #[arg(long, default_value_t = 256)]
    pub max_tokens: usize,
    /// Maximum number of responses that are also judged after a written critique.
    #[arg(long, default_value_t = 200)]
    pub critiques: usize,
    /// Number of calls at a time.
    #[arg(long, default_value_t = 8, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub parallel: usize,
    /// Seed of all random draws.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Directory for `calibration.json` and `reliability.svg`.
    #[arg(long)]
    pub report: Option<PathBuf>,
}

impl Options {
    /// The file to write.
    pub(super) fn target(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| self.model.join("spar.json"))
    }
}
