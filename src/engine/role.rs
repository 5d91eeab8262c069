//! The roles that a search gives to models.

/// What a model is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The role that drafts answers.
    Actor,
    /// Judges and rewrites.
    Refiner,
}

impl Role {
    /// Both roles in order.
    pub const ALL: [Self; 2] = [Self::Actor, Self::Refiner];
}
