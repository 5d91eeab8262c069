//! The flywheel: accepted searches of live traffic as training data, de-identified, bounded in size and age. Off unless a
//! directory is named.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use regex::Regex;
use serde_json::{Value, json};

use crate::chat::Role;
use crate::config::TrafficArgs;
use crate::search::{Outcome, Task};

/// The whole is kept in this many files: the oldest goes when there is too much.
const FILES: u64 = 8;

/// What is replaced where no file says what: addresses, numbers and names of machines and people's accounts.
const USUAL: [(&str, &str); 5] = [
    (r"(?i)\b[\w.+-]+@[\w-]+(\.[\w-]+)+\b", "<email>"),
    (r"(?i)\b(https?|ftp)://\S+", "<url>"),
    (r"\b\d{1,3}(\.\d{1,3}){3}\b", "<ip>"),
    (r"\b[A-Z]{2}\d{2}( ?[A-Z0-9]{4}){3,7}( ?[A-Z0-9]{1,3})?\b", "<account>"),
    (r"\+?\(?\d[\d ()/.-]{6,}\d", "<number>"),
];

/// Where searches are written to.
pub struct Traffic {
    directory: PathBuf,
    filter: Vec<(Regex, String)>,
    max_bytes: u64,
    max_age: Duration,
    current: Mutex<Option<(PathBuf, File, u64)>>,
}

impl Traffic {
    /// Opens the directory that the settings name; `None` where they name none.
    ///
    /// # Errors
    /// The directory cannot be written, or a filter cannot be used.
    pub fn new(args: &TrafficArgs) -> Result<Option<Self>, String> {
        let Some(directory) = args.traffic_dir.clone() else { return Ok(None) };
        make_private(&directory).map_err(|e| format!("--traffic-dir {}: {e}", directory.display()))?;
        let filter = match &args.traffic_filter {
            Some(file) => read_filter(file).map_err(|e| format!("--traffic-filter {}: {e}", file.display()))?,
            None => USUAL.iter().map(|(pattern, with)| rule(pattern, with)).collect::<Result<_, _>>()?,
        };
        let (max_bytes, max_age) = (args.traffic_bytes, args.traffic_age);
        Ok(Some(Self { directory, filter, max_bytes, max_age, current: Mutex::default() }))
    }

    /// Appends a search, if it was accepted and asks one question without a history.
    pub fn keep(&self, task: &Task, outcome: &Outcome) {
        let [turn] = task.messages.as_slice() else { return };
        if !outcome.accepted || turn.role != Role::User {
            return;
        }
        let line = self.line(&turn.content, task, outcome).to_string() + "\n";
        if let Err(error) = self.append(&line) {
            tracing::error!(%error, directory = %self.directory.display(), "live traffic cannot be written");
        }
    }

    /// A line of the trainer's `trees.jsonl`.
    fn line(&self, prompt: &str, task: &Task, outcome: &Outcome) -> Value {
        let clean = |text: &str| self.without_identities(text);
        let right = |response: &str| {
            let checks = &task.checks;
            (!checks.is_empty()).then(|| checks.iter().all(|check| check.strict(response)))
        };
        let node = |node: &crate::search::Node| {
            json!({
                "parent": node.parent, "depth": node.depth, "response": clean(&node.response),
                "reflection": clean(&node.reflection), "critique": clean(&node.critique), "votes": node.votes,
                "value": node.value, "accepted": node.accepted, "right": right(&node.response),
            })
        };
        json!({
            "key": now(), "prompt": clean(prompt), "nodes": outcome.tree.nodes.iter().map(node).collect::<Vec<_>>(),
            "best": outcome.best, "accepted": outcome.accepted, "calls": outcome.calls.total(),
            "tokens": outcome.tokens.total(),
        })
    }

    fn without_identities(&self, text: &str) -> String {
        let replace = |text: String, (pattern, with): &(Regex, String)| match pattern.is_match(&text) {
            true => pattern.replace_all(&text, with.as_str()).into_owned(),
            false => text,
        };
        self.filter.iter().fold(text.to_owned(), replace)
    }

