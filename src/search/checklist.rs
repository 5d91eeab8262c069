//! The list of a conversation's separate instructions: how the model is asked for it, and which lists are good enough to use.

use serde_json::{Value, json};

use crate::chat::{Message, Role};
use crate::engine::Constraint;

/// The maximum number of items.
const MAX_ITEMS: usize = 12;
/// The maximum number of characters in one item.
const MAX_ITEM_CHARS: usize = 200;
/// The maximum number of tokens in the list.
pub(super) const MAX_TOKENS: usize = 384;
/// Two texts count as equal if one contains at least this share of the other's words.
const SAME_SHARE: f64 = 0.8;

/// The grammar for the list, on engines that can constrain.
pub(super) fn constraint() -> Constraint {
    let item = json!({"type": "string", "minLength": 3, "maxLength": MAX_ITEM_CHARS});
    Constraint::JsonSchema(json!({"type": "array", "items": item, "minItems": 1, "maxItems": MAX_ITEMS}))
}

/// Returns the items of a model's list that `checked` does not cover. Returns none if the list is unusable: no JSON array of strings, a
/// single item, or an item that repeats most of the prompt. The whole prompt is then the only item.
pub(super) fn read(text: &str, conversation: &[Message], checked: &[String]) -> Vec<String> {
    let Some(items) = array(text) else { return Vec::new() };
    let prompt =
        conversation.iter().rev().find(|turn| turn.role == Role::User).map_or("", |turn| turn.content.as_str());
    let mut list: Vec<String> = Vec::new();
    for item in items.iter().map(|item| item.trim()) {
        let long = item.chars().count() > MAX_ITEM_CHARS;
        if long || item.is_empty() || (words(prompt).len() > 12 && covers(item, prompt)) {
            return Vec::new();
        }
        if !list.iter().any(|known| covers(known, item)) {
            list.push(item.to_owned());
        }
    }
    if !(2..=MAX_ITEMS).contains(&list.len()) {
        return Vec::new();
    }
    list.retain(|item| !checked.iter().any(|rule| covers(item, rule)));
    list
}

fn array(text: &str) -> Option<Vec<String>> {
    let (start, end) = (text.find('[')?, text.rfind(']')?);
    match serde_json::from_str(text.get(start..=end)?).ok()? {
        Value::Array(items) => items.into_iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

/// Whether `text` contains most of the words of `part`.
fn covers(text: &str, part: &str) -> bool {
    let (text, part) = (words(text), words(part));
    let found = part.iter().filter(|word| text.contains(word)).count();
    !part.is_empty() && found as f64 >= SAME_SHARE * part.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_used_only_if_it_lists_instructions() {
        let prompt = "Write a poem about the sea in four lines with the word salt and without any commas, please.";
        let conversation = [Message::user(prompt)];
        let good = r#"["It is a poem.", "It is about the sea.", "It has four lines."]"#;
        let cases: [(&str, &[&str]); 8] = [
            (good, &["It is a poem.", "It is about the sea.", "It has four lines."]),
            ("Here you are:\n[\"a poem\", \"four lines\"]\nDone.", &["a poem", "four lines"]),
            (r#"["It is a poem.", "it is a poem", "four lines"]"#, &["It is a poem.", "four lines"]),
            (r#"["It is a poem."]"#, &[]),
            ("[]", &[]),
            ("[1, 2]", &[]),
            ("no list", &[]),
            (&format!("[{}, \"four lines\"]", Value::from(prompt)), &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text, &conversation, &[]), expected, "{text}");
        }
        let text = r#"["It is a poem.", "Use no commas at all.", "four lines"]"#;
        assert_eq!(read(text, &conversation, &["use no commas".into()]), ["It is a poem.", "four lines"]);
        let many = Value::from((0..13).map(|n| format!("item {n}")).collect::<Vec<_>>()).to_string();
        assert_eq!(read(&many, &conversation, &[]).len(), 0);
    }
}
