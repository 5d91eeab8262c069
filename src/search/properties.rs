//! Properties of every search, tested on thousands of random scripts. Each run is determined by one seed.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use futures::executor::block_on;
use proptest::prelude::{Just, ProptestConfig, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as Generator;

use super::reference::{self, Decisions, Deviations};
use super::tests::task;
use super::{EngineError, Mode, Models, Node, Outcome, SearchConfig, StopReason, Strategy, Tree, answer};
use crate::engine::fake::FakeEngine;
use crate::engine::{Input, Purpose, Request};
use crate::prompts::TemplateText;
use crate::prompts::Templates;

pub(super) static TEMPLATES: LazyLock<Templates> = LazyLock::new(|| {
    let text = TemplateText {
        version: "test".into(),
        judge: "{{ prompt }}\n{{ response }}".into(),
        refine: "again".into(),
        verdict: "Final Judgement".into(),
        start: "[[start]]".into(),
        end: "[[end]]".into(),
        ..TemplateText::default()
    };
    Templates::new(text, "test").unwrap()
});

/// The first draft of every world. A refinement equals it only in worlds with copies of it.
const DRAFT: &str = "r0";

/// How a random world answers. Chances are in percent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct World {
    pub seed: u64,
    /// The number of different responses. A low number makes copies likely.
    pub texts: u64,
    /// The chance that a response is good.
    pub good: u64,
    /// The chance that a vote is wrong.
    pub noise: u64,
    /// The chance that a vote has no verdict.
    pub invalid: u64,
    /// The chance that a refinement has no markers.
    pub unread: u64,
    /// The chance that a refinement repeats the draft.
    pub root_copies: u64,
    /// The chance that a reply quotes markers, is cut off, is empty, or contains words that look like verdicts.
    pub odd: u64,
    /// The chance that a call fails, except for the draft's call.
    pub broken: u64,
    /// The chance that the judge always fails on a response, except for the draft.
    pub cursed: u64,
}

impl World {
    pub fn dice(&self, what: impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, what).hash(&mut hasher);
        hasher.finish()
    }

    fn chance(&self, percent: u64, what: impl Hash) -> bool {
        self.dice(what) % 100 < percent
    }

    /// The draft is never cursed: a search whose draft cannot be judged ends at once.
    fn is_cursed(&self, text: &str) -> bool {
        self.chance(self.cursed, ("cursed", text)) && text != DRAFT
    }

    fn text(&self, what: impl Hash) -> String {
        format!("t{}", self.dice(what) % self.texts)
    }

    /// The reply number `draw` to a prompt about `said`.
    pub fn say(&self, purpose: Purpose, said: &[String], draw: u64) -> Result<String, EngineError> {
        if purpose == Purpose::Answer {
            return Ok(if draw == 0 { DRAFT.into() } else { self.text((purpose, draw)) });
        }
        let broken = self.chance(self.broken, ("broken", purpose, said, draw));
        if broken || (purpose == Purpose::Judge && self.is_cursed(&said[0])) {
            return Err(EngineError::Crashed("as scripted".into()));
        }
        let odd = self.chance(self.odd, ("odd", purpose, said, draw));
        let odd = odd.then(|| self.dice(("which odd", purpose, said, draw)));
        Ok(if purpose == Purpose::Judge { self.vote(said, draw, odd) } else { self.refinement(said, draw, odd) })
    }

    fn vote(&self, said: &[String], draw: u64, odd: Option<u64>) -> String {
        let good = self.chance(self.good, ("good", &said[0]));
        let yes = good != self.chance(self.noise, ("noise", said, draw));
        let verdict = if yes { "Yes" } else { "No" };
        let vote = match odd.map(|kind| kind % 6) {
            Some(0) => format!("I end with 'Final Judgement'. Final Judgement: {verdict}"),
            Some(1) => "Final Judgement: Nothing to add".into(),
            Some(2) => format!("I end with Final Judgement: No or Yes. Final Judgement: {verdict}"),
            Some(3) => format!("Final Judgement (Yes or No): {verdict}"),
            Some(4) => "Final Judg".into(),
            Some(_) => return String::new(),
            None if self.chance(self.invalid, ("invalid", said, draw)) => "Final Judgement: unclear".into(),
            None => format!("Final Judgement: {verdict}"),
        };
        format!("c{draw} {vote}")
    }

    fn refinement(&self, said: &[String], draw: u64, odd: Option<u64>) -> String {
        let copies = self.chance(self.root_copies, ("root copy", said, draw));
        let text = if copies { DRAFT.into() } else { self.text((Purpose::Refine, said, draw)) };
        match odd.map(|kind| kind % 6) {
            Some(0) => format!("between [[start]] and [[end]]: [[start]] {text} [[end]]"),
            Some(1) => format!("so [[start]] {text}"),
            Some(2) => "so [[start]] [[end]]".into(),
            Some(3) => format!("so {text} [[end]]"),
            Some(4) => format!("[[start]] {text} [[end]] and [[end]]"),
            Some(_) => String::new(),
            None if self.chance(self.unread, ("unread", said, draw)) => "nothing to change".into(),
            None => format!("so [[start]] {text} [[end]]"),
        }
    }
}

