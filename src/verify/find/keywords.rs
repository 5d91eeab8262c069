//! Finds words that must or must not be used, and how often.

use std::ops::Range;

use serde_json::json;

use super::list::{self, Noun};
use super::number::value;
use super::part::PARTS;
use super::pattern::pattern;
use super::quantity::Bounds;
use super::reading::{Reading, Sentence};
use super::spot::Spot;
use super::times::{TIMES, negated_bounds, times_of};
use super::{Find, Finds};

const USE: &str = concat!(
    r"(?:includ(?:e|es|ed|ing)|us(?:e|es|ed|ing)|mention(?:s|ed|ing)?|contain(?:s|ed|ing)?|incorporat(?:e|es|ed|ing)|work(?:s|ing)? in|add(?:s|ing)?|featur(?:e|es|ing)|",
    r"ha(?:s|ve|ving)|with|writ(?:e|es|ing)|put(?:ting)?|weav(?:e|es|ing)(?: in)?|insert(?:s|ing)?|say(?:s|ing)?|employ(?:s|ing)?|avoid(?:s|ing)?|exclud(?:e|es|ing)|omit(?:s|ting)?|",
    r"leav(?:e|es|ing) out|stay(?:ing)? away from|steer(?:ing)? clear of|keep(?:ing)? away from|skip(?:s|ping)?|without|no|not|neither|nor|repeat(?:s|ing)?|drop(?:s|ping)?|ban|type|typing|sprinkl(?:e|ing) in|throw in|work|fit in|slip in|utter(?:ing)?)"
);
const NOUN: &str = r"(?P<noun>key ?-?words?|key ?-?terms?|words?|terms?|phrases?|expressions?|names?|hashtags?|adjectives?|verbs?|nouns?|lines?)";
const DETERMINERS: &str = concat!(
    r"(?: (?:all(?: of)?|any(?: of)?|both(?: of)?|each(?: of)?|either(?: of)?|every one of|the|these|those|this|that|following|specific|exact|exactly|your|once|also|single|our|my|brand|company|product|",
    r"(?P<number>two|three|four|five|six|seven|eight|nine|ten|\d{1,2})|particular|actual|forbidden|banned|in|a|of|the use of|usage of))*"
);

// Matches `include the words` and `do not use any of the following words`.
pattern!(USED, [r"\b(?P<verb>", USE, r")\b(?P<times>(?: ", TIMES, r")?)", DETERMINERS, r" ", NOUN, r"\b"]);
// Matches `mention "sea"`, which needs no noun because the word is quoted.
pattern!(
    QUOTED_USED,
    [
        r"\b(?P<verb>includ(?:e|es|ing)|mention(?:s|ing)?|say(?:ing)?|us(?:e|es|ing)|repeat|write|work in|contain(?:s|ing)?|incorporat(?:e|es|ing)|avoid(?:s|ing)?(?: (?:using|saying|mentioning|the use of))?|(?:not|don't|never|without|cannot|can't) (?:ever )?(?:us(?:e|ing)|say(?:ing)?|writ(?:e|ing)|utter(?:ing)?)|no)(?: the| either| any| in| both| all)* \x{E000}"
    ]
);
// Matches `the word "sea" must appear`.
pattern!(
    SUBJECT,
    [
        r"(?:^|\b(?:and|or|but|that|which|sure|ensure|so|also|then|please|have|want|need|with|for|like|response|answer|reply),? |[,;:] ?)(?:all (?:of )?)?(?:the |these |following |exact |single |specific )*",
        NOUN,
        r"\b"
    ]
);
pattern!(
    PASSIVE,
    [
        r"^,? ?(?:(?:all|both|each|also|only|just) )*(?P<modal>should|must|needs? to|has to|have to|is to|are to|may|shall|will|can|to|is|are|cannot|can't|mustn't|shouldn't|do(?:es)?n't|do(?:es)?|isn't|aren't|ought to|got to|gotta|appears?|occurs?|appearing|being|shows? up|comes? up|be|used|mentioned)\b",
        r"(?P<rest>(?: ?(?:not|never|all|both|each|be|being|get|actually|also|used|included|mentioned|present|found|appear|appears|occur|show up|shows up|feature|featured|come up|exist|there|in there|in it|in|exactly|only|a total of|for|written|repeated|contained|at all|anywhere|to|once)\b(?: only)?)*)"
    ]
);
// Matches `mention keto at least 4 times`.
pattern!(MENTIONED, [r"\b(?:mention|say|repeat)(?:ing)? (?P<word>[a-z][\w'-]+)"]);
const BANNED: &str = r"^ ?(?:is|are) (?:strictly |absolutely |also |all |both )?(?:forbidden|banned|off[- ]limits|prohibited|not allowed|not permitted|not to be used|taboo|out of bounds|disallowed)\b";
pattern!(IS_BANNED, [BANNED]);
pattern!(
    IS_APPEARING,
    [
        r"\b(?:appear|appears|appearing|used|included|mentioned|present|occur|occurs|found|feature|featured|show up|shows up|come up|comes up|be in|in there|in it|exist|allowed|repeated|contained|be there)\b"
    ]
);
pattern!(IS_NOT, [r"\b(?:not|never|cannot)\b|n't\b"]);

