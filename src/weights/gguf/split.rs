//! Models in several GGUF files, which are named `NAME-00001-of-00003.gguf`.

use std::path::{Path, PathBuf};

use super::container::{Container, Value};
use super::{Gguf, ModelError};

/// Digits of each number.
const DIGITS: usize = 5;

/// The files of the model that `path` is or is a part of, in order.
pub fn parts(path: &Path) -> Vec<PathBuf> {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned()).unwrap_or_default();
    match numbers(&stem) {
        Some((name, _, count)) => {
            (1..=count).map(|part| path.with_file_name(format!("{name}-{part:05}-of-{count:05}.{extension}"))).collect()
        }
        None => vec![path.into()],
    }
}

/// The model's name in that of a part.
pub(super) fn name_of(stem: &str) -> Option<String> {
    numbers(stem).map(|(name, ..)| name.to_owned())
}

/// The name, the number of the part, and how many parts there are.
fn numbers(stem: &str) -> Option<(&str, usize, usize)> {
    let number = |digits: &str| {
        let plain = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse::<usize>().ok())?.filter(|&number| number > 0)
    };
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, part) = rest.rsplit_once('-')?;
    let (part, count) = (number(part)?, number(count)?);
    (part <= count && !name.is_empty()).then_some((name, part, count))
}

/// Checks that a file is the part that its name says.
pub(super) fn check(path: &Path, index: usize, container: &Container) -> Result<(), ModelError> {
    let number = |key: &str, otherwise: i128| match container.metadata.get(key) {
        Some(&Value::Whole(number)) => number,
        _ => otherwise,
    };
    let count = parts(path).len() as i128;
    let (found_index, found_count) = (number("split.no", 0), number("split.count", 1));
    // A file of its own may say that it has no parts.
    if (found_index, found_count.max(1)) == (index as i128, count) {
        return Ok(());
    }
    let reason = format!(
        "it says that it is part {} of {found_count}, its name says {} of {count}; keep the names that the files had",
        found_index + 1,
        index + 1
    );
    Err(ModelError::Broken { file: path.into(), reason })
}

/// Checks that no part lacks tensors.
pub(super) fn check_whole(gguf: &Gguf) -> Result<(), ModelError> {
    match gguf.count("split.tensors.count")? {
        Some(promised) if promised != gguf.tensors.len() => {
            let found = gguf.tensors.len();
            Err(gguf.wrong(format!("its parts have {found} tensors, `split.tensors.count` promises {promised}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_by_any_of_them() {
        let table: [(&str, &[&str], &str); 6] = [
            ("d/m.gguf", &["d/m.gguf"], "m"),
            ("d/m-00002-of-00002.gguf", &["d/m-00001-of-00002.gguf", "d/m-00002-of-00002.gguf"], "m"),
            ("m-00001-of-00001.gguf", &["m-00001-of-00001.gguf"], "m"),
            ("m-00003-of-00002.gguf", &["m-00003-of-00002.gguf"], "m-00003-of-00002"),
            ("m-1-of-2.gguf", &["m-1-of-2.gguf"], "m-1-of-2"),
            ("-00001-of-00002.gguf", &["-00001-of-00002.gguf"], "-00001-of-00002"),
        ];
        for (path, files, name) in table {
            assert_eq!(parts(Path::new(path)), files.iter().map(PathBuf::from).collect::<Vec<_>>(), "{path}");
            assert_eq!(super::super::served_name(Path::new(path)).as_deref(), Some(name), "{path}");
        }
    }
}
