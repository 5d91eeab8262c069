//! Every metric: names, labels, buckets and help texts, behind functions. The only folder that names `metrics::` macros.

mod caches;
mod connections;
mod engines;
mod keys;
mod names;
mod process;
mod requests;
mod searches;
mod swaps;
mod upstreams;
mod vllm;

use std::sync::OnceLock;

use metrics::{describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

pub use self::caches::*;
pub use self::connections::*;
pub use self::engines::*;
pub use self::keys::*;
use self::names::{COUNTERS, GAUGES, HISTOGRAMS};
pub use self::process::*;
pub use self::requests::*;
pub use self::searches::*;
pub use self::swaps::*;
pub use self::upstreams::*;
pub use self::vllm::*;

/// Installs the recorder of this process, once, and gives the handle that renders it.
pub fn install() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let builder = HISTOGRAMS.iter().fold(PrometheusBuilder::new(), |builder, (name, buckets, _)| {
                let name = Matcher::Full((*name).to_owned());
                builder.set_buckets_for_metric(name, buckets).expect("no list of buckets is empty")
            });
            let handle = builder.install_recorder().expect("this is the only recorder of the process");
            describe();
            handle
        })
        .clone()
}

fn describe() {
    for (name, help) in COUNTERS {
        describe_counter!(*name, *help);
    }
    for (name, help) in GAUGES {
        describe_gauge!(*name, *help);
    }
    for (name, _, help) in HISTOGRAMS {
        describe_histogram!(*name, *help);
    }
    // Known label sets start at zero, so that a rate over the first event is right.
    connections::begin();
    engines::begin();
    searches::begin();
    requests::begin();
    swaps::begin();
    process::begin();
    gauge!("spar_build_info", "version" => env!("CARGO_PKG_VERSION"), "features" => features()).set(1.0);
}

/// Text as the value of a label, where its quotes, backslashes and line ends are escaped.
fn label_value(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The features of this build.
pub fn features() -> &'static str {
    match (cfg!(feature = "mistral"), cfg!(feature = "cuda"), cfg!(feature = "tensors")) {
        (true, true, _) => "server,mistral,tensors,cuda",
        (false, true, _) => "server,tensors,cuda",
        (true, false, _) => "server,mistral,tensors",
        (false, false, true) => "server,tensors",
        (false, false, false) => "server",
    }
}
