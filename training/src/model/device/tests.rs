//! The device's form against the CPU's: on candle's CPU tensors, and in a build for CUDA on the GPU where there is one.

use candle_core::Device;

use super::*;
use crate::model::LoraConfig;
use crate::model::cpu::tests::{config, params, relatives};
use crate::model::cpu::{self, Workspace};

fn device() -> Device {
    cuda().unwrap_or(Device::Cpu)
}

/// Plain texts and forked ones, with some rows whose loss is not wanted.
fn batch() -> Packed {
    let text = |len: usize, salt: usize| (0..len).map(|i| ((i * 31 + salt * i * i) % 61) as u32).collect::<Vec<_>>();
    let fork = |shared: usize, len: usize, salt: usize| [text(shared, 1), text(len, salt)].concat();
    let mut batch = Packed::default();
    batch.push_asking(&text(9, 2), |token| token > 4);
    let _ = batch.push_fork(&fork(20, 7, 3), &fork(20, 12, 5), 11);
    // More than one block of queries.
    batch.push(&text(600, 7));
    let _ = batch.push_fork(&fork(300, 290, 3), &fork(300, 4, 7), 200);
    let _ = batch.push_fork(&fork(1, 5, 3), &fork(1, 4, 7), 1);
    // All of the first text is the second's beginning.
    let _ = batch.push_fork(&text(6, 1), &fork(6, 5, 9), 2);
    batch
}

fn computing<'a>(lora: Option<&'a LoraConfig>, keep: Keep) -> Computing<'a> {
    Computing { arithmetic: Arithmetic::F32, lora, keep, workers: 1 }
}

fn same(found: &[f32], expected: &[f32], what: &str, tolerance: f32) {
    let size = expected.iter().fold(0f32, |size, x| size.max(x.abs()));
    assert!(size > 1e-4 && found.len() == expected.len(), "{what} is {size} at most");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() < tolerance * size, "{what}[{i}]: {a} {b}, largest {size}");
    }
}

/// Log-probabilities and the gradient on the CPU and on the device.
fn both(
    config: &DenseConfig,
    weights: cpu::Weights<'_>,
    lora: Option<&LoraConfig>,
    arithmetic: Arithmetic,
    keep: Keep,
) -> [(Vec<f32>, Vec<f32>); 2] {
    let batch = batch();
    let coefficients: Vec<f32> =
        batch.on_all_rows(&(0..batch.asked.len()).map(|row| (row % 7) as f32 * 0.01 - 0.02).collect::<Vec<_>>());
    let trained = weights.adapter.unwrap_or(weights.base);
    let mut expected = vec![0.0; trained.data.len()];
    let mut workspace = Workspace::with(config, Arithmetic::F32, lora, Keep::Everything);
    workspace.forward(weights, &batch).unwrap();
    let log_probs = workspace.backward(weights, &batch, &coefficients, &mut expected);

    let computing = Computing { arithmetic, ..computing(lora, keep) };
    let mut model = DeviceModel::from_params(config, computing, &device(), weights.base).unwrap();
    model.take(trained).unwrap();
    let mut found = vec![1.0; model.trained()];
    // What an earlier step left behind has no say.
    for first in [false, true] {
        model.forward(&batch, weights.dropout).unwrap();
        let before = if first { model.log_probs_first(&batch) } else { model.log_probs(&batch) }.unwrap();
        let after = model.backward(&batch, &coefficients).unwrap();
        assert_eq!(before, after);
        model.gradient(&mut found).unwrap();
        if found.iter().all(|x| x.is_finite()) && arithmetic == Arithmetic::F32 {
            same(&after, &log_probs, "log-probabilities", 1e-4);
        }
    }
    model.forward(&batch, weights.dropout).unwrap();
    let ours = model.log_probs(&batch).unwrap();
    [(log_probs, expected), (ours, found)]
}

#[test]
fn whole_models_have_the_cpus_gradient() {
    let llamas = [(config(true), Keep::Everything), (config(false), Keep::Streams)];
    let relatives = relatives().into_iter().zip([Keep::Everything, Keep::Streams].into_iter().cycle());
    for (config, keep) in llamas.into_iter().chain(relatives) {
        let params = params(&config);
        let [(_, expected), (_, found)] = both(&config, (&params).into(), None, Arithmetic::F32, keep);
        for entry in &params.layout.entries {
            same(&found[entry.range.clone()], &expected[entry.range.clone()], &entry.name, 3e-4);
        }
    }
}

#[test]
fn adapters_have_the_cpus_gradient_and_its_dropout() {
    let ([qwen2, qwen3, smollm3, _], all) = (relatives(), Module::ALL.to_vec());
    for (config, targets, dropout, keep) in [
        (config(true), all.clone(), 0.0, Keep::Streams),
        (config(true), all.clone(), 0.3, Keep::Streams),
        (config(true), vec![Module::Value], 0.3, Keep::Everything),
        (qwen2, all.clone(), 0.0, Keep::Everything),
        (qwen3, all.clone(), 0.3, Keep::Streams),
        (smollm3, all, 0.0, Keep::Everything),
    ] {
        let base = params(&config);
        let lora = LoraConfig { rank: 3, alpha: 4.0, targets, dropout, ..LoraConfig::default() };
        let mut adapter = lora.fresh(&config, 3);
        adapter.data.iter_mut().enumerate().for_each(|(i, x)| *x += ((i * 37 % 17) as f32 - 8.0) * 0.004);
        let weights = cpu::Weights { base: &base, adapter: Some(&adapter), dropout: Some(9) };
        let [(_, expected), (_, found)] = both(&config, weights, Some(&lora), Arithmetic::F32, keep);
        for entry in &adapter.layout.entries {
            same(&found[entry.range.clone()], &expected[entry.range.clone()], &entry.name, 3e-4);
        }
    }
}

/// candle multiplies in bf16 on a GPU only; heads of 64 and 128 have attention kernels.
#[test]
#[ignore = "needs a GPU"]
fn bf16_points_the_same_way() {
    assert!(device().is_cuda(), "there is no GPU");
    for head_dim in [16, 64, 128] {
        let config = DenseConfig { hidden: 6 * head_dim, intermediate: 128, ..config(false) };
        let config = crate::model::shape::with_heads(config, 6, 2, head_dim);
        let params = Params::random(&config, 5);
        let [(expected, theirs), (found, ours)] =
            both(&config, (&params).into(), None, Arithmetic::Bf16, Keep::Everything);
        same(&found, &expected, "log-probabilities", 0.02);
        for entry in &params.layout.entries {
            let (a, b) = (&theirs[entry.range.clone()], &ours[entry.range.clone()]);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
            assert!(cosine > 0.999, "heads of {head_dim}, {}: {cosine}", entry.name);
        }
    }
}

#[test]
fn what_the_model_cannot_read_is_an_error() {
    let config = config(true);
    let params = Params::random(&config, 5);
    let mut model =
        DeviceModel::from_params(&config, computing(None, Keep::Everything), &Device::Cpu, &params).unwrap();
    let mut batch = Packed::default();
    batch.push(&[1, 61]);
    assert!(model.forward(&batch, None).unwrap_err().to_string().contains("token 61"));
    if !cfg!(feature = "cuda") {
        assert!(cuda().unwrap_err().to_string().contains("--features cuda"));
    }
}