// Matches the text between a word and its count, as in `the word sea should appear in your response`.
pattern!(
    GAP,
    [
        r"^(?: ?(?:in|throughout|within|across|somewhere in|anywhere in) (?:the|your|this|it|its)(?: (?:entire|whole|full|final))?(?: (?:response|answer|reply|output|text|story|poem|essay|letter|email|song|article|post|piece|limerick|joke|paragraph|dialogue|speech|review|blog|itinerary))?(?: (?:post))?|,| that| which| to| and(?: use it| mention it| repeat it)?| (?:but|and) (?:make sure|ensure) (?:it|that it)| appears?| appearing| should appear| (?:it )?(?:must|should) (?:appear|be used|be mentioned|occur)| be used| used| a total of| for| show(?:s|ing)? up)* ?"
    ]
);

// Matches text which shows that the word belongs to a part of the answer or is an example.
pattern!(
    PLACED,
    [
        r"^,? ?(?:(?:at|near|in|to|on|by|as|into|for|of) (?:the |your |its |an? |each |every |all )(?:very )?(?:[\w-]+ ){0,2}?(?:start|beginning|end|top|bottom|middle|",
        PARTS,
        r"|(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|\d{1,3}-?(?:st|nd|rd|th)|last|final|opening|closing|same|each|every|all) sentences?|word|question|message|prompt)\b|(?:before|after|instead|between|per|followed by|as (?:a|an|the|your)|in (?:all[- ]?)?(?:bold|caps|italics?|uppercase|lowercase|capital|quotes?|parenthes\w+|brackets|front)|(?:and|,) (?:then|replace)|with (?:a|an|the|another)\b|rather|only (?:in|as|when|for)|in every|in each|every|to (?:start|begin|end|open|close|introduce|describe|refer|mean|separate|mark|indicate|denote|label)|when|whenever|unless|if)\b)"
    ]
);
pattern!(
    START_END,
    [
        r"\b(?:start|begin|open|end|finish|conclud|clos|follow|preced|replac|separat|sign|introduc|mark|label|titl|rhym|nam|defin|translat|spell|highlight|bold|italici|underlin|capitali|count|say)\w*\b(?: (?:it|your|the|this|off|a|an|each|every|with|by|response|answer|reply|entire|whole|\w+))* (?:with|by|in|of|as|to|for) ?(?:the|a|an)? ?$"
    ]
);
pattern!(ONLY_COUNTED, [r"^(?:us|say|repeat|write|work)"]);
pattern!(
    NEGATIVE_VERB,
    [
        r"^(?:avoid|stay|steer|keep|exclud|omit|leav|skip|without|no\b|not|neither|nor|don't|never|cannot|can't|drop|ban)"
    ]
);

