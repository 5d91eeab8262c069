//! Saves and loads the file from which a killed run resumes: weights, moments and progress.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use serde::{Deserialize, Serialize};

use crate::checkpoint::replace;
use crate::model::Params;
use crate::optimizer::Optimizer;

/// The progress of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Number of steps done.
    pub step: u64,
    /// Rows computed so far.
    pub tokens: u64,
    /// Time spent training so far.
    pub seconds: f64,
    /// The shape and settings that identify the run. A file of another run is rejected.
    pub run: String,
}

/// Replaces the file at `path`.
///
/// # Errors
/// Fails if the file cannot be written.
pub fn save(path: &Path, params: &Params, optimizer: &Optimizer, place: &Place) -> Result<()> {
    let mut tensors: Vec<(String, Vec<u8>)> = Vec::new();
    for (entry, moments) in params.layout.entries.iter().zip(&optimizer.moments) {
        tensors.push((format!("weight/{}", entry.name), bytes(&params.data[entry.range.clone()])));
        tensors.push((format!("first/{}", entry.name), bytes(&moments.first)));
        tensors.push((format!("second/{}", entry.name), bytes(&moments.second)));
    }
    let mut views = Vec::new();
    for (name, bytes) in &tensors {
        views.push((name, TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)?));
    }
    let metadata = HashMap::from([("place".to_string(), serde_json::to_string(place)?)]);
    replace(path, |path| Ok(serialize_to_file(views, Some(metadata), path)?))
}

/// Reads the file at `path` into `params` and `optimizer`, which must have the run's shape.
///
/// # Errors
/// Fails if the file is damaged or belongs to another run.
pub fn load(path: &Path, run: &str, params: &mut Params, optimizer: &mut Optimizer) -> Result<Place> {
    let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (_, header) = SafeTensors::read_metadata(&data).with_context(|| format!("{} is damaged", path.display()))?;
    let file = SafeTensors::deserialize(&data)?;
    let place = header.metadata().as_ref().and_then(|metadata| metadata.get("place"));
    let place: Place =
        serde_json::from_str(place.with_context(|| format!("{} does not state its progress", path.display()))?)?;
    ensure!(
        place.run == run,
        "{} belongs to another run: remove it to start again\n  that run: {}\n  this run: {run}",
        path.display(),
        place.run
    );
    for (entry, moments) in params.layout.entries.iter().zip(&mut optimizer.moments) {
        let fill = |to: &mut [f32], kind: &str| -> Result<()> {
            let name = format!("{kind}/{}", entry.name);
            let tensor = file.tensor(&name).with_context(|| format!("{} lacks {name}", path.display()))?;
            ensure!(tensor.data().len() == 4 * to.len(), "{name} has another size");
            let values = tensor.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b));
            to.iter_mut().zip(values).for_each(|(to, value)| *to = value);
            Ok(())
        };
        fill(&mut params.data[entry.range.clone()], "weight")?;
        fill(&mut moments.first, "first")?;
        fill(&mut moments.second, "second")?;
    }
    optimizer.steps = place.step;
    Ok(place)
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}
