use spar::engine::EngineError;
use spar::engine::fake::FakeEngine;
use spar::engine::{Input, Purpose, Request};

use super::*;
use crate::stages::prompts::{Generator, Order, instance, write_prompts};
use crate::stages::write_lines;
use crate::world::{Split, damaged};

/// Writes for each prompt a response that follows it and one that may not.
fn write_responses(path: &Path, count: u64) {
    use rand::SeedableRng;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let lines = (0..count).flat_map(|index| {
        let instance = instance(Split::Validation, 17, index);
        let poor = damaged(&instance, 0.5, &mut rng).render();
        [instance.witness.render(), poor]
            .map(|response| serde_json::json!({ "prompt": instance.prompt, "response": response }))
    });
    write_lines(path, &lines.collect::<Vec<_>>()).unwrap();
}

fn options(folder: &Path, count: usize) -> Options {
    let (prompts, responses) = (folder.join("prompts.jsonl"), folder.join("responses.jsonl"));
    let order = Order { generator: Generator::World, split: Split::Validation, seed: 17, skip: 0, count };
    write_prompts(&order, &[], &prompts).unwrap();
    write_responses(&responses, count as u64);
    Options {
        model: folder.join("model"),
        prompts,
        responses: Some(responses),
        actor: None,
        out: None,
        force: false,
        count: None,
        samples: 1,
        max_tokens: 64,
        critiques: 60,
        parallel: 4,
        seed: 4,
        report: Some(folder.join("report")),
    }
}

/// An engine that knows for most responses whether they are right, but says Yes more often than not for all of them.
fn judge(prompts: &[Prompt]) -> FakeEngine {
    let prompts = prompts.to_vec();
    let script = |request: &Request, _: usize| match request.purpose {
        Purpose::Judge => Ok("One is missing.".to_owned()),
        _ => Err(EngineError::Crashed("only critiques are scripted".into())),
    };
    FakeEngine::new(script).reading(move |request, index| {
        let Input::Chat(chat) = &request.questions[index].input else { panic!() };
        let critiqued = !request.questions[index].reply.is_empty();
        let turns = &chat.messages;
        let right = prompts.iter().any(|prompt| match turns.as_slice() {
            [asked, answer, _] if !critiqued => {
                asked.content == prompt.prompt && prompt.checks.iter().all(|c| c.strict(&answer.content))
            }
            _ => false,
        });
        let noise = derive_seed(7, turns[1 % turns.len()].content.len() as u64) % 40;
        let share: f32 = if (right && noise > 0) || noise == 39 { 0.85 } else { 0.6 };
        let p = share + noise as f32 * 2e-4;
        Ok(vec![(0.9 * p).ln(), (0.9 * (1.0 - p)).ln()])
    })
}

#[tokio::test]
async fn a_calibration_lowers_the_error_and_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), 150);
    let prompts = checkable(&options.prompts, None).unwrap();
    let general = Templates::general();
    let answers = measure::read_answers(&folder.path().join("responses.jsonl"), &prompts).unwrap();
    let report = calibrate(&judge(&prompts), &general, &prompts, &answers, &options).await.unwrap();
    let [score, critique] = report.kinds.as_slice() else { panic!() };
    assert!(score.fitted_on > 0 && score.after.n > 0 && report.informative, "{report}");
    assert_eq!(score.fitted_on + score.after.n, report.responses);
    assert!(score.after.calibration_error < 0.1 && score.before.calibration_error > 0.1, "{report}");
    assert!(score.after.balanced_accuracy.unwrap() > score.before.balanced_accuracy.unwrap() + 0.2, "{report}");
    assert!(0.0 < report.calibration.low && report.calibration.high < 1.0, "{report}");
    // Here the verdicts after a critique are independent of the truth.
    assert!(critique.after.area_under_curve.unwrap() < 0.75, "{report}");
    assert_eq!((score.generated_tokens, critique.generated_tokens), (0.0, 3.0));
    assert!((score.mass - 0.9).abs() < 1e-3 && score.unreadable == 0, "{report}");

    let target = folder.path().join("spar.json");
    write(&general.text, report.calibration, &target).unwrap();
    let read = Templates::from_file(&target).unwrap();
    assert_eq!(read.text, TemplateText { calibration: Some(report.calibration), ..general.text });
    report.write(&folder.path().join("report")).unwrap();
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.path().join("report/calibration.json")).unwrap()).unwrap();
    assert_eq!(json["kinds"][0]["kind"], "score");
    assert!(std::fs::read_to_string(folder.path().join("report/reliability.svg")).unwrap().contains("score after"));
    let table = report.to_string();
    assert!(table.contains("\nscore ") && table.contains("\ncritique "), "{table}");
}

