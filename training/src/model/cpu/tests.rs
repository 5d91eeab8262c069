//! The fast form against candle's autograd.

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::model::llama::{Llama, Lora, variables};
use crate::model::lora::Module;
use crate::model::params::Kind;
use crate::model::shape::{tiny, with_heads};
use spar::weights::{QkNorm, Rope, RopeScaling};

/// A small model with grouped heads of odd sizes.
pub(crate) fn config(tied: bool) -> DenseConfig {
    with_heads(DenseConfig { hidden: 48, intermediate: 40, layers: 2, tied, ..tiny(61) }, 6, 2, 8)
}

/// Models with biases, with heads that are normalised and wider than the stream, with a layer that has no rotary positions, and with
/// scaled ones.
pub(crate) fn relatives() -> [DenseConfig; 4] {
    let qwen2 = DenseConfig { qkv_bias: true, ..config(true) };
    let qwen3 = DenseConfig { qk_norm: QkNorm::Heads, ..with_heads(config(true), 6, 2, 12) };
    let smollm3 = DenseConfig { unrotated: vec![1], ..config(true) };
    let scaling = RopeScaling::Yarn { factor: 4.0, ramp: (0.0, 2.0), attention_factor: 1.2 };
    let yarn = DenseConfig { rope: Rope { scaling, ..config(true).rope }, ..config(true) };
    [qwen2, qwen3, smollm3, yarn]
}

/// Sequences shorter than, equal to and longer than a block of queries, in one batch.
fn sequences() -> Vec<Vec<u32>> {
    [1, 64, 150, 7].iter().map(|&len| (0..=len).map(|i| ((i * 31 + len * 7 + i * i) % 61) as u32).collect()).collect()
}

fn packed(sequences: &[Vec<u32>]) -> Packed {
    let mut batch = Packed::default();
    sequences.iter().for_each(|tokens| batch.push(tokens));
    batch
}

/// Norms away from 1 and biases from 0, so that a forgotten one shows.
pub(crate) fn params(config: &DenseConfig) -> Params {
    let mut params = Params::random(config, 5);
    let noise = Params::random(config, 6);
    for (i, (x, n)) in params.data.iter_mut().zip(&noise.data).enumerate() {
        *x = *x * 1.5 + n * 0.5 * ((i % 5) as f32 - 2.0);
    }
    for entry in params.layout.entries.iter().filter(|entry| entry.kind == Kind::Bias) {
        params.data[entry.range.clone()].iter_mut().enumerate().for_each(|(i, x)| *x = (i % 7) as f32 * 0.1 - 0.25);
    }
    params
}

