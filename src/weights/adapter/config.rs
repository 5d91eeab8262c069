//! `adapter_config.json` of a PEFT LoRA adapter: what it changes, by how much, and what of PEFT is not honoured.

use std::path::Path;

use regex::Regex;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::{ModelError, files};

/// The file's name.
pub(super) const FILE: &str = "adapter_config.json";

/// The fields that decide what an adapter computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// Rank where `rank_pattern` says nothing else.
    pub r: usize,
    /// Numerator of the scale where `alpha_pattern` says nothing else.
    pub lora_alpha: f64,
    /// Divides by `√r` rather than `r`.
    #[serde(default)]
    pub use_rslora: bool,
    /// Which modules are changed.
    pub target_modules: Targets,
    /// Modules that are left out although they are targets.
    #[serde(default)]
    pub exclude_modules: Option<Targets>,
    /// The layers that are changed, where not all.
    #[serde(default)]
    pub layers_to_transform: Option<Layers>,
    /// Rank by module, as suffixes or regular expressions.
    #[serde(default)]
    pub rank_pattern: Patterns<usize>,
    /// Numerator of the scale by module.
    #[serde(default)]
    pub alpha_pattern: Patterns<f64>,
    /// Where the base came from; for people.
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
}

/// Values by pattern, in the order of the file: the first pattern that matches a module decides, as in PEFT.
#[derive(Clone, Debug, PartialEq)]
pub struct Patterns<T>(pub Vec<(String, T)>);

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for Patterns<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(pattern, value)| (pattern, value)))
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Patterns<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Map::deserialize(deserializer)?;
        let value = |(pattern, value)| Ok((pattern, serde_json::from_value(value).map_err(D::Error::custom)?));
        Ok(Self(fields.into_iter().map(value).collect::<Result<_, D::Error>>()?))
    }
}

impl<T: Copy> Patterns<T> {
    /// The value of the first pattern that matches the end of `module`, from the beginning or a dot on.
    fn value(&self, module: &str) -> Option<T> {
        let matches = |pattern: &str| ending(pattern).is_ok_and(|regex| regex.is_match(module));
        self.0.iter().find(|(pattern, _)| matches(pattern)).map(|&(_, value)| value)
    }
}

/// Modules by their last names, or by a regular expression for their whole names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// Last parts of names, such as `q_proj` or `mlp.up_proj`.
    Names(Vec<String>),
    /// Matches a whole name; `all-linear` is every linear module but the head.
    Pattern(String),
}

/// Layers by number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Layers {
    /// A single layer.
    One(usize),
    /// A list of layers.
    Many(Vec<usize>),
}

type Harmless = fn(&Value) -> bool;

/// Fields that would change what is computed, and the values of them that change nothing.
const REFUSED: &[(&str, Harmless, &str)] = &[
    ("use_dora", off, "DoRA is not supported; train without it"),
    (
        "modules_to_save",
        off,
        "whole modules next to the adapter are not supported; merge the adapter, or train without them",
    ),
    ("bias", |v| off(v) || v == "none", "trained biases are not supported; set it to \"none\""),
    ("lora_bias", off, "biases on B are not supported"),
    ("fan_in_fan_out", off, "transposed weights are not supported"),
    ("layer_replication", off, "replicated layers are not supported"),
    ("trainable_token_indices", off, "trained token embeddings are not supported"),
    ("target_parameters", off, "adapters on parameters outside of linear modules are not supported"),
    ("use_qalora", off, "QALoRA is not supported"),
    ("use_bdlora", off, "BD-LoRA is not supported"),
    ("arrow_config", off, "Arrow routing is not supported"),
    ("alora_invocation_tokens", off, "activated LoRA is not supported"),
    ("megatron_config", off, "Megatron layers are not supported"),
    ("layers_pattern", off, "name layers by target_modules instead"),
    ("kasa_config", off, "KaSA is not supported"),
    ("velora_config", off, "VeLoRA is not supported"),
    ("monteclora_config", off, "MonteCLoRA is not supported"),
    (
        "init_lora_weights",
        |v| v.is_boolean() || v.is_null() || matches!(v.as_str(), Some("gaussian" | "orthogonal" | "eva")),
        "this initialization changes the base's weights; convert the adapter to plain LoRA when saving it",
    ),
];

fn off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

