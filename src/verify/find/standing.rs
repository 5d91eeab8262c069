//! Decides which instructions of earlier turns still apply.

use super::pattern::pattern;
use super::reading::Reading;
use super::{Find, Turn};
use crate::chat::Role;

pattern!(
    STANDING,
    [concat!(
        r"\b(?:from now on|from here on|always|never|every time|going forward|henceforth|until (?:i|told|further)|in (?:all|every|each)(?: of)?(?: your| future| the| my| following| subsequent)? ?(?:responses?|answers?|repl(?:y|ies)|messages?|outputs?)|",
        r"(?:all|every|each|any)(?: of)? (?:your |future |subsequent |of your )?(?:responses?|answers?|repl(?:y|ies)|messages?)|your (?:future |subsequent )?(?:responses|answers|replies|messages)|",
        r"(?:for|throughout|during|in) (?:the (?:rest|remainder) of )?(?:this|our|the) (?:entire |whole )?(?:chat|conversation|session|discussion|dialogue)|whenever i|for (?:all|the rest)|whatever i|no matter what i|everything you (?:write|say))\b"
    )]
);
pattern!(
    TASK,
    [
        r"\b(?:write|compose|create|draft|generate|tell me|explain|describe|summari[sz]e|list|translate|rewrite|suggest|recommend|brainstorm|come up|name|give me (?:a|an|some|the|\d)|what|how|why|who|where|make (?:a|an|me)|help me|i need (?:a|an)|can you)\b"
    ]
);
pattern!(
    REVISES,
    [concat!(
        r"^(?:(?:now|ok|okay|great|nice|good|perfect|thanks|thank you|but|and|please|can you|could you|would you|also|hmm|no|actually|sorry|cool|that's (?:great|good|nice)|well|so|then|wait|yes|yeah|try to|i (?:like|love) it)[,.! ]*)*",
        r"(?:make (?:it|this|that|the)|rewrite|redo|do it again|revise|shorten|lengthen|expand|try again|again|same|change|fix|improve|turn it|add|remove|replace|it(?:'s| is) (?:too|not|still)|that(?:'s| is) too|too (?:long|short)|shorter|longer|more \w+|less \w+|",
        r"continue|regenerate|another (?:one|version)|one more|keep|use |include|mention|give it|put|translate it|now in|in |instead|at (?:most|least)|no more|under|up to|let's make|without|no |with |all |but |only )"
    )]
);

/// Whether a find of `turn` still applies after the turns that follow it.
pub(super) fn counts(turn: &Turn<'_>, find: &Find, later: &[Turn<'_>]) -> bool {
    let mut later = later.iter().filter(|turn| turn.role == Role::User).peekable();
    if turn.role == Role::System || later.peek().is_none() {
        return true;
    }
    if stands(&turn.reading, find) || is_only_instructions(turn) {
        return true;
    }
    later.all(|turn| {
        turn.reading.sentences.first().is_some_and(|first| REVISES.is_match(turn.reading.sentence_text(first)))
    })
}

/// Whether the turn says, up to the find's sentence, that its instructions last.
fn stands(reading: &Reading<'_>, find: &Find) -> bool {
    let said = reading.sentences.iter().take_while(|sentence| sentence.range.start <= find.range.start);
    let lasting = |text: &str| STANDING.is_match(text);
    said.into_iter().any(|sentence| lasting(reading.sentence_text(sentence)))
}

/// Whether every sentence contains an instruction and none contains a task.
fn is_only_instructions(turn: &Turn<'_>) -> bool {
    let finds = turn.finds();
    turn.reading.sentences.iter().all(|sentence| {
        let text = turn.reading.sentence_text(sentence);
        let instructs =
            finds.iter().any(|find| find.range.start < sentence.range.end && sentence.range.start < find.range.end);
        !sentence.asks && !TASK.is_match(text) && (instructs || text.split(' ').count() <= 3)
    })
}
