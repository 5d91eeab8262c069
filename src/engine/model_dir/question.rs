//! The tokens of a question and of the labels that may answer it.

use std::sync::Arc;

use super::{ModelDir, Source, empty_prompt};
use crate::engine::blocking::blocking;
use crate::engine::labels::points::{TokenizedQuestion, common_beginning};
use crate::engine::{EngineError, Input, Label, LabelRequest, Question, Spelling};

/// Checks that every token has a row of its own in the model.
///
/// # Errors
/// [`EngineError::Invalid`] names the first token that has none.
pub(crate) fn check_vocabulary(tokens: &[u32], vocabulary: usize) -> Result<(), EngineError> {
    match tokens.iter().find(|&&id| id as usize >= vocabulary) {
        Some(id) => Err(EngineError::Invalid(format!("token {id} is outside of the model's vocabulary"))),
        None => Ok(()),
    }
}

impl ModelDir {
    /// The tokens of all questions of a request with their labels, for a model of `limit` positions and `vocabulary` rows. Long
    /// texts are tokenized on a blocking thread.
    ///
    /// # Errors
    /// See [`ModelDir::tokenize`]; [`EngineError::PromptTooLong`] where a question with its longest label does not fit.
    pub(crate) async fn tokenize_labels(
        self: &Arc<Self>,
        request: &LabelRequest,
        limit: usize,
        vocabulary: usize,
    ) -> Result<Vec<TokenizedQuestion>, EngineError> {
        let bytes = request.questions.iter().map(|question| question.input.bytes() + question.reply.len()).sum();
        let (dir, questions, labels) = (Arc::clone(self), request.questions.clone(), request.labels.clone());
        let tokenized = move |question: &Question| {
            let question = dir.tokenize(question, &labels)?;
            check_vocabulary(&question.tokens, vocabulary)?;
            let spellings = || question.labels.iter().flatten();
            spellings().try_for_each(|spelling| check_vocabulary(spelling, vocabulary))?;
            // The last token of a label is not computed.
            let tokens = question.tokens.len() + spellings().map(|spelling| spelling.len() - 1).max().unwrap_or(0);
            if tokens >= limit { Err(EngineError::PromptTooLong { tokens, limit }) } else { Ok(question) }
        };
        blocking(bytes, move || questions.iter().map(tokenized).collect()).await
    }

