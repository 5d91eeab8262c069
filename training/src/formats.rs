//! Lines that people have for training, in the formats of TRL, LLaMA-Factory and others, as the trainer's own lines.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use spar::chat::{Message, Role};

use crate::records::{ChatLine, PairLine};

/// The fields of a JSON line.
pub type Fields = Map<String, Value>;

/// What a preference line may look like.
const PAIRS: &str = "preferences are read as TRL has them (`prompt`, `chosen` and `rejected`, or whole conversations in the last two), \
     as ShareGPT (`conversations`, `chosen`, `rejected`) and as Alpaca (`instruction`, `chosen`, `rejected`)";

/// What a line of chats may look like.
const CHATS: &str = "chats are read as `messages`, as TRL's `prompt` and `completion`, as ShareGPT (`conversations`) and as Alpaca \
     (`instruction`, `input`, `output`)";

/// A pair of replies in any format that is read.
///
/// # Errors
/// Names the field that is wrong, or the format with what to do.
pub fn pair(fields: &Fields) -> Result<PairLine> {
    let has = |name: &str| fields.contains_key(name);
    if let Some(name) = ["chosen", "rejected"].into_iter().find(|name| !has(name)) {
        ensure!(
            !(has("label") && has("completion")),
            "the line is one of TRL's unpaired preferences (`completion`, `label`), from which nothing is learned; write pairs"
        );
        bail!("missing field `{name}`; {PAIRS}");
    }
    let before = match () {
        () if has("prompt") => Some(turns(fields, "prompt", Role::User)?),
        () if has("conversations") => Some(share_gpt(fields)?),
        () if has("instruction") => Some(alpaca(fields)?),
        () => None,
    };
    let mut chosen = turns(fields, "chosen", Role::Assistant)?;
    let mut rejected = turns(fields, "rejected", Role::Assistant)?;
    let prompt = match before {
        // The two may repeat what the prompt says.
        Some(prompt) => {
            for replies in [&mut chosen, &mut rejected] {
                if replies.starts_with(&prompt) {
                    replies.drain(..prompt.len());
                }
            }
            prompt
        }
        None => {
            ensure!(
                chosen.len() > 1 && rejected.len() > 1,
                "`prompt` is missing, and `chosen` and `rejected` are no whole conversations; write what they answer as `prompt`"
            );
            // What both say, up to the replies in which they end.
            let most = chosen.len().min(rejected.len()) - 1;
            let same = chosen.iter().zip(&rejected).take(most).take_while(|(one, other)| one == other).count();
            rejected.drain(..same);
            chosen.drain(..same).collect()
        }
    };
    Ok(PairLine { prompt, chosen, rejected, ..PairLine::default() })
}

/// A chat in any format that is read.
///
/// # Errors
/// Names the field that is wrong, or the format with what to do.
pub fn chat(fields: &Fields) -> Result<ChatLine> {
    let has = |name: &str| fields.contains_key(name);
    let followed = |mut before: Vec<Message>, reply: &str| {
        before.extend(turns(fields, reply, Role::Assistant)?);
        Ok::<_, anyhow::Error>(before)
    };
    let messages = match () {
        () if has("messages") => turns(fields, "messages", Role::User)?,
        () if has("prompt") && has("completion") => followed(turns(fields, "prompt", Role::User)?, "completion")?,
        () if has("conversations") => share_gpt(fields)?,
        () if has("instruction") && has("output") => followed(alpaca(fields)?, "output")?,
        () if has("chosen") => {
            bail!("the line holds preferences (`chosen`), which the stage `dpo` learns from; {CHATS}")
        }
        () if has("text") => {
            bail!("the line is a text without turns (`text`), of which no part is known to be the reply; {CHATS}")
        }
        () => bail!("missing field `messages`; {CHATS}"),
    };
    Ok(ChatLine { messages, kind: fields.get("kind").and_then(Value::as_str).map(Into::into) })
}

/// The places of the turns that a line marks with `weight` 0, as not to be learned.
///
/// # Errors
/// Names a weight that is neither 0 nor 1.
pub fn silent(fields: &Fields) -> Result<Vec<usize>> {
    let turns = ["messages", "conversations"].into_iter().find_map(|name| fields.get(name)?.as_array());
    let mut silent = Vec::new();
    for (place, turn) in turns.into_iter().flatten().enumerate() {
        match turn.get("weight") {
            None | Some(Value::Null) => {}
            Some(weight) if weight.as_f64() == Some(1.0) => {}
            Some(weight) if weight.as_f64() == Some(0.0) => silent.push(place),
            Some(weight) => bail!("turn {}: `weight` must be 0 (not learned) or 1 (learned), got {weight}", place + 1),
        }
    }
    // A system text of ShareGPT becomes a turn before the others.
    let before = usize::from(!fields.contains_key("messages") && !system(fields)?.is_empty());
    Ok(silent.into_iter().map(|place| place + before).collect())
}

