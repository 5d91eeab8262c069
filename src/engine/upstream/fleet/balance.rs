//! Which replica a call goes to: the one that its conversation belongs to, while that one is not loaded much more than the others.

/// Replies that a replica of weight 1 may have before it counts as loaded. The limit is high enough that the replies of one search
/// stay together.
const FREE: f64 = 16.0;
/// How much more than its share a replica may have before calls go elsewhere.
const BOUND: f64 = 1.25;

/// A replica that may take the call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// A number of its own.
    pub id: u64,
    /// Its share of the calls.
    pub weight: f64,
    /// Replies that it has.
    pub load: usize,
    /// Replies that it takes at most.
    pub most: Option<usize>,
}

impl Candidate {
    /// Whether it takes `wanted` more. One that has nothing takes any call, which may want more than it takes at a time.
    fn has_room(&self, wanted: usize) -> bool {
        self.load == 0 || self.most.is_none_or(|most| self.load + wanted <= most)
    }

    /// Its place in the order of a conversation, the least first. Replicas come first as often as their weights say, and the order of
    /// those that stay is the same when one joins or leaves (rendezvous hashing).
    fn rank(&self, conversation: u64) -> f64 {
        let mixed = crate::engine::derive_seed(self.id, conversation);
        let unit = ((mixed >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -unit.ln() / self.weight
    }
}

/// The index of the candidate that takes `wanted` replies of `conversation`; `None` where all are full.
pub(super) fn choose(candidates: &[Candidate], conversation: u64, wanted: usize) -> Option<usize> {
    let weights: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let all = candidates.iter().map(|candidate| candidate.load).sum::<usize>() + wanted;
    let fits = |candidate: &Candidate| {
        let share = all as f64 * candidate.weight / weights;
        let bound = (FREE * candidate.weight).max(BOUND * share);
        candidate.has_room(wanted) && (candidate.load + wanted) as f64 <= bound
    };
    let own = least(candidates, fits, |candidate| candidate.rank(conversation));
    own.or_else(|| {
        let has_room = |candidate: &Candidate| candidate.has_room(wanted);
        least(candidates, has_room, |candidate| candidate.load as f64 / candidate.weight)
    })
}

fn least(candidates: &[Candidate], may: impl Fn(&Candidate) -> bool, by: impl Fn(&Candidate) -> f64) -> Option<usize> {
    let able = candidates.iter().enumerate().filter(|(_, candidate)| may(candidate));
    able.min_by(|(_, a), (_, b)| by(a).total_cmp(&by(b))).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: u64, weight: f64, load: usize, most: Option<usize>) -> Candidate {
        Candidate { id, weight, load, most }
    }

    fn idle(ids: &[u64]) -> Vec<Candidate> {
        ids.iter().map(|&id| candidate(id, 1.0, 0, None)).collect()
    }

    #[test]
    fn conversations_keep_their_replica_when_another_one_leaves() {
        let (all, without) = (idle(&[1, 2, 3, 4]), idle(&[1, 2, 4]));
        let mut counts = [0; 4];
        for conversation in 0..4000 {
            let own = choose(&all, conversation, 1).unwrap();
            counts[own] += 1;
            let then = choose(&without, conversation, 1).unwrap();
            assert!(own == 2 || without[then].id == all[own].id, "{conversation}");
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn weights_are_shares() {
        let both = [candidate(1, 1.0, 0, None), candidate(2, 3.0, 0, None)];
        let second = (0..4000).filter(|&conversation| choose(&both, conversation, 1) == Some(1)).count();
        assert!((2850..3150).contains(&second), "{second}");
    }

    #[test]
    fn a_loaded_or_full_replica_is_passed_over() {
        let conversation = (0..).find(|&conversation| choose(&idle(&[1, 2]), conversation, 1) == Some(0)).unwrap();
        let table = [
            // Few replies: the conversation's own replica takes them whatever the other has.
            ((15, None), (0, None), 1, Some(0)),
            ((16, None), (0, None), 1, Some(1)),
            ((20, None), (19, None), 1, Some(0)),
            ((30, None), (15, None), 1, Some(1)),
            ((4, Some(4)), (0, None), 1, Some(1)),
            ((4, Some(4)), (9, Some(9)), 1, None),
            ((3, Some(4)), (9, Some(9)), 2, None),
            // What is asked for at once may be more than a replica takes, if it has nothing else.
            ((0, Some(4)), (9, Some(9)), 8, Some(0)),
            ((17, None), (40, None), 1, Some(0)),
        ];
        for ((load, most), (other, other_most), wanted, expected) in table {
            let both = [candidate(1, 1.0, load, most), candidate(2, 1.0, other, other_most)];
            assert_eq!(choose(&both, conversation, wanted), expected, "{both:?} {wanted}");
        }
        assert_eq!(choose(&[], 1, 1), None);
    }
}