    /// The tokens of a question, and of each label those that follow it.
    ///
    /// A label's tokens are what the tokenizer makes of the whole text, so that they are the ones that the model knows. It
    /// may merge the question's last characters with a label's first. Then the question ends for all of its labels at the
    /// last token that they have in common, and their spellings begin there: the probabilities stay comparable, for each is
    /// that of the same characters.
    ///
    /// # Errors
    /// [`EngineError::Invalid`]: as [`ModelDir::encode`], or a spelling adds no token, or it merges with all of the question.
    pub(crate) fn tokenize(&self, question: &Question, labels: &[Label]) -> Result<TokenizedQuestion, EngineError> {
        let (mut text, form) = match &question.input {
            Input::Chat(messages) => (self.render(messages)?, Source::Rendered),
            Input::Text(text) => (text.clone(), Source::Raw),
            Input::Tokens(_) => (String::new(), Source::Rendered),
        };
        text.push_str(&question.reply);
        // Ids stay as they are: nothing of what follows them is merged with them.
        let given = match &question.input {
            Input::Tokens(ids) => Some([ids.as_slice(), &self.tokens(&text, form)?].concat()),
            Input::Chat(_) | Input::Text(_) => None,
        };
        let asked = match &given {
            Some(ids) if ids.is_empty() => return Err(empty_prompt()),
            Some(ids) => ids.clone(),
            None => self.prompt(&text, form)?,
        };
        let last = if given.is_none() { self.last_special(&text, &asked) } else { None };
        let whole = |spelling: &Spelling| -> Result<Vec<u32>, EngineError> {
            let spelling = match spelling {
                Spelling::Token(id) => return Ok([asked.as_slice(), &[*id]].concat()),
                Spelling::Text(spelling) => spelling,
            };
            let tokens = match (&given, last) {
                (Some(ids), _) => [ids.as_slice(), &self.tokens(spelling, Source::Rendered)?].concat(),
                (None, Some(Place { byte, token })) => {
                    let rest = self.tokens(&format!("{}{spelling}", &text[byte..]), Source::Rendered)?;
                    [&asked[..token], &rest].concat()
                }
                (None, None) => self.prompt(&format!("{text}{spelling}"), form)?,
            };
            match common_beginning(&asked, &tokens) == tokens.len() {
                true => Err(EngineError::Invalid(format!("the label {spelling:?} adds no token to the question"))),
                false => Ok(tokens),
            }
        };
        let whole: Vec<Vec<Vec<u32>>> = labels
            .iter()
            .map(|label| label.spellings.iter().map(whole).collect::<Result<_, _>>())
            .collect::<Result<_, _>>()?;
        let common = |tokens: &Vec<u32>| common_beginning(&asked, tokens);
        let end = whole.iter().flatten().map(common).min().unwrap_or(asked.len());
        if end == 0 {
            return Err(EngineError::Invalid("a label and the whole question become one token".into()));
        }
        let spellings = |whole: Vec<Vec<u32>>| {
            let mut spellings: Vec<Vec<u32>> = whole.iter().map(|tokens| tokens[end..].to_vec()).collect();
            // What begins with a spelling is part of its probability already, and follows it in this order.
            spellings.sort_unstable();
            spellings.dedup_by(|later, kept| later.starts_with(kept));
            spellings
        };
        Ok(TokenizedQuestion { labels: whole.into_iter().map(spellings).collect(), tokens: asked[..end].to_vec() })
    }

    /// The last special token that the text itself holds. The tokenizer looks at what is on either side of it separately,
    /// so that only what follows has to be tokenized again for each spelling.
    fn last_special(&self, text: &str, tokens: &[u32]) -> Option<Place> {
        let added = self.tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let special = |(token, id): (usize, &u32)| added.get(id).filter(|added| added.special).map(|it| (token, it));
        let (token, special) = tokens.iter().enumerate().rev().find_map(special)?;
        let byte = text.rfind(&special.content)?;
        let rest = self.tokens(&text[byte..], Source::Rendered).ok()?;
        (rest == tokens[token..]).then_some(Place { byte, token })
    }
}

/// A place in a text and among its tokens.
#[derive(Clone, Copy)]
struct Place {
    byte: usize,
    token: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Message;
    use crate::testing::{self, TinyModel, write_model};

    fn opened(tokenizer: &tokenizers::Tokenizer) -> ModelDir {
        let dir = tempfile::tempdir().unwrap();
        write_model(dir.path(), &TinyModel::default());
        tokenizer.save(dir.path().join("tokenizer.json"), false).unwrap();
        ModelDir::open(dir.path()).unwrap()
    }

    fn label(spellings: &[&str]) -> Label {
        Label { spellings: spellings.iter().map(|&spelling| spelling.into()).collect() }
    }

    /// What was asked and each label's spellings, as the tokenizer's own pieces.
    fn pieces(model: &ModelDir, question: &Question, labels: &[Label]) -> (String, Vec<Vec<String>>) {
        let spelled = |ids: &[u32]| -> String {
            ids.iter().map(|&id| model.tokenizer.id_to_token(id).unwrap()).collect::<Vec<_>>().join("+")
        };
        let TokenizedQuestion { tokens, labels } = model.tokenize(question, labels).unwrap();
        (spelled(&tokens), labels.iter().map(|label| label.iter().map(|ids| spelled(ids)).collect()).collect())
    }

