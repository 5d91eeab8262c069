//! Templates that come with models: compiled in the dialect of `transformers`, and rendered within limits. A model's directory
//! may come from strangers, so a template must not be able to take the server's time or memory.

mod json;
mod meter;
mod source;
mod tokens;

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};

use self::meter::Budget;

/// Bytes of a template's source at most. Published chat templates have up to about 30 KB.
const SOURCE: usize = 512 << 10;
/// Instructions of the template engine in one render at most: a fraction of a second, and enough for twenty thousand turns.
const STEPS: u64 = 4 << 20;
/// Bytes that a render may write, and multiples of the bytes of what is rendered.
const OUTPUT: (u64, u64) = (4 << 20, 8);
/// Bytes that a render may read, compare and copy, and multiples of the bytes of what is rendered.
const WORK: (u64, u64) = (64 << 20, 64);

/// Templates by name, each of which can only take bounded time and memory.
#[derive(Clone, Debug)]
pub(crate) struct Jinja {
    environment: Environment<'static>,
}

/// Why a template cannot be used or rendered, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct JinjaError(String);

impl Jinja {
    /// No templates yet. Blocks on lines of their own leave no trace, as in `transformers`.
    pub(crate) fn new(undefined: UndefinedBehavior) -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(undefined);
        environment.set_keep_trailing_newline(false);
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(STEPS));
        // It prints whole contexts, which is of no use here.
        environment.remove_global("debug");
        environment.add_filter("tojson", json::to_json);
        meter::add_to(&mut environment);
        Self { environment }
    }

    /// Functions and filters beyond those of every template.
    pub(crate) fn environment(&mut self) -> &mut Environment<'static> {
        &mut self.environment
    }

    /// Compiles a template.
    ///
    /// # Errors
    /// It is too long, or no template.
    pub(crate) fn add(&mut self, name: &'static str, source: &str) -> Result<(), JinjaError> {
        if source.len() > SOURCE {
            let bytes = source.len();
            return Err(JinjaError(format!("the template has {bytes} bytes, more than the {SOURCE} that are allowed")));
        }
        let source = source::prepared(source);
        self.environment.add_template_owned(name, source).map_err(|error| describe(&error))
    }

    /// Whether there is a template of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.environment.get_template(name).is_ok()
    }

    /// What a template makes of `values`.
    ///
    /// # Errors
    /// What it raises, or that it takes too long or makes too much.
    pub(crate) fn render(&self, name: &str, values: Value) -> Result<String, JinjaError> {
        let input = meter::size(&values);
        let allowed = |(base, per_byte): (u64, u64)| input.saturating_mul(per_byte).saturating_add(base);
        let mut out = Bounded { text: String::new(), limit: allowed(OUTPUT) as usize, full: false };
        let budget = Budget::begin(allowed(WORK));
        let rendered = self
            .environment
            .get_template(name)
            .and_then(|template| template.render_captured_to(values, WriteText(&mut out)).map(drop));
        drop(budget);
        match rendered {
            _ if out.full => Err(JinjaError(format!("it writes more than {} bytes", out.limit))),
            Ok(()) => Ok(out.text),
            Err(error) => Err(describe(&error)),
        }
    }
}

/// The cause, on one line.
fn describe(error: &Error) -> JinjaError {
    let detail = match error.kind() {
        ErrorKind::OutOfFuel => format!("it takes more than {STEPS} steps"),
        kind => error.detail().map_or_else(|| kind.to_string(), Into::into),
    };
    let place = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
    JinjaError((detail + &place).replace('\n', " "))
}

/// A text that stops growing at its limit.
struct Bounded {
    text: String,
    limit: usize,
    full: bool,
}

/// The template engine writes bytes, which are whole pieces of text.
struct WriteText<'a>(&'a mut Bounded);

impl std::io::Write for WriteText<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = std::str::from_utf8(bytes).map_err(std::io::Error::other)?;
        if self.0.text.len() + text.len() > self.0.limit {
            self.0.full = true;
            return Err(std::io::Error::other("the output is too long"));
        }
        self.0.text.push_str(text);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
