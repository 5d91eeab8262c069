//! A byte-level BPE tokenizer for the world's texts, and the chat template that goes with it.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use spar::prompts::Templates;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, Tokenizer, TokenizerBuilder};

use crate::world::lexicon::{CONTENT, words};
use crate::world::{self, Constraint, Split, critique};

/// The token that ends an assistant turn.
pub const END: &str = "<|end|>";
/// The token that opens a user turn.
pub const USER: &str = "<|user|>";
/// The token that opens an assistant turn.
pub const ASSISTANT: &str = "<|assistant|>";

/// The chat template. Turns follow each other without separators, and a system turn is treated as a user turn.
const CHAT_TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>{{ m.content }}<|end|>\
    {% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

/// Trains a tokenizer of `vocabulary` entries on texts of the training split. Any other text is encoded as bytes.
///
/// # Errors
/// Fails if the trainer fails.
pub fn train(vocabulary: usize, seed: u64, templates: &Templates) -> Result<Tokenizer> {
    let special: Vec<AddedToken> = [END, USER, ASSISTANT].map(|t| AddedToken::from(t, true)).into();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special.clone())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let byte_level = ByteLevel::new(false, false, true);
    let mut tokenizer = TokenizerBuilder::<_, NormalizerWrapper, _, PostProcessorWrapper, _>::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(byte_level))
        .with_post_processor(None)
        .with_decoder(Some(byte_level))
        .build()
        .map_err(|e| anyhow!("tokenizer: {e}"))?;
    tokenizer
        .train(&mut trainer, corpus(seed, templates).into_iter())
        .map_err(|e| anyhow!("tokenizer training: {e}"))?;
    tokenizer.add_special_tokens(&special);
    let json = tokenizer.to_string(false).map_err(|e| anyhow!("tokenizer: {e}"))?;
    json.parse().map_err(|e| anyhow!("tokenizer: {e}"))
}

/// The training texts: prompts, responses in every case, critiques (including those of rules) and repairs of 6,000 instances, and every
/// content word without a space before it, as it appears between marks.
fn corpus(seed: u64, templates: &Templates) -> Vec<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut texts = Vec::new();
    for _ in 0..6_000 {
        let instance = world::draw(Split::Train, &mut rng);
        let response = world::damaged(&instance, 0.3, &mut rng).render();
        if let Some(critique) = critique::write(&instance.constraints, &response) {
            if let Some(repair) = world::repair(&instance, &response, &critique.followed, &mut rng) {
                texts.extend([repair.reflection, repair.response]);
            }
            let checks = instance.constraints.iter().map(Constraint::check);
            let failed: Vec<String> = checks.filter(|c| !c.strict(&response)).map(|c| c.describe()).collect();
            texts.extend([critique.text, templates.rule_critique(&failed, None)]);
        }
        texts.extend([instance.prompt, response]);
    }
    let words = CONTENT.into_iter().flat_map(words);
    texts.extend(words.flat_map(|word| (0..60).map(move |_| format!("[{word}]"))));
    texts
}

/// Writes `tokenizer.json` and `tokenizer_config.json`.
///
/// # Errors
/// Names the file that cannot be written.
pub fn save(tokenizer: &Tokenizer, context: usize, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let path = directory.join("tokenizer.json");
    tokenizer.save(&path, false).map_err(|e| anyhow!("writing {}: {e}", path.display()))?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "eos_token": END,
        "pad_token": END,
        "clean_up_tokenization_spaces": false,
        "chat_template": CHAT_TEMPLATE,
    });
    let path = directory.join("tokenizer_config.json");
    std::fs::write(&path, serde_json::to_string_pretty(&config)? + "\n")
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_single_tokens_and_any_text_survives() {
        let tokenizer = train(1280, 7, &Templates::general()).unwrap();
        for word in CONTENT.into_iter().flat_map(words) {
            for text in [format!(" {word}"), (*word).to_owned()] {
                let ids = tokenizer.encode(text.as_str(), false).unwrap();
                assert_eq!(ids.len(), 1, "{text}: {:?}", ids.get_tokens());
            }
        }
        for text in ["Größe 🦀 naïve\n\n\tx", "The quiet river waits.", "[[start]]"] {
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(ids.get_ids(), true).unwrap(), text);
        }
        assert_eq!(tokenizer.encode("<|user|>a<|end|>", false).unwrap().len(), 3);
    }
}
