//! Draws tokens from logits: bias, penalties, filters and a random stream that depends on seed and position only.

use std::collections::HashMap;
use std::sync::Arc;

use super::drawn::{Drawn, Raw};
use super::grammar::Matcher;
use super::pieces::Pieces;
use super::token_rules::{Ban, keep};
use super::{EngineError, Sampling, derive_seed};
use crate::kernels;

/// The sampler of one reply. Its draws depend on the logits, the seed and the position, never on other replies.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    logprobs: Option<usize>,
    stream: u64,
    position: u64,
    prompt: Vec<u32>,
    counts: HashMap<u32, u32>,
    candidates: Vec<(u32, f32)>,
    /// The logits before a choice that may be refused.
    unchanged: Vec<f32>,
    /// What must not be drawn.
    ban: Option<Box<Ban>>,
}

impl Sampler {
    /// The sampler of sibling `index`; `logprobs` is as in [`super::Request::logprobs`].
    pub fn new(sampling: &Sampling, index: usize, prompt: &[u32], logprobs: Option<usize>) -> Self {
        let mut prompt = if sampling.repetition_penalty == 1.0 { Vec::new() } else { prompt.to_vec() };
        prompt.sort_unstable();
        prompt.dedup();
        Self {
            sampling: sampling.clone(),
            logprobs,
            stream: derive_seed(sampling.seed, index as u64),
            position: 0,
            prompt,
            counts: HashMap::new(),
            candidates: Vec::new(),
            unchanged: Vec::new(),
            ban: None,
        }
    }

    /// Keeps the request's rules on tokens, where replies end by the tokens `ends`.
    #[must_use]
    pub fn ruled(mut self, ends: &[u32], pieces: &Arc<Pieces>) -> Self {
        self.ban = Ban::new(&self.sampling.rules, ends, pieces).map(Box::new);
        self
    }

    /// Whether rules may leave no token at all.
    pub fn is_ruled(&self) -> bool {
        self.ban.is_some()
    }

    /// The sampler of another sibling with the same rules, before its first token.
    #[must_use]
    pub fn sibling(&self, index: usize) -> Self {
        Self { stream: derive_seed(self.sampling.seed, index as u64), ..self.clone() }
    }

    /// Draws the next token; `logits` (vocabulary) is scratch afterwards. `None` when no token has a finite score.
    pub fn sample(&mut self, logits: &mut [f32]) -> Option<Drawn> {
        let raw = self.prepare(logits);
        let id = self.choose(logits, derive_seed(self.stream, self.position))?;
        Some(self.take(id, raw))
    }

    /// Draws like [`Sampler::sample`], but from the tokens that `grammar` allows, and advances it by the drawn token. Also
    /// says whether the text is complete.
    ///
    /// Most tokens that the model wants are allowed, so one is drawn first and only then asked about. If it is refused,
    /// another is drawn from the allowed ones: together that is the distribution restricted to the allowed tokens. Where
    /// filters are set they apply to the allowed tokens, so these come first.
    ///
    /// # Errors
    /// Fails when the grammar is too costly to follow, or allows no token.
    pub fn sample_matching(
        &mut self,
        logits: &mut [f32],
        grammar: &mut Matcher,
    ) -> Result<Option<(Drawn, bool)>, EngineError> {
        let raw = self.prepare(logits);
        let seed = derive_seed(self.stream, self.position);
        if self.sampling.temperature <= 0.0 || self.is_unfiltered(logits.len()) {
            self.unchanged.clear();
            self.unchanged.extend_from_slice(logits);
            let Some(id) = self.choose(logits, seed) else { return Ok(None) };
            if let Some(complete) = grammar.accept(id)? {
                return Ok(Some((self.take(id, raw), complete)));
            }
            logits.copy_from_slice(&self.unchanged);
        }
        let allowed = grammar.allowed()?;
        if allowed.iter().all(|&word| word == 0) {
            return Err(EngineError::Constraint("no token of the model goes on with a text that matches".into()));
        }
        keep(logits, &allowed);
        let Some(id) = self.choose(logits, derive_seed(seed, 0)) else { return Ok(None) };
        let complete = grammar.accept(id)?;
        let complete = complete.ok_or_else(|| EngineError::Constraint("it refuses a token that it allowed".into()))?;
        Ok(Some((self.take(id, raw), complete)))
    }

