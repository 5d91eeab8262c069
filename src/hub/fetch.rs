//! Files from a hub into the cache. Each comes under a name of its own, goes on where it broke off, and gets its place only when
//! its length and checksum are right; a lock keeps other processes of this program from the same file meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use reqwest::header::RANGE;
use reqwest::{Client, RequestBuilder, Response};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::choose::Wanted;
use super::listing::{Checksum, Listing, Remote};
use super::{Hub, HubError, HubName};
use crate::weights::digest::hex;

/// How often a file is asked for that breaks off or comes damaged.
const TRIES: u32 = 5;
/// The pause between the first two tries; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
const CONNECT: Duration = Duration::from_secs(20);
/// Bytes of a listing at most.
const LISTING: usize = 32 << 20;

/// Is told how a download goes.
pub trait Progress {
    /// Called before anything comes: the name, the missing bytes, and where they go.
    fn begins(&mut self, name: &HubName, missing: u64, files: usize, to: &Path);
    /// More bytes are there; a negative number if some have to come again.
    fn advances(&mut self, bytes: i64);
    /// All is there.
    fn ends(&mut self);
}

/// Fetches what is missing of a model, and returns its path.
pub(super) async fn fetch(hub: &Hub, name: &HubName, progress: &mut dyn Progress) -> Result<PathBuf, HubError> {
    let client = Client::builder()
        .connect_timeout(CONNECT)
        .read_timeout(hub.patience)
        .user_agent(concat!("spar/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| hub.network(&e))?;
    let listing = hub.listing(&client, name).await?;
    let repository = hub.cache.repository(name);
    let place = Place { blobs: repository.join("blobs"), snapshot: repository.join("snapshots").join(&listing.commit) };
    let transfer = Transfer { hub, client, name, commit: &listing.commit, place: &place };
    for directory in [&place.blobs, &place.snapshot] {
        fs::create_dir_all(directory).map_err(|e| cache(directory, &e))?;
    }
    let missing: Vec<&Remote> = listing.files.iter().filter(|file| !place.has(file)).collect();
    if !missing.is_empty() {
        let bytes = missing.iter().map(|file| file.bytes.saturating_sub(place.partial(file))).sum();
        progress.begins(name, bytes, missing.len(), &repository);
        for file in missing {
            transfer.file(file, progress).await?;
        }
        progress.ends();
    }
    for file in &listing.files {
        place.link(file).map_err(|e| cache(&place.snapshot, &e))?;
    }
    // Last, so that a branch always means a whole model.
    let branch = repository.join("refs").join(name.revision());
    let directory = branch.parent().unwrap_or(&repository);
    fs::create_dir_all(directory).map_err(|e| cache(directory, &e))?;
    crate::weights::digest::replace(&branch, listing.commit.as_bytes()).map_err(|e| cache(&branch, &e))?;
    Ok(match &listing.wanted {
        Wanted::Gguf(parts) => place.snapshot.join(&parts[0]),
        Wanted::Directory(_) => place.snapshot,
    })
}

impl Hub {
    async fn listing(&self, client: &Client, name: &HubName) -> Result<Listing, HubError> {
        let revision = name.revision().replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}?blobs=true", self.endpoint, name.repository());
        let mut pause = PAUSE;
        for attempt in 1.. {
            let answer = match self.with_token(client.get(&url)).send().await {
                Ok(answer) => whole(answer).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok((200, text)) => return Listing::read(name, &self.endpoint, &text),
                Ok((status, _)) if !is_passing(status) || attempt == TRIES => return Err(self.refused(name, status)),
                Err(error) if attempt == TRIES => return Err(self.network(&error)),
                Ok(_) | Err(_) => tokio::time::sleep(pause).await,
            }
            pause *= 2;
        }
        unreachable!("the last attempt returns")
    }

    /// A redirect to another host does not take the token there.
    fn with_token(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    fn refused(&self, name: &HubName, status: u16) -> HubError {
        let (endpoint, repository, name) = (self.endpoint.clone(), name.repository(), name.to_string());
        match status {
            404 => HubError::Unknown { endpoint, name },
            // The hub hides what it does not show with the first of these.
            401 | 403 => HubError::Forbidden { endpoint, name, repository, status },
            status => {
                HubError::Network { endpoint, reason: format!("it answers with status {status}; try again later") }
            }
        }
    }

    fn network(&self, error: &reqwest::Error) -> HubError {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        HubError::Network { endpoint: self.endpoint.clone(), reason: format!("{reason}; run it again to go on") }
    }

    fn strange(&self, name: &HubName, file: &str, what: &str) -> HubError {
        let reason = format!("{file} of {name}: {what}; run it again to go on");
        HubError::Network { endpoint: self.endpoint.clone(), reason }
    }
}

/// The files of one model on their way.
struct Transfer<'a> {
    hub: &'a Hub,
    client: Client,
    name: &'a HubName,
    commit: &'a str,
    place: &'a Place,
}

impl Transfer<'_> {
    /// One file, as often as it breaks off.
    async fn file(&self, file: &Remote, progress: &mut dyn Progress) -> Result<(), HubError> {
        let place = self.place;
        let lock_path = place.blobs.join(format!("{}.lock", file.checksum.digits()));
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|e| cache(&lock_path, &e))?;
        while lock.try_lock().is_err() {
            // Another process fetches the same file: what it brings is enough.
            tokio::time::sleep(PAUSE).await;
        }
        let mut pause = PAUSE;
        let mut failure = None;
        for _ in 0..TRIES {
            if place.has(file) {
                return Ok(());
            }
            let begun = place.partial(file);
            if begun < file.bytes || file.bytes == 0 {
                match self.rest(file, begun, progress).await {
                    Ok(()) => (),
                    Err(Failure::Final(error)) => return Err(error),
                    Err(Failure::Passing(error)) => {
                        failure = Some(error);
                        tokio::time::sleep(pause).await;
                        pause *= 2;
                        continue;
                    }
                }
            }
            match self.settle(file) {
                Ok(()) => return Ok(()),
                // It comes again from the beginning: what was there before may have been the damage.
                Err(error @ HubError::Damaged { .. }) => {
                    progress.advances(-(file.bytes.min(i64::MAX as u64) as i64));
                    failure = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(failure.expect("an attempt that neither succeeded nor ended has failed"))
    }

    /// Appends what comes to the part that is there already.
    async fn rest(&self, file: &Remote, begun: u64, progress: &mut dyn Progress) -> Result<(), Failure> {
        let Self { hub, name, place, .. } = self;
        let url = format!("{}/{}/resolve/{}/{}", hub.endpoint, name.repository(), self.commit, file.name);
        let request = hub.with_token(self.client.get(url));
        let request = if begun > 0 { request.header(RANGE, format!("bytes={begun}-")) } else { request };
        let answer = request.send().await.map_err(|e| Failure::Passing(hub.network(&e)))?;
        let status = answer.status().as_u16();
        let path = place.part(file);
        let mut part = OpenOptions::new();
        let mut part = match status {
            206 => part.append(true).open(&path),
            // A server that knows no ranges begins anew.
            200 => {
                progress.advances(-(begun as i64));
                part.create(true).write(true).truncate(true).open(&path)
            }
            416 => {
                progress.advances(-(begun as i64));
                fs::remove_file(&path).map_err(|e| Failure::Final(cache(&path, &e)))?;
                return Err(Failure::Passing(hub.strange(name, &file.name, "it refuses to go on")));
            }
            status if is_passing(status) => return Err(Failure::Passing(hub.refused(name, status))),
            status => return Err(Failure::Final(hub.refused(name, status))),
        }
        .map_err(|e| Failure::Final(cache(&path, &e)))?;
        let mut there = if status == 206 { begun } else { 0 };
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|e| Failure::Passing(hub.network(&e)))?;
            there += piece.len() as u64;
            if there > file.bytes {
                drop(part);
                progress.advances(-((there - piece.len() as u64) as i64));
                fs::remove_file(&path).map_err(|e| Failure::Final(cache(&path, &e)))?;
                return Err(Failure::Passing(hub.strange(name, &file.name, "more came than was promised")));
            }
            part.write_all(&piece).map_err(|e| Failure::Final(cache(&path, &e)))?;
            progress.advances(piece.len() as i64);
        }
        part.sync_all().map_err(|e| Failure::Final(cache(&path, &e)))?;
        match there < file.bytes {
            true => Err(Failure::Passing(hub.strange(name, &file.name, "it broke off"))),
            false => Ok(()),
        }
    }

    /// Gives a file that has all its bytes its place, if they are the right ones; else removes it.
    fn settle(&self, file: &Remote) -> Result<(), HubError> {
        let path = self.place.part(file);
        let found = checksum(&path, &file.checksum).map_err(|e| cache(&path, &e))?;
        if found != file.checksum.digits() {
            fs::remove_file(&path).map_err(|e| cache(&path, &e))?;
            let reason = format!("its checksum is {found} instead of {}", file.checksum.digits());
            let (endpoint, name, file) = (self.hub.endpoint.clone(), self.name.to_string(), file.name.clone());
            return Err(HubError::Damaged { endpoint, name, file, reason });
        }
        fs::rename(&path, self.place.blob(file)).map_err(|e| cache(&path, &e))
    }
}

