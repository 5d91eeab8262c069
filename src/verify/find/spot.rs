//! The place of a find in its sentence, and whether the sentence really requests it. It does not if it is negated, hypothetical, reported,
//! optional, a question, another person's task, or about a part of the answer.

use std::ops::Range;

use super::pattern::{NOT, pattern};
use super::reading::{Reading, Sentence, beginning};

/// The surroundings of a find within its sentence.
pub(super) struct Spot<'a> {
    /// The line that introduces the list, if the sentence is part of one.
    header: &'a str,
    /// The sentence up to the find.
    pub(super) left: &'a str,
    /// The sentence up to the end of the find.
    until: &'a str,
    /// The sentence after the find.
    pub(super) right: &'a str,
    question: bool,
}

const VERBS: &str = concat!(
    r"(?:write|create|compose|draft|generate|give|provide|make|produce|list|explain|describe|tell|summari[sz]e|rewrite|rephrase|reword|paraphrase|",
    r"translate|answer|respond|reply|return|output|print|use|include|keep|limit|restrict|cap|ensure|avoid|refrain|exclude|omit|leave|mention|add|put|place|",
    r"wrap|enclose|surround|format|present|structure|organi[sz]e|divide|split|separate|mark|label|highlight|bold|bolden|italici[sz]e|emphasi[sz]e|capitali[sz]e|",
    r"start|begin|open|end|finish|conclude|close|sign|repeat|restate|say|do|don't|never|always|be|let|stick|aim|try|remember|note|type|speak|talk|show|",
    r"suggest|recommend|name|brainstorm|come up|elaborate|expand|discuss|compare|critique|criticize|analy[sz]e|help|design|develop|pitch|imagine|pretend|act|take|",
    r"choose|pick|convert|turn|transform|edit|proofread|shorten|continue|complete|outline|plan|build|teach|define|recite|sing|invent|craft|pen|formulate|",
    r"deliver|follow|work|incorporate|feature|employ|have|contain|set|go|get|stay|maintain|hold|skip|drop|remove|find|identify|check|review|consider|",
    r"insert|append|prepend|render|express|cover|address|tweet|title|trim|cut|condense|reduce|compress|shrink|shout|narrate|report|weave|sprinkle|throw in|begin|confine|refer|redo|revise|change|fix|spell|quote|encase|no|not)"
);

