//! Which layers see a window of the keys only, and which have no rotary positions.

use serde_json::Value;

use super::super::ModelError;
use super::Architecture;
use super::fields::Fields;

/// How layers differ from one another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layers {
    /// Keys that a query sees, where a layer has a window.
    pub(super) window: Option<usize>,
    /// Layers that see all keys although there is a window.
    pub(super) full: Vec<usize>,
    /// Layers without rotary positions.
    pub(super) unrotated: Vec<usize>,
}

/// Reads them for a model with this number of layers, as the family's class in `transformers` does.
pub(super) fn read(fields: Fields<'_>, architecture: &Architecture, layers: usize) -> Result<Layers, ModelError> {
    let defaults = architecture.defaults();
    let size = match fields.has("sliding_window") {
        true => fields.optional_count("sliding_window")?,
        false => defaults.window,
    };
    let used = fields.switch("use_sliding_window")?.unwrap_or(false);
    let types = layer_types(fields, layers)?;
    let every = |count: usize| -> Vec<bool> { (0..layers).map(|layer| !(layer + 1).is_multiple_of(count)).collect() };
    let mut unrotated = Vec::new();
    let (size, windowed) = match architecture {
        Architecture::Mistral | Architecture::Phi3 => (size, vec![size.is_some(); layers]),
        Architecture::Qwen2 | Architecture::Qwen3 => {
            let size = size.filter(|_| used);
            let first = match fields.get("max_window_layers") {
                Value::Null => 28,
                value => value
                    .as_u64()
                    .ok_or_else(|| fields.wrong("max_window_layers", &format!("is {value}, not a number of layers")))?
                    as usize,
            };
            let usual = (0..layers).map(|layer| size.is_some() && layer >= first).collect();
            (size, types.clone().unwrap_or(usual))
        }
        Architecture::SmolLm3 => {
            let rotated = rotated(fields, layers)?;
            unrotated = (0..layers).filter(|&layer| !rotated[layer]).collect();
            let size = size.filter(|_| used);
            let usual = rotated.iter().map(|rotated| size.is_some() && !rotated).collect();
            (size, types.clone().unwrap_or(usual))
        }
        Architecture::Gemma2 => (size, types.clone().unwrap_or_else(|| every(2))),
        Architecture::Gemma3 => {
            let pattern = fields.optional_count("sliding_window_pattern")?.unwrap_or(6);
            (size, types.clone().unwrap_or_else(|| every(pattern)))
        }
        // These classes have no windows, whatever a file says.
        Architecture::Llama | Architecture::Granite | Architecture::Olmo2 | Architecture::Other(_) => {
            (None, vec![false; layers])
        }
    };
    if types.is_some_and(|types| types != windowed) {
        let reason = format!("has windows in other layers than {architecture} computes; remove the field");
        return Err(fields.wrong("layer_types", &reason));
    }
    if size.is_none() && windowed.contains(&true) {
        let reason = "has layers with a window, but `sliding_window` does not say how long it is, or is not used";
        return Err(fields.wrong("layer_types", reason));
    }
    let window = size.filter(|_| windowed.contains(&true));
    // Layers of a Gemma 3 turn by whether they have a window, even where none has one.
    let differ = window.is_some() || *architecture == Architecture::Gemma3;
    let full = (0..layers).filter(|&layer| differ && !windowed[layer]).collect();
    Ok(Layers { window, full, unrotated })
}

/// Whether each layer has a window, where the file says so.
fn layer_types(fields: Fields<'_>, layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
    let types = match fields.get("layer_types") {
        Value::Null => return Ok(None),
        Value::Array(types) => types,
        value => return Err(fields.wrong("layer_types", &format!("is {value}, not a list"))),
    };
    let windowed = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => {
            Err(fields.wrong("layer_types", &format!("has {kind}; full_attention and sliding_attention are computed")))
        }
    };
    let windowed: Vec<bool> = types.iter().map(windowed).collect::<Result<_, _>>()?;
    match windowed.len() == layers {
        true => Ok(Some(windowed)),
        false => Err(fields.wrong("layer_types", &format!("has {} entries for {layers} layers", windowed.len()))),
    }
}

/// Whether each layer of a SmolLM 3 has rotary positions: `no_rope_layers` has a 1 where it has, despite the name.
fn rotated(fields: Fields<'_>, layers: usize) -> Result<Vec<bool>, ModelError> {
    let list = match fields.get("no_rope_layers") {
        Value::Null => {
            let interval = fields.optional_count("no_rope_layer_interval")?.unwrap_or(4);
            return Ok((0..layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect());
        }
        value => {
            value.as_array().map(|list| list.iter().map(|entry| entry.as_u64().or(entry.as_bool().map(u64::from))))
        }
    };
    let flags: Option<Vec<bool>> = list.and_then(|list| list.map(|flag| flag.map(|flag| flag != 0)).collect());
    match flags {
        Some(flags) if flags.len() >= layers => Ok(flags),
        _ => Err(fields.wrong("no_rope_layers", &format!("must be a list of 0 or 1 for each of {layers} layers"))),
    }
}
