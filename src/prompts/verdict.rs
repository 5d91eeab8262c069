//! Verdicts that are read as the probability of a word, and rewrites without a critique: the questions for the model, and the conversion of
//! log-probabilities into the probability of Yes.

use serde::{Deserialize, Serialize};

use super::{Facts, Templates};
use crate::chat::{Chat, Message};
use crate::question::{Input, Label, Question, Spelling};

/// The lowest sum of the probabilities of Yes and No at which a verdict counts as readable.
pub const READABLE: f64 = 0.02;

/// Converts log-probabilities of Yes and No into a probability, and states how far the result is trusted.
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
    /// Cautious values for a model without a measured calibration: it must be fairly certain to decide without a critique.
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
    /// Describes the first invalid number, if there is one.
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

/// The labels Yes and No, in this order, each with every accepted spelling.
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
    /// Whether the checkpoint has a question for a verdict without a critique.
    pub fn scores(&self) -> bool {
        self.text.score.is_some()
    }

    /// Asks whether `response` follows the whole conversation, apart from the instructions that are already `checked`.
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

    /// Asks whether `response` follows the single instruction `item`; `None` if the checkpoint has no text for this question.
    pub fn score_item(&self, conversation: &[Message], response: &str, item: &str) -> Option<Question> {
        let turn = self.optional("item", &Facts { response, item, ..Facts::new(conversation) })?;
        Some(asked(after(conversation, response, turn), String::new()))
    }

    /// Asks for the verdict that follows `critique`. A verdict that the critique already has is cut off.
    pub fn verdict_of(&self, conversation: &[Message], response: &str, critique: &str) -> Question {
        let critique = self.without_verdict(critique);
        let gap = if critique.is_empty() { "" } else { "\n" };
        let reply = format!("{critique}{gap}{}:", self.text.verdict);
        asked(self.judge(conversation, response), reply)
    }

    /// The turns that ask for the verdict of a finished critique, for engines that cannot continue a reply.
    pub fn ask_verdict(&self, critique: &str) -> [Message; 2] {
        let ask = "So what is your verdict? Answer with one word: Yes if every instruction is followed, or No.";
        [Message::assistant(critique.trim_end_matches(':').trim_end()), Message::user(ask)]
    }

    /// A critique that ends in the given verdict.
    pub fn with_verdict(&self, critique: &str, accepted: bool) -> String {
        let critique = self.without_verdict(critique);
        let gap = if critique.is_empty() { "" } else { "\n" };
        format!("{critique}{gap}{}: {}", self.text.verdict, if accepted { "Yes" } else { "No" })
    }

    /// Asks for the conversation's separate instructions as a JSON array; `None` if the checkpoint has no text for this question.
    pub fn checklist(&self, conversation: &[Message]) -> Option<Vec<Message>> {
        let turn = self.optional("checklist", &Facts::new(conversation))?;
        Some(vec![Message::user(turn)])
    }

    /// Asks for a version of `response` that follows the instructions `failed`, without anything else around it. Returns `None` if the
    /// checkpoint has no text for this request.
    pub fn rewrite(&self, conversation: &[Message], response: &str, failed: &[String]) -> Option<Vec<Message>> {
        let turn = self.optional("rewrite", &Facts { response, failed, ..Facts::new(conversation) })?;
        Some(after(conversation, response, turn))
    }
}

/// A question that the model answers directly with the verdict, without reasoning.
fn asked(turns: Vec<Message>, reply: String) -> Question {
    Question { input: Input::Chat(Chat::without_thinking(turns)), reply }
}

/// The conversation followed by its answer and one more user turn.
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
        // Each row: the temperatures of yes and no, and the probability.
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