/// Finds words to use, words to avoid, and their counts.
pub(super) fn find(reading: &Reading<'_>, finds: &mut Finds) {
    for sentence in &reading.sentences {
        let text = reading.sentence_text(sentence);
        let mut done: Vec<Range<usize>> = Vec::new();
        for used in USED.captures_iter(text) {
            let (Some(verb), Some(noun)) = (used.name("verb"), used.name("noun")) else { continue };
            let list_at = noun.end();
            let Some(list) = list::read(reading, sentence, list_at, Noun::from_word(noun.as_str())) else { continue };
            let times = used.name("times").map_or("", |times| times.as_str());
            let number = used.name("number").and_then(|number| value(number.as_str()));
            let found = Listed { start: verb.start(), verb: verb.as_str(), list, times, number, quoted: false };
            done.extend(found.push_active(reading, sentence, finds));
        }
        for used in QUOTED_USED.captures_iter(text) {
            let (Some(whole), Some(verb)) = (used.get(0), used.name("verb")) else { continue };
            let quote = whole.end() - super::reading::QUOTED.len_utf8();
            if done.iter().any(|range| range.contains(&quote)) {
                continue;
            }
            let Some(list) = list::read(reading, sentence, quote, Noun::Plural) else { continue };
            done.extend(
                Listed { start: verb.start(), verb: verb.as_str(), list, times: "", number: None, quoted: true }
                    .push_active(reading, sentence, finds),
            );
        }
        for mention in MENTIONED.captures_iter(text) {
            let (Some(whole), Some(word)) = (mention.get(0), mention.name("word")) else { continue };
            let Some((Some(bounds), len)) = times_of(&text[word.end()..]) else { continue };
            let range = sentence.range.start + whole.start()..sentence.range.start + word.end() + len;
            let spot = Spot::new(reading, sentence, &range);
            let plain =
                !list::FUNCTION.contains(&word.as_str()) && !done.iter().any(|range| range.contains(&word.start()));
            if plain
                && spot.is_asked_of_text()
                && !spot.is_under_negation()
                && !PLACED.is_match(&text[word.end() + len..])
            {
                let written = reading.words(sentence.range.start + word.start()..sentence.range.start + word.end());
                push_times(written, bounds, &range, finds);
            }
        }
        for quoted in SURE_QUOTED.find_iter(text) {
            let quote = quoted.end() - super::reading::QUOTED.len_utf8();
            let list = list::read(reading, sentence, quote, Noun::Plural);
            done.extend(list.and_then(|list| push_passive(reading, sentence, quote, list, finds)));
        }
        for following in FOLLOWING.find_iter(text) {
            let Some(list) = list::read(reading, sentence, following.end() - 1, Noun::Plural) else { continue };
            let listed =
                Listed { start: following.start(), verb: "include", list, times: "", number: None, quoted: false };
            done.extend(listed.push_active(reading, sentence, finds));
        }
        for named in NOT_NAMED.captures_iter(text) {
            let (Some(whole), Some(name)) = (named.get(0), named.name("name")) else { continue };
            let range = sentence.range.start + whole.start()..sentence.range.start + name.end();
            let written = reading.words(sentence.range.start + name.start()..sentence.range.start + name.end());
            let spot = Spot::new(reading, sentence, &range);
            if written.starts_with(char::is_uppercase) && spot.is_asked_of_text() && !spot.is_under_negation() {
                finds.push(Find::new("keywords:forbidden_words", json!({"forbidden_words": [written]}), range));
            }
        }
        for subject in SUBJECT.captures_iter(text) {
            let Some(noun) = subject.name("noun") else { continue };
            if done.iter().any(|range| range.contains(&noun.start())) {
                continue;
            }
            let Some(list) = list::read(reading, sentence, noun.end(), Noun::from_word(noun.as_str())) else {
                continue;
            };
            done.extend(push_passive(reading, sentence, noun.start(), list, finds));
        }
    }
}

struct Listed<'a> {
    start: usize,
    verb: &'a str,
    list: list::List,
    /// The count before the noun, as in `mention at least twice the word`.
    times: &'a str,
    /// The announced number of words, as in `these 3 words`.
    number: Option<usize>,
    /// Whether the verb was followed directly by a quotation, without `the word`.
    quoted: bool,
}