/// The subject of a request: the response, and for refinements also its critique.
fn about(request: &Request) -> Vec<String> {
    let Input::Chat(turns) = &request.input else { return Vec::new() };
    let response = turns[0].content.split_once('\n').map(|(_, response)| response.to_owned());
    response.into_iter().chain(turns.get(1).map(|turn| turn.content.clone())).collect()
}

/// The number of samples drawn for every prompt.
pub(super) type Draws = HashMap<(Purpose, Vec<String>), u64>;

/// An engine whose n-th reply to a prompt is the n-th draw of `say`, however the calls are grouped.
fn drawing(
    say: impl Fn(Purpose, &[String], u64) -> Result<String, EngineError> + Send + Sync + 'static,
) -> (FakeEngine, Arc<Mutex<Draws>>) {
    let draws = Arc::new(Mutex::new(Draws::new()));
    let counts = Arc::clone(&draws);
    let engine = FakeEngine::new(move |request, _| {
        let key = (request.purpose, about(request));
        let mut draws = counts.lock().unwrap();
        let draw = draws.entry(key.clone()).or_default();
        *draw += 1;
        say(key.0, &key.1, *draw - 1)
    });
    (engine, draws)
}

fn counting(world: World) -> FakeEngine {
    drawing(move |purpose, said, draw| world.say(purpose, said, draw)).0
}

/// Runs a search and returns its decisions, its requests and its outcome.
pub(super) fn decisions(
    say: impl Fn(Purpose, &[String], u64) -> Result<String, EngineError> + Send + Sync + 'static,
    config: &SearchConfig,
) -> (Decisions, Outcome) {
    let (engine, draws) = drawing(say);
    let outcome = run(&engine, config);
    let draws = draws.lock().unwrap().clone();
    let nodes = shape(&outcome.tree);
    (Decisions { nodes, answer: outcome.best.0, accepted: outcome.accepted, draws }, outcome)
}

