//! The settings of an optimizer.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// The rule that updates the matrices inside layers. Embeddings and norms always use AdamW.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// AdamW (Loshchilov and Hutter 2019) for all weights.
    #[default]
    AdamW,
    /// Muon (Jordan et al. 2024): momentum, then the nearest matrix whose singular values are all about 1. It suits models that are
    /// trained from nothing.
    Muon,
}

/// The settings, which stay constant over a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct OptimizerConfig {
    /// The rule for matrices.
    pub rule: Rule,
    /// Peak learning rate of AdamW.
    pub lr: f64,
    /// Peak learning rate of Muon. The standard deviation of one step's change of a matrix is about `muon_lr / sqrt(in)`.
    pub muon_lr: f64,
    /// Weight decay: the share of a weight that is subtracted per step and learning rate. Norms do not decay.
    pub weight_decay: f64,
    /// AdamW's decay of the first moment.
    pub beta1: f64,
    /// AdamW's decay of the second moment.
    pub beta2: f64,
    /// AdamW's ε, which is added to the divisor.
    pub eps: f64,
    /// Muon's decay of the momentum.
    pub momentum: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            rule: Rule::AdamW,
            lr: 2e-5,
            muon_lr: 0.02,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            momentum: 0.95,
        }
    }
}

impl OptimizerConfig {
    /// # Errors
    /// Names the field, which is below `section`, and the valid values.
    pub fn check(&self, section: &str) -> Result<()> {
        for (name, rate) in [("lr", self.lr), ("muon_lr", self.muon_lr), ("eps", self.eps)] {
            ensure!(rate > 0.0 && rate.is_finite(), "{section}.{name} must be above 0, got {rate}");
        }
        let decay = self.weight_decay;
        ensure!(decay >= 0.0 && decay.is_finite(), "{section}.weight_decay must be at least 0, got {decay}");
        for (name, beta) in [("beta1", self.beta1), ("beta2", self.beta2), ("momentum", self.momentum)] {
            ensure!((0.0..1.0).contains(&beta), "{section}.{name} must be at least 0 and below 1, got {beta}");
        }
        Ok(())
    }
}

/// The settings as a recipe has them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Rule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lr: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    muon_lr: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight_decay: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    beta1: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    beta2: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    momentum: Option<f64>,
}

impl TryFrom<Written> for OptimizerConfig {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Self { rule, lr, muon_lr, weight_decay, beta1, beta2, eps, momentum } = Self::default();
        let rule = written.rule.unwrap_or(rule);
        // A rate that is set but not used would be ignored in silence.
        for (name, set) in [("muon_lr", written.muon_lr), ("momentum", written.momentum)] {
            if set.is_some() && rule != Rule::Muon {
                return Err(format!("`{name}` has an effect with rule = \"muon\" only; add that or remove `{name}`"));
            }
        }
        Ok(Self {
            rule,
            lr: written.lr.unwrap_or(lr),
            muon_lr: written.muon_lr.unwrap_or(muon_lr),
            weight_decay: written.weight_decay.unwrap_or(weight_decay),
            beta1: written.beta1.unwrap_or(beta1),
            beta2: written.beta2.unwrap_or(beta2),
            eps: written.eps.unwrap_or(eps),
            momentum: written.momentum.unwrap_or(momentum),
        })
    }
}

impl From<OptimizerConfig> for Written {
    fn from(config: OptimizerConfig) -> Self {
        let of_muon = |value: f64| (config.rule == Rule::Muon).then_some(value);
        Self {
            rule: Some(config.rule),
            lr: Some(config.lr),
            muon_lr: of_muon(config.muon_lr),
            weight_decay: Some(config.weight_decay),
            beta1: Some(config.beta1),
            beta2: Some(config.beta2),
            eps: Some(config.eps),
            momentum: of_muon(config.momentum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_alone_is_adamws_and_one_that_would_be_ignored_is_refused() {
        let config: OptimizerConfig = toml::from_str("lr = 1e-9").unwrap();
        assert_eq!(config, OptimizerConfig { rule: Rule::AdamW, lr: 1e-9, ..OptimizerConfig::default() });
        let message = toml::from_str::<OptimizerConfig>("lr = 1e-4\nmuon_lr = 0.02").unwrap_err().to_string();
        assert!(message.contains("`muon_lr` has an effect with rule = \"muon\" only"), "{message}");
        assert!(toml::from_str::<OptimizerConfig>("rate = 1.0").unwrap_err().to_string().contains("unknown field"));
        for rule in [Rule::AdamW, Rule::Muon] {
            let config = OptimizerConfig { rule, lr: 3e-4, ..OptimizerConfig::default() };
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<OptimizerConfig>(&json).unwrap(), config, "{json}");
        }
    }

    #[test]
    fn rates_and_decays_have_ranges() {
        let default = OptimizerConfig::default();
        for (config, expected) in [
            (OptimizerConfig { lr: -1.0, ..default }, "x.lr must be above 0, got -1"),
            (OptimizerConfig { lr: 0.0, ..default }, "x.lr must be above 0"),
            (OptimizerConfig { lr: f64::NAN, ..default }, "x.lr must be above 0, got NaN"),
            (OptimizerConfig { muon_lr: -0.1, ..default }, "x.muon_lr"),
            (OptimizerConfig { weight_decay: -0.1, ..default }, "x.weight_decay must be at least 0"),
            (OptimizerConfig { beta2: 1.0, ..default }, "x.beta2 must be at least 0 and below 1"),
        ] {
            let message = config.check("x").unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        default.check("x").unwrap();
    }
}