impl Listed<'_> {
    /// Adds the find for `use the words …`, together with a count that follows.
    fn push_active(self, reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) -> Option<Range<usize>> {
        let text = reading.sentence_text(sentence);
        let base = sentence.range.start;
        let after = &text[self.list.end..];
        let range = base + self.start..base + self.list.end;
        let spot = Spot::new(reading, sentence, &range);
        // In `with exactly 7 words: …` the colon is followed by seven words or by something else.
        if self.number.is_some_and(|number| number > 1 && number != self.list.items.len()) {
            return None;
        }
        let negative_verb = NEGATIVE_VERB.is_match(self.verb);
        let negated = spot.is_negated();
        let leads = [spot.left, self.verb, " "].concat();
        if negative_verb && negated
            || !spot.is_asked_of_text()
            || START_END.is_match(spot.left)
            || START_END.is_match(&leads)
        {
            return None;
        }
        let negative = negative_verb || negated;
        let gap = GAP.find(after).map_or(0, |gap| gap.end());
        let counted = times_of(after).or_else(|| times_of(&after[gap..]).map(|(bounds, len)| (bounds, gap + len)));
        let counted = counted.or_else(|| {
            times_of(&format!(" {}", self.times.trim()))
                .map(|(bounds, _)| (bounds, 0))
                .filter(|_| !self.times.trim().is_empty())
        });
        if let Some((bounds, len)) = counted {
            let end = self.list.end + len;
            let whole = base + self.start..base + end;
            if PLACED.is_match(&text[end..]) {
                return None;
            }
            let bounds = if negative { negated_bounds(bounds?)? } else { bounds? };
            for word in &self.list.items {
                push_times(word, bounds, &whole, finds);
            }
            return Some(self.start..end);
        }
        if PLACED.is_match(after) || PASSIVE.is_match(after) && !after.trim_start().starts_with("to ") {
            return None;
        }
        if !negative && spot.is_under_negation() {
            return None;
        }
        // Without a count, `say "hello"` and `use "we"` are about something else.
        let quotes = self.quoted && ONLY_COUNTED.is_match(self.verb);
        if (self.verb.starts_with("repeat") || quotes) && !negative {
            return None;
        }
        let (id, key) =
            if negative { ("keywords:forbidden_words", "forbidden_words") } else { ("keywords:existence", "keywords") };
        finds.push(Find::new(id, json!({key: self.list.items}), range));
        Some(self.start..self.list.end)
    }
}

/// Adds the find for `the word … should appear` and `the words … are forbidden`.
fn push_passive(
    reading: &Reading<'_>,
    sentence: &Sentence,
    start: usize,
    list: list::List,
    finds: &mut Finds,
) -> Option<Range<usize>> {
    let text = reading.sentence_text(sentence);
    let base = sentence.range.start;
    let after = &text[list.end..];
    let spot = Spot::new(reading, sentence, &(base + start..base + list.end));
    if !spot.is_asked_of_text() || START_END.is_match(spot.left) {
        return None;
    }
    if let Some(banned) = IS_BANNED.find(after) {
        let end = list.end + banned.end();
        finds.push(Find::new(
            "keywords:forbidden_words",
            json!({"forbidden_words": list.items}),
            base + start..base + end,
        ));
        return Some(start..end);
    }
    let Some(passive) = PASSIVE.captures(after) else {
        if text[..list.end].ends_with(super::reading::QUOTED) && JOINED.is_match(spot.left) && !PLACED.is_match(after) {
            let negative = spot.is_under_negation();
            let (id, key) = if negative { FORBIDDEN } else { EXISTENCE };
            if negative == OR.is_match(spot.left) && times_of(after).is_none() && USE_VERB.is_match(spot.left) {
                finds.push(Find::new(id, json!({key: list.items}), base + start..base + list.end));
                return Some(start..list.end);
            }
        }
        return push_counted(&spot, after, base + start..base + list.end, &list.items, finds)
            .map(|len| start..list.end + len);
    };
    let said = passive.get(0)?;
    if !IS_APPEARING.is_match(said.as_str()) {
        return None;
    }
    let negative = IS_NOT.is_match(said.as_str()) || spot.is_under_negation();
    let rest = &after[said.end()..];
    let gap = GAP.find(rest).map_or(0, |gap| gap.end());
    let end = list.end + said.end();
    let counted = times_of(rest).or_else(|| times_of(&rest[gap..]).map(|(bounds, len)| (bounds, gap + len)));
    if let Some((bounds, len)) = counted {
        let end = end + len;
        if PLACED.is_match(&text[end..]) {
            return None;
        }
        let bounds = if negative { negated_bounds(bounds?)? } else { bounds? };
        for word in &list.items {
            push_times(word, bounds, &(base + start..base + end), finds);
        }
        return Some(start..end);
    }
    if PLACED.is_match(rest) || spot.is_under_negation() && !IS_NOT.is_match(said.as_str()) {
        return None;
    }
    // `may appear` is a permission; only `may not` is an instruction.
    if !negative
        && matches!(passive.name("modal")?.as_str(), "may" | "can" | "is" | "are" | "do" | "does")
        && !SURE.is_match(spot.left)
    {
        return None;
    }
    let (id, key) =
        if negative { ("keywords:forbidden_words", "forbidden_words") } else { ("keywords:existence", "keywords") };
    finds.push(Find::new(id, json!({key: list.items}), base + start..base + end));
    Some(start..end)
}

