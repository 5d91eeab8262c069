//! Stops a stage in which most of what the refiner says cannot be read, instead of letting it run for hours and learn from the rest.

use anyhow::{Result, ensure};

/// Counts what could be read.
pub(super) struct Watch {
    /// What is counted, such as "votes".
    what: &'static str,
    /// What to do about it.
    remedy: &'static str,
    /// The share that may be unreadable.
    most: f64,
    read: usize,
    unread: usize,
}

/// Fewer than this say nothing yet.
const ENOUGH: usize = 20;
/// Fewer than this say nothing at the end of a stage.
const AT_END: usize = 5;

impl Watch {
    pub fn new(what: &'static str, most: f64, remedy: &'static str) -> Self {
        Self { what, remedy, most, read: 0, unread: 0 }
    }

    /// Adds what was read and what was not.
    ///
    /// # Errors
    /// Fails if too much cannot be read.
    pub fn add(&mut self, read: usize, unread: usize) -> Result<()> {
        self.read += read;
        self.unread += unread;
        self.check(ENOUGH)
    }

    /// Decides with what there is at the end of a stage.
    ///
    /// # Errors
    /// Fails if too much could not be read.
    pub fn finish(&self) -> Result<()> {
        self.check(AT_END)
    }

    fn check(&self, enough: usize) -> Result<()> {
        let (what, remedy, unread, all) = (self.what, self.remedy, self.unread, self.read + self.unread);
        let few = unread as f64 <= self.most * all as f64;
        ensure!(all < enough || few, "{unread} of {all} {what} could not be read: {remedy}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stops_once_most_cannot_be_read_and_not_before_it_is_known() {
        let watch = || Watch::new("votes", 0.5, "train the refiner");
        let mut early = watch();
        early.add(1, 18).unwrap();
        let message = early.add(0, 1).unwrap_err().to_string();
        assert_eq!(message, "19 of 20 votes could not be read: train the refiner");
        let mut half = watch();
        half.add(20, 20).unwrap();
        half.finish().unwrap();
        let mut short = watch();
        short.add(1, 4).unwrap();
        assert!(short.finish().is_err());
        let mut allowed = Watch::new("votes", 1.0, "");
        allowed.add(0, 100).unwrap();
        allowed.finish().unwrap();
        watch().finish().unwrap();
    }
}
