//! How families of models write a call.

use std::str::FromStr;

/// How a model writes a call of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `<tool_call>` and `</tool_call>` around a JSON object with `name` and `arguments`: Hermes, Qwen 2.5 and 3, SmolLM 3 and
    /// others; SmolLM 2 writes a list of such objects between the marks.
    #[default]
    Hermes,
    /// A JSON object with `name` and `parameters` alone, or after `<|python_tag|>`: Llama 3.
    Llama,
    /// `[TOOL_CALLS]` and a list of JSON objects: Mistral up to tokenizer version 7.
    Mistral,
    /// `[TOOL_CALLS]`, the name, `[ARGS]` and the arguments: Mistral from tokenizer version 11 on.
    MistralArguments,
    /// `<tool_call>` with `<function=NAME>` and `<parameter=NAME>` inside: Qwen 3 Coder.
    QwenCoder,
    /// `<|tool_call|>` and a list of JSON objects: Granite 3, Phi 4 mini.
    Granite,
    /// `<TOOLCALL>` and `</TOOLCALL>` around a list of JSON objects: Nemotron.
    Nemotron,
}

/// What stands around the calls of a format.
pub(super) struct Marks {
    /// Begins calls; the first is the one that grammars write.
    pub open: &'static [&'static str],
    /// Ends them, where anything does; the first is the one that grammars write.
    pub close: &'static [&'static str],
    /// The key of a call's arguments.
    pub arguments: &'static str,
}

impl Format {
    /// Every format by the name that a flag has for it.
    pub const NAMES: [(&'static str, Self); 7] = [
        ("hermes", Self::Hermes),
        ("llama", Self::Llama),
        ("mistral", Self::Mistral),
        ("mistral-args", Self::MistralArguments),
        ("qwen-coder", Self::QwenCoder),
        ("granite", Self::Granite),
        ("nemotron", Self::Nemotron),
    ];

    /// The format that a chat template or a tokenizer implies by the marks in it; Hermes' format if there are none.
    pub fn find(mentioned: impl Fn(&str) -> bool) -> Self {
        let table = [
            ("[ARGS]", Self::MistralArguments),
            ("[TOOL_CALLS]", Self::Mistral),
            ("<|python_tag|>", Self::Llama),
            ("<function=", Self::QwenCoder),
            ("<tool_call>", Self::Hermes),
            ("<|tool_call|>", Self::Granite),
            ("<TOOLCALL>", Self::Nemotron),
        ];
        table.into_iter().find(|(mark, _)| mentioned(mark)).map_or(Self::Hermes, |(_, format)| format)
    }

    pub(super) fn marks(self) -> Marks {
        let (open, close, arguments): (&[&str], &[&str], &str) = match self {
            Self::Hermes | Self::QwenCoder => (&["<tool_call>"], &["</tool_call>"], "arguments"),
            Self::Llama => (&["<|python_tag|>"], &["<|eom_id|>", "<|eot_id|>"], "parameters"),
            Self::Mistral | Self::MistralArguments => (&["[TOOL_CALLS]"], &["</s>"], "arguments"),
            Self::Granite => (&["<|tool_call|>", "<tool_call>"], &["<|/tool_call|>", "</tool_call>"], "arguments"),
            Self::Nemotron => (&["<TOOLCALL>"], &["</TOOLCALL>"], "arguments"),
        };
        Marks { open, close, arguments }
    }

    /// Whether a reply that begins with JSON is a call without any mark.
    pub(super) fn is_bare(self) -> bool {
        self == Self::Llama
    }

    /// Whether a token of this name is a mark of some format. Tokenizers may call it special, but it must not be missing in
    /// the text.
    pub fn is_mark(token: &str) -> bool {
        let more = ["[ARGS]", "[CALL_ID]"];
        more.contains(&token)
            || Self::NAMES.iter().any(|(_, format)| {
                let marks = format.marks();
                // The ends of Llama's and Mistral's calls are ends of the reply.
                let close = if matches!(format, Self::Llama | Self::Mistral | Self::MistralArguments) {
                    &[]
                } else {
                    marks.close
                };
                marks.open.contains(&token) || close.contains(&token)
            })
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = Self::NAMES.map(|(name, _)| name).join(", ");
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, format)| *format).ok_or_else(|| format!("expected one of {names}, got {name:?}"))
    }
}
