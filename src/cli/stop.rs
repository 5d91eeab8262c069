//! Handles signals: the first one asks the server to end, and the process ends soon after, even if work is still running.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Time between the end of the grace period for requests and the end of the process.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the process should end.
pub(super) struct Stop {
    asked: CancellationToken,
    serving: Arc<AtomicBool>,
}

impl Stop {
    /// Handles SIGTERM and SIGINT from now on, and SIGHUP if there is something to reload. This also works for the process with id 1, to
    /// which the kernel delivers no signals without a handler. A separate thread waits for signals, so that busy threads cannot keep the
    /// process alive: it ends shortly after `grace` has passed since the first signal.
    ///
    /// # Errors
    /// Fails if the handlers cannot be installed or the thread cannot be started.
    pub fn watch(grace: Duration, reload: Option<impl Fn() + Send + 'static>) -> io::Result<Self> {
        let stop = Self { asked: CancellationToken::new(), serving: Arc::default() };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = reload.is_some().then(|| signal(SignalKind::hangup())).transpose()?;
        drop(entered);
        let (asked, serving) = (stop.asked.clone(), Arc::clone(&stop.serving));
        let watch = async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    () = async { match &mut hangup {
                        Some(hangup) => drop(hangup.recv().await),
                        None => std::future::pending().await,
                    } } => if let Some(reload) = &reload { reload() },
                }
            }
            asked.cancel();
            // A server that is still loading has no running requests.
            let grace = if serving.load(Ordering::Acquire) { grace } else { Duration::ZERO };
            tokio::select! {
                () = sleep(grace + PATIENCE) => tracing::warn!("some work is still running; the process ends without waiting for it"),
                _ = terminate.recv() => tracing::warn!("a second signal: the process ends at once"),
                _ = interrupt.recv() => tracing::warn!("a second signal: the process ends at once"),
            }
            process::exit(0);
        };
        thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(watch))?;
        Ok(stop)
    }

    /// Resolves when the process is asked to end.
    pub fn asked(&self) -> impl Future<Output = ()> + Send + use<> {
        self.asked.clone().cancelled_owned()
    }

    /// Gives running requests their grace period from now on.
    pub fn serving(&self) {
        self.serving.store(true, Ordering::Release);
    }
}
