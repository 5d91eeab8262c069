//! Finds the language of the answer.

use serde_json::json;

use super::pattern::pattern;
use super::reading::{Reading, Sentence};
use super::spot::Spot;
use super::{Find, Finds};

/// Names of the languages that the detector distinguishes. Plain `Chinese` stands for two of its codes and is left to the judge.
const LANGUAGES: [(&str, &str); 60] = [
    ("afrikaans", "af"),
    ("arabic", "ar"),
    ("bulgarian", "bg"),
    ("bengali", "bn"),
    ("bangla", "bn"),
    ("catalan", "ca"),
    ("czech", "cs"),
    ("welsh", "cy"),
    ("danish", "da"),
    ("german", "de"),
    ("greek", "el"),
    ("english", "en"),
    ("spanish", "es"),
    ("estonian", "et"),
    ("persian", "fa"),
    ("farsi", "fa"),
    ("finnish", "fi"),
    ("french", "fr"),
    ("gujarati", "gu"),
    ("hebrew", "he"),
    ("hindi", "hi"),
    ("croatian", "hr"),
    ("hungarian", "hu"),
    ("indonesian", "id"),
    ("italian", "it"),
    ("japanese", "ja"),
    ("kannada", "kn"),
    ("korean", "ko"),
    ("lithuanian", "lt"),
    ("latvian", "lv"),
    ("macedonian", "mk"),
    ("malayalam", "ml"),
    ("marathi", "mr"),
    ("nepali", "ne"),
    ("dutch", "nl"),
    ("norwegian", "no"),
    ("punjabi", "pa"),
    ("polish", "pl"),
    ("portuguese", "pt"),
    ("romanian", "ro"),
    ("russian", "ru"),
    ("slovak", "sk"),
    ("slovenian", "sl"),
    ("slovene", "sl"),
    ("somali", "so"),
    ("albanian", "sq"),
    ("swedish", "sv"),
    ("swahili", "sw"),
    ("tamil", "ta"),
    ("telugu", "te"),
    ("thai", "th"),
    ("tagalog", "tl"),
    ("filipino", "tl"),
    ("turkish", "tr"),
    ("ukrainian", "uk"),
    ("urdu", "ur"),
    ("vietnamese", "vi"),
    ("simplified chinese", "zh-cn"),
    ("traditional chinese", "zh-tw"),
    ("bokmål", "no"),
];

const NAMES: &str = concat!(
    r"(?:afrikaans|arabic|bulgarian|bengali|bangla|catalan|czech|welsh|danish|german|greek|english|spanish|estonian|persian|farsi|finnish|french|gujarati|hebrew|hindi|",
    r"croatian|hungarian|indonesian|italian|japanese|kannada|korean|lithuanian|latvian|macedonian|malayalam|marathi|nepali|dutch|norwegian|punjabi|polish|portuguese|",
    r"romanian|russian|slovak|slovenian|slovene|somali|albanian|swedish|swahili|tamil|telugu|thai|tagalog|filipino|turkish|ukrainian|urdu|vietnamese|",
    r"simplified chinese|traditional chinese|bokmål)"
);

