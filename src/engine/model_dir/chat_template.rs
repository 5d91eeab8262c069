//! The model's own chat template, as `transformers` would run it.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error, ErrorKind, UndefinedBehavior, context};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::chat::{Chat, Ending, Message, RESERVED, Role, TemplateKwargs};
use crate::engine::EngineError;
use crate::engine::tools::{as_plain_turns, as_template_turns};
use crate::jinja::Jinja;
use crate::weights::{ModelConfig, ModelError, files, read_json};

const FILE: &str = "chat_template.jinja";
const NAME: &str = "chat";
/// Marks the end of a content that is continued. No conversation holds it: it has a character for private use.
const CONTINUED: &str = "\u{F8FF}continued here\u{F8FF}";

pub(super) struct ChatTemplate {
    jinja: Jinja,
    /// The template as the file has it.
    source: String,
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
        let (file, source) = if file.is_file() {
            let source = files::read_text(&file, files::SMALL);
            let source = source.map_err(|e| ModelError::Broken { file: file.clone(), reason: e.to_string() })?;
            (file, Some(source))
        } else {
            (config_file, default_template(&settings["chat_template"]))
        };
        Self::compile(file, source, &settings, config, tokenizer)
    }

    /// Compiles a template, if `file` holds one. `settings` are those of `tokenizer_config.json`; their
    /// end-of-sequence token is returned.
    pub(super) fn compile(
        file: PathBuf,
        source: Option<String>,
        settings: &Value,
        config: &ModelConfig,
        tokenizer: &Tokenizer,
    ) -> Result<(Option<Self>, Option<u32>), ModelError> {
        let named = |key: &str, id: Option<u32>| {
            let name = settings[key].as_str().or(settings[key]["content"].as_str()).map(Into::into);
            name.or_else(|| tokenizer.id_to_token(id?)).unwrap_or_default()
        };
        let bos = named("bos_token", config.bos);
        let eos = named("eos_token", config.eos.first().copied());
        let eos_id = tokenizer.token_to_id(&eos);
        let Some(source) = source else { return Ok((None, eos_id)) };
        let mut jinja = Jinja::new(UndefinedBehavior::Lenient);
        let environment = jinja.environment();
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| strftime(&format, now()));
        jinja.add(NAME, &source).map_err(|e| ModelError::Broken { file, reason: e.to_string() })?;
        Ok((Some(Self { jinja, source, bos, eos }), eos_id))
    }

    /// Whether the template's source holds `text`.
    pub(super) fn mentions(&self, text: &str) -> bool {
        self.source.contains(text)
    }

    /// The template as the file has it.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Renders the prompt of a chat. The chat's options are variables of the template and override `defaults`; variables that every
    /// template has override both.
    pub(super) fn render(&self, chat: &Chat, defaults: &TemplateKwargs) -> Result<String, EngineError> {
        if chat.options.ending != Ending::WithinLast {
            return self.whole(chat, defaults);
        }
        // A mark at the end of the last content says where the template has put that end.
        let mut marked = chat.clone();
        let content = marked.messages.last_mut().map(|last| &mut last.content);
        let content = content.ok_or_else(|| EngineError::Prompt("there is no message to continue".into()))?;
        content.push_str(CONTINUED);
        let mut prompt = self.whole(&marked, defaults)?;
        let end = prompt.rfind(CONTINUED).ok_or_else(|| {
            EngineError::Prompt("the model's chat template does not show the message that is to be continued".into())
        })?;
        prompt.truncate(end);
        Ok(prompt)
    }

    fn whole(&self, chat: &Chat, defaults: &TemplateKwargs) -> Result<String, EngineError> {
        let mut values = chat.options.variables(defaults);
        RESERVED.iter().for_each(|name| drop(values.remove(*name)));
        let speaks = chat.options.ending == Ending::BeforeReply;
        values.insert("add_generation_prompt".into(), speaks.into());
        values.insert("bos_token".into(), self.bos.as_str().into());
        values.insert("eos_token".into(), self.eos.as_str().into());
        let tools = &chat.options.tools;
        let turns = if self.mentions("tools") || !uses_tools(chat) {
            if !tools.is_empty() {
                values.insert("tools".into(), tools.as_slice().into());
            }
            as_template_turns(&chat.messages)
        } else {
            as_template_turns(&as_plain_turns(&chat.messages, tools))
        };
        let messages = minijinja::Value::from_serialize(&turns);
        let values = context! { messages, ..minijinja::Value::from_serialize(&values) };
        let rendered = self.jinja.render(NAME, values);
        rendered.map_err(|e| EngineError::Prompt(format!("the model's chat template refuses this chat: {e}")))
    }
}

/// Whether functions are offered, called or have answered.
fn uses_tools(chat: &Chat) -> bool {
    let uses = |turn: &Message| turn.role == Role::Tool || !turn.tool_calls.is_empty();
    !chat.options.tools.is_empty() || chat.messages.iter().any(uses)
}

/// A template, or the one named `default` of a list.
fn default_template(value: &Value) -> Option<String> {
    let default = |list: &Vec<Value>| list.iter().find(|t| t["name"] == "default").map(|t| t["template"].clone());
    match value {
        Value::Array(list) => default(list)?.as_str().map(Into::into),
        single => single.as_str().map(Into::into),
    }
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
