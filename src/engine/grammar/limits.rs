//! How much a constraint may ask for. What is above these limits is refused before a compiler sees it.
//!
//! A compiler's work is not linear in its input: integers near the ends of their type, references behind references and
//! lists of alternatives make a few bytes cost seconds. These limits leave room for real data models and keep every
//! compilation short.

use std::collections::HashSet;
use std::io;

use serde_json::{Map, Value};

use crate::constraint::{Constraint, OPTIONS, check_options};

/// Bytes of a JSON schema, written without white space.
pub const SCHEMA_BYTES: usize = 256 << 10;
/// Schemas inside of a schema, those behind references included.
pub const SCHEMAS: usize = 10_000;
/// Schemas on the way from the outermost to an innermost one, through references. A reference that was followed before is
/// not followed again, so cycles are no deeper than the definitions that they go through.
pub const DEPTH: usize = 4_000;
/// Properties of one object, stated as a schema or as a constant.
pub const PROPERTIES: usize = 1_000;
/// Patterns of one object's property names; each pair of them is compared.
pub const NAME_PATTERNS: usize = 16;
/// Schemas of one `anyOf` or `prefixItems`, or values of one constant list.
pub const ALTERNATIVES: usize = 1_000;
/// Names in one `type`, for each of which the rest of its schema is compiled.
pub const TYPES: usize = 10;
/// Schemas of one `oneOf`, each pair of which is compared, or of one `allOf`, which are merged one after the other.
pub const MERGED: usize = 100;
/// Values of one `enum`.
pub const ENUM_VALUES: usize = 10_000;
/// Values in all `const` and `enum` together, those inside of lists and objects included.
pub const CONSTANTS: usize = 20_000;
/// Bytes of one constant text.
pub const CONSTANT_BYTES: usize = 8 << 10;
/// Bytes of one `pattern`.
pub const PATTERN_BYTES: usize = 2_000;
/// Patterns in a schema.
pub const PATTERNS: usize = 200;
/// The largest whole number that every JSON implementation holds exactly, 2^53 - 1.
pub const LARGEST: f64 = 9_007_199_254_740_991.0;
/// Numbers closer to 0 than this are written with too many digits to be matched.
pub const SMALLEST: f64 = 1e-15;
/// The largest and the smallest `multipleOf`: remainders are states of the matcher.
pub const DIVISORS: (f64, f64) = (1e-6, 1e6);
/// Bytes of a regular expression that a client writes.
pub const REGEX_BYTES: usize = 8 << 10;
/// Texts of one choice.
pub const CHOICES: usize = 4_000;
/// Bytes of all texts of one choice.
pub const CHOICE_BYTES: usize = 64 << 10;
/// Bytes of an expression or a grammar that is made here of what a client sends.
const MADE_BYTES: usize = 512 << 10;

/// Checks a constraint before it is compiled.
///
/// # Errors
/// Returns a phrase about the part that is too large; it continues a sentence that begins with the field's name.
pub fn check(constraint: &Constraint) -> Result<(), String> {
    match constraint {
        Constraint::JsonSchema(schema) => check_schema(schema),
        Constraint::Regex(text) | Constraint::Lark(text) | Constraint::Calls { lark: text, .. } => {
            within("the pattern's bytes", text.len(), MADE_BYTES)
        }
    }
}

/// Checks a JSON schema.
///
/// # Errors
/// Fails as [`check`] does.
pub fn check_schema(root: &Value) -> Result<(), String> {
    if !fits(root, SCHEMA_BYTES) {
        return Err(format!("the schema must not be larger than {SCHEMA_BYTES} bytes"));
    }
    if let Some(options) = root.get(OPTIONS) {
        check_options(options)?;
    }
    let mut walk =
        Walk { root, open: vec![(root, 1)], followed: HashSet::new(), schemas: 0, constants: 0, patterns: 0 };
    while let Some((next, depth)) = walk.open.pop() {
        walk.schemas += 1;
        within("the number of schemas, those behind references included,", walk.schemas, SCHEMAS)?;
        within("the depth of schemas, references followed,", depth, DEPTH)?;
        if let Value::Object(keywords) = next {
            walk.keywords(keywords, depth)?;
        }
    }
    Ok(())
}

/// Checks a regular expression that a client wrote, without compiling it.
///
/// # Errors
/// As [`check`], or what is wrong with its syntax.
pub fn check_regex(regex: &str) -> Result<(), String> {
    within("the expression's bytes", regex.len(), REGEX_BYTES)?;
    match regex_syntax::ast::parse::Parser::new().parse(regex) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("no regular expression: {}", error.kind())),
    }
}

/// Schemas that are still to be visited, in the order in which a compiler visits them.
struct Walk<'a> {
    root: &'a Value,
    /// The last is visited next.
    open: Vec<(&'a Value, usize)>,
    followed: HashSet<&'a str>,
    schemas: usize,
    constants: usize,
    patterns: usize,
}