    #[test]
    fn labels_are_the_tokens_of_the_whole_text() {
        let bytes = opened(&testing::tokenizer());
        let spaces = opened(&testing::metaspace_tokenizer());
        type Case<'a> = (&'a ModelDir, &'a str, &'a [&'a str], &'a str, &'a [&'a str]);
        let table: [Case<'_>; 8] = [
            (&bytes, "x", &["hello", "the", "hello"], "<|begin|>+x", &["th+e", "hello"]),
            // Longer ones are part of their beginning.
            (&bytes, "x", &["hello", "hello!", "hell"], "<|begin|>+x", &["hell", "hello"]),
            // A space belongs to the word that follows it, whichever side it was written on.
            (&bytes, "x ", &["the", "world"], "<|begin|>+x", &["Ġthe", "Ġworld"]),
            (&bytes, "x", &[" the", " world"], "<|begin|>+x", &["Ġthe", "Ġworld"]),
            // Where only some merge, all begin at the last token before.
            (&bytes, "x ", &["the", "no"], "<|begin|>+x", &["Ġ+n+o", "Ġthe"]),
            (&bytes, "x an", &["d", "!"], "<|begin|>+x", &["Ġ+an+!", "Ġand"]),
            (&spaces, "x", &["he", " he"], "▁+x", &["▁h+e", "he"]),
            (&spaces, "x ", &["he", "no"], "▁+x", &["▁+n+o", "▁h+e"]),
        ];
        for (model, text, spellings, asked, expected) in table {
            let input = Input::Text(text.into());
            let question = Question { input, reply: String::new() };
            let found = pieces(model, &question, &[label(spellings)]);
            assert_eq!(found, (asked.into(), vec![expected.iter().map(|&e| e.to_owned()).collect()]), "{text:?}");
            // The same from a text that is divided in another way.
            let (begin, end) = text.split_at(text.len() - 1);
            if !begin.is_empty() {
                let question = Question { input: Input::Text(begin.into()), reply: end.into() };
                assert_eq!(found, pieces(model, &question, &[label(spellings)]), "{text:?}");
            }
        }
    }

    #[test]
    fn a_chat_is_rendered_and_its_reply_follows() {
        let model = opened(&testing::tokenizer());
        let chat = Input::chat(vec![Message::user("hello")]);
        let labels = [label(&["hello", " the"]), label(&["w"])];
        let question = Question { input: chat.clone(), reply: "in".into() };
        let found = pieces(&model, &question, &labels);
        let expected = vec![vec!["Ġthe".to_owned(), "hello".to_owned()], vec!["w".to_owned()]];
        assert_eq!(found, ("<|begin|>+<|user|>+hello+<|assistant|>+in".into(), expected));
        // The tokens are those of the whole text, although most of it is tokenized once.
        for reply in ["", "in", "an", "the wor", "<|end|>", " <|user|> ", "ö🦀"] {
            let question = Question { input: chat.clone(), reply: reply.into() };
            for spelling in ["d", "ld", " the", "hello", "🦀", "<|end|>"] {
                let TokenizedQuestion { tokens, labels } = model.tokenize(&question, &[label(&[spelling])]).unwrap();
                let text = format!("{}{reply}{spelling}", model.render(&vec![Message::user("hello")].into()).unwrap());
                let whole = model.tokenizer.encode(text, false).unwrap();
                assert_eq!([&tokens[..], &labels[0][0]].concat(), whole.get_ids(), "{reply:?} {spelling:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write_model(dir.path(), &TinyModel::default());
        std::fs::write(dir.path().join("chat_template.jinja"), "an").unwrap();
        let model = ModelDir::open(dir.path()).unwrap();
        let question = Question { input: Input::chat(vec![Message::user("x")]), reply: String::new() };
        for (spelling, expected) in [("", "adds no token"), ("d", "one token")] {
            let error = model.tokenize(&question, &[label(&["!", spelling])]).unwrap_err();
            assert!(matches!(&error, EngineError::Invalid(reason) if reason.contains(expected)), "{error}");
        }
    }
}
