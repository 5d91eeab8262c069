//! Logits of a model directory: `logits MODEL_DIR 5,17,3` prints one JSON list for each token read.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use spar_training::model::cpu::{Arithmetic, Packed, Workspace};
use spar_training::model::{Params, shape};

fn main() -> Result<()> {
    let usage = "usage: logits MODEL_DIR TOKEN,TOKEN,...";
    let directory = std::env::args().nth(1).context(usage)?;
    let tokens = std::env::args().nth(2).context(usage)?;
    let tokens = tokens.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>().context(usage)?;
    let config = shape::load(Path::new(&directory))?;
    let params = Params::load(&config, Path::new(&directory))?;
    let mut batch = Packed::default();
    // The last token of a sequence is only predicted: one more makes the given ones all read.
    batch.push(&[tokens.as_slice(), &[0]].concat());
    let mut workspace = Workspace::new(&config, Arithmetic::F32);
    workspace.forward(&params, &batch)?;
    let mut out = std::io::stdout().lock();
    for row in workspace.logits(&params).chunks_exact(config.vocabulary) {
        serde_json::to_writer(&mut out, row)?;
        writeln!(out)?;
    }
    Ok(())
}
