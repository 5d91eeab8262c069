//! Models by their names on the hub: looking them up before they are served, `spar pull`, and `spar models`.

mod list;

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::print;
use crate::config::EngineArgs;
use crate::hub::{Hub, HubName, Progress, named};

/// The model to fetch.
#[derive(clap::Args, Clone, Debug)]
pub struct PullArgs {
    /// Name of the model: org/name, org/name:Q4_K_M for one of its GGUF files, or org/name@revision
    name: HubName,
}

/// Fetches the missing files of a model.
///
/// # Errors
/// Fails if the hub does not have the model or it cannot be fetched.
pub fn pull(args: &PullArgs) -> anyhow::Result<()> {
    let path = Hub::from_env(false)?.pull(&args.name, &mut Bar::default())?;
    Ok(print(&format!("{} is at {}; serve it with `spar --model {}`\n", args.name, path.display(), args.name))?)
}

/// Lists the models in the cache.
///
/// # Errors
/// Fails if the cache cannot be read.
pub fn models() -> anyhow::Result<()> {
    let cache = Hub::from_env(true)?.cache;
    Ok(print(&list::table(&cache)?)?)
}

/// Replaces names on the hub by the paths of their models, and fetches those that are missing. Clients use the name as given on the command
/// line, without the revision.
///
/// # Errors
/// Fails if a model cannot be found.
pub fn find(args: &mut EngineArgs) -> anyhow::Result<()> {
    let offline = args.offline;
    let place = |typed: &Path| match named(typed) {
        Some(name) => {
            let path = Hub::from_env(offline)?.path(&name, &mut Bar::default())?;
            anyhow::Ok(Some((name, path)))
        }
        None => Ok(None),
    };
    if let Some((name, path)) = args.model.as_deref().map(place).transpose()?.flatten() {
        args.served_name.get_or_insert_with(|| name.served());
        args.model = Some(path);
    }
    if let Some((_, path)) = args.refiner.as_deref().map(place).transpose()?.flatten() {
        args.refiner = Some(path);
    }
    Ok(())
}

/// Reports the download, with a progress bar if standard error is a terminal.
#[derive(Default)]
struct Bar(Option<ProgressBar>);

impl Progress for Bar {
    fn begins(&mut self, name: &HubName, missing: u64, files: usize, to: &Path) {
        let plural = if files == 1 { "" } else { "s" };
        eprintln!("fetching {name}: {} in {files} file{plural}, to {}", list::size(missing), to.display());
        let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
        let bar = ProgressBar::new(missing);
        self.0 = Some(match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        });
    }

    fn advances(&mut self, bytes: i64) {
        let Some(bar) = &self.0 else { return };
        match u64::try_from(bytes) {
            Ok(more) => bar.inc(more),
            // Bytes that must be fetched again are added to the total.
            Err(_) => bar.inc_length(bytes.unsigned_abs()),
        }
    }

    fn ends(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}
