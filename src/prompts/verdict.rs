//! Verdicts that are read as the probability of a word, and rewrites without a critique: what the model is asked, and how
//! log-probabilities become the probability of Yes.

use serde::{Deserialize, Serialize};

use super::{Facts, Templates};
use crate::chat::{Chat, Message};
use crate::engine::{Input, Label, Question, Spelling};

/// The least probability of Yes and No together at which a verdict counts as read.
pub const READABLE: f64 = 0.02;

/// How log-probabilities of Yes and No become a probability, and how far the result is trusted.
///
/// The probability is `sigmoid(ln P(Yes) / yes - ln P(No) / no)` with a temperature for each label, one pair for verdicts
/// without a critique and one for verdicts after a critique.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Temperatures of a verdict that comes before any critique.
    #[serde(default)]
    pub score: Temperatures,
    /// Temperatures of a verdict that follows a critique.
    #[serde(default)]
    pub critique: Temperatures,
    /// A probability below this one rejects without a critique.
    pub low: f64,
    /// A probability of at least this one accepts without a critique.
    pub high: f64,
}

/// A temperature for each label, above 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Temperatures {
    /// Divides the log-probability of Yes.
    pub yes: f64,
    /// Divides the log-probability of No.
    pub no: f64,
}

impl Default for Temperatures {
    fn default() -> Self {
        Self { yes: 1.0, no: 1.0 }
    }
}

impl Default for Calibration {
    /// Careful values for a model that was never measured: it must be fairly sure to decide without a critique.
    fn default() -> Self {
        Self { score: Temperatures::default(), critique: Temperatures::default(), low: 0.2, high: 0.8 }
    }
}

impl Temperatures {
    /// The calibrated probability of Yes.
    pub fn probability(self, yes: f64, no: f64) -> f64 {
        let logit = yes / self.yes - no / self.no;
        1.0 / (1.0 + (-logit).exp())
    }
}

impl Calibration {
    /// Says what is wrong with the numbers, if anything.
    pub(super) fn fault(&self) -> Option<String> {
        let Self { score, critique, low, high } = *self;
        let all = [
            ("score.yes", score.yes),
            ("score.no", score.no),
            ("critique.yes", critique.yes),
            ("critique.no", critique.no),
        ];
        if let Some((name, value)) = all.into_iter().find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
            return Some(format!("calibration.{name} must be a number above 0, got {value}"));
        }
        let ordered = 0.0 <= low && low <= high && high <= 1.0;
        (!ordered).then(|| format!("calibration must have 0 <= low <= high <= 1, got low {low} and high {high}"))
    }
}

/// Yes and No in every spelling that counts, in this order.
pub fn verdict_labels() -> Vec<Label> {
    ["Yes", "No"]
        .map(|word| {
            let (lower, upper) = (word.to_lowercase(), word.to_uppercase());
            let words = [word.to_owned(), lower, upper];
            let spaced = words.clone().map(|word| format!(" {word}"));
            let bold = format!("**{word}");
            Label { spellings: words.into_iter().chain(spaced).chain([bold]).map(Spelling::from).collect() }
        })
        .into()
}

impl Templates {
    /// Whether the whole response can be asked about without a critique in a form that this checkpoint was made for.
    pub fn scores(&self) -> bool {
        self.text.score.is_some()
    }

    /// Asks whether `response` follows the whole conversation, apart from what was `checked` already.
    pub fn score(&self, conversation: &[Message], response: &str, checked: &[String]) -> Question {
        let facts = Facts { response, checked, ..Facts::new(conversation) };
        match self.optional("score", &facts) {
            Some(turn) => asked(after(conversation, response, turn), String::new()),
            None => {
                let reply = format!("{}:", self.text.verdict);
                asked(self.judge(conversation, response), reply)
            }
        }
    }

    /// Asks whether `response` follows the one instruction `item`; `None` where the checkpoint has no such text.
    pub fn score_item(&self, conversation: &[Message], response: &str, item: &str) -> Option<Question> {
        let turn = self.optional("item", &Facts { response, item, ..Facts::new(conversation) })?;
        Some(asked(after(conversation, response, turn), String::new()))
    }

    /// Asks for the verdict that follows `critique`, which is cut before the marker of its verdict if it has one.
    pub fn verdict_of(&self, conversation: &[Message], response: &str, critique: &str) -> Question {
        let critique = self.without_verdict(critique);
        let gap = if critique.is_empty() { "" } else { "\n" };
        let reply = format!("{critique}{gap}{}:", self.text.verdict);
        asked(self.judge(conversation, response), reply)
    }

