//! A fork-join thread pool. Idle workers spin for a moment before they park, since waking a thread takes as long as a small
//! product. Where other processes keep the cores busy, work is done by the caller alone; `Pace` decides when.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{hint, io, thread};

/// How long a thread spins before it parks. The time between two products of one decoding step is shorter.
const SPIN: Duration = Duration::from_micros(100);

/// Worker threads that share the parts of one piece of work with the caller. They end when the team is dropped.
pub struct Team {
    shared: Arc<Shared>,
    members: usize,
}

struct Shared {
    state: Mutex<State>,
    /// The number of the newest piece of work (the end of the team counts as one), and of the last piece that is finished. Both
    /// change under the lock only.
    newest: AtomicU64,
    finished: AtomicU64,
    /// Wakes parked workers when there is new work.
    begin: Condvar,
    /// Wakes the caller when its work is finished.
    end: Condvar,
}

#[derive(Default)]
struct State {
    work: Option<Work>,
    next: usize,
    parts: usize,
    running: usize,
    /// Workers that are parked.
    parked: usize,
    panicked: bool,
    closed: bool,
    pace: Pace,
}

/// A borrowed function; [`Team::run`] keeps it alive until the last part is done.
#[derive(Clone, Copy)]
struct Work(*const (dyn Fn(usize) + Sync));

#[expect(unsafe_code, reason = "a pointer to a function that may be called from any thread")]
// SAFETY: the function is `Sync`, and `Team::run` does not return while a thread may still use it.
unsafe impl Send for Work {}

/// Decides whether the caller works alone for a while.
///
/// A worker that the operating system preempts in the middle of its part holds up the whole piece of work for a time slice, which
/// is many times longer than a small product. On a machine whose cores are busy with other processes a team is then slower than
/// one thread. So the time of each piece of work is compared with the time that the caller would have needed alone, and where the
/// team has lost [`Pace::LOSS`], the caller works alone for a while before the team is tried again.
#[derive(Default)]
struct Pace {
    /// Pieces of work since the last decision.
    pieces: u32,
    /// The time that these pieces took in total.
    together: Duration,
    /// The time that the caller would have needed alone.
    alone: Duration,
    /// The time until which the caller works alone.
    until: Option<Instant>,
    /// How long the caller worked alone the last time; zero where the team has since proved faster.
    pause: Duration,
}

impl Pace {
    /// Lost time after which the caller works alone.
    const LOSS: Duration = Duration::from_millis(8);
    /// The first time alone. It doubles each time that the team is tried in vain, up to the longest.
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(2);
    /// Pieces of work after which the comparison starts again.
    const PIECES: u32 = 512;

    fn works_alone(&mut self, now: Instant) -> bool {
        if self.until.is_some_and(|until| now >= until) {
            self.until = None;
        }
        self.until.is_some()
    }

    /// Records a piece of work of `parts` parts, `own` of them done by the caller in `busy`, which took `elapsed` in total.
    fn record(&mut self, now: Instant, parts: usize, own: usize, busy: Duration, elapsed: Duration) {
        if own == 0 {
            return;
        }
        self.pieces += 1;
        self.together += elapsed;
        self.alone += busy.mul_f64(parts as f64 / own as f64);
        let slower = self.together > self.alone + Self::LOSS;
        if slower {
            self.pause = (self.pause * 2).clamp(Self::SHORTEST, Self::LONGEST);
            self.until = Some(now + self.pause);
        } else if self.pieces < Self::PIECES {
            return;
        } else if self.together < self.alone {
            self.pause = Duration::ZERO;
        }
        (self.pieces, self.together, self.alone) = (0, Duration::ZERO, Duration::ZERO);
    }
}

