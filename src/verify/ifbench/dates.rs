//! Checks a list of dates in the form `YYYY-MM-DD` from Napoleon's lifetime.

use crate::verify::text::{is_digit, trim};

/// Whether the response is a list of dates between commas, in digits of any script.
pub(super) fn is_date_list(response: &str) -> bool {
    trim(response).split(',').all(|piece| is_date(trim(piece)))
}

/// Whether the text is a date. Month and day may be 00, since the reference only bounds them from above.
fn is_date(text: &str) -> bool {
    let parts: Vec<Option<u32>> = text.split('-').zip([4, 2, 2]).map(|(part, digits)| number(part, digits)).collect();
    let [Some(year), Some(month), Some(day)] = parts[..] else { return false };
    let days = match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        0 => 99,
        _ => return false,
    };
    text.matches('-').count() == 2 && (1769..=1821).contains(&year) && day <= days
}

/// The value of a text of exactly `digits` digits.
fn number(text: &str, digits: usize) -> Option<u32> {
    let is_number = text.chars().count() == digits && text.chars().all(is_digit);
    is_number.then(|| text.chars().fold(0, |number, c| 10 * number + value(c)))
}

/// The value of a digit. Unicode's decimal digits form runs from 0 to 9, so the value is the distance from the start of the run.
fn value(digit: char) -> u32 {
    let code = u32::from(digit);
    let distance =
        (1..).take_while(|back| code.checked_sub(*back).and_then(char::from_u32).is_some_and(is_digit)).count();
    u32::try_from(distance % 10).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_have_their_values() {
        for (digits, expected) in [("0123456789", 0..10), ("٠١٢٣٤٥٦٧٨٩", 0..10), ("𝟎𝟏𝟐𝟗𝟘𝟙", 0..3), ("０９", 0..1)]
        {
            let values: Vec<u32> = digits.chars().map(value).collect();
            assert!(values.starts_with(&expected.collect::<Vec<_>>()), "{digits}: {values:?}");
        }
        assert_eq!(value('𝟙'), 1);
    }

    #[test]
    fn dates_are_in_range() {
        for (text, expected) in [
            ("1796-04-12, 1805-12-02", true),
            ("1800-02-29", true),
            ("1800-02-30", false),
            ("1800-00-99", true),
            ("1800-13-01", false),
            ("1822-01-01", false),
            ("1800-1-01", false),
            ("1800-01-01-01", false),
            ("1800-01-01,", false),
        ] {
            assert_eq!(is_date_list(text), expected, "{text}");
        }
    }
}