    /// The turns that ask for the verdict of a critique that has ended, for engines that cannot continue a reply.
    pub fn ask_verdict(&self, critique: &str) -> [Message; 2] {
        let ask = "So what is your verdict? Answer with one word: Yes if every instruction is followed, or No.";
        [Message::assistant(critique.trim_end_matches(':').trim_end()), Message::user(ask)]
    }

    /// A critique that ends in the verdict that was read for it.
    pub fn with_verdict(&self, critique: &str, accepted: bool) -> String {
        let critique = self.without_verdict(critique);
        let gap = if critique.is_empty() { "" } else { "\n" };
        format!("{critique}{gap}{}: {}", self.text.verdict, if accepted { "Yes" } else { "No" })
    }

    /// Asks for the conversation's separate instructions as a JSON array; `None` where the checkpoint has no such text.
    pub fn checklist(&self, conversation: &[Message]) -> Option<Vec<Message>> {
        let turn = self.optional("checklist", &Facts::new(conversation))?;
        Some(vec![Message::user(turn)])
    }

    /// Asks for `response` again so that it follows the instructions `failed`; the reply is the response and nothing else.
    /// `None` where the checkpoint has no such text.
    pub fn rewrite(&self, conversation: &[Message], response: &str, failed: &[String]) -> Option<Vec<Message>> {
        let turn = self.optional("rewrite", &Facts { response, failed, ..Facts::new(conversation) })?;
        Some(after(conversation, response, turn))
    }
}

/// A question whose answer begins with the verdict, not with reasoning.
fn asked(turns: Vec<Message>, reply: String) -> Question {
    Question { input: Input::Chat(Chat::without_thinking(turns)), reply }
}

/// The conversation with its answer and one more user turn.
fn after(conversation: &[Message], response: &str, turn: String) -> Vec<Message> {
    let mut turns = conversation.to_vec();
    turns.push(Message::assistant(response));
    turns.push(Message::user(turn));
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperatures_move_and_sharpen_the_probability() {
        let (yes, no) = (0.6_f64.ln(), 0.2_f64.ln());
        // Temperatures of yes and no → probability.
        for ((t_yes, t_no), expected) in [((1.0, 1.0), 0.75), ((0.5, 0.5), 0.9), ((1.0, 1e9), 0.375)] {
            let found = Temperatures { yes: t_yes, no: t_no }.probability(yes, no);
            assert!((found - expected).abs() < 1e-9, "{t_yes} {t_no}: {found}");
        }
    }

    #[test]
    fn a_calibration_that_makes_no_sense_is_named() {
        let cases = [
            (Calibration { low: 0.9, high: 0.1, ..Calibration::default() }, "low 0.9"),
            (Calibration { high: 1.5, ..Calibration::default() }, "high 1.5"),
            (Calibration { score: Temperatures { yes: 0.0, no: 1.0 }, ..Calibration::default() }, "score.yes"),
            (
                Calibration { critique: Temperatures { yes: 1.0, no: f64::NAN }, ..Calibration::default() },
                "critique.no",
            ),
        ];
        for (calibration, part) in cases {
            assert!(calibration.fault().unwrap().contains(part), "{calibration:?}");
        }
        assert_eq!(Calibration::default().fault(), None);
    }

    #[test]
    fn questions_end_where_the_verdict_comes_next() {
        let conversation = [Message::user("Name a colour.")];
        let general = Templates::general();
        let question = general.score(&conversation, "red", &["use no commas".into()]);
        let Input::Chat(turns) = &question.input else { panic!() };
        assert_eq!((turns.len(), turns[1].content.as_str(), question.reply.as_str()), (3, "red", ""));
        assert!(turns[2].content.contains("- use no commas") && turns[2].content.ends_with("Yes or No."), "{turns:?}");
        let question = general.verdict_of(&conversation, "red", "It is one.\nFinal Judgement: No");
        assert_eq!(question.reply, "It is one.\nFinal Judgement:");
        assert_eq!(general.verdict_of(&conversation, "red", "").reply, "Final Judgement:");
        assert_eq!(general.with_verdict("Fine. ", true), "Fine.\nFinal Judgement: Yes");
        let turns = general.rewrite(&conversation, "red", &["write in capitals".into()]).unwrap();
        assert!(turns[2].content.contains("- write in capitals\n"), "{turns:?}");
        let bare =
            Templates::new(super::super::TemplateText { score: None, rewrite: None, ..general.text.clone() }, "x");
        let bare = bare.unwrap();
        assert_eq!(bare.score(&conversation, "red", &[]).reply, "Final Judgement:");
        assert_eq!(bare.rewrite(&conversation, "red", &[]), None);
    }
}
