use std::path::Path;

use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer,
};

use crate::engine::derive_seed;
use crate::testing::gguf::{GgufFile, Meta};
use crate::testing::{self, TinyModel};
use crate::weights::gguf::Gguf;

fn read(file: &GgufFile) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    file.write(&path);
    tokenizer(&path)
}

fn tokenizer(path: &Path) -> Tokenizer {
    Tokenizer::from_bytes(Gguf::open(path).unwrap().tokenizer_json().unwrap().to_string()).unwrap()
}

fn ids(tokenizer: &Tokenizer, text: &str, around: bool) -> Vec<u32> {
    tokenizer.encode(text, around).unwrap().get_ids().to_vec()
}

fn file() -> GgufFile {
    GgufFile::model(&TinyModel::default(), 0).0
}

const TEXTS: [&str; 8] = [
    "",
    "hello world and the other",
    "  two  spaces\n\n\tand tabs ",
    "<|user|>hello<|end|> x<|begin|>",
    "don't DON'T we'll 1234 56",
    "Grüße, 世界! 🦀 é",
    "a\r\nb\u{a0}c",
    "\u{0}\u{1f}",
];

#[test]
fn byte_pairs_are_those_of_the_tokenizer_that_was_written() {
    let (ours, theirs) = (read(&file()), testing::tokenizer());
    for text in TEXTS {
        for around in [false, true] {
            assert_eq!(ids(&ours, text, around), ids(&theirs, text, around), "{text:?}");
        }
    }
    for id in 0..278 {
        assert_eq!(ours.id_to_token(id), theirs.id_to_token(id));
    }
}

/// Each way to cut a text has its mark: digits by themselves, three at a time or all together, case, and composition.
#[test]
fn texts_are_cut_as_the_file_says() {
    let table: [(&str, &str, &[&str]); 8] = [
        ("gpt-2", "ab 1234 don't  x", &["ab", "Ġ1234", "Ġdon", "'t", "Ġ", "Ġx"]),
        ("smollm", "ab 1234  5 x", &["ab", "Ġ", "1", "2", "3", "4", "ĠĠ", "5", "Ġx"]),
        ("llama-bpe", "ab 1234 DON'T!\n", &["ab", "Ġ", "123", "4", "ĠDON", "'T", "!Ċ"]),
        ("qwen2", "ab 12 e\u{301}", &["ab", "Ġ", "1", "2", "ĠÃ©"]),
        ("deepseek-r1-qwen", "12 e\u{301}", &["1", "2", "Ġe", "Ìģ"]),
        ("tekken", "abCDe 12", &["ab", "CDe", "Ġ", "1", "2"]),
        ("dbrx", "a 1234", &["a", "Ġ", "123", "4"]),
        ("starcoder", "a 12", &["a", "Ġ", "1", "2"]),
    ];
    for (pre, text, expected) in table {
        let mut file = file();
        file.set("tokenizer.ggml.pre", Meta::Text(pre.into()));
        let tokenizer = read(&file);
        let mut text = NormalizedString::from(text);
        if let Some(normalizer) = tokenizer.get_normalizer() {
            normalizer.normalize(&mut text).unwrap();
        }
        let mut cut = PreTokenizedString::from(text);
        tokenizer.get_pre_tokenizer().unwrap().pre_tokenize(&mut cut).unwrap();
        let pieces = cut.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
        assert_eq!(pieces.iter().map(|piece| piece.0).collect::<Vec<_>>(), expected, "{pre}");
    }
}

#[test]
fn what_is_put_around_a_text_follows_flags_and_families() {
    let around = |change: &dyn Fn(&mut GgufFile)| {
        let mut file = file();
        file.remove("tokenizer.ggml.add_bos_token");
        change(&mut file);
        ids(&read(&file), "x", true)
    };
    let x = ids(&testing::tokenizer(), "x", false)[0];
    let flag = |name: &'static str, on: bool| move |file: &mut GgufFile| file.set(name, Meta::Bool(on));
    let llama = |file: &mut GgufFile| file.set("tokenizer.ggml.pre", Meta::Text("llama-bpe".into()));
    assert_eq!(around(&|_| ()), [x]);
    assert_eq!(around(&flag("tokenizer.ggml.add_bos_token", true)), [0, x]);
    assert_eq!(around(&flag("tokenizer.ggml.add_eos_token", true)), [x, 1]);
    assert_eq!(around(&llama), [0, x]);
}