/// Adds the find for a second word that shares the verb of the first: `use the word war twice and the word peace three times`.
fn push_counted(
    spot: &Spot<'_>,
    after: &str,
    range: Range<usize>,
    words: &[String],
    finds: &mut Finds,
) -> Option<usize> {
    let (bounds, len) = times_of(after)?;
    let bounds = bounds?;
    if !USE_VERB.is_match(spot.left) || spot.is_under_negation() || PLACED.is_match(&after[len..]) {
        return None;
    }
    for word in words {
        push_times(word, bounds, &(range.start..range.end + len), finds);
    }
    Some(len)
}

const EXISTENCE: (&str, &str) = ("keywords:existence", "keywords");
const FORBIDDEN: (&str, &str) = ("keywords:forbidden_words", "forbidden_words");

// Matches the join in `no exclamation marks or the word …` and `include a joke and the word …`.
pattern!(JOINED, [r"\b(?:and|or),? (?:the )?$"]);
pattern!(OR, [r"\bor,? (?:the )?$"]);
pattern!(USE_VERB, [r"\b", USE, r"\b"]);

fn push_times(word: &str, bounds: Bounds, range: &Range<usize>, finds: &mut Finds) {
    for (relation, frequency) in bounds.relations() {
        let kwargs = json!({"keyword": word, "frequency": frequency, "relation": relation});
        finds.push(Find::new("keywords:frequency", kwargs, range.clone()));
    }
}

/// Whether the text after a word places it in a part of the answer.
pub(super) fn is_placed(after: &str) -> bool {
    PLACED.is_match(after)
}

// Matches `make sure "…" appears`.
pattern!(SURE_QUOTED, [r"\b(?:make sure|making sure|ensure|be sure)(?: that)?(?: the)? \x{E000}"]);
pattern!(SURE, [r"\b(?:make sure|making sure|ensure|be sure)(?: that)?(?: the)? ?$"]);
// Matches `the following words must be in your answer: …`.
pattern!(
    FOLLOWING,
    [
        r"\b(?:the|these|all|of the) (?:following )?(?:key ?)?(?:words|terms|phrases) (?:(?:must|should|have to|need to|has to) (?:all |each )?)(?:be (?:part of|in|used|included|mentioned|present|contained)|appear|occur|feature)\b[^:;.]{0,40}:"
    ]
);

// Matches `don't mention Trump`, in which the name needs no quotation marks.
pattern!(
    NOT_NAMED,
    [
        r"\b(?:don't|do not|never|without|avoid) (?:ever )?mention(?:ing)? (?P<name>[a-z][\w-]+)(?: ?[.,;!]|$| (?:at all|or|in your|anywhere|by name)\b)"
    ]
);
