//! `tojson` as `transformers` defines it for chat templates: Python's `json.dumps`, without HTML's escapes.

use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Error, ErrorKind, Value};

use super::meter;

/// Bytes of one step of an indent, and of a separator, at most.
const SHORT: usize = 100;

/// The filter: `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn to_json(value: &Value, args: Rest<Value>) -> Result<Value, Error> {
    let (given, kwargs): (&[Value], Kwargs) = from_args(&args)?;
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    if given.len() > names.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let argument = |name: &str| -> Result<Option<Value>, Error> {
        let given = names.iter().position(|other| *other == name).and_then(|place| given.get(place)).cloned();
        let value = given.map_or_else(|| kwargs.get::<Option<Value>>(name), |value| Ok(Some(value)))?;
        Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let truth = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let ascii = truth(argument("ensure_ascii")?);
    let indent = argument("indent")?.map(|indent| unit(&indent)).transpose()?;
    let usual = if indent.is_some() { "," } else { ", " };
    let (item, key) = match argument("separators")? {
        Some(pair) => {
            let part = |index: usize| {
                let part = pair.get_item_by_index(index)?;
                part.as_str().map(str::to_owned).ok_or_else(|| wrong("`separators` of tojson are two strings"))
            };
            (part(0)?, part(1)?)
        }
        None => (usual.to_owned(), ": ".to_owned()),
    };
    let sorted = truth(argument("sort_keys")?);
    kwargs.assert_all_used()?;
    if item.len().max(key.len()) > SHORT {
        return Err(wrong("a separator of tojson is longer than 100 bytes"));
    }
    meter::weigh(value)?;
    let mut writer = Writer { out: String::new(), ascii, indent, item, key, sorted };
    writer.value(value, 0)?;
    Ok(Value::from_safe_string(writer.out))
}

fn wrong(reason: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// One step of an indent: so many spaces, or a text.
fn unit(indent: &Value) -> Result<String, Error> {
    let unit = match (indent.as_str(), indent.as_usize()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(columns)) if columns <= SHORT => " ".repeat(columns),
        // A negative number indents by nothing, as in Python.
        (None, None) if indent.is_number() => String::new(),
        _ => return Err(wrong("`indent` of tojson is a number up to 100, or a text")),
    };
    if unit.len() > SHORT { Err(wrong("`indent` of tojson is longer than 100 columns")) } else { Ok(unit) }
}

struct Writer {
    out: String,
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sorted: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value)?,
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let mut items = value.try_iter()?.peekable();
                if items.peek().is_none() {
                    self.out.push_str("[]");
                    return Ok(());
                }
                self.out.push('[');
                for (index, item) in items.enumerate() {
                    self.before(index, depth + 1)?;
                    self.value(&item, depth + 1)?;
                }
                self.line(depth)?;
                self.out.push(']');
            }
            ValueKind::Map => self.map(value, depth)?,
            ValueKind::Undefined => return Err(wrong("tojson of an undefined value")),
            other => return Err(wrong(format!("tojson of a value of type {other}"))),
        }
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<(String, Value)> =
            value.try_iter()?.map(|key| Ok((key_text(&key)?, key))).collect::<Result<_, Error>>()?;
        if keys.is_empty() {
            self.out.push_str("{}");
            return Ok(());
        }
        if self.sorted {
            keys.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        self.out.push('{');
        for (index, (text, key)) in keys.into_iter().enumerate() {
            self.before(index, depth + 1)?;
            self.text(&text);
            self.out.push_str(&self.key);
            self.value(&value.get_item(&key)?, depth + 1)?;
        }
        self.line(depth)?;
        self.out.push('}');
        Ok(())
    }

    /// What precedes an item.
    fn before(&mut self, index: usize, depth: usize) -> Result<(), Error> {
        if index > 0 {
            self.out.push_str(&self.item);
        }
        self.line(depth)
    }

    fn line(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            meter::spend((indent.len() * depth) as u64)?;
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
        Ok(())
    }

    fn number(&mut self, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            self.out.push_str(&value.to_string());
            return Ok(());
        }
        self.out.push_str(&float(f64::try_from(value.clone())?));
        Ok(())
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A key as Python writes it.
fn key_text(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
        ValueKind::None => "null".into(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
        ValueKind::Number if key.is_integer() => key.to_string(),
        ValueKind::Number => float(f64::try_from(key.clone())?),
        other => return Err(wrong(format!("a key of tojson is of type {other}"))),
    })
}

/// A number as Python's `repr` writes it: the fewest digits that mean it, an exponent below 1e-4 and from 1e16 on.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = number.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}
