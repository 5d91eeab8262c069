//! Promises that hold for every script, on thousands of random ones: one run is one seed.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use futures::executor::block_on;
use proptest::prelude::{Just, ProptestConfig, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as Generator;

use super::reference::Reference;
use super::tests::task;
use super::{EngineError, Mode, Models, Node, Outcome, SearchConfig, StopReason, Strategy, Templates, Tree, answer};
use crate::engine::fake::FakeEngine;
use crate::engine::{Input, Purpose, Request};
use crate::prompts::TemplateText;

static TEMPLATES: LazyLock<Templates> = LazyLock::new(|| {
    let text = TemplateText {
        version: "test".into(),
        judge: "{{ prompt }}\n{{ response }}".into(),
        refine: "again".into(),
        verdict: "=>".into(),
        start: "{".into(),
        end: "}".into(),
        ..TemplateText::default()
    };
    Templates::new(text, "test").unwrap()
});

/// How a random world answers. Chances are in percent.
#[derive(Clone, Copy, Debug)]
pub(super) struct World {
    pub seed: u64,
    /// Different responses; few make copies likely.
    pub texts: u64,
    /// A response is good.
    pub good: u64,
    /// A vote is wrong.
    pub noise: u64,
    /// A vote has no verdict.
    pub invalid: u64,
    /// A refinement has no markers.
    pub unread: u64,
    /// A call fails.
    pub broken: u64,
    /// The judge always fails on a response, unless it is the draft.
    pub cursed: u64,
}

impl World {
    fn dice(&self, what: impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, what).hash(&mut hasher);
        hasher.finish()
    }

    fn chance(&self, percent: u64, what: impl Hash) -> bool {
        self.dice(what) % 100 < percent
    }

    /// The draft is never cursed: a search ends where its draft cannot be judged.
    pub fn is_cursed(&self, text: &str) -> bool {
        self.chance(self.cursed, ("cursed", text)) && self.say(Purpose::Answer, &[], 0).is_ok_and(|draft| draft != text)
    }

    /// Draw `draw` of a prompt; `said` is what the prompt is about.
    pub fn say(&self, purpose: Purpose, said: &[String], draw: u64) -> Result<String, EngineError> {
        if self.chance(self.broken, ("broken", purpose, said, draw)) {
            return Err(EngineError::Crashed("as scripted".into()));
        }
        if purpose == Purpose::Judge && self.is_cursed(&said[0]) {
            return Err(EngineError::Crashed("as scripted".into()));
        }
        let text = || format!("t{}", self.dice((purpose, said, draw)) % self.texts);
        Ok(match purpose {
            Purpose::Answer => text(),
            Purpose::Refine if self.chance(self.unread, ("unread", said, draw)) => "{ cut off".into(),
            Purpose::Refine => format!("so {{ {} }}", text()),
            Purpose::Judge if self.chance(self.invalid, ("invalid", said, draw)) => format!("c{draw} =>"),
            Purpose::Judge => {
                let good = self.chance(self.good, ("good", &said[0]));
                let yes = good != self.chance(self.noise, ("noise", said, draw));
                format!("c{draw} => {}", if yes { "Yes" } else { "No" })
            }
        })
    }
}

/// What a request is about: the response, and in refinements its critique.
fn about(request: &Request) -> Vec<String> {
    let Input::Chat(turns) = &request.input else { return Vec::new() };
    let response = turns[0].content.split_once('\n').map(|(_, response)| response.to_owned());
    response.into_iter().chain(turns.get(1).map(|turn| turn.content.clone())).collect()
}

/// The n-th reply to a prompt is the world's n-th draw of it: what is drawn does not depend on how calls are grouped.
fn counting(world: World) -> FakeEngine {
    let draws = Mutex::new(HashMap::<(Purpose, Vec<String>), u64>::new());
    FakeEngine::new(move |request, _| {
        let key = (request.purpose, about(request));
        let mut draws = draws.lock().unwrap();
        let draw = draws.entry(key.clone()).or_default();
        *draw += 1;
        world.say(key.0, &key.1, *draw - 1)
    })
}

/// A reply is a function of the prompt, the seed and the sibling's index, as from a real engine that runs alone.
fn seeded(world: World) -> FakeEngine {
    FakeEngine::new(move |request, index| {
        world.say(request.purpose, &about(request), request.sampling.seed ^ index as u64)
    })
}

fn run(engine: &FakeEngine, config: &SearchConfig) -> Outcome {
    block_on(answer(models(engine), config, &task(), &|_| {})).unwrap()
}

fn models(engine: &FakeEngine) -> Models<'_> {
    Models { actor: engine, refiner: engine, templates: &TEMPLATES }
}