pattern!(
    IMPERATIVE,
    [
        r"(?:^|[,;:.(!?–—] ?|- |\b(?:and|but|then|also|please|pls|plz|just|so|finally|additionally|or|kindly|now|next|first|lastly|again|simply|instead|",
        r"ok|okay|hey|hi|hello|important|note|secondly|furthermore|moreover|further|only|response|answer|otherwise|afterwards|too|though|help me) )",
        VERBS,
        r"\b",
    ]
);
pattern!(
    ASKS,
    [concat!(
        r"\b(?:please|pls|plz|make sure|making sure|be sure|ensure|remember|(?:can|could|would|will) (?:you|u|someone)|i (?:really |just |only |also |'ll )?(?:want|need|wanted|require|expect|prefer)|",
        r"i(?:'d| would) (?:really |also |just )?(?:like|love|prefer|appreciate)|i(?:'m| am) looking for|looking for|give me|let's|you (?:must|should|have to|need to|will|are to|",
        r"can only|may only|can't|cannot|may not|shouldn't|mustn't|always|never|only|are required|are not allowed|are expected)|you're (?:not allowed|only allowed|required|to)|",
        r"don't|do not|must|mustn't|should|shouldn't|shall|needs? to|has to|have to|ought to|is to|are to|can(?:no|')t|may not|not allowed|required|",
        r"want (?:it|this|that|the|your|you)|try to|hoping|(?:response|answer|reply|output|essay|story|poem|letter|text|it)(?: that)? (?:is|has|uses|contains)|",
        r"(?:assistant|bot|chatbot|model|expert|tutor|writer|helper|poet|agent) (?:that|who)(?: always| only)?|wish|requirements?|constraints?|rules?)\b|\bno (?:\w+ ){0,3}(?:allowed|please)\b"
    )]
);
pattern!(
    HYPOTHETICAL,
    [concat!(
        r"\b(?:if|unless|whenever|suppose|supposing|hypothetically|assuming|what would|would have|were to|in case|let's say|otherwise|imagine (?:that )?(?:i|someone|a|the|my)|",
        r"(?:when|while|whenever|where|once) (?:i|the user|someone|somebody|a user|people|he|she|they|we|users|asked|the question|the answer is|it (?:is|makes)|possible|appropriate|necessary|needed|relevant)|",
        r"for questions|in questions|(?:when|while|whenever) (?:\w+ing|a \w+))\b"
    )]
);
pattern!(
    NOT_HYPOTHETICAL,
    [
        r"\b(?:as if|even if|see if|check if|decide if|ask if|know if|whether or|(?:when|while) (?:answering|responding|replying|writing|doing|speaking|you(?:'re| are) \w+))\b"
    ]
);
pattern!(
    SOFT,
    [
        r"\b(?:if possible|if you can|ideally|preferabl[ye]|optional(?:ly)?|where possible|when possible|would be nice|nice to have|more or less|or so\b|not strictly|for bonus points)\b"
    ]
);
pattern!(
    REPORTED,
    [
        r"\b(?:said|orders|commands|shouts|yells|demands|declares|announces|says|told|asked|asks|wrote|claims|claimed|heard|believes|believed|thinks|thought|insists|insisted|suggests|suggested|recommends|recommended|requires|advises|advised|argued|complained|complains|wondered|used to)\b"
    ]
);
// Matches `an email asking them to …`, where the rest is the content of the email unless it says how the email is written.
pattern!(
    TELLING,
    [
        r"\b(?:saying|asking|stating|telling|requiring|reminding|ordering|instructing|informing|announcing|demanding|warning|claiming|so that (?:the|a|my|it|they)|so (?:the|my) \w+)\b"
    ]
);
pattern!(HOW, [r"(?:[,;:(–—-] ?|\b(?:in|using|within)) ?$"]);
// Matches another person or program that answers: `a bot that answers …`, but not `you are a bot that …`.
pattern!(
    OTHER_BOT,
    [
        r"\b(?:a|an|the|some|my|this) (?:[\w-]+ )?(?:bot|assistant|model|chatbot|agent|ai|llm|gpt|persona|hero|character|user|customer|app|program|api) (?:(?:that|which|who) (?:\w+ )?|\w+ ?)?(?:answers?|responds?|replies|speaks?|returns?|outputs?|uses?|writes?|prints?|says|talks?)\b"
    ]
);
pattern!(
    YOU_ARE,
    [
        r"\b(?:you are|you're|act as|acting as|be|as|pretend(?:ing)? to be|role of|imagine you)\b[^.;:]{0,30}$|^(?:the|this) (?:assistant|bot|model|chatbot|agent|ai) "
    ]
);
// Matches `essays must have …`, which is about essays in general.
pattern!(
    GENERAL,
    [
        r"(?:^|[:,;(] ?|\b(?:that|where|stating|all|most|good) )(?P<of>[a-z-]+ )?(?P<noun>[a-z]+s) (?:should|must|need to|have to|can't|cannot|may not|are|can)\b"
    ]
);
const DETERMINERS: [&str; 10] = ["the", "your", "these", "those", "both", "all", "two", "three", "its", "any"];
const ANSWERS: [&str; 18] = [
    "answers",
    "responses",
    "replies",
    "messages",
    "outputs",
    "words",
    "letters",
    "commas",
    "capitals",
    "characters",
    "terms",
    "keywords",
    "phrases",
    "caps",
    "marks",
    "points",
    "requirements",
    "this",
];
pattern!(
    EXEMPT,
    [concat!(
        r"(?:\b(?:do(?:es)?n't|do(?:es)? not|did not|didn't|won't|needn't|need not) (?:really |actually |even |necessarily )?(?:need|have|want you|require|expect|mean|care|mind|matter|worry|bother|be|see why)|",
        r"\bno (?:need|longer|reason|point)\b|\bneedn't\b|\bneed not\b|\b(?:not|isn't|aren't|never) (?:necessary|required|needed|important|mandatory|necessarily|asking|saying|obliged|a problem|an issue)\b|",
        r"\bwithout having to\b|\bnever mind\b|\bnevermind\b|\bignore\b|\bdisregard\b|\bscratch\b|\bregardless\b|\binstead of\b|\brather than\b|\bas opposed to\b|",
        r"\bfeel free\b|\byou (?:can|may|could|might)(?: also| now)? (?:use|skip|ignore|go|exceed|write|stop|drop|forget)|\bstop\b|\b(?:you are|you're|is|are) (?:now )?allowed to\b|\bis (?:ok|okay|fine|allowed)\b|\b(?:unlike|except|previously|earlier i|last time|used to|before i)\b|",
        r"\bthe difference between\b|\bmeaning of\b)"
    )]
);
pattern!(FORGET, [r"\bforget(?:ting)?\b"]);
pattern!(DO_NOT_FORGET, [r"(?:don't|not|never) forget(?:ting)?\b"]);
pattern!(
    OWN_TASK,
    [concat!(
        r"\bi (?:want|need|have|had|am trying|'m trying|am going|'m going|plan|must|should|tried|try|am supposed|'m supposed|am required|usually|often|always|never|once)(?:'ve)? ?(?:got )?(?:to )?",
        r"(?:write|submit|create|make (?:an?|my|the|some)|produce|prepare|finish|turn in|hand in|deliver|compose|draft|publish|post|send|give|use|avoid|keep|type|put)\b|",
        r"\bi(?:'ve|'d| have| had)? ?(?:just |already |recently )?(?:wrote|written|made|got|used|read|submitted|published|found|saw|received|started|finished)\b|",
        r"\bi(?:'m| am) (?:currently |now |also )?(?:writing|working|doing|reading|making|creating|trying|building|developing|studying|learning|preparing)\b|",
        r"\bmy (?:\w+ ){0,2}(?:essay|article|paper|thesis|report|assignment|professor|teacher|boss|editor|client|script|app|function|code|students?|keyboard|email|letter|story|book|homework|blog|post|poem|homepage|phone|manager|mom|dad|friend|wife|husband|son|daughter|kid)\b[^,;:]{0,30}\b(?:is|has|had|needs|must|should|wants|wanted|was|uses|says|can't|cannot|contains|hates|likes|requires|are|have|does|doesn't|will)\b"
    )]
);
pattern!(
    OTHER_SUBJECT,
    [concat!(
        r"\b(?:nobody|no one|no-one|everybody|somebody|everyone|someone|anybody) (?:\w+ )?(?:ever )?(?:uses?|says?|mentions?|writes?|includes?|avoids?)\b|",
        r"\b(?:i|he|she|they|we|people|students|someone|everyone|one|who|anyone|authors?|writers|users|children|kids|players?|characters?|participants?) (?:should|must|need to|needs to|have to|has to|can't|cannot|may not|never|always|can only|are|is|was|were|do|does|don't|doesn't)\b|",
        r"^(?:good |most |all |many |some |great )?(?:essays|tweets|emails|articles|haikus?|poems|blog posts|stories|titles|abstracts|reports|papers|headlines|limericks?|passwords?|novels?|a (?:good |typical )?\w+) (?:should|must|need to|have to|has to|are|is|usually|often|can't|cannot|may not|has|have)\b"
    )]
);
pattern!(
    ABOUT,
    [concat!(
        r"\b(?:who|whose|whom|where|how to (?:write|type|talk|speak|text|code|avoid|use|make|compose|count|keep|limit|punctuate|remove|get|convert|parse|print|format|generate|stay|give|create|wrap|add|put|highlight|do|reply|answer|respond)|",
        r"(?:about|of|on) (?:\w+ ){0,4}?(?:writing|avoiding|having)|",
        r"(?:about|discuss|explain|describe|on) (?:the )?(?:\w+ )?(?:importance|benefits|rules?|difference|use|pros|problem|problems|advantages|disadvantages|history|art|merits|concept|purpose|idea|meaning|effect|impact|role|habit) of|",
        r"(?:function|script|program|regex|regexp|app|code|method|query|class|api|parser|validator|password|file|macro|formula|prompt|rule|test|component|schema|linter|game|challenge|contest|world|language|law|town|teacher|professor|boss|character|robot|man|woman|boy|girl|person|someone|somebody|kid|student|king|wizard|tool|website|form|field|database|table) (?:to|that|which|who|where|without|with no)|",
        r"examples? of|(?:examples?|kinds?|types?|sorts?|cases?|instances?|constraints?|rules|things|instructions|limits) (?:like|such as|including))\b"
    )]
);
pattern!(
    STATES,
    [r"^ ?(?:is|are|was|were|has been|have been|can be|could be|would be|make|makes|might|seems?|often|usually)\b"]
);
pattern!(
    STATES_RULE,
    [
        r"^ ?(?:is|are) (?:a must|strictly |not |absolutely |to be )?(?:allowed|permitted|required|forbidden|banned|used|mandatory|needed|essential|the (?:limit|max|maximum|minimum)|my (?:limit|max)|plenty|enough|max|tops|acceptable|accepted|expected|included|present|in there|in it|part of|to|desired)\b"
    ]
);
pattern!(
    FINITE,
    [
        r"\b(?:is|are|was|were|am|has|had|have|did|does|do|i|i'm|he|she|they|we|there|it|wants?|likes?|loves?|hates?|uses?|used|went|came|contains?|seems?|looks?|writes?|wrote|made|got|become|becomes|became|looked|felt|will|would|could|may|might|because)\b"
    ]
);
pattern!(
    QUESTION,
    [
        r"^(?:so |and |but |ok |okay |hey |hi |also |well |btw |by the way |,|then )*(?:what|why|how|when|where|who|whose|which|is|are|do|does|did|can i|should|could i|may i|have|has|am|was|were|will (?:i|it|they|the)|would (?:it|i|that|this)|isn't|aren't|don't|didn't|doesn't|can (?:a|the|we|someone|people|it|an|this|that)|could (?:a|the|we|it))\b"
    ]
);
pattern!(
    POLITE,
    [
        r"\b(?:can|could|would|will|won't) (?:you|u|ya|someone)\b|\b(?:can|could|may) i (?:have|get)\b|\bplease\b|\bmind\b"
    ]
);
pattern!(CLAUSE, [r"[,;:()–—] ?|\b(?:and|but|then|yet|plus|while|also|so|because|therefore) "]);
pattern!(
    NEGATED,
    [
        NOT,
        r"(?: (?:ever|even|to|be|being|use|using|the use of|usage of|uses? of|any use of|include|including|mention|mentioning|contain|containing|have|having|has|say|saying|write|writing|make|making|put|putting|add|adding|insert|",
        r"employ|any|any of|either|a|an|the|your|my|it|this|allowed|allow|want|anything|see|permitted|go|going|get|getting|run|running|take|give|giving|me|let|respond(?:ing)?|answer(?:ing)?|reply(?:ing)?|response|output|more|come in|in|at|of|with|all|is|are|as|so|show|type|exceed|extend|produce|spend|allow|text|essay|story|poem|word count|length|limit)){0,6} ?$"
    ]
);

