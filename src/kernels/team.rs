//! A fork-join thread pool. Idle workers spin for a moment before they park, since waking a thread takes as long as a small
//! product.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{hint, io, thread};

/// How long a thread spins before it parks: what lies between the products of a step takes less.
const LOOKOUT: Duration = Duration::from_micros(100);

/// Threads that wait for parts of work. They end when it is dropped.
pub struct Team {
    desk: Arc<Desk>,
    members: usize,
}

struct Desk {
    state: Mutex<State>,
    /// Pieces of work that were given out, the end of the team among them; and the last of them that is done. Both change
    /// under the lock only.
    given: AtomicU64,
    done: AtomicU64,
    /// Rung for members that sleep when something is given out, and for the caller when it is done.
    begin: Condvar,
    end: Condvar,
}

#[derive(Default)]
struct State {
    work: Option<Work>,
    next: usize,
    parts: usize,
    running: usize,
    /// Members that sleep.
    asleep: usize,
    panicked: bool,
    closed: bool,
}

/// A borrowed function; [`Team::run`] keeps it alive until the last part is done.
#[derive(Clone, Copy)]
struct Work(*const (dyn Fn(usize) + Sync));

#[expect(unsafe_code, reason = "a pointer to a function that may be called from any thread")]
// SAFETY: what it points to is `Sync`, and `Team::run` does not return while a thread may still use it.
unsafe impl Send for Work {}

/// Looks out for something a moment long. Whether it came.
fn look_out(came: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        for _ in 0..64 {
            if came() {
                return true;
            }
            hint::spin_loop();
        }
        if begun.elapsed() > LOOKOUT {
            return false;
        }
    }
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn help(&self) {
        loop {
            let mut state = self.state();
            if state.closed {
                return;
            }
            let given = self.given.load(Ordering::Acquire);
            let more = || self.given.load(Ordering::Acquire) != given;
            while let (now, true) = self.part(state) {
                state = now;
            }
            if look_out(more) {
                continue;
            }
            let mut state = self.state();
            state.asleep += 1;
            while !more() {
                state = self.begin.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.asleep -= 1;
        }
    }

    /// Does one part, if any is left.
    fn part<'a>(&'a self, mut state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, bool) {
        let Some(work) = state.work.filter(|_| state.next < state.parts) else { return (state, false) };
        let part = state.next;
        state.next += 1;
        state.running += 1;
        drop(state);
        #[expect(unsafe_code, reason = "the function is borrowed for as long as the work runs")]
        // SAFETY: `running` was raised while the work was there, and `Team::run` returns only when it is 0 again.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*work.0)(part) }));
        let mut state = self.state();
        state.running -= 1;
        state.panicked |= result.is_err();
        if state.running == 0 && state.next >= state.parts {
            self.done.store(self.given.load(Ordering::Relaxed), Ordering::Release);
            self.end.notify_all();
        }
        (state, true)
    }

    /// Tells members that there is something new.
    fn give(&self, state: &State) {
        self.given.fetch_add(1, Ordering::Release);
        if state.asleep > 0 {
            self.begin.notify_all();
        }
    }
}

impl Team {
    /// A team of this many members; the first is the caller of [`Team::run`].
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn new(members: usize) -> io::Result<Self> {
        let [begin, end] = [const { Condvar::new() }; 2];
        let [given, done] = [const { AtomicU64::new(0) }; 2];
        let desk = Arc::new(Desk { state: Mutex::default(), given, done, begin, end });
        let team = Self { desk, members: members.max(1) };
        for _ in 1..members {
            let desk = team.desk.clone();
            thread::Builder::new().name("spar-team".into()).spawn(move || desk.help())?;
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
    /// When a part does.
    pub fn run(&self, parts: usize, f: &(dyn Fn(usize) + Sync)) {
        if parts == 0 {
            return;
        }
        #[expect(unsafe_code, reason = "threads that were there before take a borrowed function")]
        // SAFETY: only the lifetime changes. The work is taken back below, when it runs nowhere any more; nothing in between
        // returns or unwinds, since a panic of a part is caught.
        let work = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(f) };
        let desk = &*self.desk;
        let mut state = desk.state();
        (state.work, state.next, state.parts, state.panicked) = (Some(Work(work)), 0, parts, false);
        desk.give(&state);
        let given = desk.given.load(Ordering::Relaxed);
        while let (now, true) = desk.part(state) {
            state = now;
        }
        let done = || desk.done.load(Ordering::Acquire) == given;
        look_out(done);
        let mut state = desk.state();
        while !done() {
            state = desk.end.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.work = None;
        let panicked = state.panicked;
        drop(state);
        assert!(!panicked, "a part of the work panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        let mut state = self.desk.state();
        state.closed = true;
        self.desk.give(&state);
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