fn worlds() -> impl Generator<Value = World> {
    (any::<u64>(), 2..40u64, 0..60u64, 0..50u64, 0..40u64, 0..80u64).prop_map(
        |(seed, texts, good, noise, invalid, unread)| World {
            seed,
            texts,
            good,
            noise,
            invalid,
            unread,
            broken: 0,
            cursed: 0,
        },
    )
}

fn configs() -> impl Generator<Value = SearchConfig> {
    let shape = (1..20usize, 1..5usize, 1..4usize, 1..5usize);
    (shape, 1..8usize, prop_oneof![Just(Strategy::Bfs), Just(Strategy::Dfs)], 1..17usize).prop_map(
        |((budget, branch, keep, depth), votes, strategy, parallel)| SearchConfig {
            budget,
            branch,
            keep,
            depth,
            votes,
            strategy,
            parallel,
            ..super::tests::classic()
        },
    )
}

fn any_strategy() -> impl Generator<Value = Strategy> {
    prop_oneof![Just(Strategy::Bfs), Just(Strategy::Dfs), Just(Strategy::BestOfN), Just(Strategy::RefineChain)]
}

pub(super) type Shape = (Option<usize>, usize, String, String, Option<f64>);

fn shape(tree: &Tree) -> Vec<Shape> {
    let row = |node: &Node| {
        (node.parent.map(|id| id.0), node.depth, node.response.clone(), node.critique.clone(), node.value)
    };
    tree.nodes.iter().map(row).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn paper_makes_the_references_decisions(world in worlds(), config in configs()) {
        let config = SearchConfig { mode: Mode::Paper, ..config };
        let outcome = run(&counting(world), &config);
        let reference = Reference::search(world, &config);
        prop_assert_eq!(shape(&outcome.tree), reference.shape());
        prop_assert_eq!(outcome.best.0, reference.answer);
        prop_assert_eq!(outcome.accepted, reference.accepted);
        prop_assert_eq!((outcome.calls.judge, outcome.calls.refine), (reference.judge_calls, reference.refine_calls));
    }

    #[test]
    fn a_failing_branch_costs_only_itself(world in worlds(), config in configs(), cursed in 1..60u64) {
        let world = World { cursed, ..world };
        let config = SearchConfig { mode: Mode::Paper, ..config };
        let outcome = run(&counting(world), &config);
        // The reference discards what cannot be judged and goes on.
        let reference = Reference::search(world, &config);
        prop_assert_eq!(shape(&outcome.tree), reference.shape());
        prop_assert_eq!((outcome.best.0, outcome.accepted), (reference.answer, reference.accepted));
        if outcome.stop == StopReason::Error {
            prop_assert!(reference.failed && !outcome.accepted);
        }
    }

    #[test]
    fn eager_accepts_where_paper_accepts_for_no_more_calls(
        world in worlds(), config in configs(), strategy in any_strategy(),
    ) {
        // Elsewhere the modes differ by design: `paper` narrows wide levels and judges undecided texts anew.
        let config = SearchConfig { strategy, keep: config.keep.min(config.branch), ..config };
        let world = if config.votes % 2 == 1 { World { invalid: 0, ..world } } else { World { texts: 1 << 40, ..world } };
        let eager = run(&counting(world), &config);
        let paper = run(&counting(world), &SearchConfig { mode: Mode::Paper, ..config });
        prop_assert_eq!(eager.accepted, paper.accepted);
        prop_assert!(eager.calls.total() <= paper.calls.total(), "{:?} {:?}", eager.calls, paper.calls);
        if eager.stop == StopReason::Accepted {
            prop_assert!(eager.tree[eager.best].value.unwrap() > config.threshold);
        }
    }

    #[test]
    fn budgets_are_never_exceeded_and_there_is_always_an_answer(
        world in worlds(), config in configs(), strategy in any_strategy(), eager in any::<bool>(), broken in 0..40u64,
        max_calls in proptest::option::of(1..60usize), max_tokens in proptest::option::of(1..300usize),
        tokens in 1..40usize,
    ) {
        let mode = if eager { Mode::Eager } else { Mode::Paper };
        let config = SearchConfig {
            strategy, mode, max_calls, max_tokens, judge_tokens: tokens, refine_tokens: tokens, ..config
        };
        let engine = counting(World { broken, ..world });
        match block_on(answer(models(&engine), &config, &task(), &|_| {})) {
            Err(error) => prop_assert_eq!(error, EngineError::Crashed("as scripted".into())),
            Ok(outcome) => {
                prop_assert!(outcome.tree.judged() <= config.budget);
                prop_assert!(outcome.calls.total() <= max_calls.unwrap_or(usize::MAX));
                prop_assert!(outcome.tokens.total() <= max_tokens.unwrap_or(usize::MAX));
                prop_assert!(engine.replies.started() <= outcome.calls.total());
                let group = config.branch.max(config.votes);
                prop_assert!(engine.replies.most() <= config.parallel.max(group));
                prop_assert!(outcome.votes_saved <= config.votes * outcome.tree.nodes.len());
            }
        }
        prop_assert_eq!(engine.replies.running(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_answer_depends_on_the_seed_not_on_timing(
        world in worlds(), config in configs(), strategy in any_strategy(), eager in any::<bool>(),
        pace in any::<u64>(), parallel in 1..17usize,
    ) {
        let mode = if eager { Mode::Eager } else { Mode::Paper };
        let config = SearchConfig { strategy, mode, ..config };
        let alone = run(&seeded(world), &SearchConfig { parallel: 1, ..config.clone() });
        let slow = seeded(world).paced(move |request, index| {
            let mut hasher = DefaultHasher::new();
            (pace, request.sampling.seed, index).hash(&mut hasher);
            Duration::from_millis(hasher.finish() % 50)
        });
        let config = SearchConfig { parallel, ..config };
        let timed = paused(async { answer(models(&slow), &config, &task(), &|_| {}).await.unwrap() });
        prop_assert_eq!(shape(&alone.tree), shape(&timed.tree));
        prop_assert_eq!(alone.best, timed.best);
        prop_assert_eq!(alone.stop, timed.stop);
    }

    #[test]
    fn a_dropped_search_leaves_no_running_call(
        world in worlds(), config in configs(), strategy in any_strategy(), after in 0..400u64,
    ) {
        let config = SearchConfig { strategy, ..config };
        let engine = seeded(world).paced(|_, index| Duration::from_millis(3 + index as u64));
        let task = task();
        let search = answer(models(&engine), &config, &task, &|_| {});
        let ended = paused(async { tokio::time::timeout(Duration::from_millis(after), search).await.is_ok() });
        prop_assert_eq!(engine.replies.running(), 0);
        prop_assert!(ended || engine.replies.started() > 0);
    }

    #[test]
    fn the_deadline_cuts_a_search_at_once(
        world in worlds(), config in configs(), strategy in any_strategy(), deadline in 20..400u64,
    ) {
        let deadline = Duration::from_millis(deadline);
        let config = SearchConfig { strategy, deadline: Some(deadline), ..config };
        let engine = seeded(world).paced(|_, _| Duration::from_millis(7));
        let outcome = paused(async { answer(models(&engine), &config, &task(), &|_| {}).await.unwrap() });
        prop_assert!(outcome.elapsed <= deadline + Duration::from_millis(1), "{:?}", outcome.elapsed);
        if outcome.stop == StopReason::Deadline {
            // A step that could not end in time is not begun.
            let unused = deadline.saturating_sub(outcome.elapsed);
            prop_assert!(unused.is_zero() || outcome.tree.judged() == 0 || unused < outcome.elapsed, "{unused:?}");
        }
        prop_assert_eq!(engine.replies.running(), 0);
    }
}

fn paused<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
}

/// Mean completions of a search from a draft that fails, where each refinement is right with `chance` percent. The judge
/// knows, but each vote errs with 10 %.
fn mean_completions(chance: u64, mode: Mode, strategy: Strategy) -> f64 {
    const RUNS: u64 = 1_000;
    let config = SearchConfig { mode, strategy, ..super::tests::classic() };
    let calls: usize = (0..RUNS)
        .map(|seed| {
            let world =
                World { seed, texts: 1 << 40, good: chance, noise: 10, invalid: 0, unread: 0, broken: 0, cursed: 0 };
            let engine = FakeEngine::new(move |request, index| match request.purpose {
                Purpose::Answer => Ok("wrong".into()),
                Purpose::Judge if about(request)[0] == "wrong" => Ok("c => No".into()),
                purpose => world.say(purpose, &about(request), request.sampling.seed ^ index as u64),
            });
            run(&engine, &config).calls.total()
        })
        .sum();
    calls as f64 / RUNS as f64
}

#[test]
fn eager_needs_at_most_half_of_the_completions_where_refinement_works() {
    println!("| chance | strategy | paper | eager | ratio |\n| --- | --- | --- | --- | --- |");
    for strategy in [Strategy::Bfs, Strategy::Dfs] {
        for chance in [10, 20, 30, 40, 50, 60, 70, 80, 90, 100] {
            let [paper, eager] = [Mode::Paper, Mode::Eager].map(|mode| mean_completions(chance, mode, strategy));
            let ratio = eager / paper;
            let share = chance as f64 / 100.0;
            println!("| {share:.1} | {strategy:?} | {paper:.1} | {eager:.1} | {ratio:.2} |");
            assert!(ratio < 1.0 && (chance < 60 || ratio <= 0.5), "{chance} %: {ratio}");
        }
    }
}
