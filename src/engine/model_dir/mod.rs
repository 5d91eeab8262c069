//! A local model directory in Hugging Face layout, opened and checked before any engine sees it.

mod chat_template;
mod identity;
mod question;
mod vocabulary;

use std::path::PathBuf;
use std::sync::Arc;

use tokenizers::Tokenizer;

use self::chat_template::ChatTemplate;
pub use self::identity::Identity;
use self::vocabulary::Vocabulary;
use super::text::Pieces;
use super::{EngineError, Input, ModelInfo};
use crate::chat::Message;
use crate::prompts::Templates;
pub use crate::weights::ModelError;
use crate::weights::{ModelConfig, Weights};

/// An opened model directory: everything but the computation.
pub struct ModelDir {
    /// Where it is.
    pub path: PathBuf,
    /// `config.json` and `generation_config.json`.
    pub config: ModelConfig,
    /// `tokenizer.json`.
    pub tokenizer: Arc<Tokenizer>,
    /// The bytes of every token.
    pub pieces: Arc<Pieces>,
    /// What a judge and a refiner are told: the directory's `spar.json`, or the general templates.
    pub templates: Arc<Templates>,
    /// The tensors, checked against the configuration where the family is known.
    pub weights: Arc<Weights>,
    chat_template: ChatTemplate,
    vocabulary: Arc<Vocabulary>,
}

impl ModelDir {
    /// Opens a directory and checks all of it. Nothing is ever fetched.
    ///
    /// # Errors
    /// One line that names the file and what to do.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ModelError> {
        let path = path.into();
        if !path.is_dir() {
            return Err(ModelError::NoDirectory(path));
        }
        let mut config = ModelConfig::open(&path)?;
        let vocabulary = Vocabulary::open(&path.join("tokenizer.json"))?;
        let (tokenizer, pieces) = (Arc::clone(&vocabulary.tokenizer), Arc::clone(&vocabulary.pieces));
        let broken = |file: &str, reason| ModelError::Broken { file: path.join(file), reason };
        if pieces.len() > config.vocabulary {
            let (tokens, rows) = (pieces.len(), config.vocabulary);
            let reason = format!("it has {tokens} tokens, config.json's vocab_size is {rows}: they are of two models");
            return Err(broken("tokenizer.json", reason));
        }
        let (chat_template, eos) = ChatTemplate::open(&path, &config, &tokenizer)?;
        if let Some(eos) = eos.filter(|eos| !config.eos.contains(eos)) {
            config.eos.push(eos);
        }
        if config.eos.is_empty() {
            return Err(broken("config.json", "`eos_token_id` is missing, so no reply would end; add it".into()));
        }
        let templates = match path.join("spar.json") {
            file if file.is_file() => Templates::from_file(&file).map_err(|e| broken("spar.json", e.reason))?,
            _ => Templates::general(),
        };
        let weights = Weights::open(&path)?;
        weights.check(&config)?;
        Ok(Self {
            path,
            config,
            tokenizer,
            pieces,
            templates: Arc::new(templates),
            weights: Arc::new(weights),
            chat_template,
            vocabulary,
        })
    }

    /// The directory's name and the model's limits.
    pub fn info(&self) -> ModelInfo {
        let name = self.path.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
        ModelInfo { name, context: self.config.context, vocabulary: self.config.vocabulary }
    }

    /// The text that the model is given for a chat, ending where the assistant begins to speak.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] with the template's reason.
    pub fn render(&self, messages: &[Message]) -> Result<String, EngineError> {
        self.chat_template.render(messages)
    }

    /// The tokens of a prompt. A rendered chat is taken as it is; raw text gets the tokens that the tokenizer puts
    /// around it, and never a second beginning-of-sequence token.
    ///
    /// # Errors
    /// [`EngineError::Invalid`]: the template refuses the chat, or nothing is left to continue.
    pub fn encode(&self, input: &Input) -> Result<Vec<u32>, EngineError> {
        match input {
            Input::Chat(messages) => self.prompt(&self.render(messages)?, Form::Rendered),
            Input::Text(text) => self.prompt(text, Form::Raw),
        }
    }

    fn prompt(&self, text: &str, form: Form) -> Result<Vec<u32>, EngineError> {
        let mut ids = self.tokens(text, form)?;
        if let (Some(bos), [first, second, ..]) = (self.config.bos, ids.as_slice())
            && (*first, *second) == (bos, bos)
        {
            ids.remove(0);
        }
        if ids.is_empty() {
            return Err(EngineError::Invalid("the prompt is empty".into()));
        }
        Ok(ids)
    }

    fn tokens(&self, text: &str, form: Form) -> Result<Vec<u32>, EngineError> {
        let encoding = self.tokenizer.encode_fast(text, matches!(form, Form::Raw));
        encoding.map(|e| e.get_ids().to_vec()).map_err(|e| EngineError::Invalid(format!("cannot be tokenized: {e}")))
    }
}

