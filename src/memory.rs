//! How much memory this process may use: the least of what the machine has and what its container allows.

use std::path::{Path, PathBuf};

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What the process and its neighbours in the container may use at most.
    pub(crate) limit: Option<u64>,
    /// What is free of it now.
    pub(crate) available: Option<u64>,
}

/// What the operating system says now; nothing where it is not Linux.
pub(crate) fn now() -> Memory {
    read(&|path| std::fs::read_to_string(path).ok())
}

/// A version of control groups: how its files are named.
struct Version {
    limits: &'static [&'static str],
    used: &'static str,
    /// In `memory.stat`, pages of files that can be read again.
    cached: &'static str,
}

const ONE: Version =
    Version { limits: &["memory.limit_in_bytes"], used: "memory.usage_in_bytes", cached: "total_inactive_file" };
const TWO: Version =
    Version { limits: &["memory.max", "memory.high"], used: "memory.current", cached: "inactive_file" };

/// Where there is no limit, version 1 names the largest number of pages.
const UNLIMITED: u64 = 1 << 60;

/// As [`now`], with the files that `file` gives.
fn read(file: &dyn Fn(&Path) -> Option<String>) -> Memory {
    let host = file(Path::new("/proc/meminfo")).unwrap_or_default();
    let kilobytes = |name: &str| {
        let line = host.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
    };
    let mut memory = Memory { limit: kilobytes("MemTotal"), available: kilobytes("MemAvailable") };
    let least = |one: Option<u64>, other: u64| Some(one.map_or(other, |one| one.min(other)));
    for (directory, version) in groups(file) {
        let number = |name: &str| file(&directory.join(name))?.trim().parse::<u64>().ok();
        let limits = version.limits.iter().filter_map(|name| number(name)).filter(|&limit| limit < UNLIMITED);
        let Some(limit) = limits.min() else { continue };
        memory.limit = least(memory.limit, limit);
        if let Some(used) = number(version.used) {
            let stat = file(&directory.join("memory.stat")).unwrap_or_default();
            let cached = stat.lines().find_map(|line| line.strip_prefix(version.cached)?.trim().parse::<u64>().ok());
            let held = used.saturating_sub(cached.unwrap_or(0));
            memory.available = least(memory.available, limit.saturating_sub(held));
        }
    }
    memory
}

/// The directories of the groups that the process is in, from its own to the root, of both versions.
fn groups(file: &dyn Fn(&Path) -> Option<String>) -> Vec<(PathBuf, &'static Version)> {
    let own = file(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let mounts = file(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    let mut directories = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let version = match controllers {
            "" => &TWO,
            names if names.split(',').any(|name| name == "memory") => &ONE,
            _ => continue,
        };
        let Some((root, point)) = mounts.lines().find_map(|line| mount(line, version)) else { continue };
        // In a container the path may be the host's, which is not there: what is mounted is the container's group then.
        let within = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(""));
        let within = if within.components().any(|part| part.as_os_str() == "..") { Path::new("") } else { within };
        directories.extend(within.ancestors().map(|part| (point.join(part), version)));
    }
    directories
}

