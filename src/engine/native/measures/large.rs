//! Random Llamas of about 100 M and 1 B parameters: tokens per second, memory, and the share of what memory can give.
//! Other engines of this build take turns with ours on the same directory; `bench/vs_llama_cpp.py` prints the same for llama.cpp.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::*;

/// The sizes, with the tokens that a slow engine makes in each reply.
fn sizes() -> [(&'static str, TinyModel, usize); 2] {
    let shape = |hidden, intermediate, layers, heads, kv_heads| TinyModel {
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads,
        head_dim: 64,
        vocabulary: 32_000,
        context: 2048,
        tied: true,
        ..TinyModel::default()
    };
    [("100 M", shape(768, 2048, 12, 12, 4), 64), ("1 B", shape(2048, 5632, 22, 32, 4), 8)]
}

/// An engine with what is measured of it.
struct Subject {
    name: &'static str,
    engine: Box<dyn Engine>,
    /// Bytes that are read for every token.
    bytes: usize,
    peak: f64,
    /// Tokens of a reply: more than it takes to read the prompts of the others in its batch.
    tokens: usize,
    /// Tokens per second by batch and round.
    speeds: [Vec<f64>; BATCHES.len()],
}

const BATCHES: [usize; 3] = [1, 8, 32];

impl Subject {
    /// `load` gives an engine, and the bytes that it reads for every token.
    async fn new(name: &'static str, dir: &Path, load: impl FnOnce(ModelDir) -> (Box<dyn Engine>, usize)) -> Self {
        let before = status("VmRSS");
        std::fs::write("/proc/self/clear_refs", "5").ok();
        let (engine, bytes) = load(ModelDir::open(dir).unwrap());
        let mut subject = Self { name, engine, bytes, peak: 0.0, tokens: 64, speeds: Default::default() };
        // The batch that needs most memory.
        subject.speed(BATCHES[2], 4, 0).await;
        subject.peak = (status("VmHWM") - before) as f64 / 1e3;
        subject
    }

    /// Tokens per second of a batch while all of its replies run; from the first token to the last of an engine that runs
    /// one after another.
    async fn speed(&self, batch: usize, tokens: usize, round: u64) -> f64 {
        let told = join_all((0..batch).map(async |n| {
            let prompt = format!("{round} {n} {}", "a prompt ".repeat(3));
            let request = Request { logprobs: None, ..greedy(&prompt, tokens) };
            let reply = self.engine.start(request).await.unwrap().remove(0);
            reply.chunks.map(|chunk| (Instant::now(), chunk.unwrap().tokens)).collect::<Vec<_>>().await
        }));
        let told = told.await;
        let (firsts, lasts) = (told.iter().map(|reply| reply[0].0), told.iter().map(|reply| reply[reply.len() - 1].0));
        let [mut begun, mut ended] = [firsts.clone().max().unwrap(), lasts.clone().min().unwrap()];
        if begun >= ended {
            [begun, ended] = [firsts.min().unwrap(), lasts.max().unwrap()];
        }
        let within = told.iter().flatten().filter(|(moment, _)| *moment > begun && *moment <= ended);
        within.map(|(_, tokens)| tokens).sum::<usize>() as f64 / (ended - begun).as_secs_f64()
    }
}

/// Prints a table. `SPAR_BENCH_SIZE` takes one of the sizes, `SPAR_BENCH_BATCH` one of the batches; `SPAR_BENCH_ROUNDS` interleaved, 3
/// without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement that needs gigabytes"]
async fn large_models() {
    let wanted = std::env::var("SPAR_BENCH_SIZE").ok();
    let number = |name: &str| std::env::var(name).ok().map(|number| number.parse::<usize>().unwrap());
    let (only, rounds) = (number("SPAR_BENCH_BATCH"), number("SPAR_BENCH_ROUNDS").unwrap_or(3) as u64);
    let threads = NativeConfig::default().threads;
    println!(
        "| model | engine | batch 1 | of memory | batch 8 | batch 32 | peak memory |\n| --- | --- | --- | --- | --- | --- | --- |"
    );
    #[cfg_attr(not(feature = "mistral"), expect(unused_variables, reason = "the slow engine is not there"))]
    for (size, model, few) in sizes().into_iter().filter(|(name, ..)| wanted.as_ref().is_none_or(|w| w == name)) {
        let dir = tempfile::tempdir().unwrap();
        write_bf16(dir.path(), &model);
        let parameters: usize = model.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        let native = |quantize| {
            move |dir| -> (Box<dyn Engine>, usize) {
                let engine = NativeEngine::load(dir, NativeConfig { quantize, ..NativeConfig::default() }).unwrap();
                let bytes = engine.runtime.model.bytes();
                (Box::new(engine), bytes)
            }
        };
        let mut subjects = vec![
            Subject::new("native, bf16", dir.path(), native(Quantize::None)).await,
            Subject::new("native, q8", dir.path(), native(Quantize::Q8)).await,
            Subject::new("native, q4", dir.path(), native(Quantize::Q4)).await,
        ];
        #[cfg(feature = "mistral")]
        {
            use crate::engine::mistral::{MistralConfig, MistralEngine};
            let load = |dir| -> (Box<dyn Engine>, usize) {
                (Box::new(MistralEngine::load(dir, MistralConfig::default()).unwrap()), 4 * parameters)
            };
            subjects.push(Subject::new("mistral.rs, f32", dir.path(), load).await);
            // One after another, so that none waits for the prompts of others.
            subjects[3].tokens = few;
        }
        let mut limits = Vec::new();
        for round in 1..=rounds {
            limits.push(bandwidth(threads));
            for subject in &mut subjects {
                for (batch, size) in BATCHES.into_iter().enumerate().filter(|(_, size)| only.is_none_or(|w| w == *size))
                {
                    let speed = subject.speed(size, subject.tokens, round).await;
                    // At once, so that a run that is cut off has said something.
                    println!("round {round}, {}, batch {size}: {speed:.1} tokens/s", subject.name);
                    subject.speeds[batch].push(speed);
                }
            }
        }
        let limit = spread(&mut limits);
        println!(
            "memory is read at {:.1} GB/s by {threads} threads [{:.1}, {:.1}]",
            limit[1] / 1e9,
            limit[0] / 1e9,
            limit[2] / 1e9
        );
        for subject in &mut subjects {
            let [one, eight, many] = subject.speeds.each_mut().map(|speeds| spread(speeds));
            let share = one[1] * subject.bytes as f64 / limit[1];
            let shown = |[least, median, most]: [f64; 3]| format!("{median:.1} [{least:.1}, {most:.1}]");
            println!(
                "| {size} ({:.0} M) | {} | {} | {:.0} % | {} | {} | {:.0} MB |",
                parameters as f64 / 1e6,
                subject.name,
                shown(one),
                100.0 * share,
                shown(eight),
                shown(many),
                subject.peak
            );
        }
    }
}

/// Least, median, most; nothing of nothing.
pub(super) fn spread(numbers: &mut [f64]) -> [f64; 3] {
    if numbers.is_empty() {
        return [f64::NAN; 3];
    }
    numbers.sort_by(f64::total_cmp);
    [numbers[0], numbers[numbers.len() / 2], numbers[numbers.len() - 1]]
}

/// Bytes per second that all threads together read from memory.
fn bandwidth(threads: usize) -> f64 {
    let buffers: Vec<Vec<u64>> = (0..threads).map(|_| vec![1u64; (512 << 20) / 8]).collect();
    let read =
        |buffer: &Vec<u64>| buffer.chunks(8).fold([0u64; 8], |sums, eight| std::array::from_fn(|i| sums[i] ^ eight[i]));
    let pass = || {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            buffers.iter().for_each(|buffer| _ = scope.spawn(|| std::hint::black_box(read(buffer))))
        });
        (threads * (512 << 20)) as f64 / begun.elapsed().as_secs_f64()
    };
    (0..5).map(|_| pass()).fold(0.0, f64::max)
}

