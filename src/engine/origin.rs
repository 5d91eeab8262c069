//! The client on whose behalf a model call is made: whose kept prefixes it may find, and what waits for it.

use super::trace_context::TraceContext;

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
    /// A plain request: its call goes before those of searches.
    #[default]
    Plain,
    /// A search, of which nobody sees a single call.
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

/// The client on whose behalf a call is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The namespace of the kept prefixes that it finds and leaves, and of its compiled constraints.
    pub namespace: Namespace,
    /// The caller, whatever namespaces it uses: replies of one caller leave room for those of others. Callers that are not told
    /// apart are [`Namespace::SHARED`].
    pub caller: Namespace,
    /// What waits for it.
    pub waits: Waits,
    /// The part of a search that it is made for.
    pub subject: Subject,
    /// The span of a distributed trace that the call belongs to; upstreams receive it.
    pub trace: Option<TraceContext>,
}