const ONLY: &str = r"(?:only|just|entirely|completely|fully|exclusively|solely|purely|strictly|nothing but|100%)";
const ADJ: &str = r"(?:the |standard |simple |formal |informal |fluent |brazilian |proper |british |american |correct |good |native |modern |clear |colloquial |casual |polite |everyday |basic |beginner |easy )*";
// Matches `in French` and `using only the Hindi language`.
pattern!(
    IN,
    [
        r"\b(?:in|using|use|into|speak|speaking)(?: ",
        ONLY,
        r")?(?: in)? ",
        ADJ,
        r"(?P<name>",
        NAMES,
        r")(?P<tail>(?: language)?(?: ",
        ONLY,
        r")?)\b"
    ]
);
pattern!(
    ONLY_NAME,
    [r"(?:^|[,;:(] ?|\b(?:and|but|please) )(?:only )?(?P<name>", NAMES, r")(?: language)? (?:only|please)\b"]
);
pattern!(
    ANSWERS,
    [
        r"(?:^|[,;:.!(–—-] ?(?:and |but |then |so )?|\b(?:please|and|then|also|always|only|just|should|must|will|you|to|now|but|can|could|would|kindly|so|or|that|who) )(?:(?:only |always |just |please )*(?:respond|answer|reply|write|speak|talk|communicate|respond only|type|answers|responds|replies|speaks|talks|writes|chat|converse|continue))(?: (?:back|only|to me|to (?:the|all|every|each|my) (?:\w+ )?(?:users?|customers?|questions?|messages?)|me|to (?:this|that|it|everything)|everything|it|them|this|that|your (?:entire |whole )?(?:response|answer|reply)|the (?:entire |whole |full )?(?:response|answer|reply|question|questions|following|\w+)|all (?:your )?(?:responses|answers|questions)|entirely|completely|exclusively|with me|again|from now on|purely|strictly|solely|questions|users|a|an|one|single|short|strictly))*,? ?$"
    ]
);
pattern!(
    SUBJECT,
    [
        r"(?:\b(?:(?:your|the|this|all|every|each|entire|whole|full|my|its) ?)+|^)(?:\w+ )?(?:responses?|answers?|reply|replies|output|text|message|words?|story|poem|essay|letter|email|article|song|post|riddle|haiku|joke|summary|review|speech|description|limerick|conversation|rap|thing)(?: (?:in|of) your (?:entire )?(?:response|answer))?\b[^.;:?]{0,40}\b(?:be|is|are|written|in|use|wrote|must|should|give it)? ?$|\b(?:it|everything|that|this)(?: all)? (?:should|must|needs to|has to|to)? ?(?:all )?(?:be|is)? ?(?:entirely |all |completely |written |only |fully )*$|\b(?:want|need|like|have|get|prefer|expect) (?:it|everything|this|that|the (?:answer|response|reply|whole thing|output|entire thing|text)|your (?:answer|response|reply)|you to (?:answer|respond|reply|write|speak))(?: all| back| to be| written| entirely)* ?$"
    ]
);
// Matches `write a poem in French`, with up to a few words between.
pattern!(
    WRITES,
    [
        r"(?:^|[,;:.!] ?(?:and |then )?|\b(?:please|and|you|to|then|also|can you|could you|me|now|,) )(?:write|compose|create|draft|generate|give me|tell me|make|produce|explain|describe|summari[sz]e|list|answer|recite|sing|come up with|provide|describe|say)(?: me| us)?(?: [\w'-]+){1,6}? ?$|(?:^|[,;:.!] ?(?:and |then )?|\b(?:please|you|and) )(?:explain|summari[sz]e|describe|answer|tell me|explain it|write)(?: (?:it|this|that|me|everything))? ?$"
    ]
);
pattern!(
    NOT_ANSWER,
    [
        r"\b(?:about|on|who|where|that|which|from|how|what|translate|translations?|translated|word|words|phrases?|say|said|called|between|learn|learning|teach|class|course|means?|meaning|names?|difference|dialogue|lyrics|conversation|spoken|whose|someone|lesson|exam|book|novel|film|with|his|her|their|people|man|woman|grew|born|living|live|lived|native|fluent|title|titles|heading|greeting|glossary|quote|sentence|sentences|line|lines|paragraph|examples?|one|both|some|character|speaks?)\b"
    ]
);
pattern!(
    NOT_AFTER,
    [
        r"^(?:-| ?(?:,? (?:and|or|&)(?: (?:in|then|also))? (?:chinese|mandarin|cantonese|latin|",
        NAMES,
        r")\b|/|class|classes|literature|history|culture|cuisine|style|speak\w*|accent|food|restaurants?|guiana|polynesia|translation|word|words|grammar|music|art|cinema|lessons?|course|exam|politics|society|phrase|people|law|mythology|politicians?|tradition\w*|folklore|version|alphabet|script|letters|units|sources|text|teacher|to english|\w*-inspired|fashion|economy|philosophy|poetry|slang words|characters|art|for the|in the (?:first|second|last|title)|first|followed|then|as well as|with (?:an? )?(?:english|translation)|plus|\x{E001}))"
    ]
);
pattern!(NO_OTHER, [r"\bno other language|\bonly\b|\bentire|\bwhole\b|\bresponse\b"]);

/// Finds the language of the answer.
pub(super) fn find(reading: &Reading<'_>, finds: &mut Finds) {
    for sentence in &reading.sentences {
        let text = reading.sentence_text(sentence);
        for found in IN.captures_iter(text).chain(ONLY_NAME.captures_iter(text)) {
            let (Some(whole), Some(name)) = (found.get(0), found.name("name")) else { continue };
            let Some(code) = code(name.as_str()) else { continue };
            let range = sentence.range.start + whole.start()..sentence.range.start + whole.end();
            let spot = Spot::new(reading, sentence, &range);
            if is_language_of_answer(sentence, &spot, whole.as_str()) {
                finds.push(Find::new("language:response_language", json!({"language": code}), range));
            }
        }
    }
}

fn is_language_of_answer(_sentence: &Sentence, spot: &Spot<'_>, found: &str) -> bool {
    if !spot.is_asked() || spot.is_under_negation() || NOT_AFTER.is_match(spot.right) || found.starts_with("into") {
        return false;
    }
    let left = spot.left;
    if NTH_WORD.is_match(left) || PLAIN.is_match(found) {
        return false;
    }
    if left.is_empty() || found.ends_with(" only") && !found.starts_with("in ") || found.ends_with(" please") {
        return true;
    }
    if SUBJECT.is_match(left) || ANSWERS.is_match(left) {
        return true;
    }
    let emphatic = NO_OTHER.is_match(spot.right) || NO_OTHER.is_match(found);
    let writes = WRITES.is_match(left) && !NOT_ANSWER.is_match(left);
    let fragment = left.trim_end().ends_with([',', ';', '(', '-']) && spot.right.len() <= 2;
    if fragment && found.ends_with(" only") && !TRANSLATES.is_match(left) {
        return true;
    }
    writes || fragment && !NOT_ANSWER.is_match(left) || emphatic && !NOT_ANSWER_HARD.is_match(left)
}

pattern!(
    NOT_ANSWER_HARD,
    [
        r"\b(?:translate|translations?|who|word|words|phrases?|class|course|title|heading|greeting|lyrics|dialogue|paragraph|sentence|line|quote|speaks?)\b"
    ]
);

pattern!(TRANSLATES, [r"\b(?:translat\w+|spoken|sung)\b"]);
// Matches phrases in which `English` means plain words and not the language.
pattern!(
    PLAIN,
    [r"\b(?:simple|clear|easy|basic|everyday|plain|modern|good|correct|proper|casual|colloquial) english\b"]
);
pattern!(
    NTH_WORD,
    [
        r"\b(?:every|each) (?:\d+(?:st|nd|rd|th)|second|third|other|fourth|fifth|tenth) (?:word|sentence|line|paragraph)\b"
    ]
);

fn code(name: &str) -> Option<&'static str> {
    LANGUAGES.iter().find(|(known, _)| *known == name).map(|(_, code)| *code)
}
