//! Whether a count is about a part of the answer, or about each of several answers.

use super::pattern::pattern;
use super::spot::Spot;

/// Parts of an answer, in the singular or plural.
pub(super) const PARTS: &str = concat!(
    r"(?:paragraphs?|sections?|parts?|lines?|stanzas?|verses?|chorus(?:es)?|bridge|titles?|subtitles?|headings?|subheadings?|headers?|headlines?|intros?|introductions?|introductory|conclusions?|",
    r"opening|ending|closing|beginning|abstract|subject(?: lines?)?|captions?|bullets?(?:[ -]points?)?|points?|items?|entr(?:y|ies)|steps?|chapters?|acts?|scenes?|body|hook|thesis|",
    r"footers?|signature|sign-off|greetings?|salutations?|quotes?|quotations?|comments?|cells?|rows?|columns?|slides?|slogans?|taglines?|names?|couplets?|",
    r"answer choices?|table|first sentence|last sentence|final sentence|second sentence|every sentence|each sentence|sentences? in|postscript|p\.?s\.?|disclaimer|preface|",
    r"rationale|reasons?|tips?|questions?|examples?|descriptions? of each|variables?|docstrings?|functions?|labels?|keys?|cta|call to action|alt text|meta description|overview|tl;?dr|recap)"
);

/// Parts in the singular.
const PART: &str = concat!(
    r"(?:paragraph|section|line|stanza|verse|chorus|bridge|title|subtitle|heading|subheading|header|headline|intro|introduction|introductory|conclusion|opening|ending|closing|beginning|abstract|",
    r"subject(?: line)?|caption|bullet(?:[ -]point)?|point|item|entry|step|chapter|act|scene|body|hook|thesis|footer|signature|sign-off|greeting|salutation|quote|quotation|comment|cell|row|column|slide|",
    r"slogan|tagline|couplet|table|sentence|postscript|p\.?s\.?|disclaimer|preface|rationale|docstring|cta|call to action|alt text|meta description|overview|tl;?dr|recap)"
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
// The count is of something that is put into the answer.
pattern!(
    ADDED,
    [
        r"\b(?:includ(?:e|es|ing)|add(?:ing)?|insert(?:ing)?|append(?:ing)?|(?:start|begin|open|end|finish|conclude|close|introduc|preced|follow|prefac)\w* (?:it |the \w+ |your \w+ |off |this )?(?:with|by)|followed by|preceded by|quote(?: of)?|plus|along with|and an?|as well as an?)(?: (?:an?|the|exactly|only|just|short|brief|concise|quick|of))* ?$"
    ]
);
// Several answers, of which each may be meant.
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

/// Whether the count at `spot` is not one of the whole answer.
pub(super) fn is_of_part(spot: &Spot<'_>) -> bool {
    if RIGHT_WHOLE.is_match(spot.right) {
        return false;
    }
    let options = ANSWER_OPTION.is_match(spot.left) || OF_EACH.is_match(spot.right);
    if options
        || LEADING.is_match(spot.left)
        || AFTER.is_match(spot.right)
        || ADDED.is_match(spot.left) && !WHOLE.is_match(spot.scope())
    {
        return true;
    }
    let scope = DELIVERS.replace(spot.scope(), "");
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

/// `three slogans under 10 words`
fn is_of_several(scope: &str) -> bool {
    SEVERAL.find_iter(scope).any(|found| {
        let noun = found.as_str().rsplit(' ').next().unwrap_or_default();
        !NOT_SEVERAL.contains(&noun)
    }) && !WHOLE.is_match(scope)
}

/// `text` without `every answer` and the like, which are about whole answers.
pub(super) fn without_answers(text: &str) -> std::borrow::Cow<'_, str> {
    EACH_ANSWER.replace_all(text, "")
}

/// Whether the sentence begins with the part that it is about: `in the title, …`.
pub(super) fn is_led(spot: &Spot<'_>) -> bool {
    LEADING.is_match(spot.left)
}

/// Whether what follows says so: `… in each paragraph`.
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
// `two sentences describing each planet`
pattern!(
    OF_EACH,
    [
        r"^[^,;.:]{0,40}\b(?:each|every|per|apiece|respectively)\b(?:[^,;.:a-z]|$| (?:one|of (?:the|these|them))| [a-z]+ ?(?:[,;.:]|$| (?:in|on|of|with|and)\b))"
    ]
);
// `in the title, …`
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

// What is asked for may itself be called by the name of a part: `write a paragraph …`.
pattern!(
    DELIVERS,
    [
        r"\b(?:write|compose|create|draft|give me|need|want|generate|craft|provide|make|suggest|produce|come up with|you write)(?: me| us)? (?:an?|one|the|my) (?:[\w'-]+ ){0,2}?",
        PART,
        r"\b"
    ]
);
pattern!(ALSO, [r"^[^.;]{0,60}\b(?:and|followed by|then|plus|along with)\b"]);