#[test]
fn log_probs_and_every_gradient_equal_candles() {
    for config in [config(true), config(false)].into_iter().chain(relatives()) {
        let (params, sequences) = (params(&config), sequences());
        let all = packed(&sequences);
        // Some rows are not asked about; of those that are, some have no say and some a negative one.
        let mut batch = Packed { asked: Vec::new(), ..all.clone() };
        batch.asked = (0..batch.rows()).filter(|row| row % 3 != 0).collect();
        let coefficients: Vec<f32> =
            (0..batch.rows()).map(|row| if row % 3 == 0 { 0.0 } else { (row % 7) as f32 * 0.01 - 0.02 }).collect();

        let mut workspace = Workspace::new(&config, Arithmetic::F32);
        let mut gradient = vec![0.0; params.data.len()];
        workspace.forward(&params, &all).unwrap();
        let log_probs = workspace.log_probs(&params, &all);
        workspace.forward(&params, &batch).unwrap();
        let some = workspace.log_probs(&params, &batch);
        let weighted = workspace.backward(&params, &batch, &coefficients, &mut gradient);

        let variables = variables(&params, DType::F32, &Device::Cpu).unwrap();
        let llama = Llama::new(&config, &variables).unwrap();
        let mut objective = Tensor::new(0f32, &Device::Cpu).unwrap();
        for (Span { start, len, .. }, tokens) in batch.sequences().zip(&sequences) {
            let row = |tokens: &[u32]| Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
            let reference = llama.log_probs(&row(&tokens[..len]), &row(&tokens[1..])).unwrap().squeeze(0).unwrap();
            for (i, expected) in reference.to_vec1::<f32>().unwrap().into_iter().enumerate() {
                let row = start + i;
                assert!((log_probs[row] - expected).abs() < 1e-4, "row {row}: {} {expected}", log_probs[row]);
                let expected = if row % 3 == 0 { 0.0 } else { log_probs[row] };
                assert!((some[row] - expected).abs() < 1e-5, "row {row}: {} {expected}", some[row]);
                assert_eq!(weighted[row], some[row], "row {row}");
            }
            let coefficients = Tensor::new(&coefficients[start..start + len], &Device::Cpu).unwrap();
            objective = (objective + (reference * coefficients).unwrap().sum_all().unwrap()).unwrap();
        }
        let gradients = objective.backward().unwrap();
        for entry in &params.layout.entries {
            let reference = gradients.get(variables[&entry.name].as_tensor()).unwrap();
            let reference = reference.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let ours = &gradient[entry.range.clone()];
            let size = reference.iter().fold(0f32, |size, x| size.max(x.abs()));
            assert!(size > 1e-4, "no gradient reaches {}", entry.name);
            for (i, (a, b)) in ours.iter().zip(&reference).enumerate() {
                assert!((a - b).abs() < 2e-4 * size, "{}[{i}]: {a} {b}, largest {size}", entry.name);
            }
        }
    }
}

