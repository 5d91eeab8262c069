//! How connections are limited, timed and secured, and which hosts and origins may reach the server.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::error::{ConfigError, require};
use super::units::duration;

/// How connections are limited, timed and secured.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connections")]
pub struct ConnectionArgs {
    /// Connections that are open at the same time; more are answered with 503. Where the limit of open files leaves less room,
    /// it is less
    #[arg(long, env = "SPAR_MAX_CONNECTIONS", value_name = "N", default_value_t = 4096)]
    pub max_connections: usize,
    /// Time for the headers of a request to arrive, from their first byte on
    #[arg(long, env = "SPAR_HEADER_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub header_timeout: Duration,
    /// Time that a connection may stay open between requests
    #[arg(long, env = "SPAR_IDLE_TIMEOUT", value_name = "TIME", default_value = "75s", value_parser = duration)]
    pub idle_timeout: Duration,
    /// Time for the body of a request to arrive
    #[arg(long, env = "SPAR_BODY_TIMEOUT", value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub body_timeout: Duration,
    /// Time after which a client that takes no byte of its response is disconnected
    #[arg(long, env = "SPAR_WRITE_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub write_timeout: Duration,
    /// Another port, without TLS, for /healthz, /readyz, /version and /metrics alone. A thread of its own serves it, so it answers
    /// while models are loaded, under full load, and when every connection is taken; 0 takes a free port
    #[arg(long, env = "SPAR_HEALTH_PORT", value_name = "PORT")]
    pub health_port: Option<u16>,
    /// Certificate chain in PEM: the server speaks HTTPS. It is read again when it changes, and on SIGHUP
    #[arg(long, env = "SPAR_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of --tls-cert in PEM, without a passphrase
    #[arg(long, env = "SPAR_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Names besides localhost by which a server on a loopback address may be called, separated by commas: names, `*.name`, or `*`
    /// for any. On another address every name is allowed unless this is given
    #[arg(
        long, env = "SPAR_ALLOWED_HOSTS", value_name = "HOSTS", value_delimiter = ',', value_parser = host_pattern
    )]
    pub allowed_hosts: Vec<String>,
}

impl ConnectionArgs {
    /// Checks numbers, times and what belongs together; `port` is the main one.
    pub(super) fn check(&self, port: u16) -> Result<(), ConfigError> {
        let most = 1_000_000;
        require((1..=most).contains(&self.max_connections), || {
            format!("--max-connections must be between 1 and {most}, got {}", self.max_connections)
        })?;
        for (flag, time) in [
            ("--header-timeout", self.header_timeout),
            ("--idle-timeout", self.idle_timeout),
            ("--body-timeout", self.body_timeout),
            ("--write-timeout", self.write_timeout),
        ] {
            require(!time.is_zero(), || format!("{flag} must be above 0"))?;
        }
        require(self.health_port.is_none_or(|health| health == 0 || health != port), || {
            format!("--health-port must not be the same as --port ({port})")
        })?;
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => Err(ConfigError("--tls-cert needs --tls-key".into())),
            (None, Some(_)) => Err(ConfigError("--tls-key needs --tls-cert".into())),
            _ => Ok(()),
        }
    }
}

/// Reads `name`, `*.name`, an address, or `*`, and writes it as hosts are compared: in lower case, without a dot at the end.
fn host_pattern(text: &str) -> Result<String, String> {
    let lower = text.trim().to_ascii_lowercase();
    // `*.` must not become `*`.
    let text = lower.strip_suffix('.').filter(|rest| *rest != "*").unwrap_or(&lower).to_owned();
    let name = text.strip_prefix("*.").unwrap_or(&text);
    let address = name.parse::<std::net::IpAddr>().is_ok();
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    // An empty list is what a variable that is set to nothing means.
    if text.is_empty() || text == "*" || address || plain && !name.is_empty() {
        return Ok(text);
    }
    Err(format!("expected a host name such as example.com, without scheme, port or path, got {text:?}"))
}

/// Reads an origin as browsers send it: a scheme, a host and perhaps a port. `*` is any.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let text = text.trim().to_ascii_lowercase();
    if text.is_empty() || text == "*" {
        return Ok(text);
    }
    let fail = |why: &str| Err(format!("expected an origin such as https://example.com or *, got {text:?}: {why}"));
    let Some((scheme, host)) = text.split_once("://") else { return fail("it has no scheme") };
    let named = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if !named {
        return fail("the scheme is not one");
    }
    if host.contains(['/', '?', '#']) {
        return fail("an origin ends after its host and port");
    }
    match host.parse::<axum::http::uri::Authority>() {
        Ok(authority) if !authority.host().is_empty() && !host.contains('@') => match authority.as_str() {
            whole if whole == authority.host() => Ok(text),
            _ if authority.port_u16().is_some() => Ok(text),
            _ => fail("its port is not a number up to 65535"),
        },
        _ => fail("its host is not one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_browsers_send_them() {
        for (text, expected) in [
            ("*", Ok("*")),
            ("", Ok("")),
            ("https://example.com", Ok("https://example.com")),
            (" HTTP://Example.com:8080 ", Ok("http://example.com:8080")),
            ("http://[::1]:3000", Ok("http://[::1]:3000")),
            ("http://127.0.0.1", Ok("http://127.0.0.1")),
            ("chrome-extension://abcdefgh", Ok("chrome-extension://abcdefgh")),
            ("not a url", Err("no scheme")),
            ("example.com", Err("no scheme")),
            ("https://example.com/", Err("ends after its host")),
            ("https://example.com/path", Err("ends after its host")),
            ("https://", Err("host is not one")),
            ("https://a b", Err("host is not one")),
            ("https://me@example.com", Err("host is not one")),
            ("https://example.com:99999", Err("port")),
            ("https://example.com:", Err("port")),
            ("1http://example.com", Err("scheme is not one")),
            ("null", Err("no scheme")),
        ] {
            match (origin(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{text}: {found}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn host_patterns_are_names_without_scheme_port_and_path() {
        for (text, expected) in [
            ("Example.com.", Some("example.com")),
            ("*.example.com", Some("*.example.com")),
            ("*", Some("*")),
            ("", Some("")),
            ("10.0.0.1", Some("10.0.0.1")),
            ("fe80::1", Some("fe80::1")),
            ("spar_1", Some("spar_1")),
            ("http://example.com", None),
            ("example.com:80", None),
            ("example.com/x", None),
            ("*.", None),
            ("a b", None),
        ] {
            assert_eq!(host_pattern(text).ok().as_deref(), expected, "{text}");
        }
    }
}
