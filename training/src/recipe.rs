//! Recipes: everything that a run depends on, in one TOML file.

mod build;
pub(crate) mod checks;
pub mod external;
pub mod iterate;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use spar::prompts::TemplateText;

use crate::conversation::Weights;
use crate::model::DenseConfig;
use crate::model::shape::{tiny, with_heads};
use crate::trainer::TrainConfig;

/// The recipe of `spar-train bootstrap`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// Names the model.
    pub name: String,
    /// Decides every draw of the run.
    pub seed: u64,
    /// Longest sequence in tokens; a multiple of 512.
    pub context: usize,
    /// The tokenizer's settings.
    pub tokenizer: TokenizerRecipe,
    /// The networks' shapes.
    pub model: Models,
    /// The texts for judge and refiner; shipped as `spar.json`.
    pub templates: TemplateText,
    /// What counts in the loss.
    pub weights: Weights,
    /// Prompt → response.
    pub actor: Actor,
    /// What the actor really says.
    pub samples: Samples,
    /// Response → critique → refinement, from synthetic failures and the actor's.
    pub refiner: Refiner,
    /// What the refiner makes of them.
    pub refined: Refined,
    /// The refiner's last training, with its own refinements among the responses.
    pub refiner_final: Refiner,
    /// What is measured at the end.
    pub evaluation: Evaluation,
    /// SPaR iterations that start from the models made here.
    #[serde(default, skip_serializing)]
    pub iterate: Option<iterate::Iterate>,
}

/// The tokenizer's size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerRecipe {
    /// Entries, special tokens included.
    pub vocabulary: usize,
}

/// The network of each role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Models {
    /// The network that drafts.
    pub actor: Shape,
    /// Judges and refines.
    pub refiner: Shape,
}

/// A network's size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Key and value heads, fewer than query heads.
    pub kv_heads: usize,
}

/// How the actor is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// Share of an example's constraints that its response ignores.
    pub slip: f64,
    /// Tokens of one update.
    pub tokens_per_step: usize,
    /// The training loop.
    pub train: TrainConfig,
}

/// How the actor is sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Samples {
    /// Number of training prompts.
    pub prompts: u64,
    /// Responses to each.
    pub per_prompt: usize,
    /// Temperature of the draws.
    pub temperature: f32,
}

/// How the refiner is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refiner {
    /// Share of constraints that a synthetic response breaks.
    pub damage: f64,
    /// Share of examples that start from what a model really said.
    pub real: f64,
    /// Share of examples that only ask for the presence of words, of many at once.
    pub drill: f64,
    /// Share of repairs that follow a rule's critique instead of the refiner's own.
    pub rules: f64,
    /// Tokens of one update.
    pub tokens_per_step: usize,
    /// The training loop.
    pub train: TrainConfig,
}

/// How the refiner is sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refined {
    /// Failing responses of the actor that it is given.
    pub responses: usize,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Held-out prompts that are shipped with the model.
    pub prompts: u64,
}

/// Reads a recipe that consists of one stage's settings.
///
/// # Errors
/// Names the file, the line and the field.
pub fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading the recipe {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("in the recipe {}", path.display()))
}

impl Bootstrap {
    /// Reads a recipe.
    ///
    /// # Errors
    /// Names the file, the field and what it must be.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading the recipe {}", path.display()))?;
        let recipe: Self = toml::from_str(&text).with_context(|| format!("in the recipe {}", path.display()))?;
        ensure!(
            recipe.context > 0 && recipe.context.is_multiple_of(512),
            "context must be a multiple of 512, got {}",
            recipe.context
        );
        for (name, share) in [
            ("actor.slip", recipe.actor.slip),
            ("refiner.damage", recipe.refiner.damage),
            ("refiner.real", recipe.refiner.real),
            ("refiner.drill", recipe.refiner.drill),
            ("refiner.rules", recipe.refiner.rules),
            ("refiner_final.damage", recipe.refiner_final.damage),
            ("refiner_final.real", recipe.refiner_final.real),
            ("refiner_final.drill", recipe.refiner_final.drill),
            ("refiner_final.rules", recipe.refiner_final.rules),
        ] {
            checks::share(name, share)?;
        }
        for (name, train) in [
            ("actor.train", &recipe.actor.train),
            ("refiner.train", &recipe.refiner.train),
            ("refiner_final.train", &recipe.refiner_final.train),
        ] {
            train.check(name)?;
            train.check_device(name)?;
        }
        Ok(recipe)
    }

    /// The configuration of a network of `shape`.
    ///
    /// # Errors
    /// Fails when the shape is not one that both engines run.
    pub fn config(&self, shape: &Shape, vocabulary: usize) -> Result<DenseConfig> {
        ensure!(
            shape.kv_heads < shape.heads,
            "kv_heads must be below heads, got {} and {}",
            shape.kv_heads,
            shape.heads
        );
        ensure!(
            shape.hidden_size.is_multiple_of(2 * shape.heads),
            "{} heads of an even size do not divide a width of {}",
            shape.heads,
            shape.hidden_size
        );
        let config = DenseConfig {
            hidden: shape.hidden_size,
            intermediate: shape.intermediate_size,
            layers: shape.layers,
            context: self.context,
            ..tiny(vocabulary)
        };
        Ok(with_heads(config, shape.heads, shape.kv_heads, shape.hidden_size / shape.heads))
    }
}
