//! Rotary positions: the angles of every position, as `transformers` computes them for each kind of scaling.

use std::f64::consts::TAU;
use std::ops::Range;

use serde_json::Value;

use super::super::ModelError;
use super::Architecture;
use super::fields::Fields;

/// Rotary positions of heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
    /// Elements of a head that turn, the first ones; even.
    pub dims: usize,
}

/// How rotary frequencies are stretched beyond the length of pre-training.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// They are not. Dynamic scaling is this within `max_position_embeddings`, and no sequence is longer.
    None,
    /// All are divided by the factor.
    Linear(f64),
    /// Low frequencies are divided by `factor`, high ones are kept, and those between are blended (Llama 3).
    Llama3 {
        /// Divides low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low` are low.
        low: f64,
        /// Wavelengths below `original_context / high` are high.
        high: f64,
        /// Context of pre-training.
        original_context: f64,
    },
    /// YaRN (Peng et al. 2023): frequencies that turn rarely within the original context are divided by `factor`, those that
    /// turn often are kept, with a ramp between.
    Yarn {
        /// Divides low frequencies.
        factor: f64,
        /// Where the ramp begins and where it ends, as numbers of frequencies.
        ramp: (f64, f64),
        /// Multiplies queries and keys, so that scores get its square.
        attention_factor: f64,
    },
    /// Each frequency is divided by a factor of its own. LongRoPE is this within the context of pre-training, which is as far as such
    /// a model is served.
    Factors {
        /// One divisor per frequency.
        factors: Vec<f64>,
        /// Multiplies queries and keys.
        attention_factor: f64,
    },
}

impl Rope {
    /// Rotary positions without scaling, of whole heads.
    pub fn plain(theta: f64, head_dim: usize) -> Self {
        Self { theta, scaling: RopeScaling::None, dims: head_dim }
    }

    /// The angle per position of each pair of elements, `(dims / 2)`.
    pub fn frequencies(&self) -> Vec<f32> {
        let half = self.dims / 2;
        let frequency = |i: usize| {
            let plain = self.theta.powf(-(i as f64) / half as f64);
            let scaled = match &self.scaling {
                RopeScaling::None => plain,
                RopeScaling::Linear(factor) => plain / factor,
                &RopeScaling::Llama3 { factor, low, high, original_context } => {
                    let turns = original_context * plain / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    plain * kept + plain / factor * (1.0 - kept)
                }
                &RopeScaling::Yarn { factor, ramp: (start, end), .. } => {
                    let divided = ((i as f64 - start) / (end - start)).clamp(0.0, 1.0);
                    plain / factor * divided + plain * (1.0 - divided)
                }
                RopeScaling::Factors { factors, .. } => plain / factors[i],
            };
            scaled as f32
        };
        (0..half).map(frequency).collect()
    }

    /// What cosines and sines are multiplied with.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::Factors { attention_factor, .. } => {
                attention_factor as f32
            }
            _ => 1.0,
        }
    }

    /// Cosine and sine of the angles of positions, `(positions, dims / 2)`, in `f32` as `transformers` computes them.
    pub fn turns(&self, positions: Range<usize>) -> Vec<(f32, f32)> {
        let (frequencies, factor) = (self.frequencies(), self.attention_factor());
        let angles = positions.flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
        angles.map(|angle| (angle.cos() * factor, angle.sin() * factor)).collect()
    }
}

/// What rotary positions depend on outside of their own fields.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) fields: Fields<'a>,
    pub(super) architecture: &'a Architecture,
    pub(super) head_dim: usize,
    pub(super) context: usize,
}

/// Rotary positions as a configuration asks for them: in all layers, or in those that see everything and in those with a window.
pub(super) struct Ropes {
    pub(super) rope: Rope,
    pub(super) local: Option<Rope>,
    /// Positions that they are right for.
    pub(super) context: usize,
}

/// Fields of rotary settings that are read; any other would change the angles in a way that is not computed.
const READ: [&str; 15] = [
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "short_factor",
    "long_factor",
    "low_freq_factor",
    "high_freq_factor",
];

/// Settings of a file that has none.
static NOTHING: Value = Value::Null;

/// Fields that are read elsewhere or that change nothing.
const ALSO: [&str; 2] = ["partial_rotary_factor", "finetuned"];

