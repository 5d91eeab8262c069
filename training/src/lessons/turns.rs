//! Turns to learn from, rendered with the server's own templates: verdicts at once, verdicts about one instruction, critiques, and
//! refinements in both of the server's forms. Verdicts come in pairs of a Yes and a No to the same prompt, so that the prompt, the
//! instruction and the base rate say nothing about the answer.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use spar::chat::Message;
use spar::engine::{Input, Question};
use spar::prompts::Templates;

use super::Draws;
use super::cases::{Case, Made};
use super::critique::{critique, failed, item, reflection};
use crate::records::ChatLine;

/// What a turn teaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A verdict at once about the whole prompt.
    Score,
    /// A verdict at once about one instruction.
    Item,
    /// A critique that ends in a verdict.
    Critique,
    /// The corrected response alone, after the list of broken instructions.
    Rewrite,
    /// A reflection on a critique and the corrected response between markers.
    Refine,
}

impl Kind {
    /// Every kind of turn.
    pub const ALL: [Self; 5] = [Self::Score, Self::Item, Self::Critique, Self::Rewrite, Self::Refine];

    /// The name in files and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Score => "score",
            Self::Item => "item",
            Self::Critique => "critique",
            Self::Rewrite => "rewrite",
            Self::Refine => "refine",
        }
    }
}

/// Turns that are kept or left out together: a Yes and a No, or one refinement.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// What the turns teach.
    pub kind: Kind,
    /// The instruction in question; for whole prompts the one that distinguishes Yes from No.
    pub about: String,
    /// The turns of the group.
    pub turns: Vec<ChatLine>,
}

/// How many turns of one prompt are made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PerPrompt {
    /// Pairs of verdicts about the whole prompt.
    pub score: usize,
    /// Pairs of verdicts about each instruction.
    pub item: usize,
    /// Pairs of critiques.
    pub critique: usize,
    /// Refinements by the list of broken instructions.
    pub rewrite: usize,
    /// Refinements by a critique.
    pub refine: usize,
    /// Share of the verdicts about a whole prompt that leave out instructions which rules have checked, as in searches that judge by both.
    pub checked: f64,
}

impl Default for PerPrompt {
    fn default() -> Self {
        Self { score: 2, item: 1, critique: 1, rewrite: 2, refine: 1, checked: 0.25 }
    }
}

/// Positions of a right and a wrong response.
type Contrast = (usize, usize);

/// The turns of one case. The seed determines every choice.
#[must_use]
pub fn turns(templates: &Templates, case: &Case, per_prompt: &PerPrompt, seed: u64) -> Vec<Group> {
    let mut draws = Draws::seed_from_u64(seed);
    let conversation = [Message::user(&case.prompt)];
    let render = Render { templates, case, conversation: &conversation };
    let all = |i: usize| case.responses[i].right();
    let whole = contrasts(case, all, &mut draws);
    let mut groups = Vec::new();
    for &(yes, no) in whole.iter().take(per_prompt.score) {
        let checked = if draws.random_bool(per_prompt.checked) { render.common(yes, no) } else { Vec::new() };
        let turns = [(yes, true), (no, false)].map(|(i, right)| render.score(i, &checked, right));
        groups.push(Group { kind: Kind::Score, about: render.difference(no), turns: turns.into() });
    }
    for rule in 0..case.checks.len() {
        for (yes, no) in
            contrasts(case, |i| case.responses[i].holds[rule], &mut draws).into_iter().take(per_prompt.item)
        {
            let turns: Option<Vec<_>> =
                [(yes, true), (no, false)].into_iter().map(|(i, right)| render.item(i, rule, right)).collect();
            let about = case.checks[rule].id.clone();
            groups.extend(turns.map(|turns| Group { kind: Kind::Item, about, turns }));
        }
    }
    // The last contrasts, so that critiques are about other responses than verdicts where there are enough.
    for &(yes, no) in whole.iter().rev().take(per_prompt.critique) {
        let turns = [yes, no].map(|i| render.critique(i));
        groups.push(Group { kind: Kind::Critique, about: render.difference(no), turns: turns.into() });
    }
    let mut refinements = case.refinements();
    refinements.shuffle(&mut draws);
    // The model's own drafts come first: they are what a refiner meets.
    refinements.sort_by_key(|refinement| !case.responses[refinement.draft].is_own());
    for refinement in refinements.iter().take(per_prompt.rewrite) {
        let about = render.difference(refinement.draft);
        let turns = render.rewrite(refinement.draft, refinement.target);
        groups.extend(turns.map(|turn| Group { kind: Kind::Rewrite, about, turns: vec![turn] }));
    }
    for refinement in refinements.iter().rev().take(per_prompt.refine) {
        let turn = render.refine(refinement.draft, refinement.target, &refinement.notes);
        let about = render.difference(refinement.draft);
        groups.push(Group { kind: Kind::Refine, about, turns: vec![turn] });
    }
    groups
}

