//! What prompt lookup gains where a reply repeats most of its prompt, and what it costs where it repeats nothing.

use super::*;
use crate::engine::Constraint;

/// Words for parents and for edits.
const WORDS: &str = "the quiet river carries a small lantern past old stones while children on the bank count its lights and \
    wonder where the water goes after the bridge because nobody in the village has ever followed it further than the mill \
    whose wheel turned for three hundred years before the last miller closed the gate and walked away one morning in spring";

/// A reply whose tokens are all known: `count` words. A share of `edits` of them differs from the parent's.
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

    /// The grammar names the reply's tokens, since a model that would rather say something else may also spell the text in
    /// other tokens than anybody would.
    fn request(&self, engine: &NativeEngine) -> Request {
        let messages = vec![
            Message::user("Write a few sentences about a river."),
            Message::assistant(self.parent.clone()),
            Message::user("Some of the words are wrong. Write it again with better ones."),
        ];
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let tokens = engine.dir.encode(&Input::Text(self.text.clone())).unwrap();
        let tokens: String = tokens.iter().map(|id| format!(" <[{id}]>")).collect();
        let constraint = Some(Constraint::Lark(format!("start:{tokens}")));
        Request { sampling, constraint, max_tokens: Some(600), ..Request::chat(Purpose::Refine, messages) }
    }
}

/// Tokens per second of a reply whose prompt was computed before, and per second of a processor.
async fn speed(engine: &NativeEngine, request: Request) -> ([f64; 2], String) {
    run(engine, Request { max_tokens: Some(1), constraint: None, ..request.clone() }).await;
    let reply = engine.start(request).await.unwrap().remove(0);
    let (begun, busy_before) = (Instant::now(), busy());
    let done = reply.complete().await.unwrap();
    let (seconds, processor) = (begun.elapsed().as_secs_f64(), busy() - busy_before);
    ([done.tokens as f64 / seconds, done.tokens as f64 / processor], done.text)
}

/// Refinements of the model in the directory `SPAR_BENCH_MODEL`, with and without speculation, interleaved: `SPAR_BENCH_ROUNDS`,
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
        "| changed words | tokens/s without | with | times | times by processor | accepted | rejected |\n| --- | --- | --- | --- | --- | --- | --- |"
    );
    for edits in [0.0, 0.02, 0.1, 0.3, 1.0, f64::NAN] {
        let mut speeds = [vec![], vec![], vec![], vec![]];
        let counts = || {
            let counters = with.counters();
            [&counters.speculated_accepted, &counters.speculated_rejected].map(|count| count.load(Ordering::Relaxed))
        };
        let before = counts();
        for round in 0..rounds {
            let mut request = Refinement::new(round, 100, if edits.is_nan() { 0.0 } else { edits }).request(&without);
            if edits.is_nan() {
                let sampling = Sampling { seed: round, ignore_eos: true, ..Sampling::default() };
                request = Request { constraint: None, sampling, max_tokens: Some(120), ..request };
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
            let [([off, off_busy], _), ([on, on_busy], _)] = [&found[0], &found[1]];
            let all = [*off, *on, on / off, on_busy / off_busy];
            speeds.iter_mut().zip(all).for_each(|(speeds, speed)| speeds.push(speed));
        }
        let [off, on, times, processor] = speeds.each_mut().map(|speeds| large::spread(speeds));
        let shown = |[least, median, most]: [f64; 3]| format!("{median:.2} [{least:.2}, {most:.2}]");
        let now = counts();
        println!(
            "| {} | {} | {} | {} | {} | {} | {} |",
            if edits.is_nan() { "free, sampled".into() } else { format!("{:.0} %", 100.0 * edits) },
            shown(off),
            shown(on),
            shown(times),
            shown(processor),
            now[0] - before[0],
            now[1] - before[1],
        );
    }
}

/// Milliseconds of a step of some rows of one sequence after 500 positions, on the model in the directory `SPAR_BENCH_MODEL`.
#[test]
#[ignore = "a measurement of a model that is not shipped"]
fn rows_of_a_step() {
    let dir = std::env::var("SPAR_BENCH_MODEL").expect("SPAR_BENCH_MODEL names a model's directory");
    let engine = NativeEngine::load(ModelDir::open(dir).unwrap(), NativeConfig::default()).unwrap();
    let model = &engine.runtime.model;
    let pool = model.pool(0, Arc::default());
    let mut scratch = model.scratch(&pool).unwrap();
    let threads = NativeConfig::default().threads;
    scratch.workspace.team = (threads > 1).then(|| Arc::new(crate::kernels::team::Team::new(threads).unwrap()));
    let tokens: Vec<u32> = (0..600).map(|i| (derive_seed(1, i) % 300) as u32).collect();
    let mut sequence = super::super::tests::sequence(&engine, &tokens);
    let mut step = |from: usize, rows: usize| {
        let begun = Instant::now();
        sequence.own(&pool, from + rows);
        let all = (from..from + rows).map(|position| batch::Row { sequence: 0, position }).collect();
        let mut batch = batch::Batch { rows: all, groups: vec![], wanted: (0..rows).collect() };
        model.forward(&mut scratch, &pool, std::slice::from_mut(&mut sequence), &mut batch).unwrap();
        sequence.computed = 500;
        begun.elapsed().as_secs_f64() * 1e3
    };
    step(0, 500);
    let sizes = [1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33];
    let mut times = sizes.map(|_| Vec::new());
    for _ in 0..40 {
        sizes.iter().zip(&mut times).for_each(|(&rows, times)| times.push(step(500, rows)));
    }
    for (rows, times) in sizes.iter().zip(&mut times) {
        let [least, median, _] = large::spread(times);
        println!("{rows} rows: {median:.2} ms, at least {least:.2}");
    }
}
