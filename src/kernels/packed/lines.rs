//! The rows of panels, by the bits of their elements.

use bytemuck::{Pod, Zeroable};

/// Columns per panel.
pub const WIDTH: usize = 32;
/// The maximum number of rows in a tile.
pub(super) const ROWS: usize = 8;
/// Inner elements of a column that share a scale.
pub const GROUP: usize = 32;

/// A row of a panel, aligned to a cache line.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line(pub [f32; WIDTH]);

impl Line {
    /// A line of zeros.
    pub const ZERO: Self = Self([0.0; WIDTH]);
}

/// A row of a panel with 16 bits per element.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct HalfLine(pub [u16; WIDTH]);

/// A row of a panel with 8 bits per element.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(32))]
pub struct ByteLine(pub [i8; WIDTH]);
