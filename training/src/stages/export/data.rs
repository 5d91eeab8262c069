//! The lines of an export's data: texts for programs that tokenize with a template of their own, tokens for those that take them.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use spar::chat::{Message, Role};

use super::super::trainings::Training;
use super::super::write_lines;
use super::super::{dpo, sft};
use crate::chats::Chats;
use crate::formats::{self, Fields};
use crate::recipe::external::Framework;
use crate::records::{Lines, PairLine, read};
use crate::tokens::{Example, PairExample};

/// What is learned, as texts and as tokens.
pub(super) enum Items {
    Pairs(Vec<(PairLine, PairExample)>),
    /// Chats whose last turn is learned.
    Turns(Vec<(Vec<Message>, Example)>),
}

impl Items {
    /// Reads the training's data, and the problems of the lines that are left out.
    pub(super) fn read(training: &Training, chats: &Chats) -> Result<(Self, Vec<String>)> {
        let longest = chats.context();
        match training {
            Training::Dpo(stage) => {
                let Lines { items, skipped } = read(&stage.data, stage.bad_lines, |line: Fields| {
                    let line = formats::pair(&line)?;
                    let tokens = dpo::pair(chats, longest, &line)?;
                    Ok((line, tokens))
                })?;
                let items = match stage.chosen_only {
                    true => Self::Turns(items.into_iter().map(|(line, tokens)| chosen(line, tokens)).collect()),
                    false => Self::Pairs(items),
                };
                Ok((items, skipped))
            }
            Training::Sft(stage) => {
                let Lines { items, skipped } = read(&stage.data, stage.bad_lines, |line: Fields| {
                    let (chat, silent) = (formats::chat(&line)?, formats::silent(&line)?);
                    let examples = sft::of_line(chats, longest, stage.turns, &line)?;
                    let places = sft::learned(stage.turns, &chat, &silent)?;
                    let turns = places.into_iter().map(|place| chat.messages[..=place].to_vec());
                    Ok(turns.zip(examples).collect::<Vec<_>>())
                })?;
                Ok((Self::Turns(items.concat()), skipped))
            }
        }
    }

    /// Rows that this program computes for each item.
    pub(super) fn rows(&self) -> Vec<usize> {
        match self {
            Self::Pairs(pairs) => pairs.iter().map(|(_, pair)| pair.rows()).collect(),
            Self::Turns(turns) => turns.iter().map(|(_, turn)| turn.rows()).collect(),
        }
    }

    /// Tokens of each item's longest sequence, and of all its sequences.
    pub(super) fn lengths(&self) -> Vec<(usize, usize)> {
        match self {
            Self::Pairs(pairs) => pairs
                .iter()
                .map(|(_, PairExample { tokens, .. })| (tokens.chosen.len(), tokens.rejected.len()))
                .map(|(one, other)| (one.max(other), one + other))
                .collect(),
            Self::Turns(turns) => turns.iter().map(|(_, turn)| (turn.tokens.len(), turn.tokens.len())).collect(),
        }
    }

    /// Writes the items in the order in which they are learned.
    pub(super) fn write(&self, path: &Path, framework: Framework, order: &[usize]) -> Result<()> {
        let lines: Vec<Value> = match self {
            Self::Pairs(pairs) => {
                pairs.iter().map(|(line, tokens)| pair(framework, line, tokens)).collect::<Result<_>>()?
            }
            Self::Turns(turns) => {
                turns.iter().map(|(chat, tokens)| turn(framework, chat, tokens)).collect::<Result<_>>()?
            }
        };
        write_lines(path, &order.iter().map(|&item| &lines[item]).collect::<Vec<_>>())
    }
}

fn chosen(line: PairLine, tokens: PairExample) -> (Vec<Message>, Example) {
    let messages = line.prompt.into_iter().chain(line.chosen).collect();
    (messages, dpo::chosen(tokens))
}

fn pair(framework: Framework, line: &PairLine, tokens: &PairExample) -> Result<Value> {
    let PairExample { tokens, prompt_tokens, .. } = tokens;
    Ok(match framework {
        Framework::Trl => json!({
            "prompt_ids": tokens.chosen[..*prompt_tokens],
            "chosen_ids": tokens.chosen[*prompt_tokens..],
            "rejected_ids": tokens.rejected[*prompt_tokens..],
        }),
        Framework::LlamaFactory | Framework::Axolotl => json!({
            "messages": plain(&line.prompt)?, "chosen": plain(&line.chosen)?[0], "rejected": plain(&line.rejected)?[0],
        }),
    })
}

fn turn(framework: Framework, chat: &[Message], tokens: &Example) -> Result<Value> {
    Ok(match framework {
        Framework::Trl => {
            let learned = tokens.tokens.iter().zip(&tokens.weights);
            let labels: Vec<i64> =
                learned.map(|(&token, &weight)| if weight > 0.0 { i64::from(token) } else { -100 }).collect();
            json!({ "input_ids": tokens.tokens, "labels": labels })
        }
        Framework::LlamaFactory => json!({ "messages": plain(chat)? }),
        Framework::Axolotl => {
            let mut turns = plain(chat)?;
            let last = turns.len() - 1;
            for (place, turn) in turns.iter_mut().enumerate() {
                turn["train"] = json!(place == last);
            }
            json!({ "messages": turns })
        }
    })
}

/// Turns of system, user and assistant, as other programs' templates have them.
fn plain(turns: &[Message]) -> Result<Vec<Value>> {
    let turn = |message: &Message| {
        let role = match message.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "",
        };
        ensure!(
            !role.is_empty() && message.tool_calls.is_empty(),
            "the data has turns that call functions or answer such calls; `export --for trl` hands over tokens and takes them"
        );
        Ok(json!({ "role": role, "content": message.content }))
    };
    turns.iter().map(turn).collect()
}
