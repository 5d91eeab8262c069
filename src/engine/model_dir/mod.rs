//! A local model, a directory in Hugging Face layout or a GGUF file, opened and checked before any engine sees it.

mod chat_template;
mod files;
mod growth;
mod identity;
mod longest;
mod question;
mod sampling;
mod vocabulary;

use std::path::PathBuf;
use std::sync::Arc;

use tokenizers::Tokenizer;

use self::chat_template::ChatTemplate;
use self::files::Files;
pub use self::identity::Identity;
pub(crate) use self::question::check_vocabulary;
use self::vocabulary::Vocabulary;
use super::pieces::Pieces;
use super::reasoning::{Form, Splitter};
use super::tools::format::Format;
use super::{EngineError, Input, Request, Sampling};
use crate::chat::{Chat, TemplateKwargs, Thinking};
use crate::prompts::Templates;
pub use crate::weights::ModelError;
use crate::weights::{ModelConfig, Weights, gguf};

/// Tokens at the end of a prompt that hold a mark and the white space after it, in any tokenizer.
const MARK_TOKENS: usize = 48;

/// Tokens at most that a tokenizer may have beyond the rows of the embedding.
const MOST_ADDED: usize = 256;

/// An opened model: everything but the computation.
pub struct ModelDir {
    /// The path of the model.
    pub path: PathBuf,
    /// `config.json` and `generation_config.json`.
    pub config: ModelConfig,
    /// The tokenizer of `tokenizer.json`.
    pub tokenizer: Arc<Tokenizer>,
    /// The bytes of every token.
    pub pieces: Arc<Pieces>,
    /// The texts for judging and refining: the directory's `spar.json`, or the general templates.
    pub templates: Arc<Templates>,
    /// The tensors, checked against the configuration where the family is known.
    pub weights: Arc<Weights>,
    /// How its replies mark reasoning: what its chat template mentions or its tokenizer has marks for. `None`: they have none,
    /// and a mark in a reply is text.
    pub reasoning: Option<Form>,
    /// How it writes calls of functions, by what its chat template or its tokenizer mentions.
    pub tool_format: Format,
    /// Variables of the chat template where a chat does not set them; none after opening.
    pub template_kwargs: TemplateKwargs,
    /// How tokens are drawn where a request does not say; plainly after opening.
    pub sampling: Sampling,
    /// Base models have none.
    chat_template: Option<ChatTemplate>,
    vocabulary: Arc<Vocabulary>,
}

