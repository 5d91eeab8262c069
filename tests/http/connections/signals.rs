//! How the process begins and ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::{address, endless_file, free_port, post};

/// A server in a process of its own, which is killed at the end.
struct Spar {
    child: Child,
    lines: Receiver<String>,
}

impl Spar {
    fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spar"));
        command.args(["--log", "error", "--try-judge", "false"]).args(flags).env("SPAR_ADMIN_KEY", "admin");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let reader = BufReader::new(child.stdout.take().unwrap());
        let (says, lines) = channel();
        std::thread::spawn(move || reader.lines().map_while(Result::ok).all(|line| says.send(line).is_ok()));
        Self { child, lines }
    }

    /// Waits for a line and gives what follows its beginning.
    fn line(&self, beginning: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(20)).expect(beginning);
            if let Some(rest) = line.strip_prefix(beginning) {
                return rest.to_owned();
            }
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// How long the process still runs, if it ends by itself, and what it wrote to standard error.
    fn ends(&mut self, most: Duration) -> (Duration, i32, String) {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let took = started.elapsed();
                let mut log = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
                return (took, status.code().expect("it was not killed"), log);
            }
            assert!(started.elapsed() < most, "the process does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Spar {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// More than two seconds after the grace, for a machine that is busy.
const SOON: Duration = Duration::from_secs(6);

#[test]
fn a_signal_ends_a_server_at_rest() {
    for name in ["-TERM", "-INT"] {
        let dir = tempfile::tempdir().unwrap();
        let mut spar = Spar::start(&["--engine", "fake", "--port", "0", "--swap-dir", dir.path().to_str().unwrap()]);
        spar.line("serving fake on ");
        spar.signal(name);
        let (_, code, log) = spar.ends(SOON);
        assert_eq!(code, 0, "{name}: {log}");
    }
}

#[test]
fn a_signal_ends_a_server_that_is_loading_whose_health_port_says_so() {
    // An upstream that takes connections and never says what it serves.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("http://{}/v1", silent.local_addr().unwrap());
    let flag = "an upstream that says nothing";
    let dir = tempfile::tempdir().unwrap();
    let (port, swaps) = (free_port(), dir.path().join("swaps"));
    let swaps = swaps.to_str().unwrap();
    let base = ["--port", &port, "--health-port", "0", "--shutdown-grace", "60s", "--swap-dir", swaps];
    let mut spar = Spar::start(&[&base[..], &["--engine", "upstream", "--upstream-url", &upstream]].concat());
    let health = spar.line("health on ");
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(address(&health)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    std::thread::sleep(Duration::from_millis(1000));
    assert!(ask("/healthz").starts_with("HTTP/1.1 200"), "{flag}");
    let ready = ask("/readyz");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("loading"), "{flag}: {ready}");
    assert!(TcpStream::connect(format!("127.0.0.1:{port}")).is_err(), "{flag}: the main port does not listen yet");
    spar.signal("-TERM");
    let (_, code, log) = spar.ends(SOON);
    assert_eq!(code, 0, "{flag}: {log}");
}

#[test]
fn a_signal_ends_a_server_while_a_request_or_a_thread_does_not() {
    let dir = tempfile::tempdir().unwrap();
    // Weights whose template is never rendered to its end.
    let endless = dir.path().join("root/endless");
    std::fs::create_dir_all(&endless).unwrap();
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/spar-tiny/actor")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), endless.join(file.file_name())).unwrap();
    }
    let template = "{% for a in range(20000) %}{% for b in range(20000) %}{% endfor %}{% endfor %}{{ messages }}";
    std::fs::write(endless.join("chat_template.jinja"), template).unwrap();
    let (root, swaps) = (dir.path().join("root"), dir.path().join("swaps"));
    let [root, swaps] = [&root, &swaps].map(|path| path.to_str().unwrap());
    let flags = ["--engine", "native", "--threads", "1", "--port", "0", "--shutdown-grace", "500ms"];
    let mut spar = Spar::start(&[&flags[..], &["--swap-dir", swaps, "--weights-root", root]].concat());
    let url = spar.line("serving spar-tiny on ");
    let send = |text: &str| {
        let mut stream = TcpStream::connect(address(&url)).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let half = post("/v1/chat/completions", "", "{\"messages\": 5}");
    let chat = send(&half[..half.len() - 3]);
    let order = "{\"role\": \"actor\", \"model_path\": \"endless\", \"changes\": [\"chat_template\"]}";
    let swap = send(&post("/admin/generations", "authorization: Bearer admin\r\n", order));
    std::thread::sleep(Duration::from_millis(500));
    spar.signal("-TERM");
    let (took, code, log) = spar.ends(SOON);
    assert_eq!(code, 0, "{log}");
    assert!(took >= Duration::from_millis(450), "running requests have their grace: {took:?}");
    drop((chat, swap));
}

#[test]
fn a_second_signal_ends_a_server_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let swaps = dir.path().to_str().unwrap();
    let mut spar = Spar::start(&["--engine", "fake", "--port", "0", "--shutdown-grace", "60s", "--swap-dir", swaps]);
    let url = spar.line("serving fake on ");
    let half = post("/v1/chat/completions", "", "{\"messages\": 5}");
    let mut stream = TcpStream::connect(address(&url)).unwrap();
    stream.write_all(&half.as_bytes()[..half.len() - 3]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    spar.signal("-TERM");
    std::thread::sleep(Duration::from_millis(500));
    assert!(spar.child.try_wait().unwrap().is_none(), "the request has its grace");
    spar.signal("-TERM");
    assert_eq!(spar.ends(SOON).1, 0);
}

#[test]
fn a_port_that_is_taken_is_said_before_anything_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (pipe, swaps) = (dir.path().join("pipe"), dir.path().join("swaps"));
    let base = ["--templates", endless_file(&pipe), "--swap-dir", swaps.to_str().unwrap()];
    for (flags, expected) in [
        (["--port", &port, "--health-port", "0"], format!("cannot listen on 127.0.0.1:{port}: Address already in use")),
        (
            ["--port", "0", "--health-port", &port],
            format!("cannot listen on 127.0.0.1:{port} for health (--health-port)"),
        ),
    ] {
        let (_, code, log) = Spar::start(&[&base[..], &flags[..]].concat()).ends(SOON);
        assert_ne!(code, 0);
        assert!(log.contains(&expected), "{log}");
    }
}