/// What a text is to the tokenizer.
#[derive(Clone, Copy)]
enum Form {
    /// A rendered chat, taken as it is.
    Rendered,
    /// It gets the tokens that the tokenizer puts around a text.
    Raw,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::chat::Role;
    use crate::testing::{self, TinyModel, write_json, write_model};
    use serde_json::json;

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
        assert_eq!(model.render(&chat).unwrap(), text);
        let ids = model.encode(&Input::Chat(chat.to_vec())).unwrap();
        assert_eq!(model.tokenizer.decode(&ids, false).unwrap(), text);
        assert_eq!((ids[0], ids[1]), (testing::BOS, testing::USER));
        let raw = |text: &str| model.encode(&Input::Text(text.into())).unwrap();
        assert_eq!(raw("<|begin|>hello"), raw("hello"));
        assert_eq!(raw("hello")[0], testing::BOS);
    }

    #[test]
    fn a_template_of_its_own_file_comes_first_and_lists_have_a_default() {
        let (_dir, model) = written(|dir| write_template(dir, "file {{ messages[0].content }}"));
        assert_eq!(model.unwrap().render(&[Message::user("x")]).unwrap(), "file x");
        let named = json!({ "chat_template": [
            { "name": "tool_use", "template": "no" }, { "name": "default", "template": "default" } ] });
        let (_dir, model) = written(|dir| write_json(dir, "tokenizer_config.json", &named));
        assert_eq!(model.unwrap().render(&[]).unwrap(), "default");
    }

    #[test]
    fn templates_may_use_what_hugging_face_offers() {
        let template = "{%- if messages[0]['role'] == 'system' %}\n    {{- messages[0].content.strip() + '|' }}\n{%- endif %}\n\
             {%- for m in messages[1:] if m.content.startswith('a') %}{{ m.content.split('-')[-1] }}{% endfor %}\
             {{ strftime_now('%Y') | length }}{% if tools %}tools{% endif %}{{ eos_token }}";
        let (_dir, model) = written(|dir| write_template(dir, template));
        let system = Message { role: Role::System, content: " s ".into() };
        let text = model.unwrap().render(&[system, Message::user("a-b"), Message::user("c")]).unwrap();
        assert_eq!(text, "s|b4<|end|>");
    }

    #[test]
    fn a_template_may_refuse() {
        let (_dir, model) = written(|dir| write_template(dir, "{{ raise_exception('roles must alternate') }}"));
        let error = model.unwrap().render(&[]).unwrap_err();
        let EngineError::Invalid(message) = error else { panic!("{error:?}") };
        assert!(message.contains("roles must alternate"), "{message}");
    }

    #[test]
    fn ends_come_from_all_files() {
        let (_dir, model) = written(|dir| write_json(dir, "generation_config.json", &json!({ "eos_token_id": [3] })));
        assert_eq!(model.unwrap().config.eos, [3, 1]);
    }

    #[test]
    fn every_defect_has_its_line() {
        let table: [Case<'_>; 9] = [
            (&|dir| std::fs::remove_file(dir.join("config.json")).unwrap(), &["config.json", "does not exist"]),
            (&|dir| std::fs::remove_file(dir.join("tokenizer.json")).unwrap(), &["tokenizer.json", "does not exist"]),
            (&|dir| std::fs::write(dir.join("tokenizer.json"), "{}").unwrap(), &["tokenizer.json"]),
            (&|dir| write_json(dir, "tokenizer_config.json", &json!({})), &["chat_template.jinja", "does not exist"]),
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
