//! The names by which a server may be called.
//!
//! The owner of a web page can make its host name resolve to a loopback address, so that the page calls a server on the
//! visitor's machine as if it were its own (DNS rebinding). Such requests carry that name as their host, so a server that listens
//! on a loopback address refuses names that it does not know.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header;
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::Response;

use crate::config::HttpArgs;
use crate::http::error::ApiError;

/// Which hosts are served.
pub struct Hosts {
    /// Whether the server listens on a loopback address.
    loopback: bool,
    /// The hosts of `--allowed-hosts`, in lower case.
    allowed: Vec<String>,
}

impl Hosts {
    /// The hosts that are configured.
    pub fn new(http: &HttpArgs) -> Self {
        let allowed = http.connections.allowed_hosts.iter().filter(|host| !host.is_empty()).cloned().collect();
        Self { loopback: http.host.to_canonical().is_loopback(), allowed }
    }

    /// Whether a request for `host`, which may have a port, is served.
    fn serves(&self, host: &str) -> bool {
        if !self.loopback && self.allowed.is_empty() {
            return true;
        }
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            // DNS rebinding needs a name. An address that is not loopback is suspicious only on a loopback listener.
            return !self.loopback || address.to_canonical().is_loopback() || self.lists(bare);
        }
        name == "localhost" || self.lists(&name)
    }

    fn lists(&self, name: &str) -> bool {
        self.allowed.iter().any(|pattern| match pattern.strip_prefix('*') {
            Some(end) => name.len() > end.len() && name.ends_with(end),
            None => name == pattern,
        })
    }
}

/// Refuses requests for other hosts. A request that names no host does not come from a browser.
///
/// # Errors
/// [`ApiError::WrongHost`].
pub async fn check(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Result<Response, ApiError> {
    let of_target = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let of_headers = request.headers().get_all(header::HOST).iter();
    let named = of_headers.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()).chain(of_target);
    let mut wrong = named.filter(|host| !hosts.serves(host));
    match wrong.next() {
        Some(host) => Err(ApiError::WrongHost(host)),
        None => {
            drop(wrong);
            Ok(next.run(request).await)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_loopback_only_names_of_this_machine_and_listed_ones_are_served() {
        let hosts = |loopback, allowed: &[&str]| Hosts {
            loopback,
            allowed: allowed.iter().map(|host| (*host).to_owned()).collect(),
        };
        let listed: &[&str] = &["spar.example.com", "*.lan", "10.0.0.1"];
        // Columns: loopback, loopback with a list, other addresses, other addresses with a list.
        for (host, expected) in [
            ("localhost", [true, true, true, true]),
            ("LOCALHOST:8080", [true, true, true, true]),
            ("localhost.:8080", [true, true, true, true]),
            ("127.0.0.1:1", [true, true, true, true]),
            ("127.8.9.1", [true, true, true, true]),
            ("[::1]:8080", [true, true, true, true]),
            ("[::1]", [true, true, true, true]),
            ("[::ffff:127.0.0.1]", [true, true, true, true]),
            ("evil.example", [false, false, true, false]),
            ("evil.example:8080", [false, false, true, false]),
            ("localhost.evil.example", [false, false, true, false]),
            ("127.0.0.1.evil.example", [false, false, true, false]),
            ("spar.example.com:8080", [false, true, true, true]),
            ("Spar.Example.com.", [false, true, true, true]),
            ("a.spar.example.com", [false, false, true, false]),
            ("box.lan", [false, true, true, true]),
            ("lan", [false, false, true, false]),
            (".lan", [false, false, true, false]),
            ("10.0.0.1:80", [false, true, true, true]),
            ("10.0.0.2:80", [false, false, true, true]),
            ("[fe80::1]", [false, false, true, true]),
            ("", [false, false, true, false]),
            ("a b", [false, false, true, false]),
        ] {
            let served = [(true, &[] as &[&str]), (true, listed), (false, &[]), (false, listed)]
                .map(|(loopback, allowed)| hosts(loopback, allowed).serves(host));
            assert_eq!(served, expected, "{host:?}");
        }
        assert!(hosts(true, &["*"]).serves("anything.example"));
    }
}