#[test]
fn files_for_tls_that_cannot_be_used_are_named_at_the_start() {
    let (_, code, log) =
        Spar::start(&["--engine", "fake", "--tls-cert", "nowhere.pem", "--tls-key", "k.pem"]).ends(SOON);
    assert_ne!(code, 0);
    assert!(log.contains("--tls-cert nowhere.pem: No such file"), "{log}");
}

#[test]
fn a_hangup_reads_the_certificate_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = super::tls::Authority::new();
    let files = first.files(dir.path());
    let [cert, key] = [&files.0, &files.1].map(|path| path.to_str().unwrap());
    let swaps = dir.path().join("swaps");
    let flags = ["--engine", "fake", "--port", "0", "--tls-cert", cert, "--tls-key", key];
    let spar = Spar::start(&[&flags[..], &["--swap-dir", swaps.to_str().unwrap()]].concat());
    let url = spar.line("serving fake on ");
    assert!(url.starts_with("https://"), "{url}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let works = |authority: &super::tls::Authority| {
        let call = authority.client().get(format!("{url}/healthz")).send();
        runtime.block_on(call).is_ok_and(|response| response.status() == 200)
    };
    assert!(works(&first));
    let second = super::tls::Authority::new();
    second.files(dir.path());
    spar.signal("-HUP");
    let started = Instant::now();
    while !works(&second) {
        assert!(started.elapsed() < Duration::from_secs(10), "the new certificate is not shown");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!works(&first));
}
