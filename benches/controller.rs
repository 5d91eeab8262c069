//! Measures the search itself: whole searches on an engine that answers immediately.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::executor::block_on;
use futures::future::join_all;

use spar::chat::Message;
use spar::engine::fake::FakeEngine;
use spar::engine::{Purpose, Sampling};
use spar::prompts::Templates;
use spar::search::{Mode, Models, SearchConfig, Strategy, Task, answer};

fn task(seed: u64) -> Task {
    let sampling = Sampling { seed, ..Sampling::default() };
    Task { sampling, ..Task::chat(vec![Message::user("Name five rivers in one sentence without a comma.")]) }
}

/// An engine whose answers are never right and never repeat.
fn engine() -> FakeEngine {
    FakeEngine::new(|request, index| {
        Ok(match request.purpose {
            Purpose::Answer => "Elbe".into(),
            Purpose::Judge => "Four are missing. Final Judgement: No".into(),
            Purpose::Refine => format!("[[start]]Elbe and {}[[end]]", request.sampling.seed ^ index as u64),
        })
    })
}

fn controller(criterion: &mut Criterion) {
    let (engine, templates) = (engine(), Templates::general());
    let models = Models { actor: &engine, refiner: &engine, templates: &templates };
    let mut group = criterion.benchmark_group("search");
    for (name, strategy, mode) in [
        ("bfs eager", Strategy::Bfs, Mode::Eager),
        ("bfs paper", Strategy::Bfs, Mode::Paper),
        ("dfs eager", Strategy::Dfs, Mode::Eager),
    ] {
        let config =
            SearchConfig { strategy, mode, branch: 8, keep: 8, depth: 16, budget: 128, ..SearchConfig::by_votes() };
        let task = task(1);
        let nodes = block_on(answer(models, &config, &task, &|_| {})).expect("the script never fails").tree.nodes.len();
        group.throughput(Throughput::Elements(nodes as u64));
        group.bench_function(format!("{name}, {nodes} nodes"), |bencher| {
            bencher.iter(|| block_on(answer(models, &config, &task, &|_| {})));
        });
    }
    let config = SearchConfig::by_votes();
    let tasks: Vec<_> = (0..1_000).map(task).collect();
    group.sample_size(10).throughput(Throughput::Elements(16_000));
    group.bench_function("1000 side by side, 16 nodes each", |bencher| {
        bencher.iter(|| block_on(join_all(tasks.iter().map(|task| answer(models, &config, task, &|_| {})))));
    });
    group.finish();
}

/// Resident memory of this process in MiB, if the system reports it.
fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

/// Measures memory, not time: prints the resident memory after each wave of 1,000 concurrent searches.
fn memory(_: &mut Criterion) {
    let (engine, templates) = (engine(), Templates::general());
    let models = Models { actor: &engine, refiner: &engine, templates: &templates };
    let config = SearchConfig::by_votes();
    let tasks: Vec<_> = (0..1_000).map(task).collect();
    let mut after = Vec::new();
    for _ in 0..20 {
        let nodes: usize = block_on(join_all(tasks.iter().map(|task| answer(models, &config, task, &|_| {}))))
            .into_iter()
            .map(|outcome| outcome.expect("the script never fails").tree.nodes.len())
            .sum();
        assert_eq!(nodes, 16_000);
        after.extend(resident());
    }
    println!("resident MiB after each wave of 1,000 searches: {after:.1?}");
}

criterion_group!(benches, memory, controller);
criterion_main!(benches);
