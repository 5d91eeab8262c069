//! Prompt lookup: proposes a reply's next tokens by copying what follows its last ones where they occurred before, in the
//! prompt or in the reply itself. A refinement mostly repeats its parent, which stands in its prompt.

mod grams;

use self::grams::Grams;

/// Tokens of the first proposal, and of those after some were rejected: a step of four rows takes little longer than one of
/// a single row.
const FEW: usize = 3;

/// Tokens of a proposal after one of which all were rejected.
const PROBE: usize = 2;

/// Tokens that are compared backwards at most: among longer matches the order no longer matters.
const COMPARED: usize = 16;

/// Matching tokens that are asked for at most before a proposal is made, however many were rejected.
const DEMANDED: usize = 8;

/// Tokens around the expected place in the source that are searched after an edit.
const NEARBY: usize = 6;

/// Tokens after which a rejected proposal counts no more, if none was made in between.
const FORGIVEN: usize = 64;

/// Tokens that a reply may differ from its source in a row before the place in the source is given up.
const LOST: usize = 8;

/// What a reply may copy from, and how well copying has worked so far. It changes how many tokens a step computes, never
/// which tokens the reply has.
#[derive(Clone)]
pub(super) struct Lookup {
    /// Tokens proposed at once, at most.
    most: usize,
    /// Tokens proposed next, at most: doubled when all were accepted, halved when one was rejected.
    length: usize,
    /// Proposals in a row of which nothing was accepted. Each of them makes the next one shorter and need a longer match,
    /// so that a text that copies nothing is left alone.
    misses: usize,
    /// Tokens since the last proposal.
    idle: usize,
    threes: Grams<3>,
    twos: Grams<2>,
    /// Where the reply's next token stands in the text that it copies, if it keeps copying.
    source: Option<usize>,
    /// Tokens since the reply last agreed with its source.
    apart: usize,
    /// The proposal of this step.
    proposal: Option<Proposal>,
    /// Tokens that were known when the last proposal was asked for.
    seen: usize,
}

#[derive(Clone, Copy)]
struct Proposal {
    tokens: usize,
    /// It rests on a single matching token, or on none.
    guess: bool,
}

impl Lookup {
    /// A lookup that proposes at most `most` tokens at once.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            length: FEW.min(most),
            misses: 0,
            idle: 0,
            threes: Grams::default(),
            twos: Grams::default(),
            source: None,
            apart: 0,
            proposal: None,
            seen: 0,
        }
    }

    /// Tokens at the end of the sequence that are only proposed.
    pub(super) fn proposed(&self) -> usize {
        self.proposal.map_or(0, |proposal| proposal.tokens)
    }

    /// Appends at most `room` proposals to `tokens`, which begins with `prompt` tokens of the prompt; returns how many.
    pub(super) fn propose(&mut self, tokens: &mut Vec<u32>, prompt: usize, room: usize) -> usize {
        self.threes.learn(tokens);
        self.twos.learn(tokens);
        self.follow(tokens);
        let (source, guess) = match self.matching(tokens, prompt) {
            Some(source) => (Some(source), false),
            None => (self.nearby(tokens), true),
        };
        self.idle += 1;
        let Some(source) = source else {
            if self.idle.is_multiple_of(FORGIVEN) {
                self.misses = self.misses.saturating_sub(1);
            }
            return 0;
        };
        self.source = Some(source);
        let length = if self.misses > 0 { self.length.min(PROBE) } else { self.length };
        let count = length.min(room);
        if count > 0 {
            // What is copied may itself be a proposal: a repeated phrase is followed through its repetitions.
            (source..source + count).for_each(|at| tokens.push(tokens[at]));
            self.proposal = Some(Proposal { tokens: count, guess });
            self.idle = 0;
        }
        count
    }

    /// Takes note of the step's result: tokens up to `computed` are the reply's. How many of the proposed ones were
    /// accepted, and how many not.
    pub(super) fn settle(&mut self, computed: usize) -> [usize; 2] {
        let Some(Proposal { tokens, guess }) = self.proposal.take() else { return [0; 2] };
        let accepted = computed - self.seen;
        match accepted {
            0 if !guess => self.misses += 1,
            0 | 1 => {}
            _ => self.misses = 0,
        }
        if accepted < tokens {
            self.length = (self.length / 2).max(FEW).min(self.most);
        } else if !guess {
            self.length = (self.length * 2).min(self.most);
        }
        [accepted, tokens - accepted]
    }

    /// Moves the place in the source by the tokens that were drawn since the last call.
    fn follow(&mut self, tokens: &[u32]) {
        let drawn = tokens.len() - std::mem::replace(&mut self.seen, tokens.len());
        self.source = self.source.map(|source| source + drawn);
        let agrees = |source: usize| tokens.get(source.wrapping_sub(1)) == tokens.last();
        self.apart = if self.source.is_some_and(agrees) { 0 } else { self.apart + 1 };
        if self.apart > LOST {
            self.source = None;
        }
    }

    /// The token after the longest match of the last tokens. Of equal matches, the one that is being followed, then the
    /// prompt's, then the latest.
    fn matching(&self, tokens: &[u32], prompt: usize) -> Option<usize> {
        let demanded = (2 + 2 * self.misses).min(DEMANDED);
        let candidate = |end: usize, followed: bool| {
            let matching = match_length(tokens, end);
            (matching >= demanded).then_some(((matching, followed, end < prompt), end + 1))
        };
        let followed = self.source.and_then(|source| candidate(source - 1, true));
        let threes = self.threes.earlier(tokens.len()).filter_map(|end| candidate(end, false));
        let best = followed.into_iter().chain(threes).reduce(better);
        let twos = || self.twos.earlier(tokens.len()).filter_map(|end| candidate(end, false)).reduce(better);
        best.or_else(twos).map(|(_, source)| source)
    }

    /// Where the source continues after an edit, judged by the last token alone: near the expected place, or right there
    /// if the last token is the first that differs, because it most likely replaces one.
    fn nearby(&self, tokens: &[u32]) -> Option<usize> {
        let (source, last) = (self.source.filter(|_| self.misses < 3)?, tokens.last()?);
        let places = (0..=NEARBY).flat_map(|off| [source + off, source.wrapping_sub(off)]);
        let mut earlier = places.filter(|&place| 0 < place && place < tokens.len());
        earlier.find(|&place| tokens[place - 1] == *last).or_else(|| (self.apart == 1).then_some(source))
    }
}

/// The one with the larger key; of equal ones, the first.
fn better<K: PartialOrd, T>(best: (K, T), next: (K, T)) -> (K, T) {
    if next.0 > best.0 { next } else { best }
}

/// Tokens before and at `end` that equal the last ones.
fn match_length(tokens: &[u32], end: usize) -> usize {
    let earlier = tokens[..=end].iter().rev();
    earlier.zip(tokens.iter().rev()).take(COMPARED).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests;
