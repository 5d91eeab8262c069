//! Prints the models of a cache as a table: the architecture, the engine that runs it, and whether it fits into memory.

use crate::config::EngineKind;
use crate::engine::load::{Runs, choose};
use crate::engine::native::NativeEngine;
use crate::hub::{Cache, Cached, HubError};
use crate::memory;
use crate::weights::{ModelConfig, gguf};

/// Bytes needed in addition to the weights: keys and values, buffers, the tokenizer.
const RUNTIME_BYTES: u64 = 512 << 20;

/// Builds the table, with one line for each model.
///
/// # Errors
/// Fails if the cache cannot be read.
pub(super) fn table(cache: &Cache) -> Result<String, HubError> {
    let models = cache.models()?;
    if models.is_empty() {
        return Ok(format!("no models in {}; fetch one with `spar pull org/name`\n", cache.root.display()));
    }
    let mut rows = vec![["NAME", "SIZE", "ARCHITECTURE", "ENGINE", "FITS"].map(str::to_owned)];
    let free = memory::now().available;
    rows.extend(models.iter().map(|model| row(model, free)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let line = |row: &[String; 5]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    Ok(rows.iter().map(line).collect())
}

fn row(model: &Cached, free: Option<u64>) -> [String; 5] {
    let (architecture, engine) = match ModelConfig::open(&model.path) {
        Ok(config) => {
            let runs = choose(EngineKind::Auto, &config).runs;
            let computed = match runs {
                Runs::Native => NativeEngine::computes(&config).map(|_| "native"),
                Runs::Mistral if gguf::is_named(&model.path) => Err("mistral.rs takes directories here".into()),
                Runs::Mistral => Ok("mistral"),
            };
            (config.architecture.to_string(), computed.map_or_else(|reason| format!("none: {reason}"), str::to_owned))
        }
        Err(error) => ("unknown".into(), format!("none: {error}")),
    };
    let needed = model.bytes + RUNTIME_BYTES;
    let fits = match free {
        Some(free) if needed > free => format!("no, it needs {} and {} are free", size(needed), size(free)),
        Some(_) => "yes".into(),
        None => "unknown".into(),
    };
    [model.name.to_string(), size(model.bytes), architecture, engine, fits]
}

/// A number of bytes in readable form.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1_000)),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gguf::{GgufFile, Meta};
    use crate::testing::{TinyModel, write_model};

    #[test]
    fn every_whole_model_has_its_line() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache { root: root.path().to_owned() };
        assert!(table(&cache).unwrap().starts_with("no models in "));
        let commit = "a".repeat(40);
        let snapshot = |repository: &str| {
            let repository = root.path().join(repository);
            std::fs::create_dir_all(repository.join("refs")).unwrap();
            std::fs::write(repository.join("refs/main"), &commit).unwrap();
            let snapshot = repository.join("snapshots").join(&commit);
            std::fs::create_dir_all(&snapshot).unwrap();
            snapshot
        };
        write_model(&snapshot("models--o--tiny"), &TinyModel::default());
        let files = snapshot("models--o--files");
        let (mut file, _) = GgufFile::model(&TinyModel { intermediate: 64, ..TinyModel::default() }, 8);
        file.write(&files.join("m-Q8_0.gguf"));
        file.set("general.architecture", Meta::Text("mamba".into()));
        file.write(&files.join("m-Q5_0.gguf"));
        let half = snapshot("models--o--half");
        write_model(&half, &TinyModel::default());
        std::fs::remove_file(half.join("tokenizer.json")).unwrap();
        let table = table(&cache).unwrap();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["NAME", "SIZE", "ARCHITECTURE", "ENGINE", "FITS"]);
        let names: Vec<&str> = lines[1..].iter().map(|line| line[0]).collect();
        assert_eq!(names, ["o/files:Q5_0", "o/files:Q8_0", "o/tiny"], "{table}");
        assert!(table.contains("none: ") && table.contains("`mamba`"), "{table}");
        assert_eq!(lines[2][3..], ["Llama", "native", "yes"], "{table}");
    }
}