impl<'a> Surroundings<'a> {
    /// Reads the rotary settings in either spelling: `rope_theta` and `rope_scaling`, or `rope_parameters` of transformers 5.
    pub(super) fn read(&self) -> Result<Ropes, ModelError> {
        let fields = self.fields;
        let filled = |name: &'static str| match fields.get(name) {
            Value::Null => Ok(None),
            Value::Object(settings) if settings.is_empty() => Ok(None),
            value @ Value::Object(_) => Ok(Some((name, value))),
            value => Err(fields.wrong(name, &format!("is {value}, not an object"))),
        };
        let settings = match (filled("rope_scaling")?, filled("rope_parameters")?) {
            (Some((_, old)), Some((_, new))) if old != new => {
                let reason =
                    "and `rope_parameters` are both given and differ; keep one of them, with `rope_theta` in it";
                return Err(fields.wrong("rope_scaling", reason));
            }
            (old, new) => old.or(new),
        };
        let defaults = self.architecture.defaults();
        let theta = fields.positive("rope_theta")?.unwrap_or(defaults.rope_theta);
        let gemma = *self.architecture == Architecture::Gemma3;
        let local_theta = fields.positive("rope_local_base_freq")?.unwrap_or(10_000.0);
        let by_kind = settings.map(|(_, value)| ["full_attention", "sliding_attention"].map(|kind| value.get(kind)));
        if let (Some([full, sliding]), Some((name, value))) = (by_kind, settings)
            && (full.is_some() || sliding.is_some())
        {
            if !gemma {
                let reason = "has settings for each kind of layer, which this family does not read; give one for all";
                return Err(fields.wrong(name, reason));
            }
            let kinds = ["full_attention", "sliding_attention"];
            let mut others = value.as_object().into_iter().flatten().filter(|(key, _)| !kinds.contains(&key.as_str()));
            if let Some((other, _)) = others.next() {
                return Err(fields.wrong(&format!("{name}.{other}"), "is not known"));
            }
            let one = |value: Option<&'a Value>, kind: &str, theta| match value {
                Some(value @ Value::Object(_)) => self.one(&format!("{name}.{kind}"), value, theta),
                _ => Ok((Rope::plain(theta, self.head_dim), self.context)),
            };
            let (rope, context) = one(full, kinds[0], theta)?;
            let (local, most) = one(sliding, kinds[1], local_theta)?;
            return Ok(Ropes { rope, local: Some(local), context: context.min(most) });
        }
        let (rope, context) = match settings {
            Some((name, value)) => self.one(name, value, theta)?,
            None => self.one("rope_parameters", &NOTHING, theta)?,
        };
        let local = gemma.then(|| Rope::plain(local_theta, self.head_dim));
        Ok(Ropes { rope, local, context })
    }

    /// Reads one set of rotary settings, called `name`, and how many positions they are right for.
    fn one(&self, name: &str, value: &'a Value, theta: f64) -> Result<(Rope, usize), ModelError> {
        let at = Fields { path: self.fields.path, value };
        let within = |error: ModelError| match error {
            ModelError::Broken { file, reason } => {
                ModelError::Broken { file, reason: reason.replacen('`', &format!("`{name}."), 1) }
            }
            other => other,
        };
        let wrong = |field: &str, reason: &str| self.fields.wrong(&format!("{name}.{field}"), reason);
        let unknown = |(key, value): &(&String, &Value)| {
            !value.is_null() && !READ.contains(&key.as_str()) && !ALSO.contains(&key.as_str())
        };
        if let Some((key, value)) = value.as_object().into_iter().flatten().find(unknown) {
            return Err(wrong(key, &format!("is {value}, which is not computed")));
        }
        let (new, old) = (at.text("rope_type").map_err(within)?, at.text("type").map_err(within)?);
        if let (Some(new), Some(old)) = (new, old)
            && new != old
        {
            return Err(wrong("rope_type", &format!("is `{new}`, but `type` is `{old}`; keep one of them")));
        }
        let mut kind = new.or(old).unwrap_or("default");
        if *self.architecture == Architecture::Phi3 && ["su", "yarn"].contains(&kind) {
            // Names that this family had for it before.
            kind = "longrope";
        }
        let theta = at.positive("rope_theta").map_err(within)?.unwrap_or(theta);
        let dims = self.dims(at, name)?;
        let number = |field: &str| at.positive(field).map_err(within);
        let needed =
            |field: &str| number(field)?.ok_or_else(|| wrong(field, &format!("is missing; `{kind}` needs it")));
        let original = || -> Result<f64, ModelError> {
            let beside = self.fields.positive("original_max_position_embeddings")?;
            let phi = (*self.architecture == Architecture::Phi3).then_some(4096.0);
            let inside = number("original_max_position_embeddings")?;
            Ok(beside.or(inside).or(phi).unwrap_or(self.context as f64))
        };
        let mut context = self.context;
        let scaling = match kind {
            "default" | "dynamic" => {
                if kind == "dynamic" {
                    needed("factor")?;
                }
                RopeScaling::None
            }
            "linear" => RopeScaling::Linear(needed("factor")?),
            "llama3" => {
                let (low, high) = (needed("low_freq_factor")?, needed("high_freq_factor")?);
                if low >= high {
                    return Err(wrong("low_freq_factor", &format!("is {low}, not below `high_freq_factor`, {high}")));
                }
                RopeScaling::Llama3 { factor: needed("factor")?, low, high, original_context: original()? }
            }
            "yarn" => {
                let original = original()?;
                let factor = number("factor")?.unwrap_or(self.context as f64 / original);
                let (fast, slow) = (number("beta_fast")?.unwrap_or(32.0), number("beta_slow")?.unwrap_or(1.0));
                let truncate = at.switch("truncate").map_err(within)?.unwrap_or(true);
                let ramp = yarn_ramp([fast, slow], dims, theta, original, truncate);
                let scale = |of: f64| if factor <= 1.0 { 1.0 } else { 0.1 * of * factor.ln() + 1.0 };
                let attention_factor = match [number("attention_factor")?, number("mscale")?, number("mscale_all_dim")?]
                {
                    [Some(given), ..] => given,
                    [None, Some(scaled), Some(all)] => scale(scaled) / scale(all),
                    _ => scale(1.0),
                };
                RopeScaling::Yarn { factor, ramp, attention_factor }
            }
            "longrope" => {
                let original = original()?;
                let factor = number("factor")?.unwrap_or(self.context as f64 / original);
                let usual = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
                let attention_factor = number("attention_factor")?.unwrap_or(usual);
                let list = at.get("short_factor").as_array().map(|list| list.iter().map(Value::as_f64).collect());
                let factors: Option<Vec<f64>> = list.flatten();
                let factors = factors.filter(|list| list.len() == dims / 2 && list.iter().all(|&factor| factor > 0.0));
                let expected = || format!("must be a list of {} numbers above 0", dims / 2);
                let factors = factors.ok_or_else(|| wrong("short_factor", &expected()))?;
                context = context.min(original as usize);
                RopeScaling::Factors { factors, attention_factor }
            }
            other => {
                let reason = format!(
                    "is `{other}`, which is not computed; default, linear, dynamic, llama3, yarn and longrope are"
                );
                return Err(wrong("rope_type", &reason));
            }
        };
        if !matches!(scaling, RopeScaling::None | RopeScaling::Factors { .. })
            && *self.architecture == Architecture::Phi3
        {
            return Err(wrong("rope_type", &format!("is `{kind}`; this family has longrope only")));
        }
        Ok((Rope { theta, scaling, dims }, context))
    }

    /// Elements of a head that turn. Only Phi 3 of the families turns a part of each head; in the others the field either does nothing
    /// or breaks the model, depending on the kind of scaling.
    fn dims(&self, at: Fields<'_>, name: &str) -> Result<usize, ModelError> {
        let inside = at.positive("partial_rotary_factor")?;
        let beside = self.fields.positive("partial_rotary_factor")?;
        let share = inside.or(beside).unwrap_or(1.0);
        let place = match inside {
            Some(_) => format!("{name}.partial_rotary_factor"),
            None => "partial_rotary_factor".into(),
        };
        if share != 1.0 && *self.architecture != Architecture::Phi3 {
            let reason = format!("is {share}, which is not computed for {}", self.architecture);
            return Err(self.fields.wrong(&place, &reason));
        }
        let dims = (self.head_dim as f64 * share) as usize;
        if dims == 0 || !dims.is_multiple_of(2) || dims > self.head_dim {
            let reason = format!("is {share}: {dims} of {} elements of a head cannot turn in pairs", self.head_dim);
            return Err(self.fields.wrong(&place, &reason));
        }
        Ok(dims)
    }
}

