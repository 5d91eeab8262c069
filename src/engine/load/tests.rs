use std::path::Path;

use super::*;
use crate::testing::{TinyModel, random_adapter, write_model};

fn args(engine: EngineKind, model: Option<&Path>) -> EngineArgs {
    EngineArgs { model: model.map(Path::to_owned), engine, ..EngineArgs::default() }
}

/// A model, and two adapters on it.
fn world() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    std::fs::create_dir(&model).unwrap();
    write_model(&model, &TinyModel::default());
    for (name, seed) in [("one", 1), ("two", 2)] {
        random_adapter(&model, 0.1, seed).save(&root.path().join(name)).unwrap();
    }
    root
}

#[cfg(not(feature = "mistral"))]
#[test]
fn a_model_that_needs_mistral_rs_names_the_command_that_builds_it_in() {
    let root = world();
    let model = root.path().join("model");
    let mut config = TinyModel::default().config();
    config["architectures"] = serde_json::json!(["GemmaForCausalLM"]);
    crate::testing::write_json(&model, "config.json", &config);
    for adapter in [None, Some(root.path().join("one"))] {
        for engine in [EngineKind::Auto, EngineKind::Mistral] {
            let args = EngineArgs { adapter: adapter.clone(), ..args(engine, Some(&model)) };
            let error = load(&args, None).err().unwrap().to_string();
            let command = "`cargo build --release --features mistral`";
            assert!(error.starts_with(model.to_str().unwrap()) && error.contains(command), "{error}");
        }
    }
}

#[test]
fn a_mistyped_path_is_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("nowhere");
    for adapter in [None, Some(nowhere.clone())] {
        let args = EngineArgs { adapter, ..args(EngineKind::Auto, Some(&nowhere)) };
        let error = load(&args, None).err().unwrap().to_string();
        assert!(error.contains("nowhere is not a directory") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_missing_template_file_is_one_line() {
    let templates = Some("nowhere.json".into());
    let error = load(&EngineArgs { templates, ..args(EngineKind::Fake, None) }, None).err().unwrap().to_string();
    assert!(error.contains("nowhere.json") && !error.contains('\n'), "{error}");
}

#[test]
fn roles_share_what_they_can() {
    let root = world();
    let path = |name: &str| Some(root.path().join(name));
    // The refiner's model, both adapters; whether one generation is both, and whether there is one base.
    let table = [
        (None, None, None, true, true),
        (None, path("one"), None, false, true),
        (None, None, path("one"), false, true),
        (None, path("one"), path("two"), false, true),
        (None, path("one"), path("one"), true, true),
        (path("model"), None, None, false, true),
        (path("one/../model"), path("one"), path("two"), false, true),
        (path("copy"), path("one"), path("two"), false, false),
    ];
    std::fs::create_dir(root.path().join("copy")).unwrap();
    write_model(&root.path().join("copy"), &TinyModel::default());
    for (refiner, adapter, refiner_adapter, one, shared) in table {
        let model = root.path().join("model");
        let args = EngineArgs { refiner, adapter, refiner_adapter, ..args(EngineKind::Native, Some(&model)) };
        let Loaded { generations, origins, .. } = load(&args, None).unwrap();
        let Loaded { generations: again, .. } = load(&args, None).unwrap();
        let (pinned, again) = (generations.pin(), again.pin());
        assert_eq!(Arc::ptr_eq(&pinned.actor, &pinned.refiner), one, "{args:?}");
        assert_eq!(pinned.actor.shares_weights(&pinned.refiner), shared, "{args:?}");
        assert!(!pinned.actor.shares_weights(&again.actor), "two loads are two");
        let adapters = origins.map(|origin| origin.adapter.map(|adapter| adapter.path));
        assert_eq!(adapters, [args.adapter, args.refiner_adapter]);
    }
}

#[test]
fn with_a_store_the_adapter_is_its_copy() {
    let root = world();
    let store = Store::open(root.path().join("store"), u64::MAX).unwrap();
    let model = root.path().join("model");
    let adapter = Some(root.path().join("one"));
    let args = EngineArgs { adapter: adapter.clone(), ..args(EngineKind::Native, Some(&model)) };
    let Loaded { origins: [actor, refiner], .. } = load(&args, Some(&store)).unwrap();
    let source = actor.adapter.unwrap();
    assert_eq!(Some(source.path), adapter);
    assert!(source.stored.path.starts_with(root.path().join("store")) && source.stored.path.is_dir());
    assert_eq!(refiner.adapter, None);
}

/// The base's templates, with a version of their own.
fn write_templates(adapter: &Path, version: &str) {
    let text = crate::prompts::TemplateText { version: version.into(), ..Templates::general().text };
    crate::testing::write_json(adapter, "spar.json", &serde_json::to_value(text).unwrap());
}

#[test]
fn an_adapter_brings_the_templates_it_was_trained_on() {
    let root = world();
    let (model, one, two) = (root.path().join("model"), root.path().join("one"), root.path().join("two"));
    write_templates(&one, "of-the-adapter");
    let named = root.path().join("named.json");
    std::fs::copy(one.join("spar.json"), &named).unwrap();
    let versions = |args: &EngineArgs, store: Option<&Store>| {
        let pinned = load(args, store).unwrap().generations.pin();
        [&pinned.actor, &pinned.refiner].map(|generation| generation.templates.text.version.clone())
    };
    let with = |adapter: &Path, refiner_adapter: &Path| EngineArgs {
        adapter: Some(adapter.into()),
        refiner_adapter: Some(refiner_adapter.into()),
        ..args(EngineKind::Native, Some(&model))
    };
    let store = Store::open(root.path().join("store"), u64::MAX).unwrap();
    let [_, bare] = versions(&args(EngineKind::Native, Some(&model)), None);
    assert_ne!(bare, "of-the-adapter");
    for store in [None, Some(&store)] {
        assert_eq!(versions(&with(&two, &one), store), [bare.as_str(), "of-the-adapter"]);
    }
    let overridden = EngineArgs { templates: Some(named), ..with(&two, &two) };
    assert_eq!(versions(&overridden, None), ["of-the-adapter"; 2]);
    std::fs::write(one.join("spar.json"), "{").unwrap();
    let error = load(&with(&two, &one), None).err().unwrap().to_string();
    assert!(error.starts_with("--refiner-adapter: ") && error.contains("spar.json"), "{error}");
}
