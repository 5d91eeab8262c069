//! The process: memory, processor time, threads and open files, under the names that Prometheus's client libraries use.

use metrics_process::Collector;

/// Describes the metrics of the process.
pub(super) fn begin() {
    Collector::default().describe();
    publish_process();
}

/// Brings the numbers up to date; called before metrics are rendered.
pub fn publish_process() {
    Collector::default().collect();
}
