//! The numbers of every step as TensorBoard reads them: a TFRecord file of `Event` messages of protocol buffers.
//!
//! A record is its length, the length's checksum, the message and the message's checksum. Checksums are CRC-32C, rotated and shifted by a
//! constant so that a checksum of data that holds checksums stays useful.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

/// TensorBoard finds files by a part of this name.
pub const FILE: &str = "events.out.tfevents.0.spar";

/// A file of events that grows.
pub(super) struct Events(BufWriter<File>);

impl Events {
    /// Creates the file in a run's directory; an existing one is replaced.
    pub fn create(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut events = Self(BufWriter::new(file));
        // Event.file_version = 3
        let mut event = time();
        bytes(&mut event, 3, b"brain.Event:2");
        events.record(&event)?;
        Ok(events)
    }

    /// Adds every number of a step under its name in `metrics.jsonl`.
    pub fn add(&mut self, step: u64, line: &impl Serialize) -> Result<()> {
        let Value::Object(fields) = serde_json::to_value(line)? else { return Ok(()) };
        let mut summary = Vec::new();
        for (name, value) in fields.iter().filter(|(name, _)| *name != "step") {
            let Some(value) = value.as_f64() else { continue };
            // Summary.Value { tag = 1, simple_value = 2 }
            let mut scalar = Vec::new();
            bytes(&mut scalar, 1, name.as_bytes());
            scalar.push((2 << 3) | 5);
            scalar.extend((value as f32).to_le_bytes());
            bytes(&mut summary, 1, &scalar);
        }
        // Event { wall_time = 1, step = 2, summary = 5 }
        let mut event = time();
        event.push(2 << 3);
        varint(&mut event, step);
        bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    pub fn flush(&mut self) -> Result<()> {
        Ok(self.0.flush()?)
    }

    fn record(&mut self, message: &[u8]) -> Result<()> {
        let length = (message.len() as u64).to_le_bytes();
        self.0.write_all(&length)?;
        self.0.write_all(&masked(&length).to_le_bytes())?;
        self.0.write_all(message)?;
        self.0.write_all(&masked(message).to_le_bytes())?;
        Ok(())
    }
}

/// An event that has its time only.
fn time() -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let mut event = vec![(1 << 3) | 1];
    event.extend(now.to_le_bytes());
    event
}

/// A field of bytes: its number with the wire type 2, the length, the content.
fn bytes(message: &mut Vec<u8>, field: u8, content: &[u8]) {
    message.push((field << 3) | 2);
    varint(message, content.len() as u64);
    message.extend(content);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(((value & 0x7f) as u8) | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 with Castagnoli's polynomial.
fn crc32c(data: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !data.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        // The check value of CRC-32C, and one of RFC 3720.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn every_number_of_a_step_is_a_scalar_of_a_whole_record() {
        let directory = tempfile::tempdir().unwrap();
        let mut events = Events::create(directory.path()).unwrap();
        let text = r#"{"step":300,"loss":1.5,"learning_rate":0.25,"grad_norm":2.0,"tokens":3,"tokens_per_s":4.0,"seconds":5.0}"#;
        events.add(300, &serde_json::from_str::<Value>(text).unwrap()).unwrap();
        events.flush().unwrap();
        let file = std::fs::read(directory.path().join(FILE)).unwrap();
        let (mut rest, mut messages) = (file.as_slice(), Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked(&rest[..8]).to_le_bytes());
            let message = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked(message).to_le_bytes());
            messages.push(message);
            rest = &rest[16 + length..];
        }
        assert_eq!(messages.len(), 2);
        // The tag `loss`, and 1.5 as a little-endian float.
        let loss = b"\x0a\x04loss\x15\x00\x00\xc0\x3f";
        assert!(messages[1].windows(loss.len()).any(|window| window == loss));
        // The step 300 as a varint after its key.
        assert_eq!(messages[1][9..12], [2 << 3, 0xac, 2]);
    }
}
