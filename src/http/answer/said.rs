//! What an answer says, separated as it arrives: reasoning, text and calls.

use std::sync::Arc;

use crate::engine::tools::{Call, Offer, Piece, Reader};
use crate::engine::{FinishReason, TokenLogprobs};

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// What the model thinks before it answers.
    Reasoning(String),
    /// Text of the answer.
    Text {
        /// The text; it may be empty where only log-probabilities are new.
        text: String,
        /// The log-probabilities of its tokens, where asked for.
        logprobs: Vec<TokenLogprobs>,
    },
    /// A whole call of a function.
    Call(Call),
}

/// Separates the pieces of one answer.
pub struct Teller {
    /// Separates calls from text, where functions are offered.
    reader: Option<Reader>,
    /// Log-probabilities whose text has not come yet: what they belong to may turn out to be a call.
    waiting: Vec<TokenLogprobs>,
}

impl Teller {
    /// For an answer that may call the functions of `offer`.
    pub fn new(offer: Option<&Arc<Offer>>) -> Self {
        Self { reader: offer.map(|offer| Reader::new(offer)), waiting: Vec::new() }
    }

    /// How many calls were read.
    pub fn calls(&self) -> usize {
        self.reader.as_ref().map_or(0, Reader::calls)
    }

    /// Takes what is new.
    pub fn push(&mut self, text: String, reasoning: String, logprobs: Vec<TokenLogprobs>) -> Vec<Said> {
        self.waiting.extend(logprobs);
        let pieces = match &mut self.reader {
            Some(reader) => reader.push(&text),
            None => vec![Piece::Text(text)],
        };
        let thought = Some(reasoning).filter(|text| !text.is_empty()).map(Said::Reasoning);
        thought.into_iter().chain(self.said(pieces)).collect()
    }

    /// Takes the end of the answer, which ended for this reason.
    pub fn finish(&mut self, reason: FinishReason) -> Vec<Said> {
        let pieces = self.reader.as_mut().map(|reader| reader.finish(reason)).unwrap_or_default();
        self.said(pieces)
    }

    fn said(&mut self, pieces: Vec<Piece>) -> Vec<Said> {
        let said = |piece| match piece {
            Piece::Text(text) => Said::Text { text, logprobs: std::mem::take(&mut self.waiting) },
            Piece::Call(call) => {
                self.waiting.clear();
                Said::Call(call)
            }
        };
        let nothing =
            |said: &Said| matches!(said, Said::Text { text, logprobs } if text.is_empty() && logprobs.is_empty());
        pieces.into_iter().map(said).filter(|said| !nothing(said)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::TokenProb;
    use crate::engine::tools::{Choice, Format, Tool};

    fn offer() -> Arc<Offer> {
        let tool = Tool { name: "add".into(), description: None, parameters: json!({"type": "object"}) };
        Arc::new(Offer { tools: vec![tool], choice: Choice::Auto, parallel: true, format: Format::default() })
    }

    fn token(text: &str) -> TokenLogprobs {
        TokenLogprobs { token: TokenProb { id: 0, bytes: text.into(), logprob: -1.0 }, top: Vec::new() }
    }

    fn pieces(teller: &mut Teller, parts: &[(&str, &str)]) -> Vec<Said> {
        let mut said = Vec::new();
        for (reasoning, text) in parts {
            let logprobs = if text.is_empty() { Vec::new() } else { vec![token(text)] };
            said.extend(teller.push((*text).into(), (*reasoning).into(), logprobs));
        }
        said.extend(teller.finish(FinishReason::Stop));
        said
    }

    #[test]
    fn reasoning_text_and_calls_come_in_their_order() {
        let text = |text: &str, tokens: &[&str]| Said::Text {
            text: text.into(),
            logprobs: tokens.iter().map(|text| token(text)).collect(),
        };
        let call = "<tool_call>{\"name\": \"add\", \"arguments\": {}}</tool_call>";
        let mut plain = Teller::new(None);
        let parts = [("Hm", ""), ("", "Yes"), ("", call)];
        let expected = [Said::Reasoning("Hm".into()), text("Yes", &["Yes"]), text(call, &[call])];
        assert_eq!((pieces(&mut plain, &parts), plain.calls()), (expected.to_vec(), 0));

        let mut calling = Teller::new(Some(&offer()));
        let said = pieces(&mut calling, &parts);
        assert_eq!(said[..2], expected[..2]);
        assert!(matches!(&said[2], Said::Call(call) if call.name == "add") && said.len() == 3, "{said:?}");
        assert_eq!(calling.calls(), 1);
    }
}
