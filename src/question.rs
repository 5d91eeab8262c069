//! What is given to a model, and which short answers to it are compared.

use crate::chat::{Chat, Ending, Message};

/// What is given to the model: turns that the chat template renders, or raw text.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Rendered by the model's chat template, ending where the assistant begins to speak.
    Chat(Chat),
    /// Taken as it is, special tokens included.
    Text(String),
    /// The ids of its tokens, taken as they are.
    Tokens(Vec<u32>),
}

impl Input {
    /// A chat whose template is given nothing but the messages.
    pub fn chat(messages: Vec<Message>) -> Self {
        Self::Chat(messages.into())
    }

    /// A chat whose reply should begin with its answer, not with reasoning.
    pub fn chat_without_thinking(messages: Vec<Message>) -> Self {
        Self::Chat(Chat::without_thinking(messages))
    }

    /// About how many bytes there are to be tokenized.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Chat(chat) => chat.messages.iter().map(Message::bytes).sum(),
            Self::Text(text) => text.len(),
            Self::Tokens(ids) => size_of_val(ids.as_slice()),
        }
    }

    /// Whether the reply continues it as one text, rather than answering it.
    pub fn is_continued(&self) -> bool {
        match self {
            Self::Chat(chat) => chat.options.ending == Ending::WithinLast,
            Self::Text(_) | Self::Tokens(_) => true,
        }
    }
}

/// A prompt, and what the assistant has already said of its reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The prompt; a chat is rendered up to the point where the assistant begins to speak.
    pub input: Input,
    /// The beginning of the reply, after which the label would come; may be empty.
    pub reply: String,
}

/// An answer in all spellings that count as it, such as `Yes`, ` Yes` and `yes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// What has probabilities that are added; two that become the same tokens count once.
    pub spellings: Vec<Spelling>,
}

/// One way to give an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// A spelling as text.
    Text(String),
    /// One token, which follows the question's last token as it is.
    Token(u32),
}

impl From<String> for Spelling {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Spelling {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}
