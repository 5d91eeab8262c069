//! Models from a hub: a stand-in that also misbehaves.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as Route, State};
use axum::http::{HeaderMap, Response};
use axum::response::IntoResponse;
use axum::routing::get;
use futures::StreamExt;
use serde_json::{Value, json};
use spar::engine::model_dir::ModelDir;
use spar::hub::{Cache, Hub, HubName, Progress};
use spar::testing::gguf::GgufFile;
use spar::testing::{TinyModel, write_model};
use spar::weights::digest::hex;
use tempfile::TempDir;
use tokio::net::TcpListener;

const COMMIT: &str = "0123456789012345678901234567890123456789";
const NAME: &str = "org/tiny";
const WEIGHTS: &str = "model.safetensors";

/// What the stand-in does wrong with the weights.
#[derive(Clone, Debug, Default)]
struct Faults {
    /// How often the connection ends in the middle.
    cuts: usize,
    /// How often nothing more comes after the middle, though the connection stays.
    stalls: usize,
    /// How often other bytes come than were promised.
    damages: usize,
    /// How often it answers with this status.
    statuses: Vec<u16>,
    /// Ranges are not known.
    no_ranges: bool,
    /// More bytes come than were promised.
    too_long: bool,
    /// Another host has the file.
    elsewhere: Option<String>,
    /// Everything is refused without this token.
    token: Option<&'static str>,
    /// The listing is answered with this.
    listing: Option<(u16, String)>,
}

#[derive(Default)]
struct Seen {
    /// File and range of each download.
    downloads: Vec<(String, Option<String>)>,
    /// Tokens that came to this host.
    tokens: Vec<Option<String>>,
}

struct Standing {
    files: HashMap<String, Vec<u8>>,
    faults: Mutex<Faults>,
    seen: Mutex<Seen>,
}

/// A hub on this machine.
struct Stand {
    url: String,
    standing: Arc<Standing>,
}

impl Stand {
    async fn start(files: HashMap<String, Vec<u8>>, faults: Faults) -> Self {
        let standing = Arc::new(Standing { files, faults: Mutex::new(faults), seen: Mutex::default() });
        let router = Router::new()
            .route("/api/models/{owner}/{model}/revision/{revision}", get(listing))
            .route("/{owner}/{model}/resolve/{revision}/{file}", get(file))
            .with_state(Arc::clone(&standing));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, standing }
    }

    fn hub(&self, cache: &Path) -> Hub {
        let (cache, patience) = (Cache { root: cache.to_owned() }, Duration::from_secs(2));
        Hub { cache, endpoint: self.url.clone(), token: None, offline: false, patience }
    }

    fn downloads(&self, file: &str) -> Vec<Option<String>> {
        let seen = self.standing.seen.lock().unwrap();
        seen.downloads.iter().filter(|(name, _)| name == file).map(|(_, range)| range.clone()).collect()
    }
}

fn token_of(headers: &HeaderMap) -> Option<String> {
    headers.get("authorization").map(|value| value.to_str().unwrap().to_owned())
}

fn status(code: u16) -> Response<Body> {
    Response::builder().status(code).body(Body::empty()).unwrap()
}

impl Standing {
    fn refuses(&self, headers: &HeaderMap) -> bool {
        let token = token_of(headers);
        self.seen.lock().unwrap().tokens.push(token.clone());
        let wanted = self.faults.lock().unwrap().token;
        wanted.is_some_and(|wanted| token.as_deref() != Some(&format!("Bearer {wanted}")))
    }
}