/// Why a step failed.
enum Failure {
    /// Another try may succeed.
    Passing(HubError),
    Final(HubError),
}

/// Whether an answer may be another one later.
fn is_passing(status: u16) -> bool {
    status == 408 || status == 429 || status >= 500
}

async fn whole(answer: Response) -> Result<(u16, Vec<u8>), reqwest::Error> {
    let (status, mut text) = (answer.status().as_u16(), Vec::new());
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.next().await {
        text.extend_from_slice(&piece?);
        if text.len() > LISTING {
            break;
        }
    }
    Ok((status, text))
}

/// Where the files of a commit are.
struct Place {
    blobs: PathBuf,
    snapshot: PathBuf,
}

impl Place {
    fn blob(&self, file: &Remote) -> PathBuf {
        self.blobs.join(file.checksum.digits())
    }

    fn part(&self, file: &Remote) -> PathBuf {
        self.blobs.join(format!("{}.incomplete", file.checksum.digits()))
    }

    /// Whether the file is whole. Only whole files get their names, here and in other programs.
    fn has(&self, file: &Remote) -> bool {
        fs::metadata(self.blob(file)).is_ok_and(|found| found.is_file() && found.len() == file.bytes)
    }

    /// Bytes of it that came earlier.
    fn partial(&self, file: &Remote) -> u64 {
        fs::metadata(self.part(file)).map_or(0, |found| found.len())
    }

