use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::time::{advance, sleep};

use super::*;
use crate::http::serve::activity::Activity;

/// Work that produces a frame every 100 ms, and how far it has got.
struct Work {
    made: Arc<AtomicUsize>,
    /// Held by the work as a permit would be.
    held: Arc<()>,
}

impl Work {
    fn new() -> Self {
        Self { made: Arc::default(), held: Arc::new(()) }
    }

    fn frames(&self, count: usize, bytes: usize) -> Body {
        let (made, held) = (Arc::clone(&self.made), Arc::clone(&self.held));
        Body::from_stream(stream::iter(0..count).then(move |index| {
            let (made, held) = (Arc::clone(&made), Arc::clone(&held));
            async move {
                let _held = held;
                sleep(Duration::from_millis(100)).await;
                made.fetch_add(1, Ordering::SeqCst);
                Ok::<_, std::convert::Infallible>(Bytes::from(vec![index as u8; bytes]))
            }
        }))
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    fn is_over(&self) -> bool {
        Arc::strong_count(&self.held) == 1
    }
}

fn lease(body: Body, version: Version, limits: &Limits) -> Body {
    let received = Instant::now();
    leased(body, Asked { received, version, busy: Activity::new(received).begin(version) }, limits)
}

async fn pass(seconds: u64) {
    for _ in 0..seconds * 20 {
        advance(Duration::from_millis(50)).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_work_of_a_response_that_is_not_read_ends() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let work = Work::new();
        let mut body = lease(work.frames(20, 10), version, &Limits::default());
        for index in 0..3 {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(frame, vec![index; 10]);
        }
        pass(5).await;
        assert_eq!((work.made(), work.is_over()), (20, true), "{version:?}");
        let rest = body.collect().await.unwrap().to_bytes();
        assert_eq!(rest, (3..20).flat_map(|index| [index; 10]).collect::<Vec<u8>>(), "nothing is lost");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_comes_back_finds_the_work_running() {
    let work = Work::new();
    let mut body = lease(work.frames(200, 10), Version::HTTP_11, &Limits::default());
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.unwrap().into_data().unwrap();
        read.push(frame[0]);
        if read.len() % 40 == 0 {
            // Long enough for the second task to take over.
            pass(2).await;
        }
    }
    assert_eq!(read, (0..200).collect::<Vec<u8>>());
    assert!(work.is_over());
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_reader_is_bounded() {
    let (most, chunk) = (ROOM / (64 << 10), 64 << 10);
    let limits = Limits { request: Duration::from_secs(3600), ..Limits::default() };
    let [one, two] = [(); 2].map(|()| Work::new());
    let mut first = lease(one.frames(1000, chunk), Version::HTTP_11, &limits);
    first.frame().await.unwrap().unwrap();
    pass(20).await;
    assert_eq!(one.made(), 1 + most);
    // All room for waiting bytes is taken by others.
    let others = limits.backlog.take(usize::MAX);
    let mut second = lease(two.frames(1000, chunk), Version::HTTP_11, &limits);
    second.frame().await.unwrap().unwrap();
    pass(20).await;
    assert_eq!(two.made(), 1);
    drop(first);
    assert!(one.is_over(), "a dropped response drops its work at once");
    limits.backlog.give_back(others);
    assert_eq!(limits.backlog.take(usize::MAX), Limits::default().backlog.take(usize::MAX), "all room is free again");
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_request_ends_a_response_that_is_not_read() {
    let limits = Limits { request: Duration::from_secs(8), ..Limits::default() };
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let work = Work::new();
        let mut body = lease(work.frames(100_000, 64 << 10), version, &limits);
        body.frame().await.unwrap().unwrap();
        pass(7).await;
        assert!(!work.is_over());
        pass(3).await;
        assert!(work.is_over());
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("the time for the request is over"), "{error}");
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_a_shared_connection_that_is_not_read_is_dropped() {
    let work = Work::new();
    let limits = Limits { write: Duration::from_secs(30), ..Limits::default() };
    let mut body = lease(work.frames(100_000, 64 << 10), Version::HTTP_2, &limits);
    body.frame().await.unwrap().unwrap();
    // A frame of 64 KiB may take a minute more.
    pass(90).await;
    assert!(!work.is_over());
    pass(10).await;
    assert!(work.is_over());
    let whole = Body::from("here in full");
    let mut whole = lease(whole, Version::HTTP_2, &limits);
    pass(40).await;
    assert!(whole.frame().await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_for_the_work_is_no_slow_reader() {
    let limits = Limits { write: Duration::from_secs(1), ..Limits::default() };
    let slow = stream::once(async {
        sleep(Duration::from_secs(60)).await;
        Ok::<_, std::convert::Infallible>("late")
    });
    let body = lease(Body::from_stream(slow), Version::HTTP_2, &limits);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "late");
}