impl AdapterConfig {
    /// Reads the file `adapter_config.json`.
    ///
    /// # Errors
    /// Names the field that is wrong or not supported.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        Ok(Self::read(dir)?.0)
    }

    /// Reads the file, and also returns its bytes.
    pub(super) fn read(dir: &Path) -> Result<(Self, Vec<u8>), ModelError> {
        let path = dir.join(FILE);
        if !path.is_file() {
            let remedy = "a PEFT adapter's directory holds it".into();
            return Err(ModelError::Missing { file: path, remedy });
        }
        let broken = |reason: String| ModelError::Broken { file: path.clone(), reason };
        let bytes = files::read(&path, files::SMALL).map_err(|e| broken(e.to_string()))?;
        let value = serde_json::from_slice(&bytes).map_err(|e| broken(format!("not valid JSON: {e}")))?;
        Ok((Self::parse(value).map_err(broken)?, bytes))
    }

    fn parse(value: Value) -> Result<Self, String> {
        if let Some(kind) = value["peft_type"].as_str().filter(|&kind| kind != "LORA") {
            return Err(format!("`peft_type` is {kind}, only LORA is supported"));
        }
        for (field, harmless, reason) in REFUSED {
            if !harmless(&value[*field]) {
                return Err(format!("`{field}` is {}: {reason}", value[*field]));
            }
        }
        let config: Self = serde_json::from_value(value).map_err(|e| e.to_string())?;
        if config.r == 0 || config.rank_pattern.0.iter().any(|&(_, rank)| rank == 0) {
            return Err("`r` must be at least 1".into());
        }
        if !config.lora_alpha.is_finite() || !config.alpha_pattern.0.iter().all(|(_, alpha)| alpha.is_finite()) {
            return Err("`lora_alpha` must be a finite number".into());
        }
        for targets in [Some(&config.target_modules), config.exclude_modules.as_ref()].into_iter().flatten() {
            if let Targets::Pattern(pattern) = targets {
                whole(pattern)?;
            }
        }
        let ranks = config.rank_pattern.0.iter().map(|(pattern, _)| pattern);
        for pattern in ranks.chain(config.alpha_pattern.0.iter().map(|(pattern, _)| pattern)) {
            ending(pattern)?;
        }
        Ok(config)
    }

    /// Whether `module`, a whole name such as `model.layers.0.mlp.up_proj`, is changed.
    pub fn targets(&self, module: &str) -> bool {
        let excluded = self.exclude_modules.as_ref().is_some_and(|excluded| excluded.hold(module));
        !excluded && self.target_modules.hold(module) && self.in_layers(module)
    }

    fn in_layers(&self, module: &str) -> bool {
        let Some(layers) = &self.layers_to_transform else { return true };
        let layer = module.split('.').find_map(|part| part.parse().ok());
        layer.is_some_and(|layer| match layers {
            Layers::One(one) => *one == layer,
            Layers::Many(many) => many.contains(&layer),
        })
    }

    /// The rank at `module`.
    pub fn rank(&self, module: &str) -> usize {
        self.rank_pattern.value(module).unwrap_or(self.r)
    }

    /// What multiplies `B · A` at `module`.
    pub fn scale(&self, module: &str) -> f32 {
        let alpha = self.alpha_pattern.value(module).unwrap_or(self.lora_alpha);
        let rank = self.rank(module) as f64;
        (alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32
    }

    /// The file's contents as PEFT reads them.
    pub(super) fn to_json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("peft_type".into(), json!("LORA"));
        fields.insert("task_type".into(), json!("CAUSAL_LM"));
        fields.insert("bias".into(), json!("none"));
        fields.insert("inference_mode".into(), json!(true));
        let own = serde_json::to_value(self).unwrap_or_default();
        fields.extend(own.as_object().cloned().unwrap_or_default());
        Value::Object(fields)
    }
}

impl Targets {
    fn hold(&self, module: &str) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|name| {
                module.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }),
            Self::Pattern(all) if all == "all-linear" => module != "lm_head",
            Self::Pattern(pattern) => whole(pattern).is_ok_and(|regex| regex.is_match(module)),
        }
    }
}

fn whole(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|e| bad_pattern(pattern, &e))
}

fn ending(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).map_err(|e| bad_pattern(pattern, &e))
}