/// Writes a random model in bf16 whose weights are drawn from one small table, since only speed is asked.
fn write_bf16(dir: &Path, model: &TinyModel) {
    crate::testing::write_model(
        dir,
        &TinyModel { hidden: 8, intermediate: 8, layers: 1, vocabulary: 320, ..model.clone() },
    );
    crate::testing::write_json(dir, "config.json", &model.config());
    let tensors = model.tensors();
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in &tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header
            .insert(name.clone(), serde_json::json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] }));
    }
    let header = serde_json::Value::from(header).to_string();
    let mut file = BufWriter::new(File::create(dir.join("model.safetensors")).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    for (name, shape) in &tensors {
        let scale = 1.0 / (*shape.last().unwrap() as f32).sqrt();
        let table: Vec<u8> = (0..1 << 16)
            .flat_map(|i| {
                let uniform = (derive_seed(7, i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
                let value = if name.contains("norm") { 1.0 } else { uniform * scale };
                half::bf16::from_f32(value).to_le_bytes()
            })
            .collect();
        let mut left = 2 * shape.iter().product::<usize>();
        while left > 0 {
            let part = left.min(table.len());
            file.write_all(&table[..part]).unwrap();
            left -= part;
        }
    }
}

/// Kilobytes of a line of /proc/self/status.
fn status(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}
