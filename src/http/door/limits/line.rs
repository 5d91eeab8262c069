//! The line in front of the gate: who runs, who waits, and who is next. Pure bookkeeping, without time or tasks.
//!
//! The order is start-time fair queueing on two levels. Each caller has a clock that advances by the cost of what it
//! starts, and the caller whose clock is furthest behind starts next; within a caller the same holds for plain requests
//! and searches of one priority, after those of a lower number. A caller that joins after a pause starts at the clock of
//! the line, so that it cannot save time up; priorities change nothing between callers.

use std::collections::{HashMap, VecDeque};

use crate::config::Capacity;
use crate::http::door::keys::TenantId;

/// The two kinds of requests, which differ in what they cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One model call per choice.
    Plain,
    /// Many model calls per choice.
    Search,
}

/// What a request asks of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Whether it searches.
    pub kind: Kind,
    /// Its weight in the order between callers: choices × (1 + search budget).
    pub cost: u64,
    /// Its place among the requests of its own caller: the lowest starts first.
    pub priority: i64,
}

impl Ask {
    /// A plain request of so many choices.
    pub fn plain(choices: usize) -> Self {
        Self { kind: Kind::Plain, cost: choices.max(1) as u64, priority: 0 }
    }

    /// So many searches of one budget.
    pub fn search(choices: usize, budget: usize) -> Self {
        let cost = (choices.max(1) as u64).saturating_mul(budget as u64 + 1);
        Self { kind: Kind::Search, cost, priority: 0 }
    }

    /// Changes the priority.
    pub fn at(self, priority: i64) -> Self {
        Self { priority, ..self }
    }
}

/// How much one caller may have of the gate at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
}

/// Who runs or waits, and of what kind it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct Place {
    pub(in crate::http) caller: TenantId,
    pub(in crate::http) kind: Kind,
    ticket: u64,
}

/// All callers with something that runs or waits.
pub(in crate::http) struct Line<T> {
    capacity: Capacity,
    callers: HashMap<TenantId, Caller<T>>,
    running: [usize; 2],
    waiting: [usize; 2],
    /// The clock of the caller that started last.
    clock: u64,
    tickets: u64,
}

struct Caller<T> {
    share: Share,
    running: usize,
    clock: u64,
    queues: [Queue<T>; 2],
}

struct Queue<T> {
    clock: u64,
    entries: VecDeque<Entry<T>>,
}

struct Entry<T> {
    ticket: u64,
    cost: u64,
    priority: i64,
    item: T,
}

impl<T> Caller<T> {
    fn new(share: Share) -> Self {
        let queues = std::array::from_fn(|_| Queue { clock: 0, entries: VecDeque::new() });
        Self { share, running: 0, clock: 0, queues }
    }

    fn waiting(&self) -> usize {
        self.queues.iter().map(|queue| queue.entries.len()).sum()
    }
}

impl<T> Line<T> {
    pub(in crate::http) fn new(capacity: Capacity) -> Self {
        Self { capacity, callers: HashMap::new(), running: [0; 2], waiting: [0; 2], clock: 0, tickets: 0 }
    }

    /// Puts a request into its queue, behind those of its priority.
    pub(in crate::http) fn join(&mut self, id: TenantId, share: Share, ask: Ask, item: T) -> Place {
        let caller = self.callers.entry(id).or_insert_with(|| Caller::new(share));
        // A reloaded file may have changed it.
        caller.share = share;
        if caller.waiting() == 0 {
            caller.clock = caller.clock.max(self.clock);
            let behind = caller.queues.iter().map(|queue| queue.clock).max().unwrap_or_default();
            for queue in &mut caller.queues {
                queue.clock = queue.clock.max(behind);
            }
        } else if caller.queues[ask.kind as usize].entries.is_empty() {
            let other = caller.queues[1 - ask.kind as usize].clock;
            let queue = &mut caller.queues[ask.kind as usize];
            queue.clock = queue.clock.max(other);
        }
        self.tickets += 1;
        let place = Place { caller: id, kind: ask.kind, ticket: self.tickets };
        let Ask { cost, priority, .. } = ask;
        let entries = &mut caller.queues[ask.kind as usize].entries;
        let behind = entries.partition_point(|entry| entry.priority <= priority);
        entries.insert(behind, Entry { ticket: place.ticket, cost, priority, item });
        self.waiting[ask.kind as usize] += 1;
        place
    }

    /// Takes a request out of its queue; `None` if it is not there any more.
    pub(in crate::http) fn leave(&mut self, place: Place) -> Option<T> {
        let entries = &mut self.callers.get_mut(&place.caller)?.queues[place.kind as usize].entries;
        let at = entries.iter().position(|entry| entry.ticket == place.ticket)?;
        let entry = entries.remove(at)?;
        self.waiting[place.kind as usize] -= 1;
        self.forget(place.caller);
        Some(entry.item)
    }

