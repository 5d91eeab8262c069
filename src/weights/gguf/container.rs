//! The container of a GGUF file: header, metadata and the list of tensors, checked before anything is reserved for it. The
//! file is not trusted: every count and length is compared with the bytes that are left.

use std::collections::BTreeMap;

use super::kind::Kind;

const MAGIC: &[u8; 4] = b"GGUF";
/// Elements of all arrays together: the largest vocabularies have a million.
const MOST_ELEMENTS: usize = 1 << 23;
/// Bytes of the shortest key with its value: a length, a type and one byte.
const SHORTEST_PAIR: usize = 13;
/// Bytes of the shortest description of a tensor: a name's length, one dimension, a type and an offset.
const SHORTEST_TENSOR: usize = 32;
const MOST_DIMENSIONS: usize = 4;
const MOST_NAME_BYTES: usize = 1 << 16;
const ALIGNMENT_KEY: &str = "general.alignment";

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number of any width.
    Whole(i128),
    /// A number of either floating-point width.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A single text.
    Text(String),
    /// Several values of one type.
    List(Vec<Value>),
}

/// A tensor as a file lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Its name in the file.
    pub name: String,
    /// The dimensions, outermost first.
    pub shape: Vec<usize>,
    /// How its numbers are written.
    pub kind: Kind,
    /// Where they are, from the start of the file.
    pub bytes: std::ops::Range<usize>,
}

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct Container {
    /// Metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors, in the file's order.
    pub tensors: Vec<Listed>,
}

/// What is wrong with a file: a sentence, and the tensor where there is one.
#[derive(Debug, PartialEq)]
pub struct Fault {
    /// The tensor's name.
    pub tensor: Option<String>,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl Fault {
    fn new(reason: impl Into<String>) -> Self {
        Self { tensor: None, reason: reason.into() }
    }

    fn of(tensor: &str, reason: impl Into<String>) -> Self {
        Self { tensor: Some(tensor.into()), reason: reason.into() }
    }
}

impl Container {
    /// Reads a whole file.
    ///
    /// # Errors
    /// Whatever is cut off, too large, double, misplaced or unknown.
    pub fn read(file: &[u8]) -> Result<Self, Fault> {
        let mut reader = Reader { file, at: 0, elements: MOST_ELEMENTS };
        if file.get(..4) != Some(MAGIC) {
            return Err(Fault::new("it is no GGUF file: it does not begin with `GGUF`"));
        }
        reader.at = 4;
        match reader.u32("the version")? {
            2 | 3 => (),
            1 => return Err(Fault::new("it has GGUF version 1; convert the model again, to version 3")),
            swapped if swapped.swap_bytes() < 1 << 16 => {
                return Err(Fault::new("its numbers are big-endian; convert the model again as little-endian"));
            }
            other => return Err(Fault::new(format!("it has GGUF version {other}; versions 2 and 3 are read"))),
        }
        let tensors = reader.count("the number of tensors", SHORTEST_TENSOR)?;
        let pairs = reader.count("the number of metadata keys", SHORTEST_PAIR)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..pairs {
            let key = reader.text("a metadata key", MOST_NAME_BYTES)?;
            let kind = reader.u32(&key)?;
            let value = reader.value(&key, kind, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(Fault::new(format!("the metadata key `{key}` is there twice")));
            }
        }
        let alignment = alignment(&metadata)?;
        let mut listed = Vec::new();
        for _ in 0..tensors {
            listed.push(reader.tensor()?);
        }
        let data = reader.at.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
        let tensors = place(listed, data, alignment, file.len())?;
        Ok(Self { metadata, tensors })
    }
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<usize, Fault> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(32),
        Some(&Value::Whole(bytes)) if (8..=1 << 16).contains(&bytes) && bytes.count_ones() == 1 => Ok(bytes as usize),
        Some(other) => {
            Err(Fault::new(format!("`{ALIGNMENT_KEY}` is {other:?}, not a power of two between 8 and 65536")))
        }
    }
}

/// A tensor whose place is not checked yet.
struct Unplaced {
    name: String,
    shape: Vec<usize>,
    kind: Kind,
    offset: u64,
}

/// Checks where tensors are: whole blocks, aligned, inside of the file, and none on another.
fn place(tensors: Vec<Unplaced>, data: usize, alignment: usize, end: usize) -> Result<Vec<Listed>, Fault> {
    let mut placed = Vec::with_capacity(tensors.len());
    for Unplaced { name, shape, kind, offset } in tensors {
        let (block, block_bytes) = kind.block();
        let columns = shape.last().copied().unwrap_or(0);
        if columns % block != 0 {
            return Err(Fault::of(&name, format!("its rows have {columns} numbers, no multiple of a block's {block}")));
        }
        let numbers = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let bytes = numbers.and_then(|numbers| (numbers / block).checked_mul(block_bytes));
        let start = usize::try_from(offset).ok().and_then(|offset| data.checked_add(offset));
        let (Some(bytes), Some(start)) = (bytes, start) else {
            return Err(Fault::of(&name, format!("its shape {shape:?} or its offset {offset} is impossible")));
        };
        if offset % alignment as u64 != 0 {
            return Err(Fault::of(&name, format!("its offset {offset} is no multiple of the alignment {alignment}")));
        }
        match start.checked_add(bytes) {
            Some(stop) if stop <= end => placed.push(Listed { name, shape, kind, bytes: start..stop }),
            _ => {
                let reason = format!(
                    "it should be at {start} and have {bytes} bytes, but the file ends at {end}: copy or download it again"
                );
                return Err(Fault::of(&name, reason));
            }
        }
    }
    let mut order: Vec<&Listed> = placed.iter().collect();
    order.sort_by_key(|tensor| (tensor.bytes.start, tensor.bytes.end));
    if let Some(pair) = order.windows(2).find(|pair| pair[1].bytes.start < pair[0].bytes.end) {
        return Err(Fault::of(&pair[1].name, format!("its bytes are also those of `{}`", pair[0].name)));
    }
    let mut names: Vec<&str> = placed.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Fault::of(pair[0], "it is in the file twice")),
        None => Ok(placed),
    }
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    /// Elements that arrays may still have.
    elements: usize,
}