    /// Bias and penalties; what logprobs need of the logits before.
    fn prepare(&mut self, logits: &mut [f32]) -> Option<Raw> {
        for logit in logits.iter_mut() {
            // Negative infinity where it is no number.
            *logit = logit.max(f32::NEG_INFINITY);
        }
        let raw = self.logprobs.map(|n| Raw::new(logits, n));
        self.adjust(logits);
        raw
    }

    /// A token by its prepared logits.
    fn choose(&mut self, logits: &mut [f32], seed: u64) -> Option<u32> {
        let peak = kernels::max(logits);
        if !peak.is_finite() {
            return None;
        }
        if self.sampling.temperature > 0.0 {
            return Some(self.choose_at_temperature(logits, peak, seed));
        }
        // The first of equals.
        logits.iter().position(|&x| x == peak).map(|id| id as u32)
    }

    /// Notes that `id` is the token of this position.
    fn take(&mut self, id: u32, raw: Option<Raw>) -> Drawn {
        self.position += 1;
        if let Some(ban) = &mut self.ban {
            ban.take(id);
        }
        if self.penalizes() {
            *self.counts.entry(id).or_insert(0) += 1;
        }
        Drawn { id, logprobs: raw.map(|raw| raw.logprobs(id)) }
    }

    fn is_unfiltered(&self, vocabulary: usize) -> bool {
        let s = &self.sampling;
        s.top_p >= 1.0 && s.top_k.is_none_or(|k| k == 0 || k >= vocabulary) && s.min_p <= 0.0
    }

    fn penalizes(&self) -> bool {
        let s = &self.sampling;
        s.frequency_penalty != 0.0 || s.presence_penalty != 0.0 || s.repetition_penalty != 1.0
    }

    fn adjust(&self, logits: &mut [f32]) {
        let s = &self.sampling;
        let mut change = |id: u32, f: &dyn Fn(f32) -> f32| {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = f(*logit);
            }
        };
        for &(id, bias) in &s.logit_bias {
            change(id, &|x| x + bias);
        }
        if s.repetition_penalty != 1.0 {
            let p = s.repetition_penalty;
            let drawn = self.counts.keys().filter(|id| self.prompt.binary_search(id).is_err());
            for &id in self.prompt.iter().chain(drawn) {
                change(id, &|x| if x > 0.0 { x / p } else { x * p });
            }
        }
        for (&id, &count) in &self.counts {
            change(id, &|x| x - s.frequency_penalty * count as f32 - s.presence_penalty);
        }
        if let Some(ban) = &self.ban {
            ban.apply(logits);
        }
    }

    /// `peak` is the largest logit.
    fn choose_at_temperature(&mut self, logits: &mut [f32], peak: f32, seed: u64) -> u32 {
        let unfiltered = self.is_unfiltered(logits.len());
        let s = &self.sampling;
        // The likeliest token has weight 1, so shares of it are the weights themselves.
        let scale = s.temperature.recip().min(f32::MAX);
        kernels::exp_scaled(logits, peak, scale);
        let weights = logits;
        let uniform = (seed >> 11) as f64 / (1u64 << 53) as f64;
        if unfiltered {
            let target = uniform * kernels::sum(weights);
            return pick(weights.iter().enumerate().map(|(id, &w)| (id as u32, w)), target);
        }
        let floor = s.min_p.clamp(0.0, 1.0);
        let all = weights.iter().enumerate().map(|(id, &w)| (id as u32, w));
        self.candidates.clear();
        self.candidates.extend(all.filter(|&(_, w)| w > 0.0));
        let k = s.top_k.filter(|&k| k > 0).unwrap_or(usize::MAX);
        keep_top_k(&mut self.candidates, k);
        keep_top_p(&mut self.candidates, s.top_p);
        self.candidates.retain(|&(_, w)| w >= floor);
        let total: f64 = self.candidates.iter().map(|&(_, w)| f64::from(w)).sum();
        pick(self.candidates.iter().copied(), uniform * total)
    }
}

