use std::collections::HashMap;

use safetensors::tensor::{Dtype, TensorView};
use spar::weights::Weights;

use super::super::export::{Request, export};
use super::super::sft;
use super::super::trainings::Training;
use super::*;
use crate::cluster::Cluster;
use crate::model::{LoraConfig, Params, shape};
use crate::recipe::external::{External, Framework};
use crate::trainer::TrainConfig;

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/spar-tiny/actor")
}

struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// An export of a training on one chat.
    fn new(lora: Option<LoraConfig>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("sft.jsonl");
        std::fs::write(&data, "{\"prompt\": \"Write about the river.\", \"completion\": \"The river waits.\"}\n")
            .unwrap();
        let train = TrainConfig { lora, ..TrainConfig::default() };
        let training = Training::Sft(Box::new(sft::Sft {
            base: base(),
            data,
            turns: sft::Turns::Last,
            bad_lines: crate::records::BadLines::Stop,
            tokens_per_step: 64,
            epochs: Some(1.0),
            eval: crate::stages::training::Eval::default(),
            base_name: None,
            train,
        }));
        let cluster = Cluster { cards: 0, ..Cluster::default() };
        let external = External { framework: Framework::Trl, cluster, template: None, initial_adapter: false };
        let out = folder.path().join("export");
        export(Request { training: &training, external: &external, base_name: None, out: &out, result: "../actor" })
            .unwrap();
        Self { folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An adapter with numbers in it.
    fn adapter(&self, name: &str, lora: &LoraConfig, stated: Option<&str>, value: f32) -> PathBuf {
        let mut params = lora.fresh(&shape::load(&base()).unwrap(), 3);
        params.data.fill(value);
        let directory = self.at(name);
        crate::adapter::save(&directory, lora, &params, stated).unwrap();
        directory
    }

    /// The base with `change` made to each tensor; `None` leaves the tensor out.
    fn checkpoint(&self, name: &str, change: impl Fn(&str, Vec<f32>) -> Option<(Vec<usize>, Vec<f32>)>) -> PathBuf {
        let directory = self.at(name);
        std::fs::create_dir_all(&directory).unwrap();
        for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            if base().join(file).is_file() {
                std::fs::copy(base().join(file), directory.join(file)).unwrap();
            }
        }
        let weights = Weights::open(&base()).unwrap();
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = weights
            .names()
            .filter_map(|name| {
                let (shape, values) = change(name, weights.read(name).unwrap())?;
                let shape = if shape.is_empty() { weights.shape(name).unwrap().to_vec() } else { shape };
                Some((name.to_owned(), shape, values.into_iter().flat_map(f32::to_le_bytes).collect()))
            })
            .collect();
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        safetensors::serialize_to_file(views, None::<HashMap<String, String>>, &directory.join("model.safetensors"))
            .unwrap();
        directory
    }

    fn import(&self, from: PathBuf) -> Result<Record> {
        run(&Options { export: self.at("export"), from, base: None, out: None, any_base_name: false })
    }

    fn refused(&self, from: PathBuf) -> String {
        let message = format!("{:#}", self.import(from).unwrap_err());
        assert!(!self.at("export").join(IMPORTED).exists(), "a refused result leaves no record");
        message
    }
}

#[test]
fn an_adapter_becomes_the_model_of_its_export() {
    let lora = LoraConfig { rank: 2, ..LoraConfig::default() };
    let world = World::new(Some(lora.clone()));
    let name = base().to_string_lossy().into_owned();
    let from = world.adapter("result", &lora, Some(&name), 0.01);
    let record = world.import(from.clone()).unwrap();
    assert_eq!((record.counts["items"], record.settings["stage"].as_str()), (1, Some("sft")));
    let (model, config) = (world.at("actor"), shape::load(&base()).unwrap());
    let (new, old) = (Params::load(&config, &model).unwrap(), Params::load(&config, &base()).unwrap());
    assert_ne!(new.data, old.data);
    assert!(crate::chats::Chats::open(&model).is_ok() && world.at("actor.adapter/adapter_config.json").is_file());
    // A finished import is not repeated.
    assert_eq!(world.import(from).unwrap(), record);
}

