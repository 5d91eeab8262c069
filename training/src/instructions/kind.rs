//! The kinds of constraints, one for each instruction of IFEval, and which of them contradict each other.

/// A constraint without its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Words that must occur.
    Include,
    /// A bound on how often a word occurs.
    Frequency,
    /// Words that must not occur.
    Forbid,
    /// A bound on how often a letter occurs.
    Letters,
    /// The language of the response.
    Language,
    /// A bound on the number of sentences.
    Sentences,
    /// A number of paragraphs with `***` between them.
    Paragraphs,
    /// A bound on the number of words.
    Words,
    /// A number of paragraphs with blank lines between them, and the first word of one of them.
    FirstWord,
    /// Placeholders in square brackets.
    Placeholders,
    /// A postscript after the text.
    Postscript,
    /// A number of bullet points.
    Bullets,
    /// One of three given answers.
    Choice,
    /// A number of highlighted parts.
    Highlights,
    /// A number of numbered sections.
    Sections,
    /// JSON and nothing else.
    Json,
    /// A title in double angular brackets.
    Title,
    /// Two different responses.
    Two,
    /// The request is repeated before the answer.
    Repeat,
    /// A phrase at the end.
    End,
    /// Double quotation marks around everything.
    Quote,
    /// A bound on the number of words in capital letters.
    CapitalWords,
    /// Capital letters only.
    Upper,
    /// Lowercase letters only.
    Lower,
    /// A text without commas.
    NoComma,
}

use Kind::{
    Bullets, CapitalWords, Choice, End, FirstWord, Forbid, Frequency, Highlights, Include, Json, Language, Letters,
    Lower, NoComma, Paragraphs, Placeholders, Postscript, Quote, Repeat, Sections, Sentences, Title, Two, Upper, Words,
};

/// Every kind with its instruction id.
pub const KINDS: [(Kind, &str); 25] = [
    (Include, "keywords:existence"),
    (Frequency, "keywords:frequency"),
    (Forbid, "keywords:forbidden_words"),
    (Letters, "keywords:letter_frequency"),
    (Language, "language:response_language"),
    (Sentences, "length_constraints:number_sentences"),
    (Paragraphs, "length_constraints:number_paragraphs"),
    (Words, "length_constraints:number_words"),
    (FirstWord, "length_constraints:nth_paragraph_first_word"),
    (Placeholders, "detectable_content:number_placeholders"),
    (Postscript, "detectable_content:postscript"),
    (Bullets, "detectable_format:number_bullet_lists"),
    (Choice, "detectable_format:constrained_response"),
    (Highlights, "detectable_format:number_highlighted_sections"),
    (Sections, "detectable_format:multiple_sections"),
    (Json, "detectable_format:json_format"),
    (Title, "detectable_format:title"),
    (Two, "combination:two_responses"),
    (Repeat, "combination:repeat_prompt"),
    (End, "startend:end_checker"),
    (Quote, "startend:quotation"),
    (CapitalWords, "change_case:capital_word_frequency"),
    (Upper, "change_case:english_capital"),
    (Lower, "change_case:english_lowercase"),
    (NoComma, "punctuation:no_comma"),
];

/// For each kind the kinds that it contradicts, in letter or in spirit. A pair is listed once.
const CONFLICTS: [(Kind, &[Kind]); 10] = [
    // One JSON value has no layout of its own, and needs commas and quotation marks.
    (
        Json,
        &[
            Title, Postscript, Quote, Bullets, Paragraphs, Sections, Two, FirstWord, End, Highlights, Sentences,
            NoComma, Repeat, Choice,
        ],
    ),
    // What there is once in a response would be in one of the two only.
    (Two, &[Paragraphs, FirstWord, Sections, Bullets, Title, Postscript, Quote, End, Choice, Repeat]),
    (Choice, &[Upper, Lower, Language, Repeat, Quote, End, Sections]),
    // The request begins the response and has its own letters, words and commas.
    (Repeat, &[Upper, Lower, Language, Quote, FirstWord, Title, NoComma, Forbid, CapitalWords]),
    // Titles, lists and postscripts would be paragraphs of their own.
    (FirstWord, &[Paragraphs, Sections, Bullets, Title, Postscript, Language]),
    (Paragraphs, &[Bullets, Sections]),
    // The words, phrases and letters of the other constraints are English, and words of other scripts are counted differently.
    (Language, &[Include, Frequency, Forbid, Letters, Words, Sentences, End, Sections, Upper, Lower, CapitalWords]),
    (Upper, &[Lower, CapitalWords, End, Sections]),
    (Lower, &[CapitalWords, End, Sections, Postscript]),
    (End, &[Postscript]),
];

impl Kind {
    /// The instruction id.
    #[must_use]
    pub fn id(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).expect("every kind is listed").1
    }

    /// Whether no response should be asked to follow both. Every kind conflicts with itself, because its bounds could exclude each other.
    #[must_use]
    pub fn conflicts(self, other: Self) -> bool {
        let listed =
            |one: Self, two: Self| CONFLICTS.iter().any(|(kind, others)| *kind == one && others.contains(&two));
        self == other || listed(self, other) || listed(other, self)
    }
}