    /// Starts the next request that may run, if there is one.
    pub(in crate::http) fn next(&mut self) -> Option<(Place, T)> {
        if self.running() >= self.capacity.running {
            return None;
        }
        let searches_may = self.running[Kind::Search as usize] < self.search_room();
        let ready = |caller: &Caller<T>| {
            let may = |kind: &Kind| *kind == Kind::Plain || searches_may;
            let first = |kind: Kind| {
                let queue = &caller.queues[kind as usize];
                queue.entries.front().map(|entry| (entry.priority, queue.clock, entry.ticket, kind))
            };
            let kinds = [Kind::Plain, Kind::Search].into_iter().filter(may).filter_map(first);
            let next = kinds.min_by_key(|(priority, clock, ticket, _)| (*priority, *clock, *ticket));
            next.filter(|_| caller.running < caller.share.running)
        };
        let callers = self.callers.iter();
        let candidates = callers.filter_map(|(id, caller)| {
            let (_, _, ticket, kind) = ready(caller)?;
            Some((caller.clock, ticket, *id, kind))
        });
        let (clock, ticket, id, kind) = candidates.min_by_key(|(clock, ticket, ..)| (*clock, *ticket))?;
        let caller = self.callers.get_mut(&id)?;
        let queue = &mut caller.queues[kind as usize];
        let entry = queue.entries.pop_front()?;
        queue.clock = queue.clock.saturating_add(entry.cost);
        caller.clock = caller.clock.saturating_add(entry.cost);
        caller.running += 1;
        self.clock = self.clock.max(clock);
        self.running[kind as usize] += 1;
        self.waiting[kind as usize] -= 1;
        Some((Place { caller: id, kind, ticket }, entry.item))
    }

    /// Ends a request that was started.
    pub(in crate::http) fn end(&mut self, place: Place) {
        self.running[place.kind as usize] -= 1;
        if let Some(caller) = self.callers.get_mut(&place.caller) {
            caller.running -= 1;
        }
        self.forget(place.caller);
    }

    /// Whether a caller's line is longer than it may be, for requests of this kind.
    pub(in crate::http) fn is_overfull(&self, id: TenantId, kind: Kind) -> bool {
        let own = self.callers.get(&id).is_some_and(|caller| caller.waiting() > caller.share.waiting);
        own || self.waiting() > self.capacity.waiting
            || (kind == Kind::Search && self.waiting[Kind::Search as usize] > self.search_waiting_room())
    }

    /// Whether even a plain request of a caller could neither run nor wait now.
    pub(in crate::http) fn is_closed_to(&self, id: TenantId, share: Share) -> bool {
        let (running, waiting) = self.callers.get(&id).map_or((0, 0), |caller| (caller.running, caller.waiting()));
        let runs = self.running() < self.capacity.running && running < share.running;
        let waits = self.waiting() < self.capacity.waiting && waiting < share.waiting;
        !runs && !waits
    }

    /// Requests of a caller that wait.
    pub(in crate::http) fn waiting_of(&self, id: TenantId) -> usize {
        self.callers.get(&id).map_or(0, Caller::waiting)
    }

    /// Requests of all callers that wait.
    pub(in crate::http) fn waiting(&self) -> usize {
        self.waiting.iter().sum()
    }

    /// Whether nothing runs or waits.
    pub(in crate::http) fn is_empty(&self) -> bool {
        self.running() + self.waiting() == 0
    }

    fn running(&self) -> usize {
        self.running.iter().sum()
    }

    /// Searches that may run at the same time. One always may.
    fn search_room(&self) -> usize {
        self.capacity.running.saturating_sub(self.capacity.reserved_running).max(1)
    }

    fn search_waiting_room(&self) -> usize {
        self.capacity.waiting.saturating_sub(self.capacity.reserved_waiting)
    }

