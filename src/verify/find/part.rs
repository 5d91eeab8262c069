//! Decides whether a count is about a part of the answer, or about each of several answers.

use super::pattern::pattern;
use super::spot::Spot;

/// Matches parts of an answer, in the singular or plural.
pub(super) const PARTS: &str = concat!(
    r"(?:paragraphs?|sections?|parts?|lines?|stanzas?|verses?|chorus(?:es)?|bridge|titles?|subtitles?|headings?|subheadings?|headers?|headlines?|intros?|introductions?|introductory|conclusions?|",
    r"opening|ending|closing|beginning|abstract|subject(?: lines?)?|captions?|bullets?(?:[ -]points?)?|points?|items?|entr(?:y|ies)|steps?|chapters?|acts?|scenes?|body|hook|thesis|",
    r"footers?|signature|sign-off|greetings?|salutations?|quotes?|quotations?|comments?|cells?|rows?|columns?|slides?|slogans?|taglines?|names?|couplets?|",
    r"answer choices?|table|first sentence|last sentence|final sentence|second sentence|every sentence|each sentence|sentences? in|postscript|p\.?s\.?|disclaimer|preface|",
    r"rationale|reasons?|tips?|questions?|examples?|descriptions? of each|variables?|docstrings?|functions?|labels?|keys?|cta|call to action|alt text|meta description|overview|recap)"
);

/// Matches parts of an answer in the singular.
const PART: &str = concat!(
    r"(?:paragraph|section|line|stanza|verse|chorus|bridge|title|subtitle|heading|subheading|header|headline|intro|introduction|introductory|conclusion|opening|ending|closing|beginning|abstract|",
    r"subject(?: line)?|caption|bullet(?:[ -]point)?|point|item|entry|step|chapter|act|scene|body|hook|thesis|footer|signature|sign-off|greeting|salutation|quote|quotation|comment|cell|row|column|slide|",
    r"slogan|tagline|couplet|table|sentence|postscript|p\.?s\.?|disclaimer|preface|rationale|docstring|cta|call to action|alt text|meta description|overview|recap)"
);

pattern!(
    EACH,
    [
        r"\b(?:each|every|per|both|apiece|respectively|all (?:of )?(?:the |your |these )?",
        PARTS,
        r"|either of|one of the|another)\b"
    ]
);
pattern!(
    EACH_ANSWER,
    [
        r"\b(?:each|every|all|both|per)(?: (?:of|one of))?(?: (?:your|the|my))?(?: (?:single|future|subsequent))? (?:responses?|answers?|repl(?:y|ies)|messages?|outputs?|times?|turns?)\b"
    ]
);
pattern!(
    NAMED_PART,
    [
        r"\b(?:(?:the|an?|your|its|any|this|that|one|no|followed by)(?: [\w-]+){0,2}? |(?:first|second|third|fourth|fifth|last|final|opening|closing|1st|2nd|3rd|next|short|brief|catchy|main) |(?:^|[,;:] ?))",
        PART,
        r"\b"
    ]
);
pattern!(
    PARTS_THAT,
    [
        r"\b",
        PARTS,
        r"(?: \d+)?,? (?:should|must|needs?|have to|has to|of|with|that|which|containing|are|is|can(?:no|')t|being|having|may|will|at|under|with)\b"
    ]
);
pattern!(
    WHOLE,
    [concat!(
        r"\b(?:(?:entire|whole|full|total|overall|complete) (?:\w+ )?(?:response|answer|reply|output|text|story|poem|essay|thing|letter|email|article|song|post|message|piece|summary)|(?:your|the) (?:response|answer|reply|output)|in total|overall|",
        r"altogether|everything)\b"
    )]
);
pattern!(
    AFTER,
    [
        r"^[ -]?(?:long |in length |words? |max |each,? ?)?(?:each|per|apiece|(?:for|in|of|on|to|about|as|at|under) (?:each|every|any|all)|every|respectively|(?:in|for|of|as|at|to|on|under) (?:the |your |an? |its |any )(?:[\w-]+ ){0,2}?",
        PARTS,
        r"|",
        PARTS,
        r")\b"
    ]
);
// Matches counts of something that is put into the answer.
pattern!(
    ADDED,
    [
        r"\b(?:includ(?:e|es|ing)|add(?:ing)?|insert(?:ing)?|append(?:ing)?|(?:start|begin|open|end|finish|conclude|close|introduc|preced|follow|prefac)\w* (?:it |the \w+ |your \w+ |off |this )?(?:with|by)|followed by|preceded by|quote(?: of)?|plus|along with|and an?|as well as an?)(?: (?:an?|the|exactly|only|just|short|brief|concise|quick|of))* ?$"
    ]
);
// Matches several answers, in which case the count may be about each of them.
pattern!(
    SEVERAL,
    [
        r"\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|several|multiple|some|a few|a couple of|many|\d{1,3}|different|various|a (?:list|series|set|bunch|collection) of)(?: [\w-]+){0,2}? (?:\w{3,}s|stories|haiku)\b"
    ]
);
const NOT_SEVERAL: [&str; 12] = [
    "words",
    "sentences",
    "paragraphs",
    "lines",
    "stanzas",
    "sections",
    "asterisks",
    "points",
    "bullets",
    "times",
    "parts",
    "verses",
];
pattern!(IN_ALL, [r"(?:\b(?:in|using|use|limit|keep|within)(?: (?:just|only|about))?|: ?|\bto) ?$"]);
pattern!(
    RIGHT_WHOLE,
    [
        r"^[^.;]{0,20}\b(?:in total|overall|altogether|in all|total|combined|in (?:your|the) (?:entire |whole )?(?:response|answer|reply|output))\b"
    ]
);

