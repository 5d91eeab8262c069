//! How many connections the limit of open files leaves room for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything but connections of clients: files, listeners, runtimes.
const OTHERS: u64 = 64;
/// Descriptors that are kept for connections about health, if the limit allows it.
const RESERVED: u64 = 32;

/// How many connections are accepted beyond the limit, and how many on the port for health.
pub(super) fn reserved() -> usize {
    getrlimit(Resource::Nofile).current.map_or(RESERVED, spare) as usize
}

/// The number of connections that the limit allows, `asked` at most. The soft limit of open files is raised as far as needed and
/// possible; `outgoing` connections to other servers are to fit as well.
pub(super) fn room(asked: usize, outgoing: usize) -> usize {
    let before = getrlimit(Resource::Nofile);
    let kept = OTHERS + 2 * RESERVED + outgoing as u64;
    let wanted = raised(before, asked as u64 + kept);
    if wanted != before.current
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: before.maximum })
    {
        tracing::debug!(%error, "the limit of open files cannot be raised");
    }
    let Some(limit) = getrlimit(Resource::Nofile).current else { return asked };
    let most = usize::try_from(share(limit, kept)).unwrap_or(usize::MAX);
    if most < asked {
        tracing::warn!(
            "--max-connections is {asked}, but the limit of {limit} open files leaves room for {most}; raise the limit (ulimit -n)"
        );
    }
    asked.min(most)
}

/// The soft limit that holds `needed` descriptors, as far as the hard limit allows.
fn raised(limit: Rlimit, needed: u64) -> Option<u64> {
    let soft = limit.current?;
    Some(soft.max(needed.min(limit.maximum.unwrap_or(u64::MAX))))
}

/// What is left for connections where `kept` descriptors are for other things: a quarter of the limit at least.
fn share(limit: u64, kept: u64) -> u64 {
    (limit - kept.min(limit - limit / 4)).max(1)
}

/// How many connections about health a limit has room for.
fn spare(limit: u64) -> u64 {
    (limit / 8).clamp(2, RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limits_are_raised_as_far_as_needed_and_possible() {
        for (current, maximum, needed, expected) in [
            (Some(1024), Some(4096), 2000, Some(2000)),
            (Some(1024), Some(1500), 2000, Some(1500)),
            (Some(1024), None, 2000, Some(2000)),
            (Some(4096), Some(4096), 2000, Some(4096)),
            (None, None, 2000, None),
        ] {
            assert_eq!(raised(Rlimit { current, maximum }, needed), expected, "{current:?} {maximum:?}");
        }
    }

    #[test]
    fn other_descriptors_are_kept() {
        for (limit, kept, expected) in [(1024, 128, 896), (128, 128, 32), (64, 128, 16), (256, 192, 64), (1, 64, 1)] {
            assert_eq!(share(limit, kept), expected, "{limit} {kept}");
        }
        for (limit, expected) in [(1024, 32), (128, 16), (64, 8), (1, 2)] {
            assert_eq!(spare(limit), expected, "{limit}");
        }
    }
}