/// An engine whose reply depends on the prompt, the seed and the sibling's index, like a real engine that runs alone.
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
    let root_copies = prop_oneof![Just(0), 0..40u64];
    (any::<u64>(), 2..40u64, 0..60u64, 0..50u64, 0..40u64, 0..80u64, root_copies).prop_map(
        |(seed, texts, good, noise, invalid, unread, root_copies)| World {
            seed,
            texts,
            good,
            noise,
            invalid,
            unread,
            root_copies,
            ..World::default()
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
    fn paper_makes_the_references_decisions_but_for_what_is_listed(
        world in worlds(), config in configs(), odd in prop_oneof![Just(0), 0..60u64],
    ) {
        let world = World { odd, ..world };
        let config = SearchConfig { mode: Mode::Paper, ..config };
        let say = move |purpose, said: &[String], draw| world.say(purpose, said, draw);
        let reference = reference::search(&say, &config, Deviations::ALL);
        let (paper, outcome) = decisions(say, &config);
        // The reference does not search from a draft that stays undecided.
        if reference.nodes[0].4.is_none() {
            prop_assert_eq!(paper.nodes[0].4, None);
            return Ok(());
        }
        let (votes, refinements) = (reference.drawn(Purpose::Judge), reference.drawn(Purpose::Refine));
        prop_assert_eq!((outcome.calls.judge, outcome.calls.refine), (votes, refinements));
        prop_assert_eq!(paper, reference);
    }

    #[test]
    fn failed_calls_cost_paper_what_they_cost_the_reference(
        world in worlds(), config in configs(), cursed in 0..60u64, broken in 0..60u64,
    ) {
        let world = World { cursed, broken, ..world };
        let config = SearchConfig { mode: Mode::Paper, ..config };
        let say = move |purpose, said: &[String], draw| world.say(purpose, said, draw);
        let reference = reference::search(&say, &config, Deviations::ALL);
        let (paper, outcome) = decisions(say, &config);
        if reference.nodes[0].4.is_none() {
            prop_assert_eq!(paper.nodes[0].4, None);
            return Ok(());
        }
        prop_assert_eq!(paper, reference);
        if outcome.stop == StopReason::Error {
            prop_assert!(!outcome.accepted && cursed + broken > 0);
        }
    }

    #[test]
    fn eager_accepts_where_paper_accepts_for_no_more_calls(
        world in worlds(), config in configs(), strategy in any_strategy(),
    ) {
        // Elsewhere the modes differ by design: `paper` narrows wide levels, judges undecided texts again, counts a refinement that repeats
        // its parent, draws an unreadable refinement more often, and continues if the first judgement has no valid vote.
        let config = SearchConfig { strategy, keep: config.keep.min(config.branch), ..config };
        let world = World { texts: 1 << 40, root_copies: 0, unread: 0, invalid: 0, ..world };
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
        let outcome = run(&engine, &config);
        prop_assert!(outcome.tree.judged() <= config.budget);
        prop_assert!(outcome.calls.total() <= max_calls.unwrap_or(usize::MAX));
        prop_assert!(outcome.tokens.total() <= max_tokens.unwrap_or(usize::MAX));
        prop_assert!(engine.replies.started() <= outcome.calls.total());
        let group = config.branch.max(config.votes);
        prop_assert!(engine.replies.most() <= config.parallel.max(group));
        prop_assert!(outcome.votes_saved <= config.votes * outcome.tree.nodes.len());
        prop_assert_eq!(engine.replies.running(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_answer_depends_on_the_seed_not_on_timing(
        world in worlds(), config in configs(), strategy in any_strategy(), eager in any::<bool>(),
        pace in any::<u64>(), parallel in 1..17usize, broken in prop_oneof![Just(0), 0..30u64],
    ) {
        let world = World { broken, ..world };
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
            // A step that could not end in time is not started.
            let unused = deadline.saturating_sub(outcome.elapsed);
            prop_assert!(unused.is_zero() || outcome.tree.judged() == 0 || unused < outcome.elapsed, "{unused:?}");
        }
        prop_assert_eq!(engine.replies.running(), 0);
    }
}

fn paused<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
}

/// Mean completions of a search from a draft that fails, where each refinement is right with `chance` percent. Each vote of the judge is
/// wrong with a chance of 10 %.
fn mean_completions(chance: u64, mode: Mode, strategy: Strategy) -> f64 {
    const RUNS: u64 = 1_000;
    let config = SearchConfig { mode, strategy, ..super::tests::classic() };
    let calls: usize = (0..RUNS)
        .map(|seed| {
            let world = World { seed, texts: 1 << 40, good: chance, noise: 10, ..World::default() };
            let engine = FakeEngine::new(move |request, index| match request.purpose {
                Purpose::Answer => Ok("wrong".into()),
                Purpose::Judge if about(request)[0] == "wrong" => Ok("c Final Judgement: No".into()),
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