    /// Puts the file into the commit's directory.
    fn link(&self, file: &Remote) -> std::io::Result<()> {
        let path = self.snapshot.join(&file.name);
        if fs::canonicalize(&path).ok().is_some_and(|found| Some(found) == fs::canonicalize(self.blob(file)).ok()) {
            return Ok(());
        }
        if fs::symlink_metadata(&path).is_ok() {
            fs::remove_file(&path)?;
        }
        #[cfg(unix)]
        let linked = std::os::unix::fs::symlink(Path::new("../../blobs").join(file.checksum.digits()), &path);
        #[cfg(not(unix))]
        let linked = fs::copy(self.blob(file), &path).map(drop);
        match linked {
            // Another process was faster.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    }
}

/// A file's checksum of the same kind as `like`, in hexadecimal digits.
fn checksum(path: &Path, like: &Checksum) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    match like {
        Checksum::Sha256(_) => {
            let mut hash = Sha256::new();
            std::io::copy(&mut file, &mut hash)?;
            Ok(hex(&hash.finalize()))
        }
        Checksum::Git(_) => {
            let mut contents = Vec::new();
            file.read_to_end(&mut contents)?;
            let mut hash = Sha1::new();
            hash.update(format!("blob {}\0", contents.len()));
            hash.update(&contents);
            Ok(hex(&hash.finalize()))
        }
    }
}

fn cache(file: &Path, error: &std::io::Error) -> HubError {
    HubError::Cache { file: file.into(), reason: error.to_string() }
}
