//! Which files of a repository are a model: safetensors with their configuration, or one GGUF file. Nothing else is ever fetched.

use std::collections::BTreeSet;
use std::path::Path;

use super::{HubError, HubName};
use crate::weights::{digest, gguf};

/// Names the shards of large models.
pub(super) const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// The GGUF file that is taken where none is named: what most people take.
const USUAL: &str = "Q4_K_M";

/// The files of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A directory in Hugging Face layout.
    Directory(Vec<String>),
    /// The parts of a GGUF file, in order.
    Gguf(Vec<String>),
}

impl Wanted {
    pub(super) fn files(&self) -> &[String] {
        match self {
            Self::Directory(files) | Self::Gguf(files) => files,
        }
    }
}

/// The files that a name means, of those in a repository.
///
/// # Errors
/// There are none, or several may be meant.
pub(super) fn wanted(name: &HubName, files: &[String]) -> Result<Wanted, HubError> {
    let nothing = |reason: String| HubError::Nothing { name: name.to_string(), reason };
    let labels = labels(files);
    let has = |file: &str| files.iter().any(|other| other == file);
    let label = match &name.file {
        Some(asked) => {
            let same = |label: &&String| label.eq_ignore_ascii_case(asked);
            let found = labels.iter().find(same);
            Some(found.ok_or_else(|| nothing(format!("no GGUF file is `{asked}`; there are {}", list(&labels))))?)
        }
        None if has(SINGLE) || has(INDEX) => None,
        None if labels.is_empty() => {
            let reason =
                if files.iter().any(|file| file.ends_with(".bin") || file.ends_with(".pt") || file.ends_with(".pth")) {
                    "it has pickled weights only, which may run code; take a repository with safetensors or GGUF files"
                } else {
                    "it has neither safetensors nor GGUF files"
                };
            return Err(nothing(reason.into()));
        }
        None if labels.len() == 1 => labels.first(),
        None => {
            let usual = labels.iter().find(|label| label.eq_ignore_ascii_case(USUAL));
            let message = || format!("it has several GGUF files; name one as {}:{}", name.repository(), list(&labels));
            Some(usual.ok_or_else(|| nothing(message()))?)
        }
    };
    match label {
        Some(label) => {
            let mut of_label: Vec<&String> = ggufs(files).filter(|file| label_of(file) == *label).collect();
            of_label.sort();
            let parts = gguf::parts(Path::new(of_label[0]));
            let parts: Vec<String> = parts.iter().map(|part| part.display().to_string()).collect();
            match parts.iter().find(|part| !has(part)) {
                Some(missing) => Err(nothing(format!("its file {missing} is missing"))),
                None => Ok(Wanted::Gguf(parts)),
            }
        }
        None => {
            // Of weights in both forms, the one that is read is fetched.
            let shards = |file: &str| file.starts_with("model-") && !has(SINGLE);
            let mine = |file: &&String| match file.strip_suffix(".safetensors") {
                Some(_) => *file == SINGLE || shards(file),
                None => digest::belongs(file) && file.as_str() != "manifest.json" && !(has(SINGLE) && *file == INDEX),
            };
            Ok(Wanted::Directory(files.iter().filter(|file| !file.contains('/')).filter(mine).cloned().collect()))
        }
    }
}

/// The shards that an index names.
///
/// # Errors
/// It cannot be read.
pub(super) fn shards(index: &Path) -> Result<Vec<String>, HubError> {
    let broken = |reason: String| HubError::Cache { file: index.into(), reason };
    let text = std::fs::read_to_string(index).map_err(|e| broken(e.to_string()))?;
    let index: serde_json::Value = serde_json::from_str(&text).map_err(|e| broken(e.to_string()))?;
    let names = index["weight_map"].as_object().into_iter().flatten().filter_map(|(_, file)| file.as_str());
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    Ok(names.into_iter().collect())
}

/// What tells the GGUF files of a repository apart: the end of each name, such as `Q4_K_M`.
pub(super) fn labels(files: &[String]) -> Vec<String> {
    let labels: BTreeSet<String> = ggufs(files).map(|file| label_of(file)).collect();
    labels.into_iter().collect()
}

/// The GGUF files of a repository that are models; `mmproj` files are parts of models that see.
fn ggufs(files: &[String]) -> impl Iterator<Item = &String> {
    let model = |file: &&String| !file.contains('/') && gguf::is_named(Path::new(file)) && !file.contains("mmproj");
    files.iter().filter(model)
}

fn label_of(file: &str) -> String {
    let name = gguf::served_name(Path::new(file)).unwrap_or_default();
    // `Model-1.5B-Instruct-Q4_K_M`, `model.Q4_K_M`, `model-q4_k_m`: types have no hyphens and dots.
    let end = name.rsplit(['-', '.']).next().unwrap_or_default();
    end.to_owned()
}

fn list(labels: &[String]) -> String {
    if labels.is_empty() { "none".into() } else { labels.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(name: &str, files: &[&str]) -> Result<Wanted, String> {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        wanted(&name.parse().unwrap(), &files).map_err(|error| error.to_string())
    }

    #[test]
    fn only_what_is_read_is_chosen() {
        let directory = |files: &[&str]| Ok(Wanted::Directory(files.iter().map(|file| (*file).to_owned()).collect()));
        let gguf = |files: &[&str]| Ok(Wanted::Gguf(files.iter().map(|file| (*file).to_owned()).collect()));
        let plain = ["config.json", "tokenizer.json", "model.safetensors"];
        let with = |more: &[&'static str]| [&plain[..], more].concat();
        let noise = [
            "pytorch_model.bin",
            "modeling_x.py",
            "README.md",
            "original/model.safetensors",
            "onnx/model.onnx",
            "consolidated.safetensors",
            "training_args.bin",
            "model.safetensors.index.json",
            "manifest.json",
        ];
        assert_eq!(chosen("o/m", &with(&noise)), directory(&plain));
        assert_eq!(chosen("o/m", &with(&["m-Q4_K_M.gguf"])), directory(&plain));
        let shards = ["config.json", "model-00001-of-00002.safetensors", INDEX, "chat_template.jinja"];
        assert_eq!(chosen("o/m", &shards), directory(&shards));
        let quants = ["a-Q8_0.gguf", "a-Q4_K_M.gguf", "mmproj-f16.gguf"];
        assert_eq!(chosen("o/m", &quants), gguf(&["a-Q4_K_M.gguf"]));
        assert_eq!(chosen("o/m:q8_0", &quants), gguf(&["a-Q8_0.gguf"]));
        assert_eq!(chosen("o/m", &["a.q5_1.gguf"]), gguf(&["a.q5_1.gguf"]));
        let split = ["a-F16-00001-of-00002.gguf", "a-F16-00002-of-00002.gguf"];
        assert_eq!(chosen("o/m", &split), gguf(&split));
        for (name, files, expected) in [
            ("o/m:Q2_K", &quants[..], "no GGUF file is `Q2_K`; there are Q4_K_M, Q8_0"),
            ("o/m", &["a-Q8_0.gguf", "a-Q6_K.gguf"], "name one as o/m:Q6_K, Q8_0"),
            ("o/m", &["pytorch_model.bin"], "pickled"),
            ("o/m", &["README.md"], "neither"),
            ("o/m", &split[..1], "a-F16-00002-of-00002.gguf is missing"),
        ] {
            let message = chosen(name, files).unwrap_err();
            assert!(message.contains(expected), "{message} lacks {expected}");
        }
    }
}
