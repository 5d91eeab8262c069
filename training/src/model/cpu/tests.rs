//! The fast form against candle's autograd.

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::model::llama::{Llama, Lora, variables};

fn config(tied: bool) -> LlamaConfig {
    LlamaConfig {
        hidden_size: 48,
        intermediate_size: 40,
        num_hidden_layers: 2,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        tie_word_embeddings: tied,
        ..LlamaConfig::tiny(61)
    }
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

/// Norms away from 1, so that a forgotten scale shows.
fn params(config: &LlamaConfig) -> Params {
    let mut params = Params::random(config, 5);
    let noise = Params::random(config, 6);
    for (i, (x, n)) in params.data.iter_mut().zip(&noise.data).enumerate() {
        *x = *x * 1.5 + n * 0.5 * ((i % 5) as f32 - 2.0);
    }
    params
}

#[test]
fn log_probs_and_every_gradient_equal_candles() {
    for tied in [true, false] {
        let config = config(tied);
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
        for ((start, len), tokens) in batch.sequences().zip(&sequences) {
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
    for ((start, len), tokens) in all.sequences().zip(sequences()) {
        let alone = packed(&[tokens]);
        workspace.forward(&params, &alone).unwrap();
        for (a, b) in workspace.log_probs(&params, &alone).iter().zip(&together[start..start + len]) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}

#[test]
fn what_the_model_cannot_read_is_an_error() {
    let config = LlamaConfig { max_position_embeddings: 8, ..config(true) };
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
