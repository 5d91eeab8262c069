//! The thread that accepts connections. It answers requests about health itself and hands everything else to the server's
//! runtime, so that handlers which block that runtime do not block health.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The thread and its runtime; dropping it ends both.
pub(super) struct Door {
    runtime: Handle,
    stop: CancellationToken,
    stopped: oneshot::Receiver<()>,
}

impl Door {
    /// Starts the thread.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn open() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let (says, stopped) = oneshot::channel::<()>();
        let stops = stop.clone();
        thread::Builder::new().name("door".into()).spawn(move || {
            runtime.block_on(stops.cancelled());
            // Listeners and connections are closed before the end is reported.
            drop(runtime);
            drop(says);
        })?;
        Ok(Self { runtime: handle, stop, stopped })
    }

    /// Runs `task` on the door's thread, at most until it is closed.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Closes everything that is open at the door.
    pub async fn close(mut self) {
        self.stop.cancel();
        // An error means that the thread has dropped its end, which is what is waited for.
        drop((&mut self.stopped).await);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A listener that the door's runtime can take.
pub(super) fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let listener = StdListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