#[test]
fn a_sequence_does_not_depend_on_its_neighbours_or_the_last_batch() {
    let config = config(true);
    let params = params(&config);
    let all = packed(&sequences());
    let mut workspace = Workspace::new(&config, Arithmetic::F32);
    workspace.forward(&params, &all).unwrap();
    let together = workspace.log_probs(&params, &all);
    for (Span { start, len, .. }, tokens) in all.sequences().zip(sequences()) {
        let alone = packed(&[tokens]);
        workspace.forward(&params, &alone).unwrap();
        for (a, b) in workspace.log_probs(&params, &alone).iter().zip(&together[start..start + len]) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}

/// Two texts that differ from their `common`-th token on, and coefficients for their rows.
fn fork(common: usize, first: usize, second: usize) -> [Vec<u32>; 2] {
    let text =
        |len: usize, salt: usize| (0..len).map(move |i| ((i * 29 + salt * i.saturating_sub(common - 1)) % 61) as u32);
    [text(common + first, 5).collect(), text(common + second, 11).collect()]
}

#[test]
fn two_texts_with_a_common_beginning_are_computed_as_if_alone() {
    let config = config(true);
    let params = params(&config);
    for (common, first, second) in [(80, 40, 90), (5, 1, 3), (64, 64, 64), (1, 70, 2)] {
        let texts = fork(common, first, second);
        let (mut forked, mut alone) = (Packed::default(), Packed::default());
        forked.push(&[3, 1, 4, 1, 5]);
        let place = forked.push_fork(&texts[0], &texts[1], 1);
        assert_eq!(place, Fork { shared: common - 1, first });
        texts.iter().for_each(|text| alone.push(text));
        let coefficients = |row: usize| ((row * 7 % 11) as f32 - 5.0) * 0.01;
        let weights: Vec<f32> = (0..alone.rows()).map(coefficients).collect();

        let mut workspace = Workspace::new(&config, Arithmetic::F32);
        let (mut expected, mut found) = (vec![0.0; params.data.len()], vec![0.0; params.data.len()]);
        workspace.forward(&params, &alone).unwrap();
        let log_probs = workspace.backward(&params, &alone, &weights, &mut expected);
        // The rows of the first text, then those of the second: where each of them is in the forked batch.
        let turn = 4 + place.shared + place.first;
        let second_row = |row: usize| if row < place.shared { 4 + row } else { turn + row - place.shared };
        let places: Vec<usize> =
            (0..texts[0].len() - 1).map(|row| 4 + row).chain((0..texts[1].len() - 1).map(second_row)).collect();
        let mut summed = vec![0.0; forked.rows()];
        places.iter().zip(&weights).for_each(|(&place, weight)| summed[place] += weight);
        workspace.forward(&params, &forked).unwrap();
        let shared = workspace.backward(&params, &forked, &summed, &mut found);
        for (row, &place) in places.iter().enumerate() {
            assert!((log_probs[row] - shared[place]).abs() < 1e-5, "{row}: {} {}", log_probs[row], shared[place]);
        }
        let size = expected.iter().fold(0f32, |size, x| size.max(x.abs()));
        for (i, (a, b)) in expected.iter().zip(&found).enumerate() {
            assert!((a - b).abs() < 2e-4 * size, "{common} {i}: {a} {b}, largest {size}");
        }
    }
}

fn adapter(config: &DenseConfig, lora: &LoraConfig) -> Params {
    let mut adapter = lora.fresh(config, 3);
    let other = lora.fresh(config, 4).data;
    // B away from zero, so that A has a gradient.
    adapter.data.iter_mut().enumerate().for_each(|(i, x)| *x += 0.1 * other[i] + ((i * 37 % 17) as f32 - 8.0) * 0.004);
    adapter
}

#[test]
fn an_adapter_computes_what_merged_weights_do_and_its_gradient_follows_theirs() {
    let batch = packed(&sequences());
    let coefficients: Vec<f32> = (0..batch.rows()).map(|row| (row % 7) as f32 * 0.01 - 0.02).collect();
    let ([qwen2, qwen3, smollm3, yarn], all) = (relatives(), Module::ALL.to_vec());
    for (config, targets) in [
        (config(true), all.clone()),
        (config(true), vec![Module::Value]),
        (qwen2, all.clone()),
        (qwen3, all.clone()),
        (smollm3, all.clone()),
        (yarn, all),
    ] {
        let base = params(&config);
        let lora = LoraConfig { rank: 3, alpha: 4.0, targets, ..LoraConfig::default() };
        let adapter = adapter(&config, &lora);
        let mut merged = base.clone();
        for factors in adapter.layout.entries.chunks(2) {
            let (a, b) = (&adapter.data[factors[0].range.clone()], &adapter.data[factors[1].range.clone()]);
            let name = factors[0].name.replace("base_model.model.", "").replace(".lora_A", "");
            let entry = base.layout.entries.iter().find(|e| e.name == name).unwrap();
            let columns = entry.shape[1];
            for (i, w) in merged.data[entry.range.clone()].iter_mut().enumerate() {
                let (row, column) = (i / columns, i % columns);
                *w += lora.scale() * (0..3).map(|k| b[row * 3 + k] * a[k * columns + column]).sum::<f32>();
            }
        }
        let mut plain = Workspace::new(&config, Arithmetic::F32);
        let mut full = vec![0.0; base.data.len()];
        plain.forward(&merged, &batch).unwrap();
        let expected = plain.backward(&merged, &batch, &coefficients, &mut full);

        let weights = Weights { base: &base, adapter: Some(&adapter), dropout: None };
        let mut workspace = Workspace::with(&config, Arithmetic::F32, Some(&lora), Keep::Everything);
        let mut gradient = vec![0.0; adapter.data.len()];
        workspace.forward(weights, &batch).unwrap();
        let found = workspace.backward(weights, &batch, &coefficients, &mut gradient);
        for (a, b) in expected.iter().zip(&found) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
        // dA = scale · Bᵀ · dW and dB = scale · dW · Aᵀ
        for factors in adapter.layout.entries.chunks(2) {
            let (a, b) = (&adapter.data[factors[0].range.clone()], &adapter.data[factors[1].range.clone()]);
            let name = factors[0].name.replace("base_model.model.", "").replace(".lora_A", "");
            let entry = base.layout.entries.iter().find(|e| e.name == name).unwrap();
            let (dw, columns, rows) = (&full[entry.range.clone()], entry.shape[1], entry.shape[0]);
            let da = |k: usize, c: usize| (0..rows).map(|r| b[r * 3 + k] * dw[r * columns + c]).sum::<f32>();
            let db = |r: usize, k: usize| (0..columns).map(|c| a[k * columns + c] * dw[r * columns + c]).sum::<f32>();
            let check = |name: &str, found: &[f32], expected: Vec<f32>| {
                let size = expected.iter().fold(0f32, |size, x| size.max(x.abs()));
                assert!(size > 1e-5, "no gradient reaches {name}");
                for (found, expected) in found.iter().zip(expected) {
                    let expected = lora.scale() * expected;
                    assert!((found - expected).abs() < 3e-4 * size, "{name}: {found} {expected}, largest {size}");
                }
            };
            let expected = (0..3).flat_map(|k| (0..columns).map(move |c| (k, c))).map(|(k, c)| da(k, c)).collect();
            check(&factors[0].name, &gradient[factors[0].range.clone()], expected);
            let expected = (0..rows).flat_map(|r| (0..3).map(move |k| (r, k))).map(|(r, k)| db(r, k)).collect();
            check(&factors[1].name, &gradient[factors[1].range.clone()], expected);
        }
    }
}

#[test]
fn what_is_computed_again_is_the_same_and_dropout_has_its_gradient() {
    let config = config(false);
    let (base, batch) = (params(&config), packed(&sequences()));
    let coefficients = vec![-1.0 / batch.rows() as f32; batch.rows()];
    let lora = LoraConfig { rank: 2, dropout: 0.3, rslora: true, ..LoraConfig::default() };
    let adapter = adapter(&config, &lora);
    let run = |adapter: &Params, keep| {
        let weights = Weights { base: &base, adapter: Some(adapter), dropout: Some(9) };
        let mut workspace = Workspace::with(&config, Arithmetic::F32, Some(&lora), keep);
        let mut gradient = vec![0.0; adapter.data.len()];
        workspace.forward(weights, &batch).unwrap();
        let log_probs = workspace.backward(weights, &batch, &coefficients, &mut gradient);
        let loss: f64 = log_probs.iter().map(|&x| -f64::from(x) / batch.rows() as f64).sum();
        (loss, gradient)
    };
    let (loss, gradient) = run(&adapter, Keep::Everything);
    assert_eq!((loss, gradient.clone()), run(&adapter, Keep::Streams));

    let mut full = [vec![0.0; base.data.len()], vec![0.0; base.data.len()]];
    for (keep, gradient) in [Keep::Everything, Keep::Streams].into_iter().zip(&mut full) {
        let mut workspace = Workspace::with(&config, Arithmetic::F32, None, keep);
        workspace.forward(&base, &batch).unwrap();
        let _ = workspace.backward(&base, &batch, &coefficients, gradient);
    }
    assert_eq!(full[0], full[1]);

    // Along the gradient the loss changes by its squared length.
    let square: f64 = gradient.iter().map(|&g| f64::from(g).powi(2)).sum();
    let step = 2e-3 / square.sqrt();
    let moved = |sign: f64| {
        let mut moved = adapter.clone();
        moved.data.iter_mut().zip(&gradient).for_each(|(x, &g)| *x += (sign * step * f64::from(g)) as f32);
        run(&moved, Keep::Everything).0
    };
    let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
    assert!((slope / square - 1.0).abs() < 0.02, "{slope} {square}");
    let plain = run(&adapter, Keep::Everything).0;
    let weights = Weights { base: &base, adapter: Some(&adapter), dropout: None };
    let mut workspace = Workspace::with(&config, Arithmetic::F32, Some(&lora), Keep::Everything);
    workspace.forward(weights, &batch).unwrap();
    let without: f64 = workspace.log_probs(weights, &batch).iter().map(|&x| -f64::from(x)).sum();
    assert!((plain - without / batch.rows() as f64).abs() > 1e-6, "dropout changes nothing");
}

#[test]
fn what_the_model_cannot_read_is_an_error() {
    let config = DenseConfig { context: 8, ..config(true) };
    let (params, mut workspace) = (params(&config), Workspace::new(&config, Arithmetic::F32));
    for (tokens, expected) in [(vec![0; 10], "9 tokens exceeds 8"), (vec![1, 61], "token 61 is not in")] {
        let message = workspace.forward(&params, &packed(&[tokens])).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn bf16_products_give_nearly_the_same_loss_and_direction() {
    let config = config(true);
    let (params, batch) = (params(&config), packed(&sequences()));
    let coefficients = vec![-1.0 / batch.rows() as f32; batch.rows()];
    let run = |arithmetic| {
        let mut workspace = Workspace::new(&config, arithmetic);
        let mut gradient = vec![0.0; params.data.len()];
        workspace.forward(&params, &batch).unwrap();
        let loss: f32 = workspace.backward(&params, &batch, &coefficients, &mut gradient).iter().sum();
        (loss / batch.rows() as f32, gradient)
    };
    let ((loss, gradient), (rounded_loss, rounded)) = (run(Arithmetic::F32), run(Arithmetic::Bf16));
    assert!((loss - rounded_loss).abs() < 0.01, "{loss} {rounded_loss}");
    for entry in &params.layout.entries {
        let (a, b) = (&gradient[entry.range.clone()], &rounded[entry.range.clone()]);
        let cosine = vector::dot(a, b) / (vector::dot(a, a) * vector::dot(b, b)).sqrt();
        assert!(cosine > 0.999, "{}: {cosine}", entry.name);
    }
}

#[test]
fn candles_low_rank_additions_equal_merged_weights_and_receive_gradients() {
    let config = config(true);
    let params = params(&config);
    let plain = variables(&params, DType::F32, &Device::Cpu).unwrap();
    let mut adapted = Llama::new(&config, &plain).unwrap();
    let (rank, scale) = (3, 0.5);
    let make = |rows, columns| candle_core::Var::randn(0f32, 0.2, (rows, columns), &Device::Cpu).unwrap();
    let mut factors = Vec::new();
    let merged = plain.clone();
    for (i, layer) in adapted.layers_mut().iter_mut().enumerate() {
        let targets = [("self_attn.q_proj", &mut layer.query), ("mlp.down_proj", &mut layer.down)];
        for (name, linear) in targets {
            let (out, input) = linear.weight.dims2().unwrap();
            let (a, b) = (make(rank, input), make(out, rank));
            let addition = (b.matmul(&a).unwrap() * scale).unwrap();
            // `merged` shares no storage with `linear`: variables are set by copy.
            let sum = (linear.weight.copy().unwrap() + addition).unwrap();
            linear.weight = linear.weight.copy().unwrap().detach();
            merged[&format!("model.layers.{i}.{name}.weight")].set(&sum).unwrap();
            linear.lora = Some(Lora { a: a.as_tensor().clone(), b: b.as_tensor().clone(), scale });
            factors.push((a, b));
        }
    }
    let merged = Llama::new(&config, &merged).unwrap();
    let tokens = Tensor::new(&[[1u32, 5, 9, 2, 7]], &Device::Cpu).unwrap();
    let (a, b) = (adapted.logits(&tokens).unwrap(), merged.logits(&tokens).unwrap());
    let difference =
        (&a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    assert!(difference < 1e-4, "{difference}");
    let gradients = a.sqr().unwrap().mean_all().unwrap().backward().unwrap();
    for factor in factors.iter().flat_map(|(a, b)| [a, b]) {
        let gradient = gradients.get(factor.as_tensor()).unwrap().abs().unwrap().sum_all().unwrap();
        assert!(gradient.to_scalar::<f32>().unwrap() > 0.0);
    }
}