/// Whether the count at `spot` is about a part and not about the whole answer.
pub(super) fn is_of_part(spot: &Spot<'_>) -> bool {
    if RIGHT_WHOLE.is_match(spot.right) {
        return false;
    }
    let options = ANSWER_OPTION.is_match(spot.left) || OF_EACH.is_match(&EACH_ANSWER.replace_all(spot.right, ""));
    if options
        || LEADING.is_match(spot.left)
        || AFTER.is_match(&EACH_ANSWER.replace_all(spot.right, ""))
        || attached(spot)
        || BARE.is_match(spot.scope()) && !DELIVERS.is_match(spot.scope())
        || ADDED.is_match(spot.left) && !WHOLE.is_match(spot.scope())
    {
        return true;
    }
    let scope = DELIVERS.replace(spot.scope(), "");
    // A part such as a title is too short for so large a number of words, so it is ignored here.
    let scope = if LONG.is_match(spot.found()) { SHORT_PART.replace_all(&scope, "") } else { scope };
    let scope = if ALSO.is_match(spot.right) { spot.scope() } else { &*scope };
    let reaches = |text: &str| {
        let text = EACH_ANSWER.replace_all(text, "");
        let last =
            [EACH.find_iter(&text).last(), NAMED_PART.find_iter(&text).last(), PARTS_THAT.find_iter(&text).last()];
        let last = last.into_iter().flatten().map(|part| part.start()).max();
        let whole = WHOLE.find_iter(&text).last().map(|whole| whole.start());
        last.is_some() && last > whole
    };
    reaches(scope) || reaches(spot.header()) || is_of_several(scope) && !IN_ALL.is_match(spot.left)
}

/// Whether several things are requested, as in `three slogans under 10 words`.
fn is_of_several(scope: &str) -> bool {
    SEVERAL.find_iter(scope).any(|found| {
        let noun = found.as_str().rsplit(' ').next().unwrap_or_default();
        !NOT_SEVERAL.contains(&noun)
    }) && !WHOLE.is_match(scope)
}

/// Removes phrases such as `every answer` from `text`, since they are about whole answers.
pub(super) fn without_answers(text: &str) -> std::borrow::Cow<'_, str> {
    EACH_ANSWER.replace_all(text, "")
}

/// Whether the sentence begins with the part it is about: `in the title, …`.
pub(super) fn is_led(spot: &Spot<'_>) -> bool {
    LEADING.is_match(spot.left)
}

/// Whether the part follows the count: `… in each paragraph`.
pub(super) fn is_after(spot: &Spot<'_>) -> bool {
    AFTER.is_match(spot.right)
}

