//! Sizes, times and addresses as people write them.

use std::net::{IpAddr, ToSocketAddrs};
use std::time::Duration;

/// Reads a time: `500ms`, `30s`, `10m`, `2h` or `30d`, with a fraction if need be; a number alone is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let fail =
        || format!("expected a time such as 500ms, 30s, 10m, 2h or 30d (a number alone is seconds), got {text:?}");
    let (number, unit) = split(text).ok_or_else(fail)?;
    let seconds = match unit.as_str() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(fail()),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| fail())
}

/// Reads a number of bytes: `268435456`, `256M`, `1.5G`. K, M, G and T are powers of 1,024, also as KiB and so on; KB, MB, GB and TB
/// are powers of 1,000.
pub fn bytes<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let fail = || format!("expected a size such as 268435456, 256M or 1.5G, got {text:?}");
    let (number, unit) = split(text).ok_or_else(fail)?;
    let unit = unit.to_ascii_uppercase();
    let (prefix, base) = match unit.as_str() {
        "" | "B" => ("", 1_u64),
        "KB" | "MB" | "GB" | "TB" => (&unit[..1], 1_000),
        other => (other.strip_suffix("IB").or(other.strip_suffix('I')).unwrap_or(other), 1_024),
    };
    // `I` and `IB` alone are no units.
    if prefix.is_empty() && !matches!(unit.as_str(), "" | "B") {
        return Err(fail());
    }
    let power = ["", "K", "M", "G", "T"].iter().position(|known| *known == prefix).ok_or_else(fail)?;
    let factor = base.pow(power as u32);
    let product = number * factor as f64;
    let total = match text.trim().parse::<u64>() {
        // Numbers alone are read exactly, also those that a float does not hold.
        Ok(whole) => whole,
        Err(_) if product >= u64::MAX as f64 || (factor == 1 && product.fract() != 0.0) => return Err(fail()),
        Err(_) => product.round() as u64,
    };
    T::try_from(total).map_err(|_| fail())
}

/// Reads an address to listen on: 127.0.0.1, ::1, or a name such as localhost, of whose addresses an IPv4 one is taken first.
pub fn host(text: &str) -> Result<IpAddr, String> {
    let plain = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = plain.parse() {
        return Ok(address);
    }
    let fail =
        || format!("{text:?} is no address of this machine: use one such as 127.0.0.1, ::1, 0.0.0.0 or localhost");
    if text.is_empty() || text.contains([':', '/']) {
        return Err(fail());
    }
    let found: Vec<IpAddr> = (text, 0).to_socket_addrs().map_err(|_| fail())?.map(|address| address.ip()).collect();
    found.iter().find(|address| address.is_ipv4()).or(found.first()).copied().ok_or_else(fail)
}

/// A number that is not negative, and what follows it.
fn split(text: &str) -> Option<(f64, String)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let starts = number.starts_with(|c: char| c.is_ascii_digit());
    number.parse().ok().filter(|_| starts).map(|number| (number, unit.trim_start().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in [
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("10", Some(10_000)),
            ("0", Some(0)),
            ("1.5 s", Some(1_500)),
            ("0.25", Some(250)),
            ("10m", Some(600_000)),
            ("10min", Some(600_000)),
            ("2h", Some(7_200_000)),
            ("30d", Some(2_592_000_000)),
            ("soon", None),
            ("", None),
            ("-1", None),
            ("1.2.3", None),
            (".5", None),
            ("10 minutes", None),
            ("99999999999999999999d", None),
        ] {
            let found = duration(text).ok().map(|time| time.as_millis());
            assert_eq!(found, expected, "{text}");
        }
        assert!(duration("soon").unwrap_err().contains("got \"soon\""));
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, expected) in [
            ("0", Some(0)),
            ("268435456", Some(256 << 20)),
            ("18446744073709551615", Some(u64::MAX)),
            ("256M", Some(256 << 20)),
            ("256MiB", Some(256 << 20)),
            ("256Mi", Some(256 << 20)),
            ("256 mib", Some(256 << 20)),
            ("1G", Some(1 << 30)),
            ("1GB", Some(1_000_000_000)),
            ("1.5G", Some(3 << 29)),
            ("64k", Some(64 << 10)),
            ("2T", Some(2 << 40)),
            ("12B", Some(12)),
            ("1.5", None),
            ("1X", None),
            ("1IB", None),
            ("G", None),
            ("", None),
            ("-1", None),
            ("1e9", None),
            ("99999999999T", None),
        ] {
            assert_eq!(bytes::<u64>(text).ok(), expected, "{text}");
        }
        assert!(bytes::<u64>("much").unwrap_err().contains("such as 268435456, 256M or 1.5G, got \"much\""));
    }

    #[test]
    fn hosts_are_addresses_and_names_of_this_machine() {
        let address = |text: &str| host(text).map(|address| address.to_string());
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("0.0.0.0", "0.0.0.0"),
            ("localhost", "127.0.0.1"),
        ] {
            assert_eq!(address(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "http://localhost", "localhost:8080", "no.such.host.invalid"] {
            assert!(address(text).unwrap_err().contains("127.0.0.1, ::1, 0.0.0.0 or localhost"), "{text}");
        }
    }
}