/// The turns of a field: a text, which `role` says, one turn, or a list of them.
fn turns(fields: &Fields, name: &str, role: Role) -> Result<Vec<Message>> {
    match &fields[name] {
        Value::String(text) => Ok(vec![Message::new(role, text.as_str())]),
        Value::Array(turns) => turns
            .iter()
            .enumerate()
            .map(|(at, value)| turn(value).with_context(|| format!("`{name}`, turn {}", at + 1)))
            .collect(),
        value @ Value::Object(_) => Ok(vec![turn(value).with_context(|| format!("`{name}`"))?]),
        other => bail!("`{name}` is {other}, neither a text nor turns"),
    }
}

/// A turn as OpenAI's wire has it (`role`, `content`) or as ShareGPT has it (`from`, `value`).
fn turn(value: &Value) -> Result<Message> {
    let Value::Object(fields) = value else { bail!("it is {value}, not an object with `role` and `content`") };
    let mut fields = fields.clone();
    for (theirs, ours) in [("from", "role"), ("value", "content")] {
        if !fields.contains_key(ours)
            && let Some(found) = fields.remove(theirs)
        {
            fields.insert(ours.into(), found);
        }
    }
    let role: String = match fields.get("role").and_then(Value::as_str) {
        Some("human") => "user".into(),
        Some("gpt" | "chatgpt" | "bard" | "bing" | "model") => "assistant".into(),
        Some(role @ ("function_call" | "observation")) => {
            bail!(
                "the role `{role}` of ShareGPT is not read; write calls of functions as `tool_calls` and roles `tool`"
            )
        }
        Some(role) => role.to_owned(),
        None => bail!("missing field `role`"),
    };
    fields.insert("role".into(), role.into());
    let content = match fields.get("content") {
        Some(Value::Array(parts)) => parts.iter().map(part).collect::<Result<String>>()?,
        // An assistant that calls functions may say nothing.
        None | Some(Value::Null) if fields.contains_key("tool_calls") => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => bail!("`content` is {other}, neither a text nor parts"),
        None => bail!("missing field `content`"),
    };
    fields.insert("content".into(), content.into());
    // Tables of all rows have every field in every row.
    fields.retain(|_, value| !value.is_null());
    Ok(serde_json::from_value(Value::Object(fields))?)
}

/// The text of one part of a turn's content.
fn part(part: &Value) -> Result<String> {
    match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        (Some("text"), None) => bail!("a part of `content` has no `text`"),
        (Some(kind), _) => bail!("`content` has a part of type `{kind}`; models are trained on texts only"),
        (None, _) => bail!("a part of `content` has no `type`"),
    }
}

/// The turns of ShareGPT's `conversations`, after its `system`.
fn share_gpt(fields: &Fields) -> Result<Vec<Message>> {
    let mut all = system(fields)?;
    all.extend(turns(fields, "conversations", Role::User)?);
    Ok(all)
}

/// What Alpaca's `instruction` asks of its `input`, after `system` and `history`.
fn alpaca(fields: &Fields) -> Result<Vec<Message>> {
    let mut all = system(fields)?;
    let pairs = match fields.get("history") {
        None | Some(Value::Null) => Vec::new(),
        Some(history) => serde_json::from_value::<Vec<[String; 2]>>(history.clone())
            .context("`history` must be a list of pairs of texts")?,
    };
    for [asked, said] in pairs {
        all.extend([Message::user(asked), Message::assistant(said)]);
    }
    let mut asked = optional(fields, "instruction")?.unwrap_or_default().to_owned();
    if let Some(input) = optional(fields, "input")?.filter(|input| !input.is_empty()) {
        asked = format!("{asked}\n{input}");
    }
    all.push(Message::user(asked));
    Ok(all)
}

fn system(fields: &Fields) -> Result<Vec<Message>> {
    let system = optional(fields, "system")?.filter(|text| !text.is_empty());
    Ok(system.map(|text| Message::new(Role::System, text)).into_iter().collect())
}

