//! All keys that open the server. Their file is read again when it changes, without a restart.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use subtle::ConstantTimeEq;

use super::{Tenant, TenantId};
use crate::config::{ApiKey, ApiKeys, ConfigError, HttpArgs, digest, read_keys, unique};
use crate::http::door::limits::Share;
use crate::telemetry::metrics;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// The keys of now, and where they came from.
pub struct KeyRing {
    configured: ApiKeys,
    room: Room,
    current: ArcSwap<Vec<Arc<Tenant>>>,
    anonymous: Arc<Tenant>,
}

/// What keys without limits of their own may have.
#[derive(Clone, Copy)]
struct Room {
    all: Share,
    per_key: [Option<usize>; 2],
}

impl Room {
    fn share(self, key: &ApiKey, keys: usize) -> Share {
        let usual = |all: usize, flag: Option<usize>| match flag {
            Some(most) => most.min(all),
            // One key alone has nobody to leave anything to.
            None if keys < 2 => all,
            None => all.div_ceil(2),
        };
        Share {
            running: key
                .limits
                .running
                .unwrap_or_else(|| usual(self.all.running, self.per_key[0]))
                .min(self.all.running),
            waiting: key
                .limits
                .waiting
                .unwrap_or_else(|| usual(self.all.waiting, self.per_key[1]))
                .min(self.all.waiting),
        }
    }
}

impl KeyRing {
    /// The keys as they were configured.
    pub fn new(configured: &ApiKeys, http: &HttpArgs) -> Self {
        let all = Share { running: http.max_running, waiting: http.max_waiting };
        let room = Room { all, per_key: [http.max_running_per_key, http.max_waiting_per_key] };
        let anonymous = Arc::new(Tenant::anonymous(all.running, all.waiting));
        let ring = Self { configured: configured.clone(), room, current: ArcSwap::default(), anonymous };
        ring.take(&configured.from_file);
        ring
    }

    /// Whether everybody may call.
    pub fn is_open(&self) -> bool {
        self.configured.is_empty()
    }

    /// Everybody, where no key is needed.
    pub fn anonymous(&self) -> Arc<Tenant> {
        Arc::clone(&self.anonymous)
    }

    /// Whether a key opens the admin routes.
    pub fn has_admin(&self) -> bool {
        self.current.load().iter().any(|tenant| tenant.admin)
    }

    /// The keys that have names, in the order of their file.
    pub fn named(&self) -> Vec<Arc<Tenant>> {
        self.current.load().iter().filter(|tenant| tenant.name.is_some()).map(Arc::clone).collect()
    }

    /// The tenant of this key. All digests are compared, so that the time reveals neither a key's length nor where it
    /// differs.
    pub fn find(&self, shown: &str) -> Option<Arc<Tenant>> {
        let digest = digest(shown);
        let keys = self.current.load();
        let same = |tenant: &&Arc<Tenant>| bool::from(tenant.id.0.ct_eq(&digest));
        keys.iter().filter(same).fold(None, |_, tenant| Some(Arc::clone(tenant)))
    }

    /// Never ends: takes the keys of the file whenever it has changed. Where it cannot be read, the old ones stay.
    pub async fn follow(&self) {
        let Some(path) = self.configured.file.clone() else { return std::future::pending().await };
        // It may have changed since it was read at the start.
        let mut known = contents(&path).await;
        if let Err(error) = self.reload(&path) {
            tracing::error!(%error, "the API keys cannot be read again; the old ones stay");
        }
        loop {
            tokio::time::sleep(LOOK).await;
            let now = contents(&path).await;
            if now == known {
                continue;
            }
            known = now;
            match self.reload(&path) {
                Ok(keys) => tracing::info!(keys, path = %path.display(), "the API keys were read again"),
                Err(error) => tracing::error!(%error, "the API keys cannot be read again; the old ones stay"),
            }
        }
    }

    fn reload(&self, path: &Path) -> Result<usize, ConfigError> {
        let from_file = read_keys(path)?;
        unique(&self.configured.environment, &from_file)?;
        self.take(&from_file);
        Ok(from_file.len())
    }