/// The root and the place of a mount, where it is one of this version with memory in it.
fn mount(line: &str, version: &Version) -> Option<(PathBuf, PathBuf)> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let mut fields = after.split(' ');
    let (kind, options) = (fields.next()?, fields.nth(1).unwrap_or_default());
    let wanted = match version.used == TWO.used {
        true => kind == "cgroup2",
        false => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
    };
    wanted.then(|| (root.into(), point.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEBI: u64 = 1 << 20;
    const HOST: (&str, &str) = ("/proc/meminfo", "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable:  4194304 kB\n");
    const V2: (&str, &str) = (
        "/proc/self/mountinfo",
        "22 1 0:20 / /proc rw shared:5 - proc proc rw\n29 1 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
    );
    const V1: (&str, &str) = (
        "/proc/self/mountinfo",
        "30 1 0:27 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n31 1 0:28 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
    );

    type Files<'a> = &'a [(&'a str, &'a str)];

    #[test]
    fn the_least_of_host_and_groups_counts() {
        let g = "/sys/fs/cgroup";
        let nested = format!("{g}/system.slice/spar.service");
        let slice = format!("{g}/system.slice");
        let table: [(&str, Files<'_>, [Option<u64>; 2]); 10] = [
            ("no files at all", &[], [None, None]),
            ("a host without groups", &[HOST], [Some(8192 * MEBI), Some(4096 * MEBI)]),
            (
                "no limit",
                &[HOST, V2, ("/proc/self/cgroup", "0::/\n"), (&format!("{g}/memory.max"), "max\n")],
                [Some(8192 * MEBI), Some(4096 * MEBI)],
            ),
            (
                "a container of version 2",
                &[
                    HOST,
                    V2,
                    ("/proc/self/cgroup", "0::/\n"),
                    (&format!("{g}/memory.max"), "536870912\n"),
                    (&format!("{g}/memory.current"), "314572800\n"),
                    (&format!("{g}/memory.stat"), "anon 1\nfile 5\ninactive_file 104857600\n"),
                ],
                [Some(512 * MEBI), Some(312 * MEBI)],
            ),
            (
                "the parent is narrower",
                &[
                    HOST,
                    V2,
                    ("/proc/self/cgroup", "0::/system.slice/spar.service\n"),
                    (&format!("{nested}/memory.max"), "1073741824\n"),
                    (&format!("{nested}/memory.current"), "1048576\n"),
                    (&format!("{slice}/memory.max"), "268435456\n"),
                    (&format!("{slice}/memory.current"), "10485760\n"),
                ],
                [Some(256 * MEBI), Some(246 * MEBI)],
            ),
            (
                "it is slowed down before it is stopped",
                &[
                    HOST,
                    V2,
                    ("/proc/self/cgroup", "0::/x\n"),
                    (&format!("{g}/x/memory.max"), "1073741824\n"),
                    (&format!("{g}/x/memory.high"), "104857600\n"),
                    (&format!("{g}/x/memory.current"), "209715200\n"),
                ],
                [Some(100 * MEBI), Some(0)],
            ),
            (
                "a container of version 1",
                &[
                    HOST,
                    V1,
                    ("/proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n"),
                    (&format!("{g}/memory/memory.limit_in_bytes"), "734003200\n"),
                    (&format!("{g}/memory/memory.usage_in_bytes"), "524288000\n"),
                    (&format!("{g}/memory/memory.stat"), "inactive_file 7\ntotal_inactive_file 209715200\n"),
                ],
                [Some(700 * MEBI), Some(400 * MEBI)],
            ),
            (
                "version 1 without a limit",
                &[
                    HOST,
                    V1,
                    ("/proc/self/cgroup", "4:memory:/docker/abc\n"),
                    (&format!("{g}/memory/memory.limit_in_bytes"), "9223372036854771712\n"),
                ],
                [Some(8192 * MEBI), Some(4096 * MEBI)],
            ),
            (
                "a path that the container does not have",
                &[HOST, V2, ("/proc/self/cgroup", "0::/../../host/pod\n"), (&format!("{g}/memory.max"), "536870912\n")],
                [Some(512 * MEBI), Some(4096 * MEBI)],
            ),
            (
                "lines of another kind",
                &[HOST, ("/proc/self/mountinfo", "x\n- -\n"), ("/proc/self/cgroup", "0::/\nx\n::\n")],
                [Some(8192 * MEBI), Some(4096 * MEBI)],
            ),
        ];
        for (name, files, [limit, available]) in table {
            let file = |path: &Path| {
                files.iter().find(|(known, _)| Path::new(known) == path).map(|(_, text)| (*text).to_owned())
            };
            assert_eq!(read(&file), Memory { limit, available }, "{name}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_says_what_is_free() {
        let Memory { limit, available } = now();
        assert!(available.is_some_and(|bytes| bytes > 1 << 20) && limit >= available);
    }
}
