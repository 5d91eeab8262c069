//! The client on whose behalf a model call is made: whose kept prefixes it may find, and what waits for it.

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
}