    /// Makes these the keys of the file. What keys have used stays known.
    fn take(&self, from_file: &[ApiKey]) {
        let before = self.current.load();
        let spending: HashMap<TenantId, _> = before.iter().map(|tenant| (tenant.id, &tenant.spending)).collect();
        let keys = self.configured.environment.len() + from_file.len();
        let tenant = |key: &ApiKey| {
            let id = TenantId(key.digest);
            let name: Option<Arc<str>> = key.name.as_deref().map(Arc::from);
            if let Some(name) = &name {
                metrics::begin_key(name);
            }
            Arc::new(Tenant {
                id,
                name,
                share: self.room.share(key, keys),
                tokens_per_minute: key.limits.tokens_per_minute,
                max_search_budget: key.limits.max_search_budget,
                models: key.models.as_deref().map(Arc::from),
                admin: key.admin,
                spending: spending.get(&id).map_or_else(Arc::default, |spending| Arc::clone(spending)),
            })
        };
        let tenants = self.configured.environment.iter().chain(from_file).map(tenant).collect();
        self.current.store(Arc::new(tenants));
    }
}

/// A digest of the file, however its time of change is kept; `None` where it cannot be read.
async fn contents(path: &Path) -> Option<[u8; 32]> {
    let text = tokio::fs::read_to_string(path).await.ok()?;
    Some(digest(&text))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        http: HttpArgs,
    }

    fn ring(text: &str, flags: &[&str]) -> (tempfile::TempDir, KeyRing) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        std::fs::write(&path, text).unwrap();
        let http = Typed::parse_from([&["spar"], flags].concat()).http;
        let from_file = read_keys(&path).unwrap();
        let keys = ApiKeys { environment: Vec::new(), file: Some(path), from_file };
        let ring = KeyRing::new(&keys, &http);
        (dir, ring)
    }

    const TWO: &str = "[[keys]]\nname = \"a\"\nkey = \"alpha\"\n[[keys]]\nname = \"b\"\nkey = \"beta\"\nrunning = 3\n";

    #[test]
    fn only_whole_keys_are_known() {
        let (_dir, ring) = ring(TWO, &[]);
        for (shown, expected) in
            [("alpha", Some("a")), ("beta", Some("b")), ("alph", None), ("", None), ("alphabeta", None)]
        {
            assert_eq!(ring.find(shown).as_ref().and_then(|tenant| tenant.name.as_deref()), expected, "{shown}");
        }
    }

    #[test]
    fn keys_share_what_there_is() {
        let (_dir, two) = ring(TWO, &["--max-running", "9", "--max-waiting", "10"]);
        let share = |ring: &KeyRing, key| ring.find(key).unwrap().share;
        assert_eq!(share(&two, "alpha"), Share { running: 5, waiting: 5 });
        assert_eq!(share(&two, "beta"), Share { running: 3, waiting: 5 });
        let (_dir, one) =
            ring("[[keys]]\nname = \"a\"\nkey = \"alpha\"\n", &["--max-running", "9", "--max-waiting", "10"]);
        assert_eq!(share(&one, "alpha"), Share { running: 9, waiting: 10 });
        let flags = ["--max-running", "9", "--max-running-per-key", "2", "--max-waiting-per-key", "1"];
        let (_dir, flagged) = ring(TWO, &flags);
        assert_eq!(share(&flagged, "alpha"), Share { running: 2, waiting: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_has_changed_is_read_again_and_a_broken_one_is_not_taken() {
        let (dir, ring) = ring(TWO, &[]);
        ring.find("alpha").unwrap().spending.add(5);
        let path = dir.path().join("keys.toml");
        let mut follow = Box::pin(ring.follow());
        let mut until = async |holds: &dyn Fn(&KeyRing) -> bool| {
            for _ in 0..200 {
                assert!(futures::poll!(&mut follow).is_pending());
                if holds(&ring) {
                    return true;
                }
                // Files are read on other threads.
                std::thread::sleep(Duration::from_millis(1));
                tokio::time::advance(Duration::from_millis(100)).await;
            }
            false
        };
        assert!(!until(&|ring| ring.find("alpha").is_none()).await);
        std::fs::write(&path, "[[keys]]\nname = \"a\"\nkey = \"alpha\"\nrunning = 1\n").unwrap();
        assert!(until(&|ring| ring.find("beta").is_none()).await);
        let alpha = ring.find("alpha").unwrap();
        assert_eq!((alpha.share.running, alpha.spending.wait(5).is_some()), (1, true));
        std::fs::write(&path, "[[keys]]\nname = ").unwrap();
        assert!(!until(&|ring| ring.find("alpha").is_none()).await);
        std::fs::remove_file(&path).unwrap();
        assert!(!until(&|ring| ring.find("alpha").is_none()).await);
        std::fs::write(&path, TWO).unwrap();
        assert!(until(&|ring| ring.find("beta").is_some()).await);
    }
}
