//! What is shipped is what the committed recipe makes.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::path::Path;

use sha2::{Digest, Sha256};
use spar_training::recipe::Bootstrap;
use spar_training::stages::release::Manifest;

#[test]
fn the_manifest_names_the_recipe_and_the_digest_of_every_shipped_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let assets = root.join("../assets/spar-tiny");
    let text = std::fs::read(assets.join("manifest.json")).unwrap();
    let manifest: Manifest = serde_json::from_slice(&text).unwrap();
    // Iterations start from what is shipped.
    let recipe = Bootstrap { iterate: None, ..Bootstrap::read(&root.join("recipes/spar-tiny.toml")).unwrap() };
    assert_eq!(manifest.recipe, recipe);
    let mut size = text.len();
    for (file, digest) in &manifest.sha256 {
        let bytes = std::fs::read(assets.join(file)).unwrap();
        size += bytes.len();
        let found: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(&found, digest, "{file}");
    }
    let shipped = ["actor", "refiner"].map(|role| std::fs::read_dir(assets.join(role)).unwrap().count());
    assert_eq!(manifest.sha256.len(), shipped.iter().sum::<usize>() + 1, "every file and the held-out prompts");
    assert!(size <= 10_000_000, "{size} bytes");
}
