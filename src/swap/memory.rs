//! Whether new weights fit into memory beside the old ones.

use super::Swapper;
use super::candidate::{Candidate, Load};
use super::order::Mode;

impl Swapper {
    /// Beside the old weights or instead of them.
    pub(super) fn mode(&self, asked: Mode, candidate: &Candidate) -> Mode {
        if let Load::OnLive(..) = candidate.load {
            return Mode::BlueGreen;
        }
        if asked != Mode::Auto {
            return asked;
        }
        // As f32, and a tenth for caches and buffers. In a CUDA build the device decides: a load that does not fit fails, and
        // its message asks for a drain.
        let needed = candidate.elements as u64 * 4 / 10 * 11;
        match self.settings.swap_memory.or_else(free_bytes) {
            Some(free) if needed > free => Mode::Drain,
            _ => Mode::BlueGreen,
        }
    }
}

/// What Linux says can be had without swapping pages out.
pub(crate) fn free_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn linux_says_what_is_free() {
        assert!(super::free_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
