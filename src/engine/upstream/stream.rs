//! A response of events as the steps of its siblings.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use eventsource_stream::Eventsource;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use reqwest::Response;

use super::events::Reader;
use super::failure::{Failure, Kind};
use super::siblings::{Source, Step};
use crate::engine::EngineError;

/// What is known of the replies before they come.
pub(super) struct Expected {
    /// How many replies there are.
    pub samples: usize,
    /// Tokens of all of them together at most.
    pub most: usize,
    /// Set where a reply reasons.
    pub thinks: Arc<AtomicBool>,
}

/// The bytes of a stream without the byte order mark that it may begin with, over which the parser of events would stumble.
fn without_mark<B: AsRef<[u8]>, E>(bytes: impl Stream<Item = Result<B, E>>) -> impl Stream<Item = Result<Rest<B>, E>> {
    const MARK: &[u8] = "\u{FEFF}".as_bytes();
    let mut begun = false;
    bytes.map_ok(move |bytes| {
        let marked = !begun && bytes.as_ref().starts_with(MARK);
        begun |= !bytes.as_ref().is_empty();
        Rest { bytes, from: if marked { MARK.len() } else { 0 } }
    })
}

/// Bytes without the first ones.
struct Rest<B> {
    bytes: B,
    from: usize,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Rest<B> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes.as_ref()[self.from..]
    }
}

/// The events of a response as steps of its siblings; ends after `[DONE]` or with the connection.
pub(super) fn source(response: Response, expected: Expected) -> Source {
    let Expected { samples, most, thinks } = expected;
    let events = without_mark(response.bytes_stream()).eventsource();
    let steps = stream::unfold((events, Some(Reader::new(samples, most, thinks))), |(mut events, reader)| async move {
        let mut reader = reader?;
        Some(match events.next().await {
            Some(Ok(event)) if event.data == "[DONE]" => (reader.end(), (events, None)),
            Some(Ok(event)) if event.event == "error" => {
                (vec![Step::Failed(Reader::error(&event.data))], (events, None))
            }
            Some(Ok(event)) => match reader.read(&event.data) {
                Ok(steps) => (steps, (events, Some(reader))),
                Err(failure) => (vec![Step::Failed(failure)], (events, None)),
            },
            Some(Err(error)) => {
                let error = EngineError::Upstream(format!("the upstream's stream broke off: {error}"));
                (vec![Step::Failed(Failure::new(Kind::Cut, error))], (events, None))
            }
            None => (reader.end(), (events, None)),
        })
    });
    Box::pin(steps.flat_map(stream::iter))
}
