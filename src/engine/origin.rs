//! The client on whose behalf a model call is made: whose kept prefixes it may find, and what waits for it.

use sha2::{Digest, Sha256};

use super::trace_context::TraceContext;
use crate::chat::{Message, Role};

/// Calls find the kept prefixes of calls in the same namespace only, so that neither time nor counts of cached tokens tell
/// one caller what another one sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace([u8; 16]);

impl Namespace {
    /// The namespace of calls that name none.
    pub const SHARED: Self = Self([0; 16]);

    /// The namespace of a digest.
    pub fn of(digest: [u8; 32]) -> Self {
        Self(std::array::from_fn(|index| digest[index]))
    }

    /// Its name on the wire.
    pub fn hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What waits for a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waits {
    /// A plain request; its call has priority over calls of searches.
    #[default]
    Plain,
    /// A search; its single calls are not visible to the client.
    Search,
}

/// The part of a search that a call is made for; traces show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The whole request: a plain answer, or a further draft of a search.
    #[default]
    Whole,
    /// A node of the search's tree, by its index.
    Node(usize),
    /// A response that becomes a node if it can be judged.
    Candidate {
        /// Its number among the search's candidates.
        number: usize,
        /// The node that it refines; `None` for a further draft.
        parent: Option<usize>,
    },
}

/// A conversation by how it begins: calls of one search, and of those that continue its conversation, are the same one. Where
/// several servers answer, one of them gets all of these calls and keeps their common prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conversation(u64);

impl Conversation {
    /// The conversation that begins as `messages` do, up to its first question.
    pub fn of(messages: &[Message]) -> Self {
        let first = messages.iter().position(|message| message.role == Role::User).map_or(messages.len(), |at| at + 1);
        let mut hash = Sha256::new();
        for message in &messages[..first] {
            hash.update([message.role as u8]);
            hash.update(message.content.len().to_le_bytes());
            hash.update(&message.content);
        }
        Self(number(hash))
    }

    /// The conversation that begins with `text`. Only the first bytes are read.
    pub fn of_text(text: &[u8]) -> Self {
        Self(number(Sha256::new().chain_update(&text[..text.len().min(PREFIX)])))
    }

    /// Its number among the conversations of a namespace.
    pub fn number(self, namespace: Namespace) -> u64 {
        number(Sha256::new().chain_update(namespace.0).chain_update(self.0.to_le_bytes()))
    }
}

/// The first bytes of a prompt without turns, which distinguish it from others.
const PREFIX: usize = 512;

fn number(hash: Sha256) -> u64 {
    hash.finalize().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The client on whose behalf a call is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The namespace of the kept prefixes that it finds and leaves, and of its compiled constraints.
    pub namespace: Namespace,
    /// The caller, whatever namespaces it uses: replies of one caller leave room for those of others. Callers that are not
    /// distinguished are [`Namespace::SHARED`].
    pub caller: Namespace,
    /// What waits for it.
    pub waits: Waits,
    /// The part of a search that it is made for.
    pub subject: Subject,
    /// The span of a distributed trace that the call belongs to; upstreams receive it.
    pub trace: Option<TraceContext>,
    /// What it is about; `None`: what its prompt begins with.
    pub conversation: Option<Conversation>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_continues_a_conversation_is_the_same_one() {
        let system = Message { role: Role::System, ..Message::user("be brief") };
        let first = Message::user("hello");
        let begun = Conversation::of(&[system.clone(), first.clone()]);
        let more = [system.clone(), first.clone(), Message::assistant("hi"), Message::user("and now?")];
        assert_eq!(Conversation::of(&more), begun);
        assert_ne!(Conversation::of(&[first]), begun);
        assert_ne!(Conversation::of(&[system, Message::user("hell")]), begun);
        let other = Namespace::of([1; 32]);
        assert_ne!(begun.number(other), begun.number(Namespace::SHARED), "callers are told apart");
        assert_eq!(Conversation::of(&[]), Conversation::of(&[]));
    }
}
