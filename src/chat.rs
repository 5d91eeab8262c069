//! The words of a chat that every part shares.

use std::ops::Deref;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Who speaks. OpenAI's `developer` is read as `system`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Standing instructions for the whole conversation.
    #[serde(alias = "developer")]
    System,
    /// The person who asks.
    User,
    /// The model that answers.
    Assistant,
    /// A function that the model called: its result.
    Tool,
}

/// One turn of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// The role that speaks.
    pub role: Role,
    /// What is said, as plain text.
    pub content: String,
    /// What the assistant thought before it said that; templates know it by this name.
    #[serde(default, rename = "reasoning_content", skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The functions that an assistant's turn calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call whose result a function's turn is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The name of the function whose result it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A call of a function, as OpenAI's wire has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ToolCall {
    /// Names the call; its result refers to it.
    pub id: String,
    /// The call's kind, always `function`.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// What is called.
    pub function: CalledFunction,
}

/// The function of a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CalledFunction {
    /// The function's name.
    pub name: String,
    /// Its arguments as JSON text.
    pub arguments: String,
}

impl ToolCall {
    /// The call `id` of `function`.
    pub fn new(id: String, function: CalledFunction) -> Self {
        Self { id, kind: "function".into(), function }
    }
}

fn function() -> String {
    "function".into()
}

impl Message {
    /// A turn without reasoning.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        let content = content.into();
        Self { role, content, reasoning: None, tool_calls: Vec::new(), tool_call_id: None, name: None }
    }

    /// What is said and called as one text, each call between the marks of Hermes: for readers that know no calls.
    pub fn content_with_calls(&self) -> String {
        let mut text = self.content.clone();
        for ToolCall { function, .. } in &self.tool_calls {
            let name = Value::from(function.name.as_str());
            let before = if text.is_empty() { "" } else { "\n" };
            let arguments = match function.arguments.trim() {
                "" => "{}",
                arguments => arguments,
            };
            let call = format!("{{\"name\": {name}, \"arguments\": {arguments}}}");
            text.push_str(&format!("{before}<tool_call>\n{call}\n</tool_call>"));
        }
        text
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

/// A conversation and the variables of its chat template. It can be used wherever its messages can.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// The turns, oldest first.
    pub messages: Vec<Message>,
    /// Variables of the template.
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

/// Variables of a chat template, next to its messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TemplateOptions {
    /// Variables by their names.
    pub kwargs: TemplateKwargs,
    /// How much reasoning is asked for.
    pub effort: Option<Effort>,
    /// Whether a reply may begin with reasoning.
    pub thinking: Thinking,
    /// The functions that the model may call, as OpenAI's wire has them.
    pub tools: Vec<Value>,
    /// OpenAI's fields on how they may be used, `tool_choice` and `parallel_tool_calls`, for an upstream: templates have none.
    pub tool_fields: Map<String, Value>,
    /// The place where the prompt ends.
    pub ending: Ending,
}

/// The place where the prompt of a chat ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// The prompt ends where the assistant begins to speak.
    #[default]
    BeforeReply,
    /// The position after the last turn.
    AfterLast,
    /// Within the last turn, after its content: the reply continues it.
    WithinLast,
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
    /// The model does not reason.
    None,
    /// The model reasons as little as possible.
    Minimal,
    /// A little reasoning.
    Low,
    /// The usual amount.
    Medium,
    /// A lot of reasoning.
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
        let mut options = Self { kwargs, effort, ..Self::default() };
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

    /// Turns reasoning off unless it is asked for expressly, for calls where it costs more than it usually gains.
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