impl<'a> Walk<'a> {
    fn keywords(&mut self, keywords: &'a Map<String, Value>, depth: usize) -> Result<(), String> {
        let begun = self.open.len();
        for (keyword, value) in keywords {
            match (keyword.as_str(), value) {
                ("const", value) => self.constant(value)?,
                ("enum", Value::Array(values)) => {
                    within("the number of `enum` values", values.len(), ENUM_VALUES)?;
                    values.iter().try_for_each(|value| self.constant(value))?;
                }
                ("properties", Value::Object(inner)) => {
                    within("the number of `properties`", inner.len(), PROPERTIES)?;
                    self.open.extend(inner.values().map(|inner| (inner, depth + 1)));
                }
                ("required", Value::Array(names)) => within("the number of `required` names", names.len(), PROPERTIES)?,
                ("patternProperties", Value::Object(inner)) => {
                    within("the number of `patternProperties`", inner.len(), NAME_PATTERNS)?;
                    inner.keys().try_for_each(|pattern| self.pattern(pattern))?;
                    self.open.extend(inner.values().map(|inner| (inner, depth + 1)));
                }
                ("pattern", Value::String(pattern)) => self.pattern(pattern)?,
                ("anyOf" | "prefixItems" | "items", Value::Array(inner)) => {
                    within(&format!("the number of schemas in `{keyword}`"), inner.len(), ALTERNATIVES)?;
                    self.open.extend(inner.iter().map(|inner| (inner, depth + 1)));
                }
                ("oneOf" | "allOf", Value::Array(inner)) => {
                    within(&format!("the number of schemas in `{keyword}`"), inner.len(), MERGED)?;
                    self.open.extend(inner.iter().map(|inner| (inner, depth + 1)));
                }
                ("type", Value::Array(types)) => within("the number of `type` names", types.len(), TYPES)?,
                ("items" | "additionalItems" | "additionalProperties", inner) => self.open.push((inner, depth + 1)),
                ("$ref", Value::String(reference)) => {
                    if let Some(target) = self.target(reference) {
                        self.open.push((target, depth + 1));
                    }
                }
                ("minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum", value) => number(keyword, value)?,
                ("multipleOf", value) => divisor(value)?,
                _ => {}
            }
        }
        // What was put on first is visited first, as a compiler does it.
        self.open[begun..].reverse();
        Ok(())
    }

    /// Where a reference leads that was not followed before; the compiler says what is wrong with one that leads nowhere.
    fn target(&mut self, reference: &'a str) -> Option<&'a Value> {
        if !self.followed.insert(reference) {
            return None;
        }
        let path = reference.strip_prefix('#')?;
        let step = |at: &'a Value, name: &str| match at {
            Value::Array(items) => items.get(name.parse::<usize>().ok()?),
            at => at.get(name),
        };
        match path.strip_prefix('/')? {
            "" => Some(self.root),
            path => path.split('/').try_fold(self.root, step),
        }
    }

    fn pattern(&mut self, pattern: &str) -> Result<(), String> {
        self.patterns += 1;
        within("the number of patterns", self.patterns, PATTERNS)?;
        within("the bytes of one `pattern`", pattern.len(), PATTERN_BYTES)
    }

    fn constant(&mut self, constant: &'a Value) -> Result<(), String> {
        let mut open = vec![constant];
        while let Some(next) = open.pop() {
            self.constants += 1;
            within("the number of constant values", self.constants, CONSTANTS)?;
            match next {
                Value::Number(_) => number("a constant", next)?,
                Value::String(text) => within("the bytes of one constant text", text.len(), CONSTANT_BYTES)?,
                Value::Array(items) => {
                    within("the number of values in a constant list", items.len(), ALTERNATIVES)?;
                    open.extend(items);
                }
                Value::Object(fields) => {
                    within("the number of properties of a constant object", fields.len(), PROPERTIES)?;
                    open.extend(fields.values());
                }
                Value::Null | Value::Bool(_) => {}
            }
        }
        Ok(())
    }
}

fn within(what: &str, got: usize, most: usize) -> Result<(), String> {
    if got <= most {
        return Ok(());
    }
    Err(format!("{what} must be at most {most}, got {got} or more"))
}

/// Numbers that bound a value or are one.
fn number(what: &str, value: &Value) -> Result<(), String> {
    let Some(number) = value.as_f64() else { return Ok(()) };
    if number.abs() > LARGEST {
        return Err(format!("{what} must be between -(2^53 - 1) and 2^53 - 1, got {value}"));
    }
    if number != 0.0 && number.abs() < SMALLEST {
        return Err(format!("{what} must be 0 or at least {SMALLEST:e} away from it, got {value}"));
    }
    Ok(())
}

fn divisor(value: &Value) -> Result<(), String> {
    let (least, most) = DIVISORS;
    match value.as_f64() {
        Some(divisor) if !(least..=most).contains(&divisor.abs()) => {
            Err(format!("`multipleOf` must be between {least} and {most}, got {value}"))
        }
        _ => Ok(()),
    }
}

/// Whether `value` has at most `most` bytes as JSON; it is written no further than that.
fn fits(value: &Value, most: usize) -> bool {
    struct Room(usize);
    impl io::Write for Room {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    serde_json::to_writer(Room(most), value).is_ok()
}
