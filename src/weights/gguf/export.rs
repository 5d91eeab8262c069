//! A GGUF file as a directory in Hugging Face layout, for programs that read only these: the trainer, adapters' tools, other servers.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use safetensors::{Dtype, View};

use super::{Gguf, ModelError};
use crate::weights::{RopeScaling, Weights, digest};

/// A tensor whose numbers are decoded when they are written, so that a large model is never in memory as a whole.
struct Lazy<'a> {
    weights: &'a Weights,
    name: &'a str,
    dtype: Dtype,
    bytes: usize,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.weights.shape(self.name).unwrap_or_default()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let (_, bytes) = self.weights.raw(self.name).expect("it was checked before anything is written");
        bytes
    }

    fn data_len(&self) -> usize {
        self.bytes
    }
}

impl Gguf {
    /// Writes configuration, tokenizer, chat template and tensors to the new directory `to`. Numbers in blocks become half
    /// precision, the others keep their type.
    ///
    /// # Errors
    /// The file is damaged, says something that a directory cannot say, or the directory cannot be written.
    pub fn export(self, to: &Path) -> Result<(), ModelError> {
        let failed = |file: &Path, reason: String| ModelError::Broken { file: file.into(), reason };
        let (config, generation) = self.config_json()?;
        if let Some(RopeScaling::Factors { .. }) = self.config()?.dense.map(|dense| dense.rope.scaling) {
            return Err(self.wrong("config.json has no words for the factors in `rope_freqs.weight`"));
        }
        let files = [
            ("config.json", config),
            ("generation_config.json", generation),
            ("tokenizer.json", self.tokenizer_json()?),
            ("tokenizer_config.json", self.tokenizer_config_json()?),
        ];
        let config = self.config()?;
        let weights = self.into_weights()?;
        weights.check(&config)?;
        weights.check_finite()?;
        std::fs::create_dir(to).map_err(|e| failed(to, format!("{e}; name a directory that does not exist")))?;
        for (name, value) in files {
            let text = serde_json::to_vec_pretty(&value).map_err(std::io::Error::other);
            let path = to.join(name);
            text.and_then(|text| digest::replace(&path, &text)).map_err(|e| failed(&path, e.to_string()))?;
        }
        let lazy = |name| {
            let dtype = weights.dtype(name).unwrap_or(Dtype::F32);
            let numbers: usize = weights.shape(name).unwrap_or_default().iter().product();
            (name, Lazy { weights: &weights, name, dtype, bytes: numbers * dtype.bitsize() / 8 })
        };
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let path = to.join("model.safetensors");
        let views: Vec<_> = weights.names().map(lazy).collect();
        safetensors::serialize_to_file(views, Some(metadata), &path).map_err(|e| failed(&path, e.to_string()))
    }
}