impl ModelDir {
    /// Opens a directory or a GGUF file and checks all of it. Nothing is ever fetched.
    ///
    /// # Errors
    /// One line that names the file and what to do.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ModelError> {
        let path = path.into();
        let files = Files::open(&path)?;
        let mut opened = Self::of(path, &files)?;
        let weights = files.weights()?;
        weights.check(&opened.config)?;
        opened.weights = Arc::new(weights);
        Ok(opened)
    }

    /// Opens a directory or a GGUF file apart from its tensors, which may be on another machine. Texts can be tokenized with it, and nothing
    /// can be computed.
    ///
    /// # Errors
    /// One line that names the file and what to do.
    pub fn without_weights(path: impl Into<PathBuf>) -> Result<Self, ModelError> {
        let path = path.into();
        let files = Files::open(&path)?;
        Self::of(path, &files)
    }

    fn of(path: PathBuf, files: &Files) -> Result<Self, ModelError> {
        let mut config = files.config()?;
        let vocabulary = files.vocabulary()?;
        let (tokenizer, pieces) = (Arc::clone(&vocabulary.tokenizer), Arc::clone(&vocabulary.pieces));
        let broken = |file: &str, reason| ModelError::Broken { file: files.file(file), reason };
        let (tokens, rows) = (pieces.len(), config.vocabulary);
        // A few tokens may have been added for training, such as one that pads; a prompt that holds one is refused.
        if tokens > rows + MOST_ADDED {
            let reason = format!("it has {tokens} tokens, config.json's vocab_size is {rows}: they are of two models");
            return Err(broken("tokenizer.json", reason));
        }
        if tokens > rows {
            tracing::warn!(model = %path.display(), tokens, rows, "the tokenizer has tokens that the model does not know");
        }
        let (chat_template, eos) = files.chat_template(&config, &tokenizer)?;
        if let Some(eos) = eos.filter(|eos| !config.eos.contains(eos)) {
            config.eos.push(eos);
        }
        if config.eos.is_empty() {
            return Err(broken("config.json", "`eos_token_id` is missing, so no reply would end; add it".into()));
        }
        let templates = files.templates()?;
        let in_template = |mark: &str| chat_template.as_ref().is_some_and(|template| template.mentions(mark));
        let reasoning = Form::find(in_template).or_else(|| Form::find(|mark| tokenizer.token_to_id(mark).is_some()));
        let mentioned = |mark: &str| in_template(mark) || tokenizer.token_to_id(mark).is_some();
        let tool_format = Format::find(mentioned);
        Ok(Self {
            path,
            config,
            tokenizer,
            pieces,
            templates: Arc::new(templates),
            weights: Arc::new(Weights::none()),
            reasoning,
            tool_format,
            template_kwargs: TemplateKwargs::new(),
            sampling: Sampling::default(),
            chat_template,
            vocabulary,
        })
    }

    /// The name that clients use where no other is given.
    pub fn name(&self) -> String {
        gguf::served_name(&self.path).unwrap_or_else(|| "model".into())
    }

    /// Whether the model has a chat template: base models have none, and answer no chats.
    pub fn chats(&self) -> bool {
        self.chat_template.is_some()
    }

    /// The text that the model is given for a chat, ending where the assistant begins to speak.
    ///
    /// # Errors
    /// [`EngineError::Prompt`] with the template's reason, or because there is no template.
    pub fn render(&self, chat: &Chat) -> Result<String, EngineError> {
        let Some(template) = &self.chat_template else { return Err(EngineError::Prompt(NO_TEMPLATE.into())) };
        let prompt = template.render(chat, &self.template_kwargs)?;
        Ok(match self.reasoning {
            Some(form) if chat.options.thinking == Thinking::Off => form.close(prompt),
            _ => prompt,
        })
    }

    /// What splits the replies to `request`, whose prompt has the tokens `prompt`. Continued texts have no reasoning, nor have
    /// replies that a grammar constrains.
    pub fn splitter(&self, request: &Request, prompt: &[u32]) -> Option<Splitter> {
        let chats = matches!(request.input, Input::Chat(_)) && !request.leaves_no_room_for_reasoning();
        let form = self.reasoning.filter(|_| chats)?;
        let end = prompt[prompt.len().saturating_sub(MARK_TOKENS)..].iter();
        let end: Vec<u8> = end.flat_map(|&id| self.pieces.bytes(id)).copied().collect();
        Some(form.after(&String::from_utf8_lossy(&end)))
    }

    /// The tokens of a prompt. A rendered chat is taken as it is; raw text gets the tokens that the tokenizer puts
    /// around it, and never a second beginning-of-sequence token.
    ///
    /// # Errors
    /// [`EngineError::Prompt`]: the template refuses the chat, or nothing is left to continue.
    /// [`EngineError::PromptTooLong`]: the text cannot fit, which is known before all of it is tokenized.
    pub fn encode(&self, input: &Input) -> Result<Vec<u32>, EngineError> {
        match input {
            Input::Chat(chat) => self.prompt(&self.render(chat)?, Source::Rendered),
            Input::Text(text) => self.prompt(text, Source::Raw),
            Input::Tokens(ids) if ids.is_empty() => Err(empty_prompt()),
            Input::Tokens(ids) => Ok(ids.clone()),
        }
    }

    /// The last tokens of a prompt, as many as `tail` says; `None` is all of them. Of a text that cannot fit, only the end
    /// that may fit is tokenized.
    ///
    /// # Errors
    /// The errors of [`ModelDir::encode`].
    pub fn encode_end(&self, input: &Input, tail: Option<usize>) -> Result<Vec<u32>, EngineError> {
        let Some(tail) = tail else { return self.encode(input) };
        let end = |text: &str| match self.most_bytes() {
            Some(most) => {
                let from = text.len().saturating_sub(most);
                let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(from);
                text[from..].to_owned()
            }
            None => text.to_owned(),
        };
        let mut ids = match input {
            Input::Chat(chat) => self.prompt(&end(&self.render(chat)?), Source::Rendered)?,
            Input::Text(text) => self.prompt(&end(text), Source::Raw)?,
            Input::Tokens(_) => self.encode(input)?,
        };
        ids.drain(..ids.len().saturating_sub(tail));
        Ok(ids)
    }

    /// Bytes of text that fit into the context at most; `None` where there is no bound.
    pub fn most_bytes(&self) -> Option<usize> {
        Some(self.vocabulary.longest?.saturating_mul(self.config.context))
    }

    /// Tokenizing takes time, which a text that cannot fit is not worth.
    fn refuse_unread(&self, text: &str) -> Result<(), EngineError> {
        let (Some(longest), limit) = (self.vocabulary.longest, self.config.context) else { return Ok(()) };
        let tokens = text.len().div_ceil(longest.max(1));
        if tokens > limit { Err(EngineError::PromptTooLong { tokens, limit }) } else { Ok(()) }
    }

    /// Tokenizes the beginning of a text that is long for the context: where it already has twice as many tokens as fit, the rest
    /// is not worth the time. What follows a beginning can change few of its tokens. Texts that fit are rarely so long.
    fn refuse_early(&self, text: &str, source: Source) -> Result<(), EngineError> {
        let limit = self.config.context;
        let mut end = limit.saturating_mul(8).max(EARLY);
        while end < text.len() / 2 {
            let whole = (0..=end).rev().find(|&end| text.is_char_boundary(end)).unwrap_or_default();
            let tokens = self.tokens(&text[..whole], source)?.len();
            if tokens / 2 > limit {
                return Err(EngineError::PromptTooLong { tokens, limit });
            }
            end *= 2;
        }
        Ok(())
    }

    fn prompt(&self, text: &str, source: Source) -> Result<Vec<u32>, EngineError> {
        self.refuse_unread(text)?;
        self.refuse_early(text, source)?;
        let mut ids = self.tokens(text, source)?;
        if let (Some(bos), [first, second, ..]) = (self.config.bos, ids.as_slice())
            && (*first, *second) == (bos, bos)
        {
            ids.remove(0);
        }
        if let Some(&unknown) = ids.iter().find(|&&id| id as usize >= self.config.vocabulary) {
            let name = self.tokenizer.id_to_token(unknown).unwrap_or_default();
            return Err(EngineError::Prompt(format!(
                "the prompt holds the token `{name}` ({unknown}), which the model does not know: its vocabulary has {} tokens",
                self.config.vocabulary
            )));
        }
        if ids.is_empty() {
            return Err(empty_prompt());
        }
        Ok(ids)
    }

    fn tokens(&self, text: &str, source: Source) -> Result<Vec<u32>, EngineError> {
        let encoding = self.tokenizer.encode_fast(text, matches!(source, Source::Raw));
        encoding
            .map(|e| e.get_ids().to_vec())
            .map_err(|e| EngineError::Prompt(format!("the prompt cannot be tokenized: {e}")))
    }
}