    fn append(&self, line: &str) -> io::Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |bytes: u64| bytes + line.len() as u64 > self.max_bytes / FILES;
        if current.as_ref().is_none_or(|(_, _, bytes)| full(*bytes)) {
            *current = None;
            self.remove_old()?;
            let id = uuid::Uuid::new_v4().simple().to_string();
            let path = self.directory.join(format!("traffic-{}-{}.jsonl", now(), &id[..8]));
            *current = Some((path.clone(), private().create_new(true).append(true).open(&path)?, 0));
        }
        let Some((_, file, bytes)) = current.as_mut() else { return Ok(()) };
        if let Err(error) = file.write_all(line.as_bytes()) {
            // Half a line, as a full disk leaves it, would make the next one unreadable.
            file.set_len(*bytes)?;
            return Err(error);
        }
        *bytes += line.len() as u64;
        Ok(())
    }

    /// Makes room for one more file, and forgets what is too old.
    fn remove_old(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("traffic-") && name.ends_with(".jsonl") {
                let metadata = entry.metadata()?;
                files.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (written, bytes, path) in files {
            let old = written.elapsed().is_ok_and(|age| age > self.max_age);
            if old || total > self.max_bytes / FILES * (FILES - 1) {
                fs::remove_file(path)?;
                total -= bytes;
            }
        }
        Ok(())
    }
}

/// Opens files that only the server's user can read, because they hold prompts.
#[cfg(unix)]
fn private() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

#[cfg(not(unix))]
fn private() -> OpenOptions {
    OpenOptions::new()
}

/// A directory that only this user can list, unless it is there already.
fn make_private(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

/// Lines of `pattern`, a tab, and what takes its place; `#` begins a comment.
fn read_filter(path: &Path) -> Result<Vec<(Regex, String)>, String> {
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let read = |(number, line): (usize, &str)| {
        let (pattern, with) = line.split_once('\t').unwrap_or((line, "<removed>"));
        rule(pattern, with).map_err(|error| format!("line {}: {error}", number + 1))
    };
    lines.map(read).collect()
}

fn rule(pattern: &str, with: &str) -> Result<(Regex, String), String> {
    let one_line = |e: regex::Error| e.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    Regex::new(pattern).map(|regex| (regex, with.to_owned())).map_err(one_line)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dir: &Path) -> TrafficArgs {
        TrafficArgs {
            traffic_dir: Some(dir.into()),
            traffic_filter: None,
            traffic_bytes: 8_000,
            traffic_age: Duration::from_secs(3600),
        }
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn identities_are_replaced_and_a_file_may_say_what_else() {
        let dir = tempfile::tempdir().unwrap();
        let traffic = Traffic::new(&args(dir.path())).unwrap().unwrap();
        let table = [
            ("Write to ann.b+c@mail.example.org now.", "Write to <email> now."),
            ("See https://a.example/x?y=1 or 10.0.0.17.", "See <url> or <ip>."),
            ("Call +49 (89) 1234-567 please.", "Call <number> please."),
            ("IBAN DE89 3704 0044 0532 0130 00", "IBAN <account>"),
            ("At least 300 words in 3 parts, 1.5 pages.", "At least 300 words in 3 parts, 1.5 pages."),
        ];
        for (text, expected) in table {
            assert_eq!(traffic.without_identities(text), expected);
        }
        let filter = dir.path().join("filter.txt");
        fs::write(&filter, "# names\n(?i)\\bann\\b\t<name>\nsecret\n").unwrap();
        let own = TrafficArgs { traffic_filter: Some(filter.clone()), ..args(dir.path()) };
        let traffic = Traffic::new(&own).unwrap().unwrap();
        assert_eq!(traffic.without_identities("Ann has a secret."), "<name> has a <removed>.");
        fs::write(&filter, "ok\n(").unwrap();
        let message = Traffic::new(&own).err().unwrap();
        assert!(message.contains("filter.txt: line 2"), "{message}");
        assert!(Traffic::new(&TrafficArgs { traffic_dir: None, ..args(dir.path()) }).unwrap().is_none());
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read_what_is_kept() {
        use std::os::unix::fs::PermissionsExt;
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("kept");
        let traffic = Traffic::new(&args(&dir)).unwrap().unwrap();
        traffic.append("x\n").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&files(&dir)[0])), (0o700, 0o600));
    }

    #[test]
    fn size_and_age_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let traffic = Traffic::new(&args(dir.path())).unwrap().unwrap();
        let old = dir.path().join("traffic-1-old.jsonl");
        fs::write(&old, "x\n").unwrap();
        let past = SystemTime::now() - Duration::from_secs(7200);
        File::options().append(true).open(&old).unwrap().set_modified(past).unwrap();
        let line = "y".repeat(299) + "\n";
        for _ in 0..100 {
            traffic.append(&line).unwrap();
        }
        let sizes: Vec<u64> = files(dir.path()).iter().map(|file| file.metadata().unwrap().len()).collect();
        assert!(sizes.iter().sum::<u64>() <= 8_000, "{sizes:?}");
        assert!(sizes.len() > 4 && sizes.iter().all(|size| size % 300 == 0), "whole lines in several files: {sizes:?}");
        assert!(!old.exists());
    }
}