async fn listing(
    State(hub): State<Arc<Standing>>,
    Route((owner, model, _)): Route<(String, String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    if hub.refuses(&headers) {
        return status(401);
    }
    if let Some((code, text)) = hub.faults.lock().unwrap().listing.clone() {
        return Response::builder().status(code).body(text.into()).unwrap();
    }
    if format!("{owner}/{model}") != NAME {
        return status(404);
    }
    let sibling = |(name, contents): (&String, &Vec<u8>)| {
        let large = name.ends_with("safetensors") || name.ends_with("gguf") || name.ends_with("bin");
        let mut sibling = json!({ "rfilename": name, "size": contents.len(), "blobId": git(contents) });
        if large {
            sibling["lfs"] = json!({ "sha256": sha256(contents), "size": contents.len(), "pointerSize": 134 });
        }
        sibling
    };
    let siblings: Vec<Value> = hub.files.iter().map(sibling).collect();
    axum::Json(json!({ "id": NAME, "sha": COMMIT, "siblings": siblings })).into_response()
}

async fn file(
    State(hub): State<Arc<Standing>>,
    Route((_, _, revision, name)): Route<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    if hub.refuses(&headers) {
        return status(401);
    }
    assert_eq!(revision, COMMIT, "files are those of the commit that was listed");
    let range = headers.get("range").map(|value| value.to_str().unwrap().to_owned());
    hub.seen.lock().unwrap().downloads.push((name.clone(), range.clone()));
    let contents = hub.files[&name].clone();
    let mut faults = hub.faults.lock().unwrap();
    if name == WEIGHTS {
        if let Some(code) = faults.statuses.pop() {
            return status(code);
        }
        if let Some(elsewhere) = &faults.elsewhere {
            let place = format!("{elsewhere}/{NAME}/resolve/{COMMIT}/{name}");
            return Response::builder().status(302).header("location", place).body(Body::empty()).unwrap();
        }
    }
    let begin: usize = match range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')) {
        Some(begin) if !(name == WEIGHTS && faults.no_ranges) => begin.parse().unwrap(),
        _ => 0,
    };
    let mut rest = contents[begin..].to_vec();
    let promised = rest.len();
    let (mut cut, mut stalled) = (false, false);
    if name == WEIGHTS {
        if faults.damages > 0 {
            faults.damages -= 1;
            rest[promised / 2] ^= 1;
        }
        if faults.too_long {
            rest.extend([7; 100]);
        }
        if faults.cuts > 0 {
            faults.cuts -= 1;
            rest.truncate(promised / 2);
            cut = true;
        }
        if faults.stalls > 0 {
            faults.stalls -= 1;
            rest.truncate(promised / 2);
            stalled = true;
        }
    }
    let pieces: Vec<Result<Bytes, std::io::Error>> =
        rest.chunks(1 << 14).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let end = cut.then(|| Err(std::io::Error::other("the connection ends")));
    let (pieces, rest) = (futures::stream::iter(pieces.into_iter().chain(end)), futures::stream::pending());
    let pieces = pieces.chain(if stalled { rest.left_stream() } else { futures::stream::empty().right_stream() }).then(
        |piece| async {
            tokio::task::yield_now().await;
            piece
        },
    );
    let mut response = Response::builder().status(if begin > 0 { 206 } else { 200 });
    if begin > 0 {
        let last = contents.len() - 1;
        response = response.header("content-range", format!("bytes {begin}-{last}/{}", contents.len()));
    }
    response.body(Body::from_stream(pieces)).unwrap()
}

fn sha256(contents: &[u8]) -> String {
    use sha2::Digest;
    hex(&sha2::Sha256::digest(contents))
}

fn git(contents: &[u8]) -> String {
    use sha1::Digest;
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", contents.len()));
    hash.update(contents);
    hex(&hash.finalize())
}

/// A repository with a model, and much that must never be fetched.
fn repository() -> HashMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), &TinyModel::default());
    let mut files = HashMap::new();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        files.insert(entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap());
    }
    for name in ["pytorch_model.bin", "modeling_tiny.py", "README.md", "train.sh"] {
        files.insert(name.into(), b"import os".to_vec());
    }
    files
}

/// What was said before anything came, and what came.
#[derive(Default)]
struct Watch {
    announced: Vec<(u64, usize)>,
    came: i64,
    ended: bool,
}

impl Progress for Watch {
    fn begins(&mut self, _: &HubName, missing: u64, files: usize, to: &Path) {
        assert!(to.ends_with("models--org--tiny") && self.came == 0);
        self.announced.push((missing, files));
    }

    fn advances(&mut self, bytes: i64) {
        assert_eq!(self.announced.len(), 1, "it is said before it begins");
        self.came += bytes;
    }

    fn ends(&mut self) {
        self.ended = true;
    }
}

