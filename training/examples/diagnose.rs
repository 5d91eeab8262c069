//! Where a judge and a refiner go wrong, by kind of constraint: `diagnose ACTOR REFINER [COUNT]`.

use std::collections::BTreeMap;

use rand::SeedableRng;
use spar::chat::Message;
use spar::engine::{EngineExt, Purpose, Request, Sampling};
use spar_training::stages::engines::load;
use spar_training::stages::prompts::instance;
use spar_training::world::{self, Split, critique};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let (actor, refiner) = (load(arguments[1].as_ref())?, load(arguments[2].as_ref())?);
    let templates = &refiner.dir().templates;
    let count: u64 = arguments.get(3).map_or(Ok(300), |n| n.parse())?;
    let greedy = |purpose, messages| Request {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        ..Request::chat(purpose, messages)
    };
    let mut clauses: BTreeMap<String, [usize; 4]> = BTreeMap::new();
    let mut mended: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    let (mut shown, mut refine, mut with_truth, mut with_rules) = (0, [0, 0], 0, 0);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    for index in 0..count {
        let instance = instance(Split::Validation, 99, index);
        let turns = vec![Message::user(&instance.prompt)];
        let response = actor.generate(greedy(Purpose::Answer, turns.clone())).await?.text;
        let Some(truth) = critique::write(&instance.constraints, &response) else { continue };
        let judged = refiner.generate(greedy(Purpose::Judge, templates.judge(&turns, &response))).await?.text;
        let lines: Vec<&str> = judged.lines().collect();
        let mut wrong = false;
        for (i, constraint) in instance.constraints.iter().enumerate() {
            let said = lines.get(i).map(|l| l.ends_with("Yes"));
            let cell = usize::from(!truth.followed[i]) * 2 + usize::from(said != Some(truth.followed[i]));
            clauses.entry(format!("{:?}", constraint.kind())).or_default()[cell] += 1;
            wrong |= said != Some(truth.followed[i]);
        }
        if wrong && shown < 8 {
            shown += 1;
            println!("--- {}\n{response}\n=> {judged}\n== {}\n", instance.prompt, truth.text);
        }
        if !truth.accepts() {
            refine[0] += 1;
            let followed = |text: &str| instance.constraints.iter().all(|c| c.check().strict(text));
            let told =
                refiner.generate(greedy(Purpose::Refine, templates.refine(&turns, &response, &truth.text))).await?.text;
            let refined = templates.parse_refinement(&told).map(|r| r.response).unwrap_or_default();
            with_truth += usize::from(followed(&refined));
            let reply =
                refiner.generate(greedy(Purpose::Refine, templates.refine(&turns, &response, &judged))).await?.text;
            let own = templates.parse_refinement(&reply).map(|r| r.response).unwrap_or_default();
            refine[1] += usize::from(followed(&own));
            let checks = instance.constraints.iter().map(|c| c.check());
            let failed: Vec<String> = checks.filter(|c| !c.strict(&response)).map(|c| c.describe()).collect();
            let rules = templates.rule_critique(&failed, None);
            let reply =
                refiner.generate(greedy(Purpose::Refine, templates.refine(&turns, &response, &rules))).await?.text;
            let ruled = templates.parse_refinement(&reply).map(|r| r.response).unwrap_or_default();
            with_rules += usize::from(followed(&ruled));
            for (constraint, ok) in instance.constraints.iter().zip(&truth.followed) {
                if !ok {
                    let cell = mended.entry(format!("{:?}", constraint.kind())).or_default();
                    cell[0] += 1;
                    cell[1] += usize::from(constraint.check().strict(&refined));
                }
            }
            if !followed(&ruled) && refine[0] - with_rules < 4 {
                println!("*** {}\n{response}\n{rules}\n=> {reply}\n", instance.prompt);
            }
            if !followed(&refined) && refine[0] - with_truth < 7 {
                let repair = world::repair(&instance, &response, &truth.followed, &mut rng);
                println!("+++ {}\n{}\n=> {told}\n== {:?}\n", instance.prompt, truth.text, repair);
            }
        }
    }
    let mut present = [[0, 0], [0, 0]];
    for index in 0..count {
        let from = instance(Split::Validation, 99, index);
        let asked = world::drill(from.witness, &mut rng);
        let response = asked.witness.render();
        let Some(truth) = critique::write(&asked.constraints, &response) else { continue };
        let turns = templates.judge(&[Message::user(&asked.prompt)], &response);
        let judged = refiner.generate(greedy(Purpose::Judge, turns)).await?.text;
        for (said, true_line) in judged.lines().zip(truth.text.lines()).take(asked.constraints.len()) {
            let there = usize::from(!true_line.contains(" none. "));
            present[there][usize::from(said != true_line)] += 1;
        }
    }
    println!("drilled clauses, right and wrong: not there {:?}, there {:?}", present[0], present[1]);
    println!("clauses: kind, right yes / wrong no / right no / wrong yes");
    for (kind, c) in clauses {
        println!("{kind:18} {:4} {:4} {:4} {:4}", c[0], c[1], c[2], c[3]);
    }
    println!(
        "refine {refine:?}, with a true critique {with_truth}, with the rules' {with_rules}; failing, mended by kind: {mended:?}"
    );
    Ok(())
}
