//! Which engine computes a model.

use crate::config::EngineKind;
use crate::engine::native::{NativeEngine, Processor};
use crate::weights::ModelConfig;

/// An engine that computes models from directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// Ours: adapters are put on the weights in memory.
    Native,
    /// mistral.rs: adapters are merged into a directory.
    Mistral,
}

/// What computes a model, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) runs: Runs,
    pub(crate) why: String,
}

impl Runs {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Mistral => "mistral",
        }
    }
}

/// Where the native engine computes: a build for CUDA takes the device for it.
const HERE: &str = if cfg!(feature = "cuda") { "CUDA device 0" } else { "the CPU" };

/// The processor of the native engine. Which device is number 0 is for CUDA_VISIBLE_DEVICES to say.
pub(super) fn processor() -> Processor {
    #[cfg(feature = "cuda")]
    return Processor::Cuda(0);
    #[cfg(not(feature = "cuda"))]
    Processor::Cpu
}

/// What computes the model that `config` describes where `asked` is asked for.
pub(crate) fn choose(asked: EngineKind, config: &ModelConfig) -> Choice {
    let choice = |runs, why: String| Choice { runs, why };
    match asked {
        EngineKind::Native => choice(Runs::Native, format!("--engine asks for it; it computes on {HERE}")),
        EngineKind::Mistral => choice(Runs::Mistral, "--engine asks for it".into()),
        EngineKind::Auto | EngineKind::Fake | EngineKind::Upstream => match NativeEngine::computes(config) {
            // What the native engine does not compute, mistral.rs may. A build without it says so when the model is loaded.
            Err(reason) => choice(Runs::Mistral, reason),
            Ok(_) => choice(Runs::Native, format!("it computes this architecture on {HERE}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TinyModel, write_json};

    #[test]
    fn the_native_engine_is_chosen_for_what_it_computes() {
        let config = |class: &str| {
            let dir = tempfile::tempdir().unwrap();
            let mut config = TinyModel::default().config();
            config["architectures"] = serde_json::json!([class]);
            write_json(dir.path(), "config.json", &config);
            ModelConfig::open(dir.path()).unwrap()
        };
        let (known, other) = (config("LlamaForCausalLM"), config("GemmaForCausalLM"));
        for (asked, config, runs) in [
            (EngineKind::Auto, &known, Runs::Native),
            (EngineKind::Auto, &other, Runs::Mistral),
            (EngineKind::Native, &other, Runs::Native),
            (EngineKind::Mistral, &known, Runs::Mistral),
            (EngineKind::Upstream, &known, Runs::Native),
        ] {
            let choice = choose(asked, config);
            assert_eq!(choice.runs, runs, "{asked:?}, {}: {}", config.architecture, choice.why);
        }
    }
}