/// Pairs of a response that holds and one that does not, each response at most once. Near misses and responses that are unrelated
/// alternate: a judge must see a small difference, and must not take the signs of an edit for the truth.
fn contrasts(case: &Case, holds: impl Fn(usize) -> bool, draws: &mut Draws) -> Vec<Contrast> {
    let positions = || 0..case.responses.len();
    let related = |i: usize| match case.responses[i].made {
        Made::Damaged(of) | Made::Repaired(of, _) => Some(of),
        Made::Own => None,
    };
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for yes in positions().filter(|&i| holds(i)) {
        for no in positions().filter(|&i| !holds(i)) {
            if related(yes) == Some(no) || related(no) == Some(yes) {
                near.push((yes, no));
            } else if case.responses[yes].is_own() && case.responses[no].is_own() {
                far.push((yes, no));
            }
        }
    }
    near.shuffle(draws);
    far.shuffle(draws);
    let ordered = if draws.random_bool(0.5) { [near, far] } else { [far, near] };
    let mut kinds = ordered.map(Vec::into_iter);
    let mut used = vec![false; case.responses.len()];
    let mut found = Vec::new();
    loop {
        let kind = found.len() % kinds.len();
        let free = |&(yes, no): &Contrast| !used[yes] && !used[no];
        let next = kinds[kind].find(free).or_else(|| kinds[1 - kind].find(free));
        let Some((yes, no)) = next else { return found };
        (used[yes], used[no]) = (true, true);
        found.push((yes, no));
    }
}

/// The server's templates with one case.
struct Render<'a> {
    templates: &'a Templates,
    case: &'a Case,
    conversation: &'a [Message],
}