    fn forget(&mut self, id: TenantId) {
        // Its clock is not needed: it is ahead of the line's by no more than what it had running.
        if self.callers.get(&id).is_some_and(|caller| caller.running == 0 && caller.waiting() == 0) {
            self.callers.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TenantId = TenantId([1; 32]);
    const B: TenantId = TenantId([2; 32]);
    const ALL: Share = Share { running: 99, waiting: 99 };

    fn line(running: usize, reserved: usize) -> Line<u32> {
        Line::new(Capacity { running, waiting: 100, reserved_running: reserved, reserved_waiting: 25 })
    }

    /// Starts and ends one request at a time, until nothing waits; gives the items in their order.
    fn drained(line: &mut Line<u32>) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some((place, item)) = line.next() {
            order.push(item);
            line.end(place);
        }
        order
    }

    #[test]
    fn callers_take_turns_by_what_their_requests_cost() {
        let mut one = line(1, 0);
        for item in 0..4 {
            one.join(A, ALL, Ask::plain(1), item);
        }
        for item in 10..12 {
            one.join(B, ALL, Ask::plain(1), item);
        }
        assert_eq!(drained(&mut one), [0, 10, 1, 11, 2, 3]);
        // A search with a budget of 3 costs as much as four plain answers.
        for item in 0..2 {
            one.join(A, ALL, Ask::search(1, 3), item);
        }
        for item in 10..17 {
            one.join(B, ALL, Ask::plain(1), item);
        }
        assert_eq!(drained(&mut one), [0, 10, 11, 12, 13, 1, 14, 15, 16]);
    }

    #[test]
    fn priorities_order_the_requests_of_one_caller_alone() {
        let mut one = line(1, 0);
        for (item, priority) in [(0, 5), (1, 0), (2, -3), (3, 0), (4, 5)] {
            one.join(A, ALL, Ask::plain(1).at(priority), item);
        }
        one.join(A, ALL, Ask::search(1, 1).at(-1), 5);
        let place = one.join(A, ALL, Ask::plain(1).at(-9), 6);
        assert_eq!(one.leave(place), Some(6));
        assert_eq!(drained(&mut one), [2, 5, 1, 3, 0, 4]);
        one.join(A, ALL, Ask::plain(1).at(-9), 0);
        one.join(A, ALL, Ask::plain(1).at(-9), 1);
        one.join(B, ALL, Ask::plain(1).at(9), 10);
        assert_eq!(drained(&mut one), [0, 10, 1]);
    }

    #[test]
    fn a_caller_cannot_save_time_up_and_pays_for_what_it_runs() {
        let mut two = line(1, 0);
        two.join(A, ALL, Ask::search(1, 63), 0);
        let (running, _) = two.next().unwrap();
        two.join(A, ALL, Ask::plain(1), 1);
        two.join(B, ALL, Ask::plain(1), 10);
        two.join(B, ALL, Ask::plain(1), 11);
        assert!(two.next().is_none());
        two.end(running);
        assert_eq!(drained(&mut two), [10, 11, 1], "A has had 64 times as much");
    }

    #[test]
    fn plain_requests_of_one_caller_pass_its_own_searches() {
        let mut one = line(1, 0);
        for item in 0..3 {
            one.join(A, ALL, Ask::search(1, 1), item);
        }
        for item in 10..13 {
            one.join(A, ALL, Ask::plain(1), item);
        }
        assert_eq!(drained(&mut one), [0, 10, 11, 1, 12, 2]);
    }

    #[test]
    fn searches_and_single_callers_leave_room() {
        let mut four = line(4, 1);
        for item in 0..9 {
            four.join(A, ALL, Ask::search(1, 1), item);
        }
        let started: Vec<_> = std::iter::from_fn(|| four.next()).collect();
        assert_eq!(started.len(), 3);
        four.join(B, ALL, Ask::plain(1), 10);
        assert_eq!(four.next().map(|(_, item)| item), Some(10));
        let mut halves = line(4, 0);
        let half = Share { running: 2, waiting: 2 };
        let places: Vec<_> = (0..5).map(|item| halves.join(A, half, Ask::plain(1), item)).collect();
        assert_eq!(std::iter::from_fn(|| halves.next()).count(), 2);
        assert!(halves.is_overfull(A, Kind::Plain) && !halves.is_overfull(B, Kind::Plain));
        assert!(halves.is_closed_to(A, half) && !halves.is_closed_to(B, half));
        assert_eq!(halves.leave(places[4]), Some(4));
        assert_eq!(halves.leave(places[4]), None);
        assert_eq!(halves.leave(places[0]), None, "it runs");
        assert!(!halves.is_overfull(A, Kind::Plain) && halves.is_closed_to(A, half));
        assert_eq!((halves.waiting_of(A), halves.waiting()), (2, 2));
    }

    #[test]
    fn one_search_runs_however_little_there_is() {
        let mut one = line(1, 1);
        one.join(A, ALL, Ask::search(1, 1), 0);
        assert_eq!(drained(&mut one), [0]);
        assert!(one.is_empty() && one.callers.is_empty());
    }

    #[test]
    fn searches_leave_places_to_wait() {
        let mut none = line(0, 0);
        for item in 0..76 {
            none.join(A, ALL, Ask::search(1, 1), item);
        }
        assert!(none.is_overfull(A, Kind::Search) && !none.is_overfull(A, Kind::Plain));
    }
}
