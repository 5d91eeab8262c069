//! Numbers of a request in their ranges.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::http::error::ApiError;

/// `value`, if it is in `range`.
pub(in crate::http) fn within<T: PartialOrd + Display + Copy>(
    param: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<T, ApiError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let message = format!("`{param}` must be between {} and {}, got {value}", range.start(), range.end());
    Err(ApiError::invalid(param, message))
}

/// A whole number of at least 1.
pub(in crate::http) fn count(param: &str, value: i64) -> Result<usize, ApiError> {
    if value < 1 {
        return Err(ApiError::invalid(param, format!("`{param}` must be at least 1, got {value}")));
    }
    Ok(size(value))
}

/// A checked number as a size.
pub(in crate::http) fn size(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}
