//! A base and an adapter become one checkpoint.

use std::path::Path;

use safetensors::tensor::TensorView;

use super::{Adapter, ModelError};
use crate::weights::encode::encode;
use crate::weights::{Weights, digest};

/// Writes the base in `base` with `adapter` merged into it, in `f32` arithmetic, to the empty directory `out`: the same
/// files with the same names, each tensor in its own type.
///
/// # Errors
/// A file that cannot be read or written, or a tensor that the adapter changes and the base lacks.
pub fn merge(base: &Path, adapter: &Adapter, out: &Path) -> Result<(), ModelError> {
    let broken = |file: &Path, reason: String| ModelError::Broken { file: file.into(), reason };
    if Adapter::is_in(base) {
        return Err(broken(
            base,
            "it is an adapter, and adapters do not stack: merge it into its own base first".into(),
        ));
    }
    let weights = Weights::open(base)?;
    for module in adapter.pairs.keys() {
        weights.read(&format!("{module}.weight"))?;
    }
    for name in digest::files(base)? {
        let (from, to) = (base.join(&name), out.join(&name));
        if !name.ends_with(".safetensors") {
            // A manifest would speak of the base's bytes.
            if name != "manifest.json" {
                std::fs::copy(&from, &to).map_err(|e| broken(&to, e.to_string()))?;
            }
            continue;
        }
        let tensors = weights.of_file(&from)?;
        let mut data = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            let pair = tensor.name.strip_suffix(".weight").and_then(|module| adapter.pairs.get(module));
            data.push(match pair {
                Some(pair) => {
                    let mut values = weights.read(tensor.name)?;
                    pair.add_to(&mut values);
                    if values.iter().any(|x| !x.is_finite()) {
                        let reason = "merging makes it infinite; the adapter's scale is too large".into();
                        return Err(ModelError::Tensor { file: from, tensor: tensor.name.into(), reason });
                    }
                    Some(encode(tensor.dtype, &values))
                }
                None => None,
            });
        }
        let views = tensors.iter().zip(&data).map(|(tensor, merged)| {
            let bytes = merged.as_deref().unwrap_or(&tensor.bytes);
            TensorView::new(tensor.dtype, tensor.shape.to_vec(), bytes).map(|view| (tensor.name, view))
        });
        let views: Vec<_> = views.collect::<Result<_, _>>().map_err(|e| broken(&to, e.to_string()))?;
        let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(views, Some(metadata), &to).map_err(|e| broken(&to, e.to_string()))?;
    }
    Ok(())
}
