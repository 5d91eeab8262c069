//! The model's own chat template, as `transformers` would run it.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Environment, Error, ErrorKind, context};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::chat::{Chat, RESERVED, TemplateKwargs};
use crate::engine::EngineError;
use crate::weights::{ModelConfig, ModelError, read_json};

const FILE: &str = "chat_template.jinja";
const NAME: &str = "chat";

pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles `chat_template.jinja`, or `chat_template` of `tokenizer_config.json`; base models have neither. Also returns the
    /// end-of-sequence token that `tokenizer_config.json` names.
    pub(super) fn open(
        dir: &Path,
        config: &ModelConfig,
        tokenizer: &Tokenizer,
    ) -> Result<(Option<Self>, Option<u32>), ModelError> {
        let config_file = dir.join("tokenizer_config.json");
        let settings = if config_file.is_file() { read_json(&config_file)? } else { Value::Null };
        let file = dir.join(FILE);
        let named = |key: &str, id: Option<u32>| {
            let name = settings[key].as_str().or(settings[key]["content"].as_str()).map(Into::into);
            name.or_else(|| tokenizer.id_to_token(id?)).unwrap_or_default()
        };
        let bos = named("bos_token", config.bos);
        let eos = named("eos_token", config.eos.first().copied());
        let eos_id = tokenizer.token_to_id(&eos);
        let (file, source) = if file.is_file() {
            let source = std::fs::read_to_string(&file);
            let source = source.map_err(|e| ModelError::Broken { file: file.clone(), reason: e.to_string() })?;
            (file, source)
        } else if let Some(source) = default_template(&settings["chat_template"]) {
            (config_file, source)
        } else {
            return Ok((None, eos_id));
        };
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| strftime(&format, now()));
        environment.add_template_owned(NAME, source).map_err(|e| ModelError::Broken { file, reason: describe(&e) })?;
        Ok((Some(Self { environment, bos, eos }), eos_id))
    }

    /// Whether the template's source holds `text`.
    pub(super) fn mentions(&self, text: &str) -> bool {
        self.environment.get_template(NAME).is_ok_and(|template| template.source().contains(text))
    }

    /// The prompt of a chat. Its options, and `defaults` below them, are variables; those of every template come last.
    pub(super) fn render(&self, chat: &Chat, defaults: &TemplateKwargs) -> Result<String, EngineError> {
        let mut values = chat.options.variables(defaults);
        RESERVED.iter().for_each(|name| drop(values.remove(*name)));
        values.insert("add_generation_prompt".into(), true.into());
        values.insert("bos_token".into(), self.bos.as_str().into());
        values.insert("eos_token".into(), self.eos.as_str().into());
        let messages = minijinja::Value::from_serialize(&chat.messages);
        let values = context! { messages, ..minijinja::Value::from_serialize(&values) };
        let rendered = self.environment.get_template(NAME).and_then(|template| template.render(values));
        rendered
            .map_err(|e| EngineError::Invalid(format!("the model's chat template refuses this chat: {}", describe(&e))))
    }
}

/// A template, or the one named `default` of a list.
fn default_template(value: &Value) -> Option<String> {
    let default = |list: &Vec<Value>| list.iter().find(|t| t["name"] == "default").map(|t| t["template"].clone());
    match value {
        Value::Array(list) => default(list)?.as_str().map(Into::into),
        single => single.as_str().map(Into::into),
    }
}

/// One line.
fn describe(error: &Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), Into::into);
    error.line().map_or_else(|| detail.clone(), |line| format!("{detail} (line {line})")).replace('\n', " ")
}

/// Seconds since 1970, UTC.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// The letters of C's `strftime` that chat templates use, in UTC; another letter stays as it is.
fn strftime(format: &str, seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let weekday = DAYS[(days % 7) as usize];
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '%' { chars.next() } else { None }) {
            ('%', Some('Y')) => out += &year.to_string(),
            ('%', Some('m')) => out += &format!("{:02}", month + 1),
            ('%', Some('d')) => out += &format!("{:02}", day + 1),
            ('%', Some('H')) => out += &format!("{:02}", second / 3600),
            ('%', Some('M')) => out += &format!("{:02}", second / 60 % 60),
            ('%', Some('S')) => out += &format!("{:02}", second % 60),
            ('%', Some('B')) => out += MONTHS[month],
            ('%', Some('b')) => out += &MONTHS[month][..3],
            ('%', Some('A')) => out += weekday,
            ('%', Some('a')) => out += &weekday[..3],
            ('%', Some('%')) => out.push('%'),
            (c, letter) => out.extend([Some(c), letter].into_iter().flatten()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_are_utc_dates() {
        let table = [
            (0, "%Y-%m-%d %H:%M:%S %a", "1970-01-01 00:00:00 Thu"),
            (951_827_696, "%d %B %Y, %A", "29 February 2000, Tuesday"),
            (1_767_225_599, "%d %b %Y %H:%M:%S", "31 Dec 2025 23:59:59"),
            (1_767_225_600, "%%%Y%q%", "%2026%q%"),
        ];
        for (seconds, format, expected) in table {
            assert_eq!(strftime(format, seconds), expected);
        }
    }
}
