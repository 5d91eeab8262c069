//! The order in which waiting replies reach the engine: fair between kinds of calls and between calls, first come first
//! served within a call.

use std::collections::VecDeque;

use crate::engine::Purpose;

/// Waiting jobs. Plain answers take turns with the calls of searches, calls of one kind take turns with each other.
pub(super) struct Queue<J> {
    lanes: [VecDeque<VecDeque<J>>; 2],
    turn: usize,
}

impl<J> Queue<J> {
    pub(super) fn new() -> Self {
        Self { lanes: [VecDeque::new(), VecDeque::new()], turn: 0 }
    }

    /// Adds the siblings of one call.
    pub(super) fn push(&mut self, purpose: Purpose, siblings: Vec<J>) {
        let lane = match purpose {
            Purpose::Answer => 0,
            Purpose::Judge | Purpose::Refine => 1,
        };
        if !siblings.is_empty() {
            self.lanes[lane].push_back(siblings.into());
        }
    }

    /// Takes the siblings of one call, all that still wait.
    pub(super) fn next_call(&mut self) -> Option<Vec<J>> {
        let lane = if self.lanes[self.turn].is_empty() { 1 - self.turn } else { self.turn };
        let call = self.lanes[lane].pop_front()?;
        self.turn = 1 - lane;
        Some(call.into())
    }

    /// Takes one reply; the rest of its call goes to the end of its lane.
    pub(super) fn next_reply(&mut self) -> Option<J> {
        let lane = if self.lanes[self.turn].is_empty() { 1 - self.turn } else { self.turn };
        let mut call = self.lanes[lane].pop_front()?;
        self.turn = 1 - lane;
        let job = call.pop_front();
        if !call.is_empty() {
            self.lanes[lane].push_back(call);
        }
        job
    }

    /// Drops the jobs for which `keep` is false.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&J) -> bool) {
        for lane in &mut self.lanes {
            for call in lane.iter_mut() {
                call.retain(&mut keep);
            }
            lane.retain(|call| !call.is_empty());
        }
    }

    /// Takes every job out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = J> {
        std::mem::take(&mut self.lanes).into_iter().flatten().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Call = (Purpose, &'static [&'static str]);

    fn filled(calls: &[Call]) -> Queue<&'static str> {
        let mut queue = Queue::new();
        for (purpose, siblings) in calls {
            queue.push(*purpose, siblings.to_vec());
        }
        queue
    }

    fn replies(mut queue: Queue<&'static str>) -> String {
        std::iter::from_fn(|| queue.next_reply()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn replies_take_turns() {
        use Purpose::{Answer, Judge, Refine};
        let cases: [(&[Call], &str); 5] = [
            (&[], ""),
            (&[(Answer, &["a1", "a2"])], "a1 a2"),
            (&[(Judge, &["j1", "j2", "j3", "j4"]), (Answer, &["a"])], "a j1 j2 j3 j4"),
            (&[(Answer, &["a1", "a2", "a3"]), (Answer, &["b1"])], "a1 b1 a2 a3"),
            (&[(Refine, &["r1"]), (Judge, &["j1", "j2"]), (Answer, &["a1", "a2"])], "a1 r1 a2 j1 j2"),
        ];
        for (calls, expected) in cases {
            assert_eq!(replies(filled(calls)), expected, "{calls:?}");
        }
    }

    #[test]
    fn calls_stay_together_and_abandoned_jobs_leave() {
        use Purpose::{Answer, Judge};
        let mut queue = filled(&[(Judge, &["j1", "j2"]), (Answer, &["a1", "a2", "a3"]), (Judge, &["k1"])]);
        queue.retain(|job| !["a2", "k1"].contains(job));
        assert_eq!(queue.next_call(), Some(vec!["a1", "a3"]));
        assert_eq!(queue.next_call(), Some(vec!["j1", "j2"]));
        assert_eq!(queue.next_call(), None);
        queue.push(Judge, vec!["m"]);
        assert_eq!(queue.drain().collect::<Vec<_>>(), ["m"]);
        assert_eq!(queue.next_reply(), None);
    }
}
