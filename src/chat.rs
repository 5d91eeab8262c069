//! The words of a chat that every part shares.

use std::ops::Deref;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Who speaks. OpenAI's `developer` is read as `system`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Standing instructions.
    #[serde(alias = "developer")]
    System,
    /// The person who asks.
    User,
    /// The model.
    Assistant,
}

/// One turn of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, as plain text.
    pub content: String,
    /// What the assistant thought before it said that; templates know it by this name.
    #[serde(default, rename = "reasoning_content", skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
}

impl Message {
    /// A turn without reasoning.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), reasoning: None }
    }

    /// Bytes of what is said and thought.
    pub fn bytes(&self) -> usize {
        self.content.len() + self.reasoning.as_ref().map_or(0, String::len)
    }

    /// A user turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }

    /// An assistant turn.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(Role::Assistant, content)
    }
}

/// A conversation and what its chat template is given beside it. It can be used wherever its messages can.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// The turns, oldest first.
    pub messages: Vec<Message>,
    /// What the template is given beside them.
    pub options: TemplateOptions,
}

impl Chat {
    /// A conversation whose reply should begin with its answer, not with reasoning.
    pub fn without_thinking(messages: Vec<Message>) -> Self {
        Self { messages, options: TemplateOptions { thinking: Thinking::Off, ..TemplateOptions::default() } }
    }
}

impl From<Vec<Message>> for Chat {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages, options: TemplateOptions::default() }
    }
}

impl Deref for Chat {
    type Target = [Message];

    fn deref(&self) -> &[Message] {
        &self.messages
    }
}

/// Variables of a chat template by their names, as in vLLM's `chat_template_kwargs`.
pub type TemplateKwargs = Map<String, Value>;

/// The variables that every template has. Nothing that a caller gives replaces them.
pub const RESERVED: [&str; 5] = ["messages", "add_generation_prompt", "bos_token", "eos_token", "tools"];

/// The variables by which the known templates switch reasoning on and off.
const SWITCHES: [&str; 2] = ["enable_thinking", "thinking"];

/// What a chat template is given beside the messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TemplateOptions {
    /// Variables by their names.
    pub kwargs: TemplateKwargs,
    /// How much reasoning is asked for.
    pub effort: Option<Effort>,
    /// Whether a reply may begin with reasoning.
    pub thinking: Thinking,
}

/// Whether a reply may begin with reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Thinking {
    /// The template and its variables decide.
    #[default]
    AsTemplate,
    /// No. The template's switches are off, and reasoning that the prompt itself begins is closed.
    Off,
}

/// How much reasoning is asked for, in OpenAI's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// No reasoning.
    None,
    /// The model reasons as little as possible.
    Minimal,
    /// Little.
    Low,
    /// The usual amount.
    Medium,
    /// Much.
    High,
}

impl Effort {
    /// Every effort, in ascending order.
    pub const ALL: [Self; 5] = [Self::None, Self::Minimal, Self::Low, Self::Medium, Self::High];

    /// The word on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

impl TemplateOptions {
    /// What a request asks for. An effort of `none` is a wish for no reasoning unless the variables say otherwise.
    pub fn new(kwargs: TemplateKwargs, effort: Option<Effort>) -> Self {
        let mut options = Self { kwargs, effort, thinking: Thinking::AsTemplate };
        if effort == Some(Effort::None) && !options.asks_to_think() {
            options.thinking = Thinking::Off;
        }
        options
    }

    /// Whether reasoning is asked for expressly.
    pub fn asks_to_think(&self) -> bool {
        let switch = SWITCHES.iter().find_map(|name| self.kwargs.get(*name)?.as_bool());
        switch.unwrap_or(self.effort.is_some_and(|effort| effort != Effort::None))
    }

    /// The same options where reasoning costs more than it usually gains: it is off unless it is asked for expressly.
    #[must_use]
    pub fn thinking_only_if_asked(mut self) -> Self {
        if !self.asks_to_think() {
            self.thinking = Thinking::Off;
        }
        self
    }

    /// All variables that a template is given: `defaults`, over these what the effort implies, over these the variables that
    /// were asked for. [`Thinking::Off`] has the last word.
    pub fn variables(&self, defaults: &TemplateKwargs) -> TemplateKwargs {
        let mut variables = defaults.clone();
        let switch = |variables: &mut TemplateKwargs, on: bool| {
            variables.extend(SWITCHES.map(|name| (name.to_owned(), Value::Bool(on))));
        };
        if let Some(effort) = self.effort {
            variables.insert("reasoning_effort".into(), effort.name().into());
            switch(&mut variables, effort != Effort::None);
        }
        variables.extend(self.kwargs.clone());
        if self.thinking == Thinking::Off {
            switch(&mut variables, false);
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kwargs(value: Value) -> TemplateKwargs {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn what_is_asked_for_overrides_defaults_and_off_overrides_all() {
        let on_by_default = json!({"enable_thinking": true, "date": "today"});
        let table = [
            (json!({}), None, json!({"enable_thinking": true, "date": "today"}), false),
            (json!({"enable_thinking": false}), None, json!({"enable_thinking": false, "date": "today"}), false),
            (
                json!({}),
                Some(Effort::None),
                json!({"enable_thinking": false, "date": "today", "reasoning_effort": "none", "thinking": false}),
                false,
            ),
            (
                json!({"date": "1 May"}),
                Some(Effort::Low),
                json!({"enable_thinking": true, "date": "1 May", "reasoning_effort": "low", "thinking": true}),
                true,
            ),
            (
                json!({"enable_thinking": true}),
                Some(Effort::None),
                json!({"enable_thinking": true, "date": "today", "reasoning_effort": "none", "thinking": false}),
                true,
            ),
            (
                json!({"thinking": true}),
                None,
                json!({"enable_thinking": true, "date": "today", "thinking": true}),
                true,
            ),
        ];
        for (asked, effort, expected, asks) in table {
            let options = TemplateOptions::new(kwargs(asked.clone()), effort);
            assert_eq!(options.variables(&kwargs(on_by_default.clone())), kwargs(expected), "{asked} {effort:?}");
            assert_eq!(options.asks_to_think(), asks, "{asked} {effort:?}");
            let quiet = options.thinking_only_if_asked();
            assert_eq!(quiet.thinking == Thinking::Off, !asks, "{asked} {effort:?}");
            assert_eq!(quiet.variables(&TemplateKwargs::new()).get("enable_thinking") == Some(&json!(false)), !asks);
        }
    }

    #[test]
    fn reasoning_of_a_message_has_the_name_that_templates_read() {
        let mut message = Message::assistant("4");
        assert_eq!(serde_json::to_value(&message).unwrap(), json!({"role": "assistant", "content": "4"}));
        message.reasoning = Some("2 + 2".into());
        let written = json!({"role": "assistant", "content": "4", "reasoning_content": "2 + 2"});
        assert_eq!(serde_json::to_value(&message).unwrap(), written);
        assert_eq!(serde_json::from_value::<Message>(written).unwrap(), message);
    }
}
