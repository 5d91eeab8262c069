//! Writes and reads a trained LoRA adapter in PEFT's file format.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use spar::weights::LowRank;
use spar::weights::adapter::{Adapter, AdapterConfig, Linears, Targets};

use crate::model::lora::Module;
use crate::model::{DenseConfig, LoraConfig, Params};

const PREFIX: &str = "base_model.model.";

/// Writes `adapter_config.json` and `adapter_model.safetensors` to `directory`. `base` is what the configuration states as the base,
/// by which PEFT finds it.
///
/// # Errors
/// Fails when a file cannot be written.
pub fn save(directory: &Path, lora: &LoraConfig, adapter: &Params, base: Option<&str>) -> Result<()> {
    let names = lora.targets.iter().map(|module| module.path().rsplit('.').next().unwrap_or_default().to_owned());
    let config = AdapterConfig {
        r: lora.rank,
        lora_alpha: lora.alpha,
        use_rslora: lora.rslora,
        target_modules: Targets::Names(names.collect()),
        exclude_modules: None,
        layers_to_transform: None,
        rank_pattern: Default::default(),
        alpha_pattern: Default::default(),
        base_model_name_or_path: base.map(Into::into),
    };
    let pair = |factors: &[crate::model::params::Entry]| {
        let name = factors[0].name.trim_start_matches(PREFIX).trim_end_matches(".lora_A.weight");
        let values = |i: usize| adapter.data[factors[i].range.clone()].to_vec();
        (name.to_owned(), LowRank { a: values(0), b: values(1), rank: lora.rank, scale: lora.scale() })
    };
    let pairs = adapter.layout.entries.chunks_exact(2).map(pair).collect();
    Ok(Adapter { config, pairs, base_sha256: None }.save(directory)?)
}

/// Reads an adapter of the settings' shape.
///
/// # Errors
/// Fails when the files are damaged, or the adapter is of another shape than the settings say.
pub fn load(directory: &Path, lora: &LoraConfig, config: &DenseConfig) -> Result<Params> {
    let linears: Linears = (0..config.layers)
        .flat_map(|layer| Module::ALL.map(|m| (format!("model.layers.{layer}.{}", m.path()), m.shape(config))))
        .collect();
    let (found, _) = Adapter::open(directory, &linears)?;
    let mut adapter = lora.fresh(config, 0);
    let layout = adapter.layout.clone();
    let named = |name: &str| found.pairs.get(name).with_context(|| format!("{} lacks {name}", directory.display()));
    for factors in layout.entries.chunks_exact(2) {
        let pair = named(factors[0].name.trim_start_matches(PREFIX).trim_end_matches(".lora_A.weight"))?;
        ensure!(
            pair.rank == lora.rank && (pair.scale - lora.scale()).abs() < 1e-6,
            "{} has rank {} and scale {}, the recipe says {} and {}",
            directory.display(),
            pair.rank,
            pair.scale,
            lora.rank,
            lora.scale()
        );
        for (entry, values) in factors.iter().zip([&pair.a, &pair.b]) {
            adapter.data[entry.range.clone()].copy_from_slice(values);
        }
    }
    let (there, wanted) = (found.pairs.len(), layout.entries.len() / 2);
    ensure!(there == wanted, "{} changes {there} products, the recipe names {wanted}", directory.display());
    Ok(adapter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shape::tiny;

    #[test]
    fn what_is_written_is_read() {
        let config = DenseConfig { layers: 2, ..tiny(50) };
        let lora = LoraConfig { rank: 3, targets: vec![Module::Query, Module::Down], ..LoraConfig::default() };
        let mut adapter = lora.fresh(&config, 5);
        adapter.data.iter_mut().enumerate().for_each(|(i, x)| *x += i as f32 * 1e-4);
        let directory = tempfile::tempdir().unwrap();
        save(directory.path(), &lora, &adapter, Some("models/base")).unwrap();
        let written = std::fs::read_to_string(directory.path().join("adapter_config.json")).unwrap();
        assert!(written.contains(r#""base_model_name_or_path": "models/base""#), "{written}");
        assert_eq!(load(directory.path(), &lora, &config).unwrap().data, adapter.data);
        let other = LoraConfig { rank: 4, ..lora.clone() };
        assert!(load(directory.path(), &other, &config).unwrap_err().to_string().contains("has rank 3"));
        let more = LoraConfig { targets: vec![Module::Query, Module::Up], ..lora };
        assert!(load(directory.path(), &more, &config).unwrap_err().to_string().contains("lacks"));
    }
}