fn empty_prompt() -> EngineError {
    EngineError::Prompt("the prompt is empty; there is nothing to continue".into())
}
const NO_TEMPLATE: &str = "the model has no chat template, so it answers no chats; send its prompt to /v1/completions, or put a \
     template into chat_template.jinja in its directory";

/// Bytes of a beginning that is worth a look of its own, at least.
const EARLY: usize = 64 << 10;

/// What a text is to the tokenizer.
#[derive(Clone, Copy)]
enum Source {
    /// A rendered chat, taken as it is.
    Rendered,
    /// It gets the tokens that the tokenizer puts around a text.
    Raw,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::chat::{Effort, Message, Role, TemplateOptions};
    use crate::engine::reasoning::Parts;
    use crate::engine::{Constraint, Purpose};
    use crate::testing::{self, TinyModel, write_json, write_model};
    use serde_json::json;
    use tokenizers::AddedToken;

    fn written(change: impl Fn(&Path)) -> (tempfile::TempDir, Result<ModelDir, ModelError>) {
        let dir = tempfile::tempdir().unwrap();
        write_model(dir.path(), &TinyModel::default());
        change(dir.path());
        let opened = ModelDir::open(dir.path());
        (dir, opened)
    }

    fn write_template(dir: &Path, template: &str) {
        std::fs::write(dir.join("chat_template.jinja"), template).unwrap();
    }