/// The first token at which the running sum of weights passes `target`; the last with weight if rounding leaves none.
fn pick(weights: impl Iterator<Item = (u32, f32)>, target: f64) -> u32 {
    let mut sum = 0.0;
    let mut last = 0;
    for (id, weight) in weights {
        if weight > 0.0 {
            sum += f64::from(weight);
            last = id;
            if sum > target {
                break;
            }
        }
    }
    last
}

/// Heavier first; of equals, the lower id.
fn heavier(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn keep_top_k(candidates: &mut Vec<(u32, f32)>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, heavier);
        candidates.truncate(k);
    }
}

/// Keeps the fewest candidates with at least the share `p` of the mass. Sorts ever larger heads, not the vocabulary.
fn keep_top_p(candidates: &mut Vec<(u32, f32)>, p: f32) {
    if p >= 1.0 {
        return;
    }
    let total: f64 = candidates.iter().map(|&(_, w)| f64::from(w)).sum();
    let wanted = total * f64::from(p.max(0.0));
    let (mut sorted, mut mass) = (0, 0.0);
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let head = (sorted * 3).max(32).min(rest.len());
        if head < rest.len() {
            rest.select_nth_unstable_by(head - 1, heavier);
        }
        rest[..head].sort_unstable_by(heavier);
        for i in sorted..sorted + head {
            mass += f64::from(candidates[i].1);
            if mass >= wanted {
                candidates.truncate(i + 1);
                return;
            }
        }
        sorted += head;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(sampling: Sampling) -> Sampler {
        Sampler::new(&sampling, 0, &[], None)
    }

    fn shares(sampling: &Sampling, logits: &[f32], draws: usize) -> Vec<f64> {
        let mut sampler = sampler(sampling.clone());
        let mut counts = vec![0usize; logits.len()];
        for _ in 0..draws {
            counts[sampler.sample(&mut logits.to_vec()).unwrap().id as usize] += 1;
        }
        counts.iter().map(|&c| c as f64 / draws as f64).collect()
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [1.0, 2.0, -1.0, 0.5, f32::NEG_INFINITY];
        for temperature in [0.5f32, 1.0, 2.0] {
            let weights: Vec<f64> = logits.iter().map(|&x| f64::from(x / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            let sampling = Sampling { temperature, seed: 7, ..Sampling::default() };
            let seen = shares(&sampling, &logits, 40_000);
            // Another path through the code with the same distribution.
            let filtered = shares(&Sampling { top_k: Some(4), ..sampling }, &logits, 40_000);
            for id in 0..logits.len() {
                let expected = weights[id] / total;
                assert!((seen[id] - expected).abs() < 0.01, "{temperature} {id}: {} {expected}", seen[id]);
                assert!((filtered[id] - expected).abs() < 0.01, "{temperature} {id}: {} {expected}", filtered[id]);
            }
            assert_eq!(seen[4], 0.0);
        }
    }

    #[test]
    fn filters_keep_what_their_definition_says() {
        // Probabilities .4 .3 .2 .1, in a shuffled order.
        let logits: Vec<f32> = [0.2f32, 0.4, 0.1, 0.3].iter().map(|p| p.ln()).collect();
        let d = Sampling { seed: 3, ..Sampling::default() };
        let table: [(Sampling, &[u32]); 9] = [
            (Sampling { top_k: Some(1), ..d.clone() }, &[1]),
            (Sampling { top_k: Some(3), ..d.clone() }, &[0, 1, 3]),
            (Sampling { top_k: Some(9), ..d.clone() }, &[0, 1, 2, 3]),
            (Sampling { top_p: 0.0, ..d.clone() }, &[1]),
            (Sampling { top_p: 0.45, ..d.clone() }, &[1, 3]),
            (Sampling { top_p: 0.85, ..d.clone() }, &[0, 1, 3]),
            (Sampling { min_p: 0.6, ..d.clone() }, &[1, 3]),
            (Sampling { min_p: 1.0, ..d.clone() }, &[1]),
            (Sampling { top_k: Some(3), top_p: 0.7, min_p: 0.1, ..d }, &[1, 3]),
        ];
        for (sampling, expected) in table {
            let seen = shares(&sampling, &logits, 2_000);
            let kept: Vec<u32> = (0..4).filter(|&id| seen[id as usize] > 0.0).collect();
            assert_eq!(kept, expected, "{sampling:?}");
        }
    }

    #[test]
    fn the_nucleus_of_a_large_vocabulary_equals_a_full_sort() {
        for (case, p) in [0.1f32, 0.5, 0.9, 0.99].into_iter().enumerate() {
            let weights: Vec<(u32, f32)> =
                (0..5_000).map(|id| (id, (derive_seed(case as u64, u64::from(id)) % 997) as f32 / 997.0)).collect();
            let mut sorted = weights.clone();
            sorted.sort_by(heavier);
            let total: f64 = weights.iter().map(|w| f64::from(w.1)).sum();
            let mut mass = 0.0;
            let count = 1 + sorted
                .iter()
                .position(|w| {
                    mass += f64::from(w.1);
                    mass >= total * f64::from(p)
                })
                .unwrap();
            let mut kept = weights;
            keep_top_p(&mut kept, p);
            assert_eq!(kept, sorted[..count]);
        }
    }

    #[test]
    fn a_draw_depends_on_seed_sibling_and_position_only() {
        let logits = vec![0.0f32; 500];
        let draw = |seed, index, n: usize| -> Vec<u32> {
            let mut sampler = Sampler::new(&Sampling { seed, ..Sampling::default() }, index, &[], None);
            (0..n).map(|_| sampler.sample(&mut logits.clone()).unwrap().id).collect()
        };
        assert_eq!(draw(1, 0, 20), draw(1, 0, 20));
        assert_eq!(draw(1, 0, 20)[..5], draw(1, 0, 5));
        assert_ne!(draw(1, 0, 20), draw(2, 0, 20));
        assert_ne!(draw(1, 0, 20), draw(1, 1, 20));
    }

    #[test]
    fn penalties_and_bias_move_the_greedy_choice() {
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        let run = |sampling: Sampling, prompt: &[u32], n: usize| -> Vec<u32> {
            let mut sampler = Sampler::new(&sampling, 0, prompt, None);
            (0..n).map(|_| sampler.sample(&mut [2.0, 1.5, -0.5, 0.6]).unwrap().id).collect()
        };
        assert_eq!(run(greedy.clone(), &[], 2), [0, 0]);
        assert_eq!(run(Sampling { logit_bias: vec![(2, 5.0), (99, 1.0)], ..greedy.clone() }, &[], 2), [2, 2]);
        assert_eq!(run(Sampling { presence_penalty: 1.0, ..greedy.clone() }, &[], 5), [0, 1, 0, 0, 0]);
        assert_eq!(run(Sampling { frequency_penalty: 0.4, ..greedy.clone() }, &[], 5), [0, 0, 1, 0, 1]);
        assert_eq!(run(Sampling { repetition_penalty: 2.0, ..greedy.clone() }, &[0], 3), [1, 0, 0]);
        assert_eq!(run(Sampling { repetition_penalty: 4.0, ..greedy }, &[0, 1], 2), [3, 0]);
    }

    #[test]
    fn logprobs_are_those_of_the_raw_distribution() {
        let logits = [0.5f32, 0.125, 0.25, 0.125].map(f32::ln);
        let sampling = Sampling { temperature: 0.3, top_k: Some(1), logit_bias: vec![(3, 9.0)], ..Sampling::default() };
        let drawn = Sampler::new(&sampling, 0, &[], Some(3)).sample(&mut logits.clone()).unwrap();
        let logprobs = drawn.logprobs.unwrap();
        assert_eq!(drawn.id, 3);
        assert!((logprobs.drawn - 0.125f32.ln()).abs() < 1e-6);
        let ids: Vec<u32> = logprobs.top.iter().map(|t| t.0).collect();
        assert_eq!(ids, [0, 2, 1]);
        assert!(logprobs.top.iter().all(|&(id, p)| (p - logits[id as usize]).abs() < 1e-6));
        assert_eq!(
            Sampler::new(&sampling, 0, &[], Some(0)).sample(&mut logits.clone()).unwrap().logprobs.unwrap().top,
            []
        );
    }

    #[test]
    fn a_grammar_restricts_the_distribution() {
        use crate::engine::Constraint;
        use crate::engine::grammar::{Grammars, TokenText};
        let words = ["a", "b", "c", "d"].map(|word| TokenText::Bytes(word.into()));
        let end = TokenText::Special("<end>".into());
        let grammars = Grammars::new(words.into_iter().chain([end]), &[4]).unwrap();
        let matcher = || grammars.matcher(&Constraint::Regex("[bd][bd]".into())).unwrap();
        let logits = [3.0f32, 1.0, 2.0, 0.0, 1.0];
        // The vocabulary may have more rows than the tokenizer has tokens.
        let padded = [3.0f32, 1.0, 2.0, 0.0, 1.0, 9.0];
        for filters in [Sampling::default(), Sampling { top_k: Some(3), ..Sampling::default() }] {
            let mut counts = [0usize; 6];
            for seed in 0..20_000 {
                let mut sampler = sampler(Sampling { seed, ..filters.clone() });
                let (drawn, complete) = sampler.sample_matching(&mut padded.clone(), &mut matcher()).unwrap().unwrap();
                assert!(!complete);
                counts[drawn.id as usize] += 1;
            }
            let expected = 1.0 / (1.0 + (-1.0f64).exp());
            assert_eq!(counts[1] + counts[3], 20_000);
            assert!((counts[1] as f64 / 20_000.0 - expected).abs() < 0.01, "{counts:?}");
        }
        let mut greedy = sampler(Sampling { temperature: 0.0, ..Sampling::default() });
        let mut grammar = matcher();
        for complete in [false, true] {
            let (drawn, ends) = greedy.sample_matching(&mut logits.clone(), &mut grammar).unwrap().unwrap();
            assert_eq!((drawn.id, ends), (1, complete));
        }
        let unknown = grammars.matcher(&Constraint::Regex("[xyz]".into()));
        let refused = greedy.sample_matching(&mut logits.clone(), &mut unknown.unwrap());
        assert!(matches!(refused, Err(EngineError::Constraint(_))), "{refused:?}");
        let nothing = [3.0, f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY, 1.0];
        assert_eq!(greedy.sample_matching(&mut nothing.clone(), &mut matcher()).unwrap(), None);
    }

    #[test]
    fn extreme_filters_leave_the_likeliest_token() {
        let logits: Vec<f32> = (0..100).map(|id| ((id * 37) % 100) as f32 / 10.0 - 4.0).collect();
        // 37 times 27 is 999.
        let likeliest = 27;
        let tiny = f32::from_bits(1);
        for filters in [
            Sampling { min_p: 1.0, ..Sampling::default() },
            Sampling { top_p: tiny, ..Sampling::default() },
            Sampling { top_p: 0.0, min_p: 1.0, top_k: Some(usize::MAX), ..Sampling::default() },
            Sampling { temperature: tiny, ..Sampling::default() },
            Sampling { temperature: 1e-30, min_p: 1.0, top_p: tiny, ..Sampling::default() },
        ] {
            for seed in 0..50 {
                let drawn = sampler(Sampling { seed, ..filters.clone() }).sample(&mut logits.clone()).unwrap();
                assert_eq!(drawn.id, likeliest, "{filters:?}");
            }
        }
        for (repetition_penalty, other) in [(0.01, -2.0), (10.0, 2.0), (0.01, 2.0), (10.0, -2.0)] {
            let penalties = Sampling {
                repetition_penalty,
                frequency_penalty: other,
                presence_penalty: other,
                logit_bias: (0..100).map(|id| (id, other * 50.0)).collect(),
                ..Sampling::default()
            };
            let mut sampler = Sampler::new(&penalties, 0, &[1, 2, 3], None);
            for _ in 0..1000 {
                assert!(sampler.sample(&mut logits.clone()).is_some(), "{penalties:?}");
            }
        }
    }

    #[test]
    fn broken_logits() {
        let mut greedy = sampler(Sampling { temperature: 0.0, ..Sampling::default() });
        assert_eq!(greedy.sample(&mut [f32::NAN, 2.0, 1.0]).unwrap().id, 1);
        assert_eq!(greedy.sample(&mut [f32::NAN, f32::NEG_INFINITY]), None);
        assert_eq!(greedy.sample(&mut [0.0, f32::INFINITY]), None);
        let mut cold = sampler(Sampling { temperature: 1e-40, ..Sampling::default() });
        assert_eq!(cold.sample(&mut [1.0, 2.0]).unwrap().id, 1);
    }
}
