//! The rules of `language:` about the language of a response, as the reference's statistical detector judges it.

use std::sync::LazyLock;

use langdetect::{Compat, DetectorFactory, Seed};

use super::CheckError;
use super::kwargs::Kwargs;

/// The languages that the detector distinguishes: ISO 639-1 codes, and two kinds of written Chinese.
#[rustfmt::skip]
const LANGUAGES: [&str; 55] = [
    "af", "ar", "bg", "bn", "ca", "cs", "cy", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "gu", "he", "hi", "hr", "hu", "id", "it",
    "ja", "kn", "ko", "lt", "lv", "mk", "ml", "mr", "ne", "nl", "no", "pa", "pl", "pt", "ro", "ru", "sk", "sl", "so", "sq", "sv", "sw", "ta",
    "te", "th", "tl", "tr", "uk", "ur", "vi", "zh-cn", "zh-tw",
];

/// The detector samples at random. The seed makes verdicts repeatable, and the version of Python determines the rounding.
static DETECTOR: LazyLock<DetectorFactory> = LazyLock::new(|| {
    let mut factory = DetectorFactory::new(Compat::python(11));
    factory.load_builtin(&DetectorFactory::builtin_files()).expect("the profiles are part of the crate");
    factory.seed = Seed::int(0);
    factory
});

/// The language that the response must be in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule(&'static str);

impl Rule {
    pub(super) fn response_language(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        let code = kwargs.trimmed("language")?;
        match LANGUAGES.iter().find(|known| **known == code) {
            Some(known) => Ok(Self(known)),
            None => Err(kwargs.must_be("language", &format!("one of {}", LANGUAGES.join(", ")))),
        }
    }

    pub(super) fn accepts(&self, response: &str) -> bool {
        may_be(response, self.0)
    }

    pub(super) fn describe(&self) -> String {
        format!("write the whole response in the language with the code \"{}\"", self.0)
    }
}

/// Whether the detector returns `language`, or finds no language.
pub(super) fn may_be(text: &str, language: &str) -> bool {
    DETECTOR.detect(text).map_or(true, |detected| detected == language)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_listed() {
        let mut known = DETECTOR.langlist().to_vec();
        known.sort();
        assert_eq!(known, LANGUAGES);
    }
}