fn bad_pattern(pattern: &str, error: &regex::Error) -> String {
    let line = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    format!("the pattern `{pattern}` cannot be used ({line}); list the modules' names instead")
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q0: &str = "model.layers.0.self_attn.q_proj";
    const UP1: &str = "model.layers.1.mlp.up_proj";

    fn parsed(fields: Value) -> Result<AdapterConfig, String> {
        let mut all =
            json!({ "peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "mlp.up_proj"] });
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        AdapterConfig::parse(all)
    }

    #[test]
    fn targets_ranks_and_scales_are_pefts() {
        // Fields, then: is q of layer 0 a target, is up of layer 1, rank and scale of the latter.
        let table = [
            (json!({}), (true, true, 8, 2.0)),
            (json!({ "target_modules": ["up_proj"] }), (false, true, 8, 2.0)),
            (json!({ "target_modules": ["p_proj"] }), (false, false, 8, 2.0)),
            (json!({ "target_modules": r".*\.mlp\.(up|down)_proj" }), (false, true, 8, 2.0)),
            (json!({ "target_modules": "mlp.up_proj" }), (false, false, 8, 2.0)),
            (json!({ "target_modules": "all-linear", "exclude_modules": ["q_proj"] }), (false, true, 8, 2.0)),
            (json!({ "layers_to_transform": 0 }), (true, false, 8, 2.0)),
            (json!({ "layers_to_transform": [1, 2] }), (false, true, 8, 2.0)),
            (json!({ "use_rslora": true, "rank_pattern": { "up_proj": 4 } }), (true, true, 4, 8.0)),
            (json!({ "alpha_pattern": { r"layers\.1\.mlp\..*": 4.0 }, "bias": "none" }), (true, true, 8, 0.5)),
            (
                json!({ "rank_pattern": { "p_proj": 4 }, "use_dora": false, "modules_to_save": null }),
                (true, true, 8, 2.0),
            ),
        ];
        for (fields, expected) in table {
            let config = parsed(fields.clone()).unwrap();
            let found = (config.targets(Q0), config.targets(UP1), config.rank(UP1), config.scale(UP1));
            assert_eq!(found, expected, "{fields}");
        }
    }

    #[test]
    fn the_first_pattern_of_the_file_decides() {
        let both = |first: &str, second: &str| {
            let text = format!(
                r#"{{"alpha_pattern":{{"{first}":4.0,"{second}":8.0}},"rank_pattern":{{"{first}":2,"{second}":4}}}}"#
            );
            parsed(serde_json::from_str(&text).unwrap()).unwrap()
        };
        // The general one first, the special one first, and in an order that is not alphabetical.
        for (first, second) in
            [("up_proj", r"layers\\.1\\.mlp\\.up_proj"), (r"mlp\\..*", "up_proj"), ("up_proj", "mlp.up_proj")]
        {
            let config = both(first, second);
            assert_eq!((config.rank(UP1), config.scale(UP1)), (2, 2.0), "{first} {second}");
            assert_eq!(AdapterConfig::parse(config.to_json()).unwrap(), config, "the order is written, too");
        }
    }

    #[test]
    fn what_is_not_honoured_is_refused_by_name() {
        let table = [
            (json!({ "use_dora": true }), "use_dora"),
            (json!({ "modules_to_save": ["lm_head"] }), "modules_to_save"),
            (json!({ "bias": "all" }), "bias"),
            (json!({ "lora_bias": true }), "lora_bias"),
            (json!({ "fan_in_fan_out": true }), "fan_in_fan_out"),
            (json!({ "init_lora_weights": "pissa" }), "init_lora_weights"),
            (json!({ "trainable_token_indices": [1] }), "trainable_token_indices"),
            (json!({ "peft_type": "IA3" }), "peft_type"),
            (json!({ "r": 0 }), "`r`"),
            (json!({ "target_modules": "(?!x)" }), "(?!x)"),
            (json!({ "target_modules": null }), "target_modules"),
            (json!({ "rank_pattern": { "(": 1 } }), "`(`"),
        ];
        for (fields, name) in table {
            let message = parsed(fields.clone()).expect_err(name);
            assert!(message.contains(name) || name == "target_modules", "{fields}: {message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let config =
            parsed(json!({ "use_rslora": true, "rank_pattern": { "q_proj": 2 }, "layers_to_transform": [0] })).unwrap();
        assert_eq!(AdapterConfig::parse(config.to_json()).unwrap(), config);
    }
}