/// Fetches on a thread without a runtime, as the command line does.
async fn pull(hub: Hub, name: &str) -> (Result<PathBuf, String>, Watch) {
    let name: HubName = name.parse().unwrap();
    let work = move || {
        let mut watch = Watch::default();
        let found = hub.path(&name, &mut watch).map_err(|error| error.to_string());
        (found, watch)
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn cache() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Names of whole files by their checksums.
fn blobs(cache: &TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(cache.path().join("models--org--tiny/blobs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.contains('.')).collect()
}

#[tokio::test]
async fn a_model_comes_once_without_what_could_run_and_is_found_offline() {
    let stand = Stand::start(repository(), Faults::default()).await;
    let cache = cache();
    let (path, watch) = pull(stand.hub(cache.path()), NAME).await;
    let path = path.unwrap();
    assert_eq!(path, cache.path().join("models--org--tiny/snapshots").join(COMMIT));
    assert_eq!((watch.announced.len(), watch.came as u64, watch.ended), (1, watch.announced[0].0, true));
    ModelDir::open(&path).unwrap().weights.check_finite().unwrap();
    let mut names: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", WEIGHTS, "spar.json", "tokenizer.json", "tokenizer_config.json"]);
    let link = std::fs::read_link(path.join(WEIGHTS)).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(sha256(&stand.standing.files[WEIGHTS])));

    let before = stand.standing.seen.lock().unwrap().tokens.len();
    let (again, watch) = pull(Hub { offline: true, ..stand.hub(cache.path()) }, NAME).await;
    assert_eq!((again.unwrap(), watch.announced.len()), (path.clone(), 0));
    let (by_commit, _) = pull(stand.hub(cache.path()), &format!("{NAME}@{COMMIT}")).await;
    assert_eq!(by_commit.unwrap(), path);
    assert_eq!(stand.standing.seen.lock().unwrap().tokens.len(), before, "nobody was asked");

    let (missing, _) = pull(Hub { offline: true, ..stand.hub(cache.path()) }, "org/other").await;
    let message = missing.unwrap_err();
    assert!(message.contains("org/other") && message.contains("HF_HUB_OFFLINE"), "{message}");
}

#[tokio::test]
async fn one_gguf_file_of_several_comes() {
    let mut files = HashMap::new();
    let (file, _) = GgufFile::model(&TinyModel { intermediate: 64, ..TinyModel::default() }, 8);
    files.insert("tiny-Q8_0.gguf".to_owned(), file.bytes());
    files.insert("tiny-Q6_K.gguf".to_owned(), file.bytes());
    let stand = Stand::start(files, Faults::default()).await;
    let cache = cache();
    let (path, watch) = pull(stand.hub(cache.path()), "org/tiny:q8_0").await;
    assert_eq!(watch.announced, [(file.bytes().len() as u64, 1)]);
    ModelDir::open(path.unwrap()).unwrap();
    let (several, _) = pull(stand.hub(cache.path()), NAME).await;
    // The one that is here is the only one that is known without asking.
    assert!(several.unwrap().ends_with("tiny-Q8_0.gguf"));
    let (unknown, _) = pull(stand.hub(cache.path()), "org/tiny:Q2_K").await;
    let message = unknown.unwrap_err();
    assert!(message.contains("there are Q6_K, Q8_0"), "{message}");
}

/// Everything that passes: what breaks off goes on where it was, damage comes again.
#[tokio::test]
async fn a_download_survives_what_passes() {
    let whole = repository()[WEIGHTS].len();
    let table: Vec<(Faults, Vec<Option<String>>)> = vec![
        (Faults { statuses: vec![503, 429], ..Faults::default() }, vec![None, None, None]),
        (Faults { cuts: 1, ..Faults::default() }, vec![None, Some(format!("bytes={}-", whole / 2))]),
        (Faults { cuts: 1, no_ranges: true, ..Faults::default() }, vec![None, Some(format!("bytes={}-", whole / 2))]),
        (Faults { stalls: 1, ..Faults::default() }, vec![None, Some(format!("bytes={}-", whole / 2))]),
        (Faults { damages: 1, ..Faults::default() }, vec![None, None]),
    ];
    for (faults, expected) in table {
        let shown = format!("{faults:?}");
        let stand = Stand::start(repository(), faults).await;
        let cache = cache();
        let (path, watch) = pull(stand.hub(cache.path()), NAME).await;
        ModelDir::open(path.unwrap()).unwrap().weights.check_finite().unwrap();
        assert_eq!(stand.downloads(WEIGHTS), expected, "{shown}");
        assert_eq!(watch.came as u64, watch.announced[0].0, "{shown}");
    }
}

#[tokio::test]
async fn what_does_not_pass_is_said_and_leaves_nothing_that_is_used() {
    let listing = |code: u16, text: &str| Faults { listing: Some((code, text.into())), ..Faults::default() };
    let strange = json!({ "sha": COMMIT, "siblings": [
        { "rfilename": "config.json", "size": 3, "blobId": "../../x" }, { "rfilename": WEIGHTS, "size": 1, "blobId": "y" } ] });
    let table: Vec<(Faults, &[&str])> = vec![
        (listing(404, ""), &["has no model `org/tiny`", "HF_TOKEN"]),
        (listing(403, ""), &["accept its terms", "HF_TOKEN"]),
        (Faults { token: Some("secret"), ..Faults::default() }, &["status 401", "HF_TOKEN"]),
        (listing(200, "<html>"), &["cannot be read", "HF_ENDPOINT"]),
        (listing(200, "{\"sha\": \"main\"}"), &["names no commit"]),
        (listing(200, &strange.to_string()), &["checksum of"]),
        (Faults { damages: 99, ..Faults::default() }, &[WEIGHTS, "its checksum is"]),
        (Faults { too_long: true, ..Faults::default() }, &[WEIGHTS, "more came than was promised"]),
        (Faults { statuses: vec![404], ..Faults::default() }, &["has no model"]),
    ];
    for (faults, expected) in table {
        let stand = Stand::start(repository(), faults).await;
        let cache = cache();
        let hub = stand.hub(cache.path());
        let (found, watch) = pull(hub.clone(), NAME).await;
        let message = found.unwrap_err();
        assert!(expected.iter().all(|part| message.contains(part)), "{message} lacks one of {expected:?}");
        assert!(!message.contains('\n') && !watch.ended, "{message}");
        if !watch.announced.is_empty() {
            assert!(!blobs(&cache).contains(&sha256(&stand.standing.files[WEIGHTS])));
        }
        let name = NAME.parse().unwrap();
        assert_eq!(hub.cache.find(&name).unwrap(), None);
    }
}

#[tokio::test]
async fn a_killed_download_goes_on_with_what_came() {
    let stand = Stand::start(repository(), Faults::default()).await;
    let cache = cache();
    let contents = &stand.standing.files[WEIGHTS];
    let blobs = cache.path().join("models--org--tiny/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(format!("{}.incomplete", sha256(contents))), &contents[..1000]).unwrap();
    let (path, watch) = pull(stand.hub(cache.path()), NAME).await;
    ModelDir::open(path.unwrap()).unwrap();
    assert_eq!(stand.downloads(WEIGHTS), [Some("bytes=1000-".to_owned())]);
    assert_eq!(watch.came as u64, watch.announced[0].0);
}

#[tokio::test]
async fn two_at_once_fetch_each_file_once() {
    let stand = Stand::start(repository(), Faults::default()).await;
    let cache = cache();
    let pulls = (0..4).map(|_| pull(stand.hub(cache.path()), NAME));
    let paths: Vec<_> = futures::future::join_all(pulls).await.into_iter().map(|(path, _)| path.unwrap()).collect();
    assert!(paths.iter().all(|path| *path == paths[0]));
    ModelDir::open(&paths[0]).unwrap().weights.check_finite().unwrap();
    assert_eq!(stand.downloads(WEIGHTS).len(), 1);
}

#[tokio::test]
async fn a_token_opens_what_is_gated_and_does_not_follow_to_another_host() {
    let other = Stand::start(repository(), Faults::default()).await;
    // Another port is another host to a client; names are told apart, too.
    let elsewhere = other.url.replace("127.0.0.1", "localhost");
    let faults = Faults { elsewhere: Some(elsewhere), token: Some("secret"), ..Faults::default() };
    let stand = Stand::start(repository(), faults).await;
    let cache = cache();
    let hub = Hub { token: Some("secret".into()), ..stand.hub(cache.path()) };
    let (path, _) = pull(hub, NAME).await;
    ModelDir::open(path.unwrap()).unwrap();
    assert_eq!(other.downloads(WEIGHTS).len(), 1);
    assert_eq!(other.standing.seen.lock().unwrap().tokens, [None]);
    assert!(stand.standing.seen.lock().unwrap().tokens.iter().all(|token| token.as_deref() == Some("Bearer secret")));
}

#[tokio::test]
async fn the_program_serves_lists_and_pulls_by_name() {
    let stand = Stand::start(repository(), Faults::default()).await;
    let cache = cache();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_spar"));
        command.args(arguments).env("HF_ENDPOINT", &stand.url).env("HF_HUB_CACHE", cache.path()).env_remove("HF_TOKEN");
        command.env("NO_PROXY", "127.0.0.1");
        async move { tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap() }
    };
    let refused = run(&["--model", NAME, "--offline", "--port", "0"]).await;
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && message.contains("--offline") && message.contains("spar pull org/tiny"),
        "{message}"
    );
    let pulled = run(&["pull", NAME]).await;
    let said = String::from_utf8(pulled.stderr).unwrap();
    assert!(
        pulled.status.success() && said.contains("fetching org/tiny: ") && said.contains("models--org--tiny"),
        "{said}"
    );
    let listed = String::from_utf8(run(&["models"]).await.stdout).unwrap();
    assert!(
        listed.lines().nth(1).is_some_and(|line| line.starts_with("org/tiny  ") && line.contains("native")),
        "{listed}"
    );
}