    type Case<'a> = (&'a dyn Fn(&Path), &'a [&'a str]);

    #[test]
    fn a_chat_becomes_tokens_with_one_beginning() {
        let (_dir, model) = written(|_| ());
        let model = model.unwrap();
        let chat = [Message::user("hello"), Message::assistant("the"), Message::user("x")];
        let text = "<|begin|><|user|>hello<|assistant|>the<|end|><|user|>x<|assistant|>";
        assert_eq!(model.render(&chat.to_vec().into()).unwrap(), text);
        let ids = model.encode(&Input::chat(chat.to_vec())).unwrap();
        assert_eq!(model.tokenizer.decode(&ids, false).unwrap(), text);
        assert_eq!((ids[0], ids[1]), (testing::BOS, testing::USER));
        let raw = |text: &str| model.encode(&Input::Text(text.into())).unwrap();
        assert_eq!(raw("<|begin|>hello"), raw("hello"));
        assert_eq!(raw("hello")[0], testing::BOS);
    }

    #[test]
    fn a_long_text_that_cannot_fit_is_refused_after_its_beginning() {
        let (_dir, model) = written(|_| ());
        let model = model.unwrap();
        let text = "é hello ".repeat(100_000);
        let refused = model.refuse_early(&text, Source::Raw);
        let Err(EngineError::PromptTooLong { tokens, limit }) = refused else { panic!("{refused:?}") };
        let all = model.tokens(&text, Source::Raw).unwrap().len();
        assert!(tokens > 2 * limit && tokens * 4 < all, "{tokens} of {all} for {limit}");
        assert_eq!(model.refuse_early(&text[..990], Source::Raw), Ok(()));
    }

    #[test]
    fn a_template_of_its_own_file_comes_first_and_lists_have_a_default() {
        let (_dir, model) = written(|dir| write_template(dir, "file {{ messages[0].content }}"));
        assert_eq!(model.unwrap().render(&vec![Message::user("x")].into()).unwrap(), "file x");
        let named = json!({ "chat_template": [
            { "name": "tool_use", "template": "no" }, { "name": "default", "template": "default" } ] });
        let (_dir, model) = written(|dir| write_json(dir, "tokenizer_config.json", &named));
        assert_eq!(model.unwrap().render(&Chat::default()).unwrap(), "default");
    }

    #[test]
    fn templates_may_use_what_hugging_face_offers() {
        let template = "{%- if messages[0]['role'] == 'system' %}\n    {{- messages[0].content.strip() + '|' }}\n{%- endif %}\n\
             {%- for m in messages[1:] if m.content.startswith('a') %}{{ m.content.split('-')[-1] }}{% endfor %}\
             {{ strftime_now('%Y') | length }}{% if tools %}tools{% endif %}{{ eos_token }}";
        let (_dir, model) = written(|dir| write_template(dir, template));
        let turns = vec![Message::new(Role::System, " s "), Message::user("a-b"), Message::user("c")];
        let text = model.unwrap().render(&turns.into()).unwrap();
        assert_eq!(text, "s|b4<|end|>");
    }

    #[test]
    fn a_template_may_refuse() {
        let (_dir, model) = written(|dir| write_template(dir, "{{ raise_exception('roles must alternate') }}"));
        let error = model.unwrap().render(&Chat::default()).unwrap_err();
        let EngineError::Prompt(message) = error else { panic!("{error:?}") };
        assert!(message.contains("roles must alternate"), "{message}");
    }

    /// A template like Qwen 3's: thinking has a switch, and earlier reasoning is shown.
    const SWITCHED: &str = "{%- for m in messages %}{{ m.role + ':' }}\
        {%- if m.reasoning_content is string %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}\
        {{- m.content + '\n' }}{%- endfor %}{{- 'assistant:' }}\
        {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}\
        {%- if reasoning_effort %}{{ '[' + reasoning_effort + ']' }}{% endif %}{{- date }}";

    fn asking(kwargs: serde_json::Value, effort: Option<Effort>) -> Chat {
        let options = TemplateOptions::new(kwargs.as_object().unwrap().clone(), effort);
        Chat { messages: vec![Message::user("x")], options }
    }

    #[test]
    fn what_a_chat_asks_of_its_template_reaches_it() {
        let (_dir, model) = written(|dir| write_template(dir, SWITCHED));
        let mut model = model.unwrap();
        let table = [
            (json!({}), None, "user:x\nassistant:"),
            (json!({"enable_thinking": false}), None, "user:x\nassistant:<think>\n\n</think>\n\n"),
            (json!({"enable_thinking": true, "date": "1 May"}), None, "user:x\nassistant:1 May"),
            (json!({"date": {"day": 1}}), None, "user:x\nassistant:{\"day\": 1}"),
            (json!({}), Some(Effort::High), "user:x\nassistant:[high]"),
            (json!({}), Some(Effort::None), "user:x\nassistant:<think>\n\n</think>\n\n[none]"),
            (json!({"messages": [], "add_generation_prompt": false, "eos_token": "no"}), None, "user:x\nassistant:"),
        ];
        for (kwargs, effort, expected) in table {
            assert_eq!(model.render(&asking(kwargs.clone(), effort)).unwrap(), expected, "{kwargs} {effort:?}");
        }
        let quiet = Chat::without_thinking(vec![Message::user("x")]);
        assert_eq!(model.render(&quiet).unwrap(), "user:x\nassistant:<think>\n\n</think>\n\n");
        let thought = Message { reasoning: Some("r".into()), ..Message::assistant("y") };
        let text = model.render(&vec![thought, Message::user("x")].into()).unwrap();
        assert_eq!(text, "assistant:<think>r</think>y\nuser:x\nassistant:");

        model.template_kwargs = json!({"enable_thinking": false, "date": "today"}).as_object().unwrap().clone();
        let default = model.render(&asking(json!({}), None)).unwrap();
        assert_eq!(default, "user:x\nassistant:<think>\n\n</think>\n\ntoday");
        let asked = model.render(&asking(json!({"enable_thinking": true}), None)).unwrap();
        assert_eq!(asked, "user:x\nassistant:today");
    }

    #[test]
    fn only_a_prompt_that_must_not_think_closes_what_its_template_opens() {
        let (_dir, model) = written(|dir| write_template(dir, "{{ messages[0].content }} {{ '<think>\n' }}"));
        let model = model.unwrap();
        let turns = || vec![Message::user("x")];
        assert_eq!(model.render(&turns().into()).unwrap(), "x <think>\n");
        assert_eq!(model.render(&Chat::without_thinking(turns())).unwrap(), "x <think>\n\n</think>\n\n");
        let splits = |request: &Request| {
            let prompt = model.encode(&request.constrained_input()).unwrap();
            model.splitter(request, &prompt).map(|mut splitter| splitter.push("a</think>b"))
        };
        let parts = |reasoning: &str, content: &str| Parts { reasoning: reasoning.into(), content: content.into() };
        let request = Request::chat(Purpose::Answer, turns());
        assert_eq!(splits(&request), Some(parts("a", "b")));
        assert_eq!(splits(&Request::chat(Purpose::Judge, turns())), Some(parts("", "a</think>b")));
        let constrained = Request { constraint: Some(Constraint::Regex("a.*".into())), ..request.clone() };
        assert_eq!((splits(&constrained), constrained.input == request.input), (None, true));
        let Input::Chat(chat) = constrained.constrained_input().into_owned() else { panic!() };
        assert_eq!(model.render(&chat).unwrap(), "x <think>\n\n</think>\n\n");
        assert_eq!(splits(&Request { input: Input::Text("x <think>\n".into()), ..request }), None);
    }

    #[test]
    fn reasoning_is_looked_for_where_template_or_tokenizer_know_it() {
        let add = |marks: &[&str], special: bool| {
            let mut tokenizer = testing::tokenizer();
            tokenizer
                .add_special_tokens(&marks.iter().map(|mark| AddedToken::from(*mark, special)).collect::<Vec<_>>());
            tokenizer
        };
        let (_dir, model) = written(|_| ());
        assert_eq!(model.unwrap().reasoning, None);
        let (_dir, model) = written(|dir| write_template(dir, "{{ messages[0].content.split('</think>')[-1] }}"));
        assert_eq!(model.unwrap().reasoning, Some(Form::Think));
        let (_dir, model) = written(|dir| {
            write_model(dir, &TinyModel { vocabulary: 300, ..TinyModel::default() });
            add(&["[THINK]", "[/THINK]"], true).save(dir.join("tokenizer.json"), false).unwrap();
        });
        let model = model.unwrap();
        assert_eq!(model.reasoning, Some(Form::Magistral));
        let mark = model.tokenizer.token_to_id("[THINK]").unwrap();
        assert!(!model.pieces.is_special(mark) && model.pieces.bytes(mark) == b"[THINK]", "marks are text");
    }

    #[test]
    fn ends_come_from_all_files() {
        let (_dir, model) = written(|dir| write_json(dir, "generation_config.json", &json!({ "eos_token_id": [3] })));
        assert_eq!(model.unwrap().config.eos, [3, 1]);
    }

    #[test]
    fn a_base_model_without_a_template_reads_texts_and_no_chats() {
        let (_dir, model) =
            written(|dir| write_json(dir, "tokenizer_config.json", &json!({ "eos_token": "<|user|>" })));
        let model = model.unwrap();
        assert!(!model.chats() && model.encode(&Input::Text("hello".into())).is_ok());
        assert_eq!(model.config.eos, [1, 2], "the file is read all the same");
        let error = model.encode(&Input::chat(vec![Message::user("hello")])).unwrap_err();
        assert!(matches!(&error, EngineError::Prompt(reason) if reason.contains("no chat template")), "{error}");
        model.identity();
    }

    #[test]
    fn a_token_without_a_row_is_refused_in_prompts_only() {
        let (_dir, model) = written(|dir| {
            write_model(dir, &TinyModel { vocabulary: 278, ..TinyModel::default() });
            let mut tokenizer = testing::tokenizer();
            tokenizer.add_special_tokens(&[AddedToken::from("[PAD]", true)]);
            tokenizer.save(dir.join("tokenizer.json"), false).unwrap();
        });
        let model = model.unwrap();
        assert_eq!((model.pieces.len(), model.config.vocabulary), (279, 278));
        assert!(model.encode(&Input::Text("hello".into())).is_ok());
        for input in [Input::Text("a [PAD]".into()), Input::chat(vec![Message::user("[PAD] b")])] {
            let error = model.encode(&input).unwrap_err();
            assert!(matches!(&error, EngineError::Prompt(reason) if reason.contains("`[PAD]` (278)")), "{error}");
        }
    }

    #[test]
    fn every_defect_has_its_line() {
        let table: [Case<'_>; 8] = [
            (&|dir| std::fs::remove_file(dir.join("config.json")).unwrap(), &["config.json", "does not exist"]),
            (&|dir| std::fs::remove_file(dir.join("tokenizer.json")).unwrap(), &["tokenizer.json", "does not exist"]),
            (&|dir| std::fs::write(dir.join("tokenizer.json"), "{}").unwrap(), &["tokenizer.json"]),
            (&|dir| write_template(dir, "{% if %}"), &["chat_template.jinja", "line 1"]),
            (&|dir| write_json(dir, "spar.json", &json!({ "version": 1 })), &["spar.json"]),
            (&|dir| std::fs::remove_file(dir.join("model.safetensors")).unwrap(), &["model.safetensors"]),
            (
                &|dir| write_model(dir, &TinyModel { vocabulary: 9, ..TinyModel::default() }),
                &["tokenizer.json", "278 tokens", "vocab_size is 9"],
            ),
            (
                &|dir| {
                    let mut config = TinyModel::default().config();
                    config["eos_token_id"] = json!(null);
                    write_json(dir, "config.json", &config);
                    write_json(dir, "tokenizer_config.json", &json!({ "chat_template": "x" }));
                },
                &["config.json", "eos_token_id"],
            ),
        ];
        for (change, expected) in table {
            let message = written(change).1.err().expect("the change breaks the model").to_string();
            assert!(expected.iter().all(|part| message.contains(part)), "{message} lacks one of {expected:?}");
            assert!(!message.contains('\n'), "{message}");
        }
        let message = ModelDir::open("no/such/model").err().unwrap().to_string();
        assert!(message.starts_with("no/such/model is not a directory"), "{message}");
    }
}