impl<'a> Spot<'a> {
    /// The surroundings of `range` in `sentence`.
    pub(super) fn new(reading: &'a Reading<'_>, sentence: &Sentence, range: &Range<usize>) -> Self {
        let text = &reading.text;
        Self {
            header: &text[sentence.header.clone()],
            left: &text[sentence.range.start..range.start.clamp(sentence.range.start, sentence.range.end)],
            until: &text[sentence.range.start..range.end.clamp(sentence.range.start, sentence.range.end)],
            right: &text[range.end.clamp(sentence.range.start, sentence.range.end)..sentence.range.end],
            question: sentence.asks,
        }
    }

    /// Whether the sentence asks the assistant for the find.
    pub(super) fn is_asked(&self) -> bool {
        self.is_asked_of_text() && !THAT.is_match(self.scope_by_comma())
    }

    /// Whether [`Spot::is_asked`] holds for things that a story or song may contain as well: in `a song about a cat that contains …` the song
    /// contains it.
    pub(super) fn is_asked_of_text(&self) -> bool {
        !self.is_hypothetical() && !self.is_exempt() && !self.is_reported() && self.is_request()
    }

    /// The text of the find.
    pub(super) fn found(&self) -> &'a str {
        &self.until[self.left.len()..]
    }

    /// Whether the find is in a clause about what happens in the text: `a story in which …`.
    pub(super) fn is_within(&self) -> bool {
        WITHIN.is_match(self.left)
    }

    /// Whether the find directly follows a negation such as `do not use`.
    pub(super) fn is_negated(&self) -> bool {
        NEGATED.is_match(self.left) && !DO_NOT_FORGET.is_match(self.clause())
    }

    /// Whether there is any negation in the clause of the find or in the header of its list.
    pub(super) fn is_under_negation(&self) -> bool {
        let clause = DO_NOT_FORGET.replace_all(self.clause(), "");
        NOT_WORD.is_match(&clause) || NOT_WORD.is_match(self.header)
    }

    /// The text between the last break in the sentence and the find.
    pub(super) fn clause(&self) -> &'a str {
        let from = CLAUSE.find_iter(self.left).last().map_or(0, |cut| cut.end());
        &self.left[from..]
    }

    /// The text from the last instruction up to the find. A part of the answer that is named earlier does not apply to the find.
    pub(super) fn scope(&self) -> &'a str {
        let from = SCOPE
            .captures_iter(self.until)
            .filter_map(|cut| cut.get(1))
            .filter(|verb| verb.start() <= self.left.len())
            .last()
            .map_or(0, |verb| verb.start());
        &self.left[from..]
    }

    /// The header of the list, or an empty text.
    pub(super) fn header(&self) -> &'a str {
        self.header
    }

    fn is_hypothetical(&self) -> bool {
        let depends = |text: &str| {
            let text = NOT_HYPOTHETICAL.replace_all(text, "");
            HYPOTHETICAL.is_match(&text) || SOFT.is_match(&text)
        };
        depends(self.left) || depends(self.right) || depends(self.header)
    }

    fn is_exempt(&self) -> bool {
        let forgets = |text: &str| FORGET.find_iter(text).count() > DO_NOT_FORGET.find_iter(text).count();
        let clause = self.scope_by_comma();
        EXEMPT.is_match(clause)
            || forgets(clause)
            || EXEMPT.is_match(self.header)
            || forgets(self.header)
            || NOT_NEEDED.is_match(self.right)
    }

    /// The text after the last comma, if it is a clause of its own.
    fn scope_by_comma(&self) -> &'a str {
        let from = COMMA.find_iter(self.left).last().map_or(0, |cut| cut.end());
        &self.left[from.max(self.left.len() - self.scope().len())..]
    }

    /// Whether the find is reported speech, another person's task, or the subject of the text.
    fn is_reported(&self) -> bool {
        let reports = |text: &str| {
            let last = text.rsplit(';').next().unwrap_or_default();
            REPORTED.is_match(text)
                || OWN_TASK.is_match(text)
                || OTHER_SUBJECT.is_match(&WISH_NOT.replace_all(last, ""))
        };
        let header = REPORTED.is_match(self.header) || OTHER_SUBJECT.is_match(self.header);
        let owned = OWNED.is_match(self.left)
            && !OWN_WISH.is_match(self.left)
            && !IMPERATIVE.is_match(self.left)
            && !ASKS.is_match(self.left);
        let clause = self.scope_by_comma();
        let telling = TELLING.is_match(clause) && !HOW.is_match(self.left);
        let bot = OTHER_BOT.find(self.left).is_some_and(|bot| {
            !YOU_ARE.is_match(&self.left[..bot.end()]) && !YOU_ARE.is_match(&self.left[..bot.start()])
        });
        let begun = beginning(self.until, self.left.len() + 12);
        owned || telling || bot || reports(begun) || header || self.is_of_others() || ABOUT.is_match(clause)
    }

    /// Whether the subject is a kind of thing in general: `poems must be …`.
    pub(super) fn is_of_others(&self) -> bool {
        GENERAL.captures_iter(self.left).last().is_some_and(|general| {
            let noun = &general["noun"];
            let named = general.name("of").is_some_and(|of| DETERMINERS.contains(&of.as_str().trim()));
            !named && !ANSWERS.contains(&noun)
        })
    }

    fn is_request(&self) -> bool {
        let states = STATES.is_match(self.right) && !STATES_RULE.is_match(self.right);
        if self.question {
            return !states && (!QUESTION.is_match(self.left) || POLITE.is_match(self.left)) || self.is_short_answer();
        }
        let asks = IMPERATIVE.is_match(self.left) || ASKS.is_match(self.until);
        // A sentence without a verb is a note such as `an essay on Rome, no commas`.
        let notes = (NOTES.is_match(self.left) || BEGINS.is_match(&self.until[self.left.len()..]))
            && !FINITE.is_match(self.left)
            && self.left.split(' ').count() <= 14;
        !states && (self.left.trim().is_empty() || asks || notes)
    }

    /// Whether the sentence is a question with a note on its answer: `What is rain, in at most 20 words?`
    fn is_short_answer(&self) -> bool {
        self.right == "?" && ANSWERED_IN.is_match(self.left) && !WRITES.is_match(self.left)
    }
}