#[test]
fn adapters_that_do_not_belong_are_refused_by_what_is_wrong() {
    let lora = LoraConfig { rank: 2, ..LoraConfig::default() };
    let world = World::new(Some(lora.clone()));
    let other = LoraConfig { rank: 3, ..lora.clone() };
    let few = LoraConfig { targets: lora.targets[..2].into(), ..lora.clone() };
    let nan = world.adapter("nan", &lora, None, f32::NAN);
    for (from, expected) in [
        (world.adapter("rank", &other, None, 0.01), "has rank 3"),
        (world.adapter("few", &few, None, 0.01), "which the recipe names"),
        (world.adapter("zero", &lora, None, 0.0), "changes nothing"),
        (world.adapter("base", &lora, Some("org/other"), 0.01), "states the base org/other"),
        (nan, "NaN"),
        (world.checkpoint("whole", |_, values| Some((Vec::new(), values))), "is a whole checkpoint"),
    ] {
        let message = world.refused(from);
        assert!(message.contains(expected), "{message}");
    }
    let copy = world.adapter("copy", &lora, None, 0.01);
    let mut described = Description::read(&world.at("export")).unwrap();
    described.id = "0".repeat(64);
    write_json(&copy.join(COPY), &described).unwrap();
    assert!(world.refused(copy).contains("the result of another export"));
    let empty = world.at("empty");
    std::fs::create_dir_all(&empty).unwrap();
    assert!(world.refused(empty).contains("holds neither config.json nor adapter_config.json"));
}

#[test]
fn checkpoints_are_checked_tensor_by_tensor() {
    let world = World::new(None);
    let norm = "model.norm.weight";
    let add = |name: &str, mut values: Vec<f32>| {
        if name == norm {
            values[0] += 0.5;
        }
        Some((Vec::new(), values))
    };
    let lora = LoraConfig { rank: 2, ..LoraConfig::default() };
    for (from, expected) in [
        (world.checkpoint("same", |_, values| Some((Vec::new(), values))), "no weight has changed"),
        (
            world.checkpoint("lacks", |name, values| (name != norm).then_some((Vec::new(), values))),
            "lacks model.norm.weight",
        ),
        (
            world.checkpoint("shape", |name, values| match name == norm {
                true => Some((vec![values.len() - 1], values[1..].to_vec())),
                false => Some((Vec::new(), values)),
            }),
            "model.norm.weight in",
        ),
        (
            world.checkpoint("nan", |name, mut values| {
                values[0] = if name == norm { f32::NAN } else { values[0] };
                Some((Vec::new(), values))
            }),
            "is damaged",
        ),
        (world.adapter("adapter", &lora, None, 0.01), "is an adapter, and the export is of all weights"),
    ] {
        let message = world.refused(from);
        assert!(message.contains(expected), "{message}");
    }
    let texts = world.checkpoint("texts", add);
    let file = texts.join("tokenizer_config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let template = texts.join("chat_template.jinja");
    match template.is_file() {
        true => std::fs::write(&template, std::fs::read_to_string(&template).unwrap() + "!").unwrap(),
        false => std::fs::write(&file, text.replacen("chat_template\": \"", "chat_template\": \"!", 1)).unwrap(),
    }
    assert!(world.refused(texts).contains("another tokenizer or chat template"));
    let record = world.import(world.checkpoint("good", add)).unwrap();
    assert!(record.counts["tensors"] > 10);
    let config: serde_json::Value = read_json(&world.at("actor/config.json")).unwrap();
    assert!([&config["dtype"], &config["torch_dtype"]].contains(&&json!("float32")), "{config}");
    let (config, model) = (shape::load(&base()).unwrap(), world.at("actor"));
    let [new, old] = [&model, &base()].map(|model| Params::load(&config, model).unwrap().data);
    assert_eq!(new.iter().zip(&old).filter(|(new, old)| new != old).count(), 1);
}

#[test]
fn a_result_has_its_place_next_to_its_export() {
    assert_eq!(place(Path::new("runs/iter-1/actor.export"), "../actor").unwrap().file_name().unwrap(), "actor");
    assert_eq!(place(Path::new("export"), "model").unwrap(), Path::new("export/model"));
}
