//! The points at which label probabilities are read. Each question with its labels becomes points: token sequences after which the
//! log-probabilities of a few tokens are wanted. An engine finds these in its own way, and here they become labels again.

use std::collections::BTreeMap;

/// A question and its labels in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenizedQuestion {
    /// What comes before every label, at least one token.
    pub(crate) tokens: Vec<u32>,
    /// The spellings of each label. None is empty, and none begins with another one.
    pub(crate) labels: Vec<Vec<Vec<u32>>>,
}

/// What is wanted after a token sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Whether a question ends here; otherwise the last tokens begin a label.
    pub(crate) asks: bool,
    /// Tokens that may come next, each with its place among all that is wanted.
    pub(crate) next: BTreeMap<u32, usize>,
}

/// All points of a request.
pub(crate) struct Points {
    /// Token sequences in lexicographic order, so that those that begin alike are neighbours.
    pub(crate) points: BTreeMap<Vec<u32>, Wanted>,
    /// How many log-probabilities are wanted.
    pub(crate) count: usize,
    /// For every question, label and spelling the places whose log-probabilities add up to the spelling's.
    sums: Vec<Vec<Vec<Vec<usize>>>>,
}

impl Points {
    /// The points of these questions; what several questions have in common occurs once.
    pub(crate) fn new(questions: &[TokenizedQuestion]) -> Self {
        let (mut points, mut count) = (BTreeMap::<Vec<u32>, Wanted>::new(), 0);
        let mut place = |before: &[u32], next: u32| {
            let wanted = points.entry(before.to_vec()).or_default();
            *wanted.next.entry(next).or_insert_with(|| {
                count += 1;
                count - 1
            })
        };
        let mut sums = Vec::new();
        for question in questions {
            let mut spelled = |spelling: &Vec<u32>| {
                let mut before = question.tokens.clone();
                let step = |&token: &u32| {
                    let place = place(&before, token);
                    before.push(token);
                    place
                };
                spelling.iter().map(step).collect::<Vec<_>>()
            };
            let labels = question.labels.iter().map(|label| label.iter().map(&mut spelled).collect());
            sums.push(labels.collect());
        }
        for question in questions {
            points.entry(question.tokens.clone()).or_default().asks = true;
        }
        Self { points, count, sums }
    }

    /// Tokens of all questions; what several questions begin with counts once.
    pub(crate) fn prompt_tokens(&self) -> usize {
        let mut before: &[u32] = &[];
        let mut tokens = 0;
        for question in self.points.iter().filter(|(_, wanted)| wanted.asks).map(|(tokens, _)| tokens) {
            tokens += question.len() - common_beginning(before, question);
            before = question;
        }
        tokens
    }

    /// The log-probability of each label of each question, from those that were wanted.
    pub(crate) fn label_logprobs(&self, found: &[f32]) -> Vec<Vec<f32>> {
        let spelling = |places: &Vec<usize>| places.iter().map(|&place| found[place]).sum::<f32>();
        let label = |spellings: &Vec<Vec<usize>>| log_sum_exp(spellings.iter().map(spelling));
        self.sums.iter().map(|labels| labels.iter().map(label).collect()).collect()
    }
}

/// The number of tokens that both begin with.
pub(crate) fn common_beginning(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

/// The log of a sum of probabilities that are given as logs; negative infinity where there are none.
pub(crate) fn log_sum_exp(logprobs: impl Iterator<Item = f32> + Clone) -> f32 {
    let peak = logprobs.clone().fold(f32::NEG_INFINITY, f32::max);
    if peak == f32::NEG_INFINITY {
        return peak;
    }
    let total: f64 = logprobs.map(|logprob| f64::from(logprob - peak).exp()).sum();
    peak + total.ln() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(tokens: &[u32], labels: &[&[&[u32]]]) -> TokenizedQuestion {
        let labels = labels.iter().map(|label| label.iter().map(|spelling| spelling.to_vec()).collect()).collect();
        TokenizedQuestion { tokens: tokens.to_vec(), labels }
    }

    #[test]
    fn questions_share_the_points_that_they_have_in_common() {
        let points = Points::new(&[
            question(&[1, 2, 3], &[&[&[7], &[8, 9]], &[&[8, 6]]]),
            question(&[1, 2, 4], &[&[&[7]], &[&[6]]]),
            question(&[1, 2, 3], &[&[&[7]], &[&[6]]]),
            question(&[1, 2, 3, 8], &[&[&[9]], &[&[6]]]),
        ]);
        let seen: Vec<(&[u32], bool, Vec<u32>)> = points
            .points
            .iter()
            .map(|(tokens, wanted)| (tokens.as_slice(), wanted.asks, wanted.next.keys().copied().collect()))
            .collect();
        let expected: [(&[u32], bool, Vec<u32>); 3] =
            [(&[1, 2, 3], true, vec![6, 7, 8]), (&[1, 2, 3, 8], true, vec![6, 9]), (&[1, 2, 4], true, vec![6, 7])];
        assert_eq!(seen, expected);
        assert_eq!((points.count, points.prompt_tokens()), (7, 5));
        let mut found = vec![f32::NAN; points.count];
        for (tokens, wanted) in &points.points {
            for (&next, &place) in &wanted.next {
                found[place] = -((tokens.len() * 10) as f32) - next as f32;
            }
        }
        let first = log_sum_exp([-37.0, -38.0 - 49.0].into_iter());
        assert_eq!(
            points.label_logprobs(&found),
            [[first, -38.0 - 46.0], [-37.0, -36.0], [-37.0, -36.0], [-49.0, -46.0]]
        );
    }

    #[test]
    fn probabilities_are_added_as_logs() {
        let half = 0.5f32.ln();
        assert!(log_sum_exp([half, half].into_iter()).abs() < 1e-6);
        assert_eq!(log_sum_exp([-400.0, f32::NEG_INFINITY].into_iter()), -400.0);
        assert_eq!(log_sum_exp([f32::NEG_INFINITY; 2].into_iter()), f32::NEG_INFINITY);
    }
}