/// Where YaRN's ramp begins and ends: the frequencies that turn `fast` and `slow` times within the original context.
fn yarn_ramp([fast, slow]: [f64; 2], dims: usize, theta: f64, original: f64, truncate: bool) -> (f64, f64) {
    let place = |turns: f64| dims as f64 * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
    let (mut start, mut end) = (place(fast), place(slow));
    if truncate {
        (start, end) = (start.floor(), end.ceil());
    }
    (start, end) = (start.max(0.0), end.min(dims as f64 - 1.0));
    // Without a width the ramp would divide by 0.
    (start, if start == end { end + 0.001 } else { end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3_keeps_high_frequencies_and_divides_low_ones() {
        let plain = Rope::plain(500_000.0, 64);
        let scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_context: 8192.0 };
        let (plain, stretched) = (plain.frequencies(), Rope { scaling, ..plain }.frequencies());
        assert_eq!((plain[0], stretched[0]), (1.0, 1.0));
        assert!((stretched[31] * 8.0 / plain[31] - 1.0).abs() < 1e-6);
        let blended = |i: &usize| stretched[*i] != plain[*i] && stretched[*i] * 8.0 > plain[*i] * 1.01;
        let between = (0..32).find(blended).expect("some are blended");
        let turns = 8192.0 * f64::from(plain[between]) / TAU;
        let keep = (turns - 1.0) / 3.0;
        let expected = f64::from(plain[between]) * (keep + (1.0 - keep) / 8.0);
        assert!((f64::from(stretched[between]) / expected - 1.0).abs() < 1e-5);
    }

    #[test]
    fn yarn_has_a_ramp_of_some_width() {
        let (start, end) = yarn_ramp([32.0, 1.0], 128, 1e6, 32_768.0, true);
        assert_eq!((start, end), (23.0, 40.0));
        let (start, end) = yarn_ramp([1.0, 1.0], 4, 1e4, 8.0, false);
        assert!(end > start);
    }
}