/// Whether the instruction at `spot` names a part: `in the title use no …`, `each line …`.
pub(super) fn is_named(spot: &Spot<'_>) -> bool {
    let scope = spot.scope();
    if LEADING.is_match(spot.left) {
        return true;
    }
    let in_part = IN_PART.find_iter(scope).last().map(|part| part.start());
    let whole = WHOLE.find_iter(scope).last().map(|whole| whole.start());
    in_part.is_some() && in_part > whole || PARTS_THAT.is_match(spot.clause()) || IN_PART.is_match(spot.header())
}

pattern!(
    ANSWER_OPTION,
    [
        r"\b(?:each|every|all) (?:of the )?(?:answers?|responses?|reply) (?:options?|choices?|keys?|lines?|items?|boxes)\b"
    ]
);
// Matches `two sentences describing each planet`.
pattern!(
    OF_EACH,
    [
        r"^[^,;.:]{0,40}\b(?:each|every|per|apiece|respectively)\b(?:[^,;.:a-z]|$| (?:one|of (?:the|these|them))| [a-z]+ ?(?:[,;.:]|$| (?:in|on|of|with|and)\b))"
    ]
);
// Matches `in the title, …`.
pattern!(
    LEADING,
    [
        r"^(?:\w+ )?(?:in|for|within|at|inside|under) (?:the|each|every|your|its|any|all) (?:[\w-]+ ){0,2}?",
        PARTS,
        r"\b[^,]{0,30},"
    ]
);
pattern!(
    IN_PART,
    [
        r"\b(?:(?:in|for|of|within|at|with) (?:the|each|every|your|any|all) (?:[\w-]+ ){0,2}?",
        PARTS,
        r"|(?:each|every) (?:[\w-]+ )?",
        PARTS,
        r"|the (?:[\w-]+ ){0,2}?",
        PARTS,
        r" (?:should|must|needs?|has|is|can|with|without|may))\b"
    ]
);

// Matches `write a paragraph …`, in which the whole answer has the name of a part.
pattern!(
    DELIVERS,
    [
        r"\b(?:write|compose|create|draft|give me|need|want|generate|craft|provide|make|suggest|produce|come up with|you write)(?: me| us)? (?:an?|one|the|my) (?:[\w'-]+ ){0,2}?",
        PART,
        r"\b"
    ]
);
pattern!(ALSO, [r"^[^.;]{0,60}\b(?:and|followed by|then|plus|along with)\b"]);

// Matches `keep paragraphs under 4 sentences`.
pattern!(
    BARE,
    [
        r"\b(?:",
        PARTS,
        r"|sentences?)(?: (?:to|at|of|with|having|containing|that (?:are|have|contain)|each|long)){0,2} $"
    ]
);
pattern!(
    LONG,
    [
        r"\b(?:[4-9]\d|\d{3,}|\d{1,3},\d{3}|\w+ hundred|a hundred|hundred|fifty|sixty|seventy|eighty|ninety)\b[^a-z]*(?:to [\d]+ |or more |or less |- ?\d+ )?[ -]?words|\b(?:[3-9]|\d\d+|three|four|five|six|seven|eight|nine|ten|twelve|fifteen|twenty)[ -]sentences"
    ]
);
pattern!(
    SHORT_PART,
    [
        r"\b(?:title|subtitle|heading|headline|header|slogan|tagline|caption|subject line|greeting|signature|sign-off|label|postscript|p\.s\.)s?\b"
    ]
);

/// Whether the count belongs to an attached thing: `a story containing a telegram of at most 10 words`.
fn attached(spot: &Spot<'_>) -> bool {
    let found = ATTACHED.captures(spot.left);
    found.and_then(|found| found.name("noun")).is_some_and(|noun| !SIZES.contains(&noun.as_str()))
}

pattern!(
    ATTACHED,
    [
        r"\b(?:containing|contains?|including|includes?|featuring|with|has|have|plus) (?:an?|one|two|three|some|the) (?:[\w-]+ ){0,2}?(?P<noun>[\w-]+) (?:of|with)(?: an?)? $"
    ]
);
/// Words that mean the length itself.
const SIZES: [&str; 10] = ["length", "total", "maximum", "minimum", "limit", "count", "size", "range", "cap", "max"];
