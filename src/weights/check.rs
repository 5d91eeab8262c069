//! A checkpoint's tensors against what its configuration asks for.

use std::collections::BTreeSet;
use std::path::Path;

use super::config::{DenseConfig, ModelConfig};
use super::error::ModelError;
use super::headers;
use super::tensors::Weights;

impl Weights {
    /// Checks names, shapes and types against the configuration. For an architecture that we do not know, nothing is
    /// expected, and the files are whole already.
    ///
    /// # Errors
    /// The first tensor that is missing or wrong, or that the configuration does not speak of although it changes the result.
    pub fn check(&self, config: &ModelConfig) -> Result<(), ModelError> {
        let main = self.main_file();
        headers::check_layers(main.parent().unwrap_or(Path::new("")), config, self.tensors.len())?;
        let expected = config.tensors();
        for (name, shape) in &expected {
            let (name, shape) = (name.clone(), shape.clone());
            let Some(at) = self.tensors.get(&name) else {
                let reason = headers::missing(&self.tensors, &name);
                return Err(ModelError::Tensor { file: self.main_file(), tensor: name, reason });
            };
            let wrong =
                |reason| ModelError::Tensor { file: self.files[at.file].0.clone(), tensor: name.clone(), reason };
            if let Some(reason) = at.kind.foreign().and_then(headers::unread) {
                return Err(wrong(reason));
            }
            if at.shape != shape {
                let found = &at.shape;
                return Err(wrong(format!(
                    "its shape is {found:?}, config.json asks for {shape:?}; one of the two is wrong"
                )));
            }
        }
        match &config.dense {
            Some(dense) => self.check_unspoken(dense, &expected),
            None => Ok(()),
        }
    }

    /// Refuses biases and norms of layers that the configuration does not speak of, and a head next to the embedding that is said to
    /// be both: leaving them out would be wrong without a word.
    fn check_unspoken(&self, dense: &DenseConfig, expected: &[(String, Vec<usize>)]) -> Result<(), ModelError> {
        let names: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        let changes = |name: &str| name.ends_with(".bias") || name.ends_with("norm.weight");
        let unspoken = |name: &&String| {
            let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
            let ours = layer.and_then(|layer| layer.parse().ok()).is_some_and(|layer: usize| layer < dense.layers);
            ours && changes(name) && !names.contains(name.as_str())
        };
        let wrong = |name: &str, reason: &str| {
            let file = self.tensors.get(name).map_or_else(|| self.main_file(), |at| self.files[at.file].0.clone());
            Err(ModelError::Tensor { file, tensor: name.into(), reason: reason.into() })
        };
        if let Some(name) = self.tensors.keys().find(unspoken) {
            return wrong(name, "config.json says nothing of it, so it would be left out; one of the two is wrong");
        }
        let (head, embedding) = ("lm_head.weight", "model.embed_tokens.weight");
        if dense.tied && self.tensors.contains_key(head) && self.raw(head)? != self.raw(embedding)? {
            let reason =
                "it differs from the embedding, but config.json ties the two; set tie_word_embeddings to false";
            return wrong(head, reason);
        }
        Ok(())
    }
}
