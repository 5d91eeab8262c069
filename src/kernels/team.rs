//! A few threads that do the parts of one piece of work together, and sleep in between.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{io, thread};

/// Threads that wait for parts of work. They end when it is dropped.
pub struct Team {
    desk: Arc<Desk>,
    members: usize,
}

struct Desk {
    state: Mutex<State>,
    /// Rung when there are parts to do, or the team is no longer wanted.
    begin: Condvar,
    /// Rung when the last part is done.
    done: Condvar,
}

#[derive(Default)]
struct State {
    work: Option<Work>,
    next: usize,
    parts: usize,
    running: usize,
    panicked: bool,
    closed: bool,
}

/// A borrowed function; [`Team::run`] keeps it alive until the last part is done.
#[derive(Clone, Copy)]
struct Work(*const (dyn Fn(usize) + Sync));

#[expect(unsafe_code, reason = "a pointer to a function that may be called from any thread")]
// SAFETY: what it points to is `Sync`, and `Team::run` does not return while a thread may still use it.
unsafe impl Send for Work {}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn help(&self) {
        let mut state = self.state();
        loop {
            if state.closed {
                return;
            }
            state = match self.part(state) {
                (state, true) => state,
                (state, false) => self.begin.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
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
            self.done.notify_all();
        }
        (state, true)
    }
}

impl Team {
    /// A team of so many members, of whom the first is whoever calls [`Team::run`].
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn new(members: usize) -> io::Result<Self> {
        let desk = Arc::new(Desk { state: Mutex::default(), begin: Condvar::new(), done: Condvar::new() });
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
        #[expect(unsafe_code, reason = "threads that were there before take a borrowed function")]
        // SAFETY: only the lifetime changes. The work is taken back below, when nobody runs it any more; nothing in between
        // returns or unwinds, since a panic of a part is caught.
        let work = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(f) };
        let mut state = self.desk.state();
        (state.work, state.next, state.parts, state.panicked) = (Some(Work(work)), 0, parts, false);
        self.desk.begin.notify_all();
        loop {
            let (now, did) = self.desk.part(state);
            state = now;
            if !did {
                break;
            }
        }
        while state.running > 0 {
            state = self.desk.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.work = None;
        let panicked = state.panicked;
        drop(state);
        assert!(!panicked, "a part of the work panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.desk.state().closed = true;
        self.desk.begin.notify_all();
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
}
