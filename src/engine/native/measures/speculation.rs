//! What prompt lookup gains where a reply repeats most of its prompt, and what it costs where it repeats nothing.

use super::*;
use crate::engine::Constraint;

/// Words for parents and for edits.
const WORDS: &str = "the quiet river carries a small lantern past old stones while children on the bank count its lights and \
    wonder where the water goes after the bridge because nobody in the village has ever followed it further than the mill \
    whose wheel turned for three hundred years before the last miller closed the gate and walked away one morning in spring";

/// A reply of which every token is known: `count` words, of which a share of `edits` differs from the parent's.
struct Refinement {
    parent: String,
    text: String,
}

impl Refinement {
    fn new(seed: u64, count: u64, edits: f64) -> Self {
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let word = |draw: u64| words[draw as usize % words.len()];
        let parent: Vec<&str> = (0..count).map(|i| word(derive_seed(seed, i))).collect();
        let differs = |at: u64| (derive_seed(seed ^ 0xED, at) % 1000) as f64 <= edits * 1000.0;
        let text = (0..count).zip(&parent).map(|(at, old)| match differs(at) && edits > 0.0 {
            true => word(derive_seed(seed ^ 0xAB, at)),
            false => old,
        });
        let text: Vec<&str> = text.collect();
        Self { text: text.join(" "), parent: parent.join(" ") }
    }

    fn request(&self) -> Request {
        let messages = vec![
            Message::user("Write a few sentences about a river."),
            Message::assistant(self.parent.clone()),
            Message::user("Some of the words are wrong. Write it again with better ones."),
        ];
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let constraint = Some(Constraint::Regex(self.text.clone()));
        Request { sampling, constraint, max_tokens: Some(600), ..Request::chat(Purpose::Refine, messages) }
    }
}

/// Tokens per second from a reply's first token to its last.
async fn speed(engine: &NativeEngine, request: Request) -> (f64, Vec<String>) {
    let reply = engine.start(request).await.unwrap().remove(0);
    let told: Vec<_> = reply.chunks.map(|chunk| (Instant::now(), chunk.unwrap())).collect().await;
    // Refinements are told a few tokens at a time: those of the first message are not counted.
    let begun = told[0].0;
    let tokens: usize = told.iter().filter(|(moment, _)| *moment > begun).map(|(_, chunk)| chunk.tokens).sum();
    let text = told.iter().map(|(_, chunk)| chunk.text.clone()).collect();
    (tokens as f64 / (told[told.len() - 1].0 - begun).as_secs_f64(), text)
}

/// Refinements of the model in the directory `SPAR_BENCH_MODEL`, with and without speculation by turns: `SPAR_BENCH_ROUNDS`,
/// 5 without it, of each share of changed words. A grammar makes the reply a known one; sampled replies are free.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement of a model that is not shipped"]
async fn refinements() {
    let dir = std::env::var("SPAR_BENCH_MODEL").expect("SPAR_BENCH_MODEL names a model's directory");
    let rounds = std::env::var("SPAR_BENCH_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let load = |speculate| {
        let config = NativeConfig { speculate, ..NativeConfig::default() };
        NativeEngine::load(ModelDir::open(&dir).unwrap(), config).unwrap()
    };
    let (with, without) = (load(NativeConfig::default().speculate), load(0));
    println!(
        "| changed words | tokens/s without | with | times | accepted | rejected |\n| --- | --- | --- | --- | --- | --- |"
    );
    for edits in [0.0, 0.02, 0.1, 0.3, 1.0, f64::NAN] {
        let mut speeds = [vec![], vec![], vec![]];
        let counts = || {
            let counters = with.counters();
            [&counters.speculated_accepted, &counters.speculated_rejected].map(|count| count.load(Ordering::Relaxed))
        };
        let before = counts();
        for round in 0..rounds {
            let mut request = Refinement::new(round, 150, if edits.is_nan() { 0.0 } else { edits }).request();
            if edits.is_nan() {
                let sampling = Sampling { seed: round, ignore_eos: true, ..Sampling::default() };
                request = Request { constraint: None, sampling, max_tokens: Some(200), ..request };
            }
            // Whichever comes second finds a warmer machine, so they take turns.
            let order = if round % 2 == 0 { [&without, &with] } else { [&with, &without] };
            let mut found = Vec::new();
            for engine in order {
                found.push(speed(engine, request.clone()).await);
            }
            assert_eq!(found[0].1, found[1].1, "the replies are the same");
            if round % 2 == 1 {
                found.reverse();
            }
            speeds[0].push(found[0].0);
            speeds[1].push(found[1].0);
            speeds[2].push(found[1].0 / found[0].0);
        }
        let [off, on, times] = speeds.each_mut().map(|speeds| large::spread(speeds));
        let shown = |[least, median, most]: [f64; 3]| format!("{median:.2} [{least:.2}, {most:.2}]");
        let now = counts();
        println!(
            "| {} | {} | {} | {} | {} | {} |",
            if edits.is_nan() { "free, sampled".into() } else { format!("{:.0} %", 100.0 * edits) },
            shown(off),
            shown(on),
            shown(times),
            now[0] - before[0],
            now[1] - before[1],
        );
    }
}
