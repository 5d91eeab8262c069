//! A seeded world of instructions that a tiny model can learn: prompts with constraints, responses, critiques and refinements whose truth
//! is decided by `spar::verify`.

pub mod breaking;
pub mod constraint;
pub mod critique;
pub mod edit;
pub mod fixing;
pub mod guard;
pub mod lexicon;
pub mod prompt;
pub mod response;

use rand::Rng;

pub use constraint::Constraint;
pub use prompt::{Instance, Split, draw, drill, word_salad};
pub use response::Response;

use guard::Guard;

/// A response to `instance` in which each constraint is broken with probability `rate`.
pub fn damaged(instance: &Instance, rate: f64, rng: &mut impl Rng) -> Response {
    let guard = Guard::new(&instance.constraints);
    let mut response = instance.witness.clone();
    for constraint in &instance.constraints {
        if rng.random_bool(rate) {
            breaking::break_constraint(&mut response, constraint, &guard, rng);
        }
    }
    response
}

/// A refiner's reply to a failing response: the changes, then the corrected response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// One line per failing constraint, which begins like its clause. If the prompt bounds the number of words, the new words follow with
    /// running numbers.
    pub reflection: String,
    /// The corrected response, which follows every constraint.
    pub response: String,
}

/// Repairs `response` with as few edits as the constraints allow. `followed` is the critique's truth for each constraint. Returns `None` if
/// no attempt follows all constraints.
pub fn repair(instance: &Instance, response: &str, followed: &[bool], rng: &mut impl Rng) -> Option<Repair> {
    let guard = Guard::new(&instance.constraints);
    let checks: Vec<_> = instance.constraints.iter().map(Constraint::check).collect();
    let parsed = Response::parse(response);
    parsed.words().next()?;
    (0..12).find_map(|_| {
        let mut fixed = parsed.clone();
        let mut lines = Vec::new();
        let failing: Vec<usize> = (0..followed.len()).filter(|&i| !followed[i]).collect();
        for &i in &failing {
            let note = fixing::fix_constraint(&mut fixed, &instance.constraints[i], &guard, rng);
            lines.push(format!("{}: {note}", critique::head(&instance.constraints[i])));
        }
        let (mut low, mut high, mut counted, mut more) = (0, usize::MAX, false, true);
        for constraint in &instance.constraints {
            match constraint {
                Constraint::WordsAtLeast(n) => (low, counted) = (*n, true),
                Constraint::WordsLess(n) => (high, counted) = (*n, true),
                Constraint::SentencesLess(_) => more = false,
                _ => {}
            }
        }
        edit::fit_words(&mut fixed, low, high, more, &guard, rng);
        let text = fixed.render();
        if counted {
            let words: Vec<&str> = spar::verify::words(&text).collect();
            lines.push(format!("Plan: {}", critique::numbered(&words)));
        }
        checks.iter().all(|c| c.strict(&text)).then(|| Repair { reflection: lines.join("\n"), response: text })
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn every_witness_follows_its_prompt_and_every_split_keeps_apart() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for i in 0..600 {
            let split = [Split::Train, Split::Validation, Split::HeldOut][i % 3];
            let instance = draw(split, &mut rng);
            let kinds: Vec<_> = instance.constraints.iter().map(Constraint::kind).collect();
            assert_eq!(prompt::split_of(&kinds), split);
            let text = instance.witness.render();
            for constraint in &instance.constraints {
                assert!(constraint.check().strict(&text), "{constraint:?}\n{text}");
            }
        }
    }

    #[test]
    fn a_drill_asks_for_many_words_and_about_half_occur() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let (mut found, mut asked) = (0, 0);
        for _ in 0..300 {
            let response =
                if rng.random_bool(0.5) { word_salad(&mut rng) } else { draw(Split::Train, &mut rng).witness };
            let instance = drill(response, &mut rng);
            let critique = critique::write(&instance.constraints, &instance.witness.render()).unwrap();
            for (constraint, line) in instance.constraints.iter().zip(critique.text.lines()) {
                if matches!(constraint, Constraint::Include(_) | Constraint::Avoid(_)) {
                    asked += 1;
                    found += usize::from(!line.contains(" none. "));
                }
            }
        }
        assert!(asked > 300 * 4 && found * 3 > asked && found * 3 < asked * 2, "{found} of {asked}");
    }

    #[test]
    fn damage_fails_and_repair_fixes() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let (mut failing, mut fixed, mut written) = (0, 0, 0);
        for _ in 0..1000 {
            let instance = draw(Split::Train, &mut rng);
            let text = damaged(&instance, 0.4, &mut rng).render();
            let Some(critique) = critique::write(&instance.constraints, &text) else { continue };
            written += 1;
            if !critique.accepts() {
                failing += 1;
                fixed += usize::from(repair(&instance, &text, &critique.followed, &mut rng).is_some());
            }
        }
        println!("{written} critiques, {failing} failing, {fixed} fixed");
        assert!(written > 950 && failing > 400, "{written} critiques, {failing} failing");
        assert!(fixed * 10 > failing * 9, "{fixed} of {failing} fixed");
    }

    #[test]
    fn damage_to_one_constraint_makes_it_fail() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let (mut failed, mut all) = (0, 0);
        for _ in 0..1000 {
            let instance = draw(Split::Train, &mut rng);
            let guard = Guard::new(&instance.constraints);
            for constraint in &instance.constraints {
                let mut response = instance.witness.clone();
                breaking::break_constraint(&mut response, constraint, &guard, &mut rng);
                all += 1;
                failed += usize::from(!constraint.check().strict(&response.render()));
            }
        }
        assert!(failed * 100 > all * 93, "{failed} of {all}");
    }
}