// Matches finds that begin with the verb themselves: `under no circumstances use …`.
pattern!(BEGINS, [r"^(?:use|include|avoid|mention|write|do|keep|end|finish|wrap|put|answer|respond|reply|say|add)\b"]);
pattern!(WITHIN, [r"\b(?:in|during|under|by) which\b"]);
// Matches `I don't want any …`, which is an instruction.
pattern!(WISH_NOT, [r"\bi (?:really )?(?:don't|do not|would not|wouldn't) (?:want|wish|like|need)\b"]);
// Matches the end of a note before its condition. The next pattern matches the owner at the beginning of a statement.
pattern!(
    NOTES,
    [
        r"^(?:[^,;:]{0,12}|.*(?:[,;:(+&–—-]|\b(?:with|in|using|and|but|of|plus|without|max|at|under|about|only|the|a|an|all)) ?)$"
    ]
);
pattern!(
    OWNED,
    [
        r"(?:^|[.;:] )(?:my|our|his|her|their|its|some|most|many|these|those|the (?:poem|essay|book|song|film|movie|sign|article) \x{E000}) "
    ]
);
pattern!(
    OWN_WISH,
    [
        r"^(?:my|our) (?:\w+ )?(?:requirements?|limits?|rules?|requests?|conditions?|constraints?|preferences?|only \w+)\b"
    ]
);
pattern!(NOT_WORD, [NOT]);
pattern!(THAT, [r"\b(?:in )?which\b|\b(?:about|of|on) (?:[\w'-]+ ){0,8}?that\b"]);
pattern!(COMMA, [r"[,;:(–—] ?(?:and |but |so |then )?|\bbut "]);
pattern!(
    NOT_NEEDED,
    [
        r"^[^,;]{0,30}\b(?:(?:is|are|am|'s)(?: not|n't)|not|isn't|aren't|don't|doesn't) (?:\w+ )?(?:necessary|required|needed|important|mandatory|matter|apply|a must)\b"
    ]
);
pattern!(ANSWERED_IN, [r"(?:, |\b)(?:in|using)(?: (?:just|only|exactly|a maximum of|at most|no more than))? ?$"]);
pattern!(
    WRITES,
    [
        r"\b(?:write|say|fit|summari[sz]e|express|essay|tweet|type|put|tell|explain|describe|possible|poem|story|words? (?:are|is)|count)\b"
    ]
);
pattern!(
    SCOPE,
    [
        r"(?:[,;:(] ?(?:and |but |then |also |please )*|\b(?:and|but) (?:also |then |please )?)(",
        VERBS,
        r"|make sure|be sure|the (?:whole|entire)|your (?:whole |entire )?(?:response|answer|reply))\b"
    ]
);

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> bool {
        let reading = Reading::new(text);
        let sentence =
            reading.sentences.iter().find(|s| reading.sentence_text(s).contains("no x")).expect("a sentence with it");
        let at = sentence.range.start + reading.sentence_text(sentence).find("no x").unwrap();
        Spot::new(&reading, sentence, &(at..at + 4)).is_asked()
    }

    #[test]
    fn only_requests_ask() {
        for text in [
            "No x please.",
            "Tell me about cats, no x",
            "Can you write it with no x?",
            "Make sure there are no x.",
            "The response must have no x",
            "An essay on Rome, no x",
            "What is rain? No x.",
        ] {
            assert!(asked(text), "{text}");
        }
        for text in [
            "There are no x in this sentence.",
            "If I ask for it, use no x",
            "How do I write with no x?",
            "My teacher said to use no x",
            "I wrote it with no x",
            "You don't need to use no x",
            "Forget about using no x",
            "Write a story about a man who uses no x",
            "Is it possible to use no x?",
            "Ideally use no x",
        ] {
            assert!(!asked(text), "{text}");
        }
    }
}
