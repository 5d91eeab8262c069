//! Typed questions about an input: how a model is asked, and which texts count as its answers.

use minijinja::context;
use serde::Serialize;

use super::Templates;
use crate::chat::{Chat, Message};
use crate::question::{Input, Label, Question, Spelling};

/// Name and text of the template. It belongs to no checkpoint: no model was trained on it.
pub(super) const TEMPLATE: (&str, &str) = ("general decide", include_str!("../../prompts/decide.txt"));

/// Options of one question: each has a letter.
pub const MOST_OPTIONS: usize = 26;

/// An option with the letter that stands for it.
#[derive(Serialize)]
struct Lettered<'a> {
    letter: char,
    text: &'a str,
}

fn letters() -> impl Iterator<Item = char> {
    'A'..='Z'
}

/// The letters of `count` options in every accepted spelling, in order.
pub fn option_labels(count: usize) -> Vec<Label> {
    let label =
        |letter: char| Label { spellings: [format!("{letter}"), format!(" {letter}")].map(Spelling::from).into() };
    letters().take(count).map(label).collect()
}

impl Templates {
    /// Asks whether `instructions` are true of `input`, or which of the `options` is right for it where there are some. The
    /// reply begins with the answer.
    ///
    /// `None` where the text cannot be rendered.
    pub fn decide(&self, input: &str, instructions: &str, options: &[String]) -> Option<Question> {
        let options: Vec<_> = letters().zip(options).map(|(letter, text)| Lettered { letter, text }).collect();
        let rendered = self.jinja.render(TEMPLATE.0, context! { input, instructions, options }).ok()?;
        let chat = Chat::without_thinking(vec![Message::user(rendered.trim_end())]);
        Some(Question { input: Input::Chat(chat), reply: String::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_shows_its_input_and_its_options() {
        let templates = Templates::general();
        let text = |options: &[String]| {
            let question = templates.decide("{{ a < b }}", "It compares.", options).unwrap();
            let Input::Chat(chat) = question.input else { panic!() };
            chat.messages[0].content.clone()
        };
        let plain = text(&[]);
        assert!(plain.contains("<input>\n{{ a < b }}\n</input>") && plain.ends_with("Yes or No."), "{plain}");
        let options = text(&["yes: it does".into(), "no".into()]);
        assert!(options.contains("It compares.\n\nA. yes: it does\nB. no\n\nWhich"), "{options}");
        let labels = option_labels(3);
        assert_eq!(labels[2].spellings, ["C".into(), " C".into()]);
        assert_eq!(option_labels(MOST_OPTIONS).len(), MOST_OPTIONS);
    }
}