/// Spins for at most [`SPIN`]. Returns whether the condition became true.
fn spin_until(condition: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        for _ in 0..64 {
            if condition() {
                return true;
            }
            hint::spin_loop();
        }
        if begun.elapsed() > SPIN {
            return false;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker's loop.
    fn work(&self) {
        loop {
            let mut state = self.state();
            if state.closed {
                return;
            }
            let newest = self.newest.load(Ordering::Acquire);
            let more = || self.newest.load(Ordering::Acquire) != newest;
            while let (now, true) = self.part(state) {
                state = now;
            }
            if spin_until(more) {
                continue;
            }
            let mut state = self.state();
            state.parked += 1;
            while !more() {
                state = self.begin.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.parked -= 1;
        }
    }

    /// Does one part, if any is left. Returns whether it did.
    fn part<'a>(&'a self, mut state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, bool) {
        let Some(work) = state.work.filter(|_| state.next < state.parts) else { return (state, false) };
        let part = state.next;
        state.next += 1;
        state.running += 1;
        drop(state);
        #[expect(unsafe_code, reason = "the function is borrowed for as long as the work runs")]
        // SAFETY: `running` was raised while the work was set, and `Team::run` returns only when it is 0 again.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*work.0)(part) }));
        let mut state = self.state();
        state.running -= 1;
        state.panicked |= result.is_err();
        if state.running == 0 && state.next >= state.parts {
            self.finished.store(self.newest.load(Ordering::Relaxed), Ordering::Release);
            self.end.notify_all();
        }
        (state, true)
    }

    /// Announces new work to the workers.
    fn announce(&self, state: &State) {
        self.newest.fetch_add(1, Ordering::Release);
        if state.parked > 0 {
            self.begin.notify_all();
        }
    }
}

impl Team {
    /// A team of this many members; the caller of [`Team::run`] is the first of them.
    ///
    /// # Errors
    /// Fails when a thread cannot be started.
    pub fn new(members: usize) -> io::Result<Self> {
        let [begin, end] = [const { Condvar::new() }; 2];
        let [newest, finished] = [const { AtomicU64::new(0) }; 2];
        let shared = Arc::new(Shared { state: Mutex::default(), newest, finished, begin, end });
        let team = Self { shared, members: members.max(1) };
        for _ in 1..members {
            let shared = team.shared.clone();
            thread::Builder::new().name("spar-team".into()).spawn(move || shared.work())?;
        }
        Ok(team)
    }

    /// Members, the caller included.
    pub fn members(&self) -> usize {
        self.members
    }

    /// Calls `f` once for each part from 0 to `parts`, on all members, and returns when all are done. One caller at a time.
    ///
    /// # Panics
    /// Panics when a part does.
    pub fn run(&self, parts: usize, f: &(dyn Fn(usize) + Sync)) {
        if parts == 0 {
            return;
        }
        let begun = Instant::now();
        let shared = &*self.shared;
        let mut state = shared.state();
        if self.members == 1 || state.pace.works_alone(begun) {
            drop(state);
            return (0..parts).for_each(f);
        }
        #[expect(unsafe_code, reason = "threads that exist already take a borrowed function")]
        // SAFETY: only the lifetime changes. The work is taken back below, when no thread runs it any more; nothing in between
        // returns or unwinds, since a panic of a part is caught.
        let work = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(f) };
        (state.work, state.next, state.parts, state.panicked) = (Some(Work(work)), 0, parts, false);
        shared.announce(&state);
        let newest = shared.newest.load(Ordering::Relaxed);
        let mut own = 0;
        while let (now, true) = shared.part(state) {
            state = now;
            own += 1;
        }
        let busy = begun.elapsed();
        let finished = || shared.finished.load(Ordering::Acquire) == newest;
        spin_until(finished);
        let mut state = shared.state();
        while !finished() {
            state = shared.end.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.work = None;
        let now = Instant::now();
        state.pace.record(now, parts, own, busy, now - begun);
        let panicked = state.panicked;
        drop(state);
        assert!(!panicked, "a part of the work panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closed = true;
        self.shared.announce(&state);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_part_is_done_once_and_panics_are_told() {
        let team = Team::new(3).unwrap();
        for parts in [1, 2, 7, 50] {
            let counts: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
            team.run(parts, &|part| _ = counts[part].fetch_add(1, Ordering::Relaxed));
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
        let panicked = catch_unwind(AssertUnwindSafe(|| team.run(4, &|part| assert!(part != 2))));
        assert!(panicked.is_err());
        team.run(2, &|_| ());
    }

    #[test]
    fn a_team_that_is_slower_than_its_caller_pauses_and_is_tried_again() {
        let milliseconds = Duration::from_millis;
        let (mut pace, begun) = (Pace::default(), Instant::now());
        // Each half takes 1 ms; alone it would be 2 ms.
        for _ in 0..Pace::PIECES {
            pace.record(begun, 2, 1, milliseconds(1), Duration::from_micros(1100));
            assert!(!pace.works_alone(begun));
        }
        // The other half is held up for 4 ms: 5 ms instead of 2 ms, so the third one has lost 9 ms.
        let mut now = begun;
        for pause in [100, 200, 400, 800, 1600, 2000, 2000] {
            for piece in 0..3 {
                assert!(!pace.works_alone(now), "piece {piece} before a pause of {pause} ms");
                pace.record(now, 2, 1, milliseconds(1), milliseconds(5));
            }
            assert!(pace.works_alone(now + milliseconds(pause - 1)));
            now += milliseconds(pause);
            assert!(!pace.works_alone(now));
        }
        // A team that is faster again forgets the pauses. Work that the caller did in full is no loss.
        for _ in 0..Pace::PIECES {
            pace.record(now, 2, 1, milliseconds(1), milliseconds(1));
        }
        for _ in 0..100 {
            pace.record(now, 2, 2, milliseconds(2), milliseconds(2));
            pace.record(now, 2, 0, milliseconds(0), milliseconds(9));
        }
        assert!(!pace.works_alone(now));
        for _ in 0..3 {
            pace.record(now, 2, 1, milliseconds(1), milliseconds(5));
        }
        assert!(pace.works_alone(now + milliseconds(99)) && !pace.works_alone(now + milliseconds(100)));
    }

    #[test]
    fn a_caller_that_works_alone_does_every_part() {
        let team = Team::new(2).unwrap();
        team.shared.state().pace.until = Some(Instant::now() + Duration::from_secs(60));
        let caller = thread::current().id();
        let count = AtomicUsize::new(0);
        team.run(9, &|_| {
            assert_eq!(thread::current().id(), caller);
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 9);
    }

    /// What a piece of work costs in addition to its parts, after a pause as between products and after a longer one.
    #[test]
    #[ignore = "a measurement"]
    fn hand_over() {
        let team = Team::new(2).unwrap();
        for pause in [5, 50, 500] {
            let spin = |microseconds: u128| {
                let begun = Instant::now();
                while begun.elapsed().as_micros() < microseconds {}
            };
            let mut times: Vec<u128> = (0..2000)
                .map(|_| {
                    spin(pause);
                    let begun = Instant::now();
                    team.run(2, &|_| spin(20));
                    begun.elapsed().as_nanos().saturating_sub(20_000)
                })
                .collect();
            times.sort_unstable();
            println!("after {pause} us: {} ns [{}, {}]", times[1000], times[100], times[1900]);
        }
    }
}