impl Reader<'_> {
    fn take(&mut self, bytes: usize, what: &str) -> Result<&[u8], Fault> {
        let end = self.at.checked_add(bytes).filter(|&end| end <= self.file.len());
        let Some(end) = end else {
            let reason = format!("the file ends within {what}: copy or download it again");
            return Err(Fault::new(reason));
        };
        let taken = &self.file[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Fault> {
        let bytes = self.take(N, what)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        self.number(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, Fault> {
        self.number(what).map(u64::from_le_bytes)
    }

    /// A number of things that take `least` bytes each, for which the rest of the file must have room.
    fn count(&mut self, what: &str, least: usize) -> Result<usize, Fault> {
        let count = self.u64(what)?;
        let room = (self.file.len() - self.at) / least;
        match usize::try_from(count) {
            Ok(count) if count <= room => Ok(count),
            _ => Err(Fault::new(format!("{what} is {count}, for which the file is too short"))),
        }
    }

    fn text(&mut self, what: &str, most: usize) -> Result<String, Fault> {
        let length = self.count(&format!("the length of {what}"), 1)?;
        if length > most {
            return Err(Fault::new(format!("{what} has {length} bytes, more than {most}")));
        }
        let bytes = self.take(length, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(Fault::new(format!("{what} is no UTF-8 text"))),
        }
    }

    fn value(&mut self, key: &str, kind: u32, depth: usize) -> Result<Value, Fault> {
        let what = || format!("`{key}`");
        Ok(match kind {
            0 => Value::Whole(u8::from_le_bytes(self.number(&what())?).into()),
            1 => Value::Whole(i8::from_le_bytes(self.number(&what())?).into()),
            2 => Value::Whole(u16::from_le_bytes(self.number(&what())?).into()),
            3 => Value::Whole(i16::from_le_bytes(self.number(&what())?).into()),
            4 => Value::Whole(self.u32(&what())?.into()),
            5 => Value::Whole(i32::from_le_bytes(self.number(&what())?).into()),
            6 => Value::Float(f32::from_le_bytes(self.number(&what())?).into()),
            7 => match self.number(&what())? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(Fault::new(format!("{} is {other}, neither true nor false", what()))),
            },
            8 => Value::Text(self.text(&what(), self.file.len())?),
            9 => {
                if depth > 1 {
                    return Err(Fault::new(format!("{} has lists in lists in lists", what())));
                }
                let of = self.u32(&what())?;
                let least = match of {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    _ => 8,
                };
                let count = self.count(&format!("the number of elements of {}", what()), least)?;
                let reason =
                    || Fault::new(format!("{} brings all lists to more than {MOST_ELEMENTS} elements", what()));
                self.elements = self.elements.checked_sub(count).ok_or_else(reason)?;
                let list: Result<Vec<Value>, Fault> = (0..count).map(|_| self.value(key, of, depth + 1)).collect();
                Value::List(list?)
            }
            10 => Value::Whole(self.u64(&what())?.into()),
            11 => Value::Whole(i64::from_le_bytes(self.number(&what())?).into()),
            12 => Value::Float(f64::from_le_bytes(self.number(&what())?)),
            other => return Err(Fault::new(format!("{} has the type {other}, which is none of GGUF's", what()))),
        })
    }

    fn tensor(&mut self) -> Result<Unplaced, Fault> {
        let name = self.text("a tensor's name", MOST_NAME_BYTES)?;
        let what = format!("the description of `{name}`");
        let dimensions = self.u32(&what)? as usize;
        if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
            return Err(Fault::of(
                &name,
                format!("it has {dimensions} dimensions, not between 1 and {MOST_DIMENSIONS}"),
            ));
        }
        let mut shape = Vec::with_capacity(dimensions);
        for _ in 0..dimensions {
            match usize::try_from(self.u64(&what)?) {
                Ok(size) if size > 0 => shape.insert(0, size),
                _ => return Err(Fault::of(&name, "one of its dimensions is 0 or too large")),
            }
        }
        let kind = Kind::new(self.u32(&what)?).map_err(|other| {
            let reason = format!(
                "its type is {other}, which is not computed with; take a file of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, F16, BF16 or F32"
            );
            Fault::of(&name, reason)
        })?;
        Ok(Unplaced { name, shape, kind, offset: self.u64(&what)? })
    }
}
