//! Chats as token sequences: prompts by the model's own chat template, and answers.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use spar::chat::{Message, Role};
use spar::engine::Input;
use spar::engine::model_dir::ModelDir;

/// Stands for an answer while the template is asked what it puts after one.
const ANSWER: &str = "answer";

/// A model's tokenizer and template.
pub struct Chats {
    /// The model's directory.
    pub model: ModelDir,
    /// Ends an assistant's turn.
    end: u32,
}

/// Tokens of a conversation and of the answer to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The tokens of the whole chat.
    pub tokens: Vec<u32>,
    /// Number of the prompt's tokens.
    pub told: usize,
}

impl Chats {
    /// Opens a model directory.
    ///
    /// # Errors
    /// The directory has a defect, which the error names.
    pub fn open(directory: &Path) -> Result<Self> {
        Self::of(ModelDir::open(directory.to_path_buf())?)
    }

    /// Opens a model directory whose tensors may be elsewhere.
    ///
    /// # Errors
    /// The directory has a defect, which the error names.
    pub fn without_weights(directory: &Path) -> Result<Self> {
        Self::of(ModelDir::without_weights(directory.to_path_buf())?)
    }

    fn of(model: ModelDir) -> Result<Self> {
        let end = end_of_turn(&model)?;
        Ok(Self { model, end })
    }

    /// The token that ends an assistant's turn.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Positions of the model.
    #[must_use]
    pub fn context(&self) -> usize {
        self.model.config.context
    }

    /// The tokens of `answer` after `turns`, with the token that ends the turn. A base model without a chat template learns to continue
    /// the text of a single prompt.
    ///
    /// # Errors
    /// Fails when the template refuses the turns or there is none for them, or the tokens exceed `longest`.
    pub fn answered(&self, turns: &[Message], answer: &str, longest: usize) -> Result<Answered> {
        let input = match turns {
            // An answer to learn from holds no reasoning, so its prompt must not ask for any.
            _ if self.model.chats() => Input::chat_without_thinking(turns.to_vec()),
            [prompt] if prompt.role == Role::User => Input::Text(prompt.content.clone()),
            _ => bail!(
                "the base has no chat template, so it can learn single prompts and the texts that follow them only; \
                 put a template into chat_template.jinja in its directory"
            ),
        };
        let mut tokens = self.model.encode(&input)?;
        let told = tokens.len();
        let encoding = self.model.tokenizer.encode_fast(answer, false).map_err(|e| anyhow::anyhow!("{e}"))?;
        tokens.extend(encoding.get_ids());
        tokens.push(self.end);
        ensure!(tokens.len() <= longest, "too long: {} tokens, at most {longest} fit", tokens.len());
        Ok(Answered { tokens, told })
    }
}

/// The token that the template puts after an assistant's turn if a reply ends with it, or else the first that ends replies.
fn end_of_turn(model: &ModelDir) -> Result<u32> {
    let rendered = match model.chats() {
        true => model.render(&vec![Message::user("question"), Message::assistant(ANSWER)].into())?,
        false => String::new(),
    };
    let after = rendered.rfind(ANSWER).map_or("", |at| &rendered[at + ANSWER.len()..]);
    let encoding = model.tokenizer.encode_fast(after.trim_start(), false).map_err(|e| anyhow::anyhow!("{e}"))?;
    let first = encoding.get_ids().first().copied().filter(|id| model.config.eos.contains(id));
    first.or(model.config.eos.first().copied()).context("the model has no token that ends a reply")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_as_the_template_ends_it() {
        let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/spar-tiny/actor"));
        let chats = Chats::open(directory).unwrap();
        let turns = [Message::user("Write about the river.")];
        let answered = chats.answered(&turns, "The river waits.", 100).unwrap();
        let text = chats.model.tokenizer.decode(&answered.tokens, false).unwrap();
        assert_eq!(text, "<|user|>Write about the river.<|assistant|>The river waits.<|end|>");
        let told = chats.model.tokenizer.decode(&answered.tokens[..answered.told], false).unwrap();
        assert!(told.ends_with("<|assistant|>"));
        assert!(chats.answered(&turns, "The river waits.", 5).unwrap_err().to_string().contains("at most 5"));
    }

    #[test]
    fn a_base_model_learns_to_continue_single_prompts() {
        let embedded = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/spar-tiny/actor"));
        let directory = tempfile::tempdir().unwrap();
        for file in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(embedded.join(file), directory.path().join(file)).unwrap();
        }
        let chats = Chats::open(directory.path()).unwrap();
        let answered = chats.answered(&[Message::user("The river")], " waits.", 100).unwrap();
        let text = chats.model.tokenizer.decode(&answered.tokens, false).unwrap();
        assert_eq!(text, "The river waits.<|end|>");
        let turns = [Message::user("a"), Message::assistant("b"), Message::user("c")];
        let error = chats.answered(&turns, "d", 100).unwrap_err().to_string();
        assert!(error.contains("no chat template"), "{error}");
    }
}