#[tokio::test]
async fn what_cannot_be_calibrated_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), 60);
    let prompts = checkable(&options.prompts, None).unwrap();
    let general = Templates::general();
    let answers = measure::read_answers(&folder.path().join("responses.jsonl"), &prompts).unwrap();
    let refusal = async |engine: &FakeEngine, answers: &[Answer]| {
        format!("{:#}", calibrate(engine, &general, &prompts, answers, &options).await.unwrap_err())
    };
    let mute = FakeEngine::new(|_, _| Ok(String::new()));
    assert!(refusal(&mute, &answers).await.contains("does not read the probabilities"));
    let vague = FakeEngine::new(|_, _| Ok("Hm.".into())).reading(|_, _| Ok(vec![-9.0, -9.0]));
    assert!(refusal(&vague, &answers).await.contains("too few verdicts can be read to calibrate by: 0 of"));
    // Two equal responses to a prompt count once, and all of these are wrong.
    let drawn = measure::draw(&vague, &prompts, &options).await.unwrap();
    assert_eq!(drawn.len(), prompts.len());
    let message = refusal(&vague, &drawn).await;
    assert!(message.contains("responses are right: at least 20"), "{message}");
    let stray = folder.path().join("stray.jsonl");
    write_lines(&stray, &[serde_json::json!({ "prompt": "Another one.", "response": "a" })]).unwrap();
    let message = format!("{:#}", measure::read_answers(&stray, &prompts).unwrap_err());
    assert!(message.contains("stray.jsonl:1: `prompt` is none"), "{message}");
}

#[test]
fn files_are_not_replaced_without_being_asked() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("refiner/spar.json");
    may_write(&target, false).unwrap();
    std::fs::create_dir(folder.path().join("refiner")).unwrap();
    std::fs::write(&target, "{}").unwrap();
    assert!(may_write(&target, false).unwrap_err().to_string().contains("--force"));
    may_write(&target, true).unwrap();
    let manifest = serde_json::json!({ "sha256": { "refiner/spar.json": "00" } });
    for (place, name) in [("manifest.json", "refiner/spar.json"), ("refiner/manifest.json", "spar.json")] {
        let manifest = serde_json::json!({ "sha256": { name: manifest["sha256"]["refiner/spar.json"] } });
        std::fs::write(folder.path().join(place), manifest.to_string()).unwrap();
        assert!(may_write(&target, true).unwrap_err().to_string().contains("states the digest"), "{place}");
        std::fs::remove_file(folder.path().join(place)).unwrap();
    }
}

#[test]
fn prompts_without_a_known_truth_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompts.jsonl");
    let line = serde_json::json!({ "key": 1, "prompt": "Say it.", "instruction_id_list": [], "kwargs": [] });
    write_lines(&path, &[line]).unwrap();
    let message = checkable(&path, None).unwrap_err().to_string();
    assert!(message.contains("prompts.jsonl") && message.contains("instruction_id_list"), "{message}");
}

/// Runs the whole command on the embedded judge, a copy of which is calibrated.
#[tokio::test]
async fn the_command_writes_a_directory_that_is_loaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { critiques: 6, ..options(folder.path(), 60) };
    std::fs::create_dir(&options.model).unwrap();
    let embedded = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/spar-tiny/refiner"));
    for file in std::fs::read_dir(embedded).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), options.model.join(file.file_name())).unwrap();
    }
    let message = run(&options).await.unwrap_err().to_string();
    assert!(message.contains("spar.json exists"), "{message}");
    let report = run(&Options { force: true, ..options.clone() }).await.unwrap();
    // This judge is trained to write a critique first. Without one it says Yes to nearly everything.
    let score = &report.kinds[0];
    assert!(score.fitted_on > 0 && score.after.calibration_error < score.before.calibration_error, "{report}");
    assert_eq!((report.kinds[1].fitted_on, report.calibration.critique), (0, Temperatures::default()));
    let loaded = ModelDir::open(options.model.clone()).unwrap();
    let text = ModelDir::open(embedded).unwrap().templates.text.clone();
    assert_eq!(loaded.templates.text, TemplateText { calibration: Some(report.calibration), ..text });
    assert!(folder.path().join("report/reliability.svg").is_file());
}