fn optional<'a>(fields: &'a Fields, name: &str) -> Result<Option<&'a str>> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => bail!("`{name}` is {other}, not a text"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: &Value) -> Fields {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn preferences_are_read_in_every_format() {
        let [user, good, bad] = [Message::user("a"), Message::assistant("b"), Message::assistant("c")];
        let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
        let whole = |reply: &str| json!([turn("user", "a"), turn("assistant", reply)]);
        let table = [
            json!({ "prompt": [turn("user", "a")], "chosen": [turn("assistant", "b")], "rejected": [turn("assistant", "c")] }),
            json!({ "prompt": "a", "chosen": "b", "rejected": "c" }),
            json!({ "chosen": whole("b"), "rejected": whole("c") }),
            json!({ "prompt": "a", "chosen": whole("b"), "rejected": whole("c"), "score_chosen": 8.0 }),
            json!({ "prompt": "a", "chosen": [turn("assistant", "b")], "rejected": turn("assistant", "c") }),
            json!({ "conversations": [{ "from": "human", "value": "a" }],
                "chosen": { "from": "gpt", "value": "b" }, "rejected": { "from": "gpt", "value": "c" } }),
            json!({ "instruction": "a", "input": "", "chosen": "b", "rejected": "c" }),
            json!({ "prompt": [{ "role": "user", "content": [{ "type": "text", "text": "a" }], "name": null }],
                "chosen": "b", "rejected": "c" }),
        ];
        for line in table {
            let found = pair(&fields(&line)).unwrap();
            assert_eq!(
                (&found.prompt[..], &found.chosen[..], &found.rejected[..]),
                (&[user.clone()][..], &[good.clone()][..], &[bad.clone()][..]),
                "{line}"
            );
            found.check().unwrap();
        }
        let long = json!({
            "chosen": [turn("system", "s"), turn("user", "a"), turn("assistant", "x"), turn("user", "y"), turn("assistant", "b")],
            "rejected": [turn("system", "s"), turn("user", "a"), turn("assistant", "x"), turn("user", "y"), turn("assistant", "c")],
        });
        assert_eq!(pair(&fields(&long)).unwrap().prompt.len(), 4);
    }

    #[test]
    fn chats_are_read_in_every_format() {
        let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
        let expected = [Message::new(Role::System, "s"), Message::user("a"), Message::assistant("b")];
        let table = [
            (0, json!({ "messages": [turn("system", "s"), turn("user", "a"), turn("assistant", "b")], "kind": "k" })),
            (1, json!({ "prompt": "a", "completion": "b" })),
            (0, json!({ "prompt": [turn("system", "s"), turn("user", "a")], "completion": [turn("assistant", "b")] })),
            (1, json!({ "conversations": [{ "from": "human", "value": "a" }, { "from": "gpt", "value": "b" }] })),
            (
                0,
                json!({ "system": "s", "conversations": [{ "from": "user", "value": "a" }, { "from": "assistant", "value": "b" }] }),
            ),
            (0, json!({ "system": "s", "instruction": "a", "input": null, "output": "b" })),
            (
                1,
                json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "a" }] }, turn("assistant", "b")] }),
            ),
        ];
        for (first, line) in table {
            let found = chat(&fields(&line)).unwrap();
            assert_eq!(found.messages, expected[first..], "{line}");
            assert_eq!(found.kind.is_some(), line.get("kind").is_some());
        }
        let alpaca = json!({ "instruction": "a", "input": "i", "output": "b", "history": [["x", "y"]] });
        let found = chat(&fields(&alpaca)).unwrap();
        assert_eq!(
            found.messages,
            [Message::user("x"), Message::assistant("y"), Message::user("a\ni"), Message::assistant("b")]
        );
    }

    #[test]
    fn turns_with_the_weight_0_are_named() {
        let turn = |role: &str, weight: &Value| json!({ "role": role, "content": "x", "weight": weight });
        let chat = |weight: Value| json!({ "messages": [turn("user", &Value::Null), turn("assistant", &weight)] });
        assert_eq!(silent(&fields(&chat(json!(0)))).unwrap(), [1]);
        assert_eq!(silent(&fields(&chat(json!(1.0)))).unwrap(), [0; 0]);
        let message = silent(&fields(&chat(json!(0.5)))).unwrap_err().to_string();
        assert!(message.contains("turn 2: `weight` must be 0"), "{message}");
        let shared = json!({ "system": "s", "conversations": [
            { "from": "human", "value": "a" }, { "from": "gpt", "value": "b", "weight": 0 }] });
        assert_eq!(silent(&fields(&shared)).unwrap(), [2]);
    }

    #[test]
    fn other_formats_are_refused_by_name_with_what_to_do() {
        let pairs = [
            (json!({ "prompt": "a", "chosen": "b" }), "missing field `rejected`"),
            (json!({ "chosen": "b", "rejected": "c" }), "`prompt` is missing"),
            (json!({ "prompt": "a", "completion": "b", "label": true }), "unpaired preferences"),
            (json!({ "prompt": 3, "chosen": "b", "rejected": "c" }), "`prompt` is 3"),
            (
                json!({ "prompt": [{ "content": "a" }], "chosen": "b", "rejected": "c" }),
                "`prompt`, turn 1: missing field `role`",
            ),
        ];
        for (line, expected) in pairs {
            let message = format!("{:#}", pair(&fields(&line)).unwrap_err());
            assert!(message.contains(expected), "{line}: {message}");
        }
        let image = json!([{ "role": "user", "content": [{ "type": "image", "image": "x" }] }]);
        let chats = [
            (json!({ "text": "a" }), "a text without turns"),
            (json!({ "chosen": "a", "rejected": "b" }), "the stage `dpo`"),
            (json!({ "question": "a", "answer": "b" }), "missing field `messages`; chats are read as"),
            (json!({ "messages": image }), "a part of type `image`"),
            (json!({ "conversations": [{ "from": "observation", "value": "x" }] }), "the role `observation`"),
            (json!({ "messages": [{ "role": "judge", "content": "x" }] }), "unknown variant `judge`"),
        ];
        for (line, expected) in chats {
            let message = format!("{:#}", chat(&fields(&line)).unwrap_err());
            assert!(message.contains(expected), "{line}: {message}");
        }
    }
}
