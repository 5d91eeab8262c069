//! What a model reads and writes, apart from its weights: equal for two models that can take each other's place.

use sha2::{Digest, Sha256};

use super::ModelDir;
use crate::chat::{Message, Role};
use crate::weights::digest::hex;

/// Digests of what clients and prompts depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The tokenizer's digest.
    pub tokenizer: String,
    /// A digest of the chat template's text, and of its renderings of a few conversations with the model's special tokens.
    pub chat_template: String,
    /// A digest of the judge and refine templates.
    pub templates: String,
}

impl ModelDir {
    /// The identity of this directory.
    pub fn identity(&self) -> Identity {
        let sha256 = |text: String| hex(&Sha256::digest(text));
        let system = Message::new(Role::System, "Be brief.");
        let turns = [Message::user("Hello  there\n"), Message::assistant("Hi!"), Message::user("<b>Bye</b>")];
        let mut rendered = String::new();
        for conversation in [&turns[..1], &turns, &[&[system], &turns[..]].concat()] {
            // A template may refuse a conversation, and its successor should refuse it too.
            rendered += &self.render(&conversation.to_vec().into()).unwrap_or_else(|error| error.to_string());
            rendered.push('\0');
        }
        // A template can treat other conversations in another way, so its text counts as well.
        rendered += self.chat_template.as_ref().map_or("", |template| template.source());
        Identity {
            tokenizer: self.vocabulary.digest().to_owned(),
            chat_template: sha256(rendered),
            templates: sha256(serde_json::to_string(&self.templates.text).unwrap_or_default()),
        }
    }
}