impl Render<'_> {
    fn text(&self, response: usize) -> &str {
        &self.case.responses[response].text
    }

    /// The ids of the instructions that the response breaks.
    fn difference(&self, response: usize) -> String {
        let broken = self.case.checks.iter().zip(&self.case.responses[response].holds).filter(|(_, holds)| !**holds);
        broken.map(|(check, _)| check.id.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// Clauses of the instructions that both responses follow.
    fn common(&self, yes: usize, no: usize) -> Vec<String> {
        let [yes, no] = [yes, no].map(|i| &self.case.responses[i].holds);
        let both = self.case.checks.iter().zip(yes.iter().zip(no)).filter(|(_, (yes, no))| **yes && **no);
        both.map(|(check, _)| check.describe()).collect()
    }

    fn score(&self, response: usize, checked: &[String], right: bool) -> ChatLine {
        answered(self.templates.score(self.conversation, self.text(response), checked), Kind::Score, right)
    }

    fn item(&self, response: usize, rule: usize, right: bool) -> Option<ChatLine> {
        let item = item(&self.case.checks[rule]);
        let question = self.templates.score_item(self.conversation, self.text(response), &item)?;
        Some(answered(question, Kind::Item, right))
    }

    fn critique(&self, response: usize) -> ChatLine {
        let text = self.text(response);
        let written = critique(self.templates, &self.case.checks, text);
        line(self.templates.judge(self.conversation, text), written, Kind::Critique)
    }

    fn rewrite(&self, draft: usize, target: usize) -> Option<ChatLine> {
        let text = self.text(draft);
        let turns = self.templates.rewrite(self.conversation, text, &failed(&self.case.checks, text))?;
        Some(line(turns, self.text(target).trim().to_owned(), Kind::Rewrite))
    }

    fn refine(&self, draft: usize, target: usize, notes: &[String]) -> ChatLine {
        let (text, checks) = (self.text(draft), &self.case.checks);
        let turns = self.templates.refine(self.conversation, text, &critique(self.templates, checks, text));
        let reply = self.templates.refinement(&reflection(checks, text, notes), self.text(target).trim());
        line(turns, reply, Kind::Refine)
    }
}

/// A question with its verdict as the whole answer.
fn answered(question: Question, kind: Kind, right: bool) -> ChatLine {
    let word = if right { "Yes" } else { "No" };
    let gap = if question.reply.is_empty() { "" } else { " " };
    let turns = match question.input {
        Input::Chat(chat) => chat.messages,
        Input::Text(_) | Input::Tokens(_) => unreachable!("templates ask in turns"),
    };
    line(turns, format!("{}{gap}{word}", question.reply), kind)
}

fn line(mut messages: Vec<Message>, answer: String, kind: Kind) -> ChatLine {
    messages.push(Message::assistant(answer));
    ChatLine { messages, kind: Some(kind.name().into()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use spar::prompts::Verdict;

    use super::*;
    use crate::lessons::cases::tests::case;

    fn per_prompt() -> PerPrompt {
        PerPrompt { score: 3, item: 2, critique: 2, rewrite: 3, refine: 3, checked: 0.5 }
    }

    #[test]
    fn verdicts_are_balanced_and_true() {
        let (templates, case) = (Templates::general(), case());
        let mut seen = BTreeMap::new();
        for seed in 0..20 {
            for group in turns(&templates, &case, &per_prompt(), seed) {
                *seen.entry(group.kind).or_insert(0) += 1;
                let last = |line: &ChatLine| line.messages.last().unwrap().content.clone();
                let said: Vec<String> = group.turns.iter().map(last).collect();
                match group.kind {
                    Kind::Score | Kind::Item => {
                        assert_eq!(said, ["Yes", "No"]);
                        for (line, right) in group.turns.iter().zip([true, false]) {
                            let [_, response, asked, _] = line.messages.as_slice() else { panic!("{line:?}") };
                            let judged = case.responses.iter().find(|r| r.text == response.content).unwrap();
                            let truth = match case.checks.iter().position(|check| check.id == group.about) {
                                Some(rule) if group.kind == Kind::Item => judged.holds[rule],
                                _ => judged.right(),
                            };
                            assert_eq!(truth, right, "{line:?}");
                            assert!(asked.content.ends_with("Yes or No."), "{asked:?}");
                        }
                    }
                    Kind::Critique => {
                        let verdicts: Vec<_> = said.iter().map(|text| templates.parse_verdict(text)).collect();
                        assert_eq!(verdicts, [Some(Verdict::Yes), Some(Verdict::No)]);
                    }
                    Kind::Rewrite | Kind::Refine => {
                        let read = templates.parse_refinement(&said[0]).map_or(said[0].clone(), |read| read.response);
                        assert!(case.checks.iter().all(|check| check.strict(&read)), "{read}");
                        assert!(group.kind == Kind::Rewrite || read != said[0], "{said:?}");
                    }
                }
            }
        }
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), Kind::ALL, "{seen:?}");
    }

    #[test]
    fn turns_are_what_the_server_asks() {
        let (templates, case) = (Templates::general(), case());
        let groups = turns(&templates, &case, &per_prompt(), 3);
        let first = |kind: Kind| groups.iter().find(|group| group.kind == kind).unwrap().turns[0].messages.clone();
        let refine = first(Kind::Refine);
        let inside = case.responses.iter().filter(|response| refine[0].content.contains(&response.text));
        let drafts = inside.max_by_key(|response| response.text.len()).unwrap();
        let conversation = [Message::user(&case.prompt)];
        let expected = templates.refine(&conversation, &drafts.text, &refine[1].content);
        assert_eq!(refine[..3], expected[..]);
        let rewrite = first(Kind::Rewrite);
        assert!(rewrite[2].content.starts_with("Your last answer misses instructions:\n- "), "{rewrite:?}");
        assert_eq!(groups, turns(&templates, &case, &per_prompt(), 3), "the seed decides");
    }

    #[test]
    fn templates_without_a_question_for_a_verdict_get_its_marker_first() {
        let text = spar::prompts::TemplateText { score: None, item: None, rewrite: None, ..Templates::general().text };
        let templates = Templates::new(text, "test").unwrap();
        let groups = turns(&templates, &case(), &per_prompt(), 1);
        let kinds: Vec<Kind> = groups.iter().map(|group| group.kind).collect();
        assert!(!kinds.contains(&Kind::Item) && !kinds.contains(&Kind::Rewrite));
        let score = groups.iter().find(|group| group.kind == Kind::Score).unwrap();
        assert_eq!(score.turns[1].messages.last().unwrap().content, "Final Judgement: No");
    }
}