/// A vocabulary in SentencePiece's manner, whose merges only its scores tell.
fn pieces() -> GgufFile {
    let mut tokens: Vec<(String, i32, f32)> =
        [("<unk>", 2), ("<s>", 3), ("</s>", 3)].iter().map(|(text, kind)| ((*text).to_owned(), *kind, 0.0)).collect();
    tokens.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 6, 0.0)));
    let merged = ["▁t", "he", "▁the", "ab", "bc", "abc", "▁a", "aa", "aaa", "ca", "▁▁", "é", "世"];
    tokens.extend(merged.iter().zip(1..).map(|(text, rank)| ((*text).to_owned(), 1, -(rank as f32))));
    tokens.extend("▁abcteh".chars().map(|c| (c.to_string(), 1, -100.0)));
    tokens.push(("[tool]".into(), 4, 0.0));
    let mut file = file();
    file.set("tokenizer.ggml.model", Meta::Text("llama".into()));
    for key in ["tokenizer.ggml.merges", "tokenizer.ggml.pre", "tokenizer.ggml.add_bos_token"] {
        file.remove(key);
    }
    for key in ["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"] {
        file.remove(key);
    }
    file.set("tokenizer.ggml.tokens", Meta::Texts(tokens.iter().map(|token| token.0.clone()).collect()));
    file.set("tokenizer.ggml.token_type", Meta::I32s(tokens.iter().map(|token| token.1).collect()));
    file.set("tokenizer.ggml.scores", Meta::F32s(tokens.iter().map(|token| token.2).collect()));
    file
}

/// SentencePiece's own procedure: again and again the neighbours with the best score are put together, the leftmost first.
fn by_scores(file: &GgufFile, text: &str) -> Vec<u32> {
    let list = |key: &str| file.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone()).unwrap();
    let (Meta::Texts(tokens), Meta::F32s(scores), Meta::I32s(kinds)) =
        (list("tokenizer.ggml.tokens"), list("tokenizer.ggml.scores"), list("tokenizer.ggml.token_type"))
    else {
        panic!("the lists are there")
    };
    let id = |text: &str| tokens.iter().position(|token| token == text).filter(|&id| kinds[id] == 1);
    let mut parts: Vec<String> = format!("▁{}", text.replace(' ', "▁")).chars().map(String::from).collect();
    loop {
        let pairs = parts.windows(2).enumerate();
        let best = pairs.filter_map(|(at, pair)| Some((scores[id(&pair.concat())?], at)));
        let Some((_, at)) = best.reduce(|best, next| if next.0 > best.0 { next } else { best }) else { break };
        let merged = parts[at..at + 2].concat();
        parts.splice(at..at + 2, [merged]);
    }
    let bytes = |part: &str| part.bytes().map(|byte| u32::from(byte) + 3).collect::<Vec<_>>();
    parts.iter().flat_map(|part| id(part).map_or_else(|| bytes(part), |id| vec![id as u32])).collect()
}

#[test]
fn pieces_are_merged_by_score() {
    let file = pieces();
    let tokenizer = read(&file);
    for n in 0..500u64 {
        let alphabet: Vec<char> = "abcthe  é世z".chars().collect();
        let text: String = (0..1 + n % 24).map(|i| alphabet[derive_seed(n, i) as usize % alphabet.len()]).collect();
        assert_eq!(ids(&tokenizer, &text, false), by_scores(&file, &text), "{text:?}");
        let all = ids(&tokenizer, &text, true);
        assert_eq!((all[0], tokenizer.decode(&all, true).unwrap()), (1, text));
    }
}

#[test]
fn marks_in_a_text_are_found_whole() {
    let mut file = pieces();
    let tokenizer = read(&file);
    let tool = tokenizer.token_to_id("[tool]").unwrap();
    let a = tokenizer.token_to_id("▁a").unwrap();
    assert_eq!(ids(&tokenizer, "a</s>a[tool]a", false), [a, 2, a, tool, a]);
    file.set("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
    let tokenizer = read(&file);
    let bare = tokenizer.token_to_id("a").unwrap();
    assert_eq!(ids(&tokenizer, "a[tool]a a", false), [bare, tool, bare, a]);
}
