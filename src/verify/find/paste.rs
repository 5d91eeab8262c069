//! Finds pasted text: code fences, block quotations and tagged passages. Nothing in it is an instruction.

use std::ops::Range;

use super::pattern::pattern;

pattern!(TAG_OPEN, [r"<([a-zA-Z][a-zA-Z_-]{1,30})>"]);

/// The passages of `text` that are set apart by their form, in order and without overlaps.
pub(super) fn set_apart(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut fence: Option<(usize, &str)> = None;
    let mut triple: Option<usize> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let bare = line.trim();
        if let Some((open, mark)) = fence {
            if bare.starts_with(mark) {
                found.push(open..at);
                fence = None;
            }
        } else if let Some(open) = triple {
            if let Some(close) = line.find("\"\"\"") {
                found.push(open..start + close + 3);
                triple = None;
            }
        } else if bare.starts_with("```") || bare.starts_with("~~~") {
            // A fence that closes on its own line is a short piece of code.
            if bare.len() < 6 || !bare.ends_with(&bare[..3]) {
                fence = Some((start, &bare[..3]));
            } else {
                found.push(start..at);
            }
        } else if let Some(open) = line.find("\"\"\"") {
            match line[open + 3..].find("\"\"\"") {
                Some(close) => found.push(start + open..start + open + 6 + close),
                None => triple = Some(start + open),
            }
        } else if bare.starts_with('>') && !bare.starts_with(">>") && !bare.starts_with(">=") && is_quotation(bare) {
            found.push(start..at);
        }
    }
    if let Some(open) = fence.map(|(open, _)| open).or(triple) {
        found.push(open..text.len());
    }
    tagged(text, &mut found);
    merged(found)
}

/// Whether the line is a block quotation; `> 300 words` is a limit.
fn is_quotation(line: &str) -> bool {
    !line.trim_start_matches(['>', ' ']).starts_with(|c: char| c.is_ascii_digit())
}

/// The maximum number of tags per turn, since the end of each has to be searched for.
const TAGS: usize = 64;

/// Finds `<article>…</article>`; inline tags of HTML are ignored.
fn tagged(text: &str, found: &mut Vec<Range<usize>>) {
    const INLINE: [&str; 9] = ["b", "i", "em", "strong", "u", "code", "title", "name", "br"];
    let mut from = 0;
    let mut left = TAGS;
    while let Some(open) = TAG_OPEN.captures_at(text, from).filter(|_| left > 0) {
        left -= 1;
        let (Some(whole), Some(name)) = (open.get(0), open.get(1)) else { return };
        from = whole.end();
        if INLINE.contains(&name.as_str().to_ascii_lowercase().as_str()) {
            continue;
        }
        if let Some(close) = text[from..].find(&format!("</{}>", name.as_str())) {
            found.push(whole.start()..from + close + name.len() + 3);
            from += close;
        }
    }
}

fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

const PROCESS: &str = concat!(
    r"(?:summari[sz]e|translate|proof-?read|rewrite|re-write|reword|rephrase|paraphrase|edit|correct|fix|improve|critique|criticize|",
    r"anal[yi][sz]e|review|shorten|classify|polish|convert|tl;?dr|simplify|transcribe|grade|evaluate|rate|annotate|check|explain|expand|",
    r"elaborate on|continue|complete|condense|comment on|clean up|respond to|reply to|label|extract|turn|change|modify|",
    r"read|debug|look at|consider|interpret|discuss|finish|tidy up|spell ?check|format|refine|revise|redo|what do you think of|feedback on)"
);
const DOCUMENT: &str = concat!(
    r"(?:texts?|passages?|articles?|paragraphs?|e-?mails?|messages?|letters?|essays?|stor(?:y|ies)|sentences?|poems?|lyrics|songs?|documents?|",
    r"quotes?|reviews?|posts?|tweets?|drafts?|statements?|transcripts?|conversations?|dialogues?|chats?|excerpts?|abstracts?|papers?|reports?|",
    r"notes?|memos?|speech(?:es)?|pitch(?:es)?|ad|ads|advert|ad copy|copy|blurbs?|summar(?:y|ies)|resume|cv|cover letter|bio|code|snippets?|scripts?|functions?|",
    r"program|logs?|contracts?|clauses?|recipes?|comments?|contents?|extracts?|context|prompts?|riddles?|jokes?|haikus?|limericks?|captions?|announcements?|",
    r"policy|polic(?:y|ies)|guidelines?|assignment|task description|job (?:description|posting)|thread|ticket|complaint|listing|brief|rubric|terms|instructions? (?:i|we|he|she|they|from)\b[^.:]*)"
);

// Matches a colon after text that should be processed: `summarize this:`, `here is the email I got:`.
pattern!(
    MARKER,
    [
        r"(?:(?:^|[\n.!?,;] ?|\b(?:please|and|can you|could you|would you|help me|pls|to|me|then|also|just) )",
        PROCESS,
        r"\b[^\n.:?!]{0,80}|\b(?:here(?:'s| is| are)|below (?:is|are)|this is|see|given|consider|from|based on|using) (?:the|my|our|an?|this|some|his|her|their)(?: [\w'-]+){0,4}? ",
        DOCUMENT,
        r"\b[^\n.:?!]{0,60}|(?:\b(?:the following|this|my following)|(?:^|[\n.!?] ?)(?:the|my|our)) (?:[\w'-]+ ){0,3}?",
        DOCUMENT,
        r"(?: (?:below|here|that follows))?|(?:^|\n)(?:",
        DOCUMENT,
        r"|original|input|source|tl;?dr)) ?:",
    ]
);
// Matches a colon that introduces the arguments of an instruction instead.
pattern!(
    ARGUMENTS,
    [concat!(
        r"\b(?:words?|key ?words?|phrases?|phrase of|terms?|formats?|order|rules?|constraints?|requirements?|sections?|markers?|options?|way|style|",
        r"examples?|language|symbols?|dividers?|divider|like|as|with|are|answers?|conditions?|limits?|template|structure|letters?|steps|points|headings?|",
        r"instructions|separated by|asterisks?|follows|criteria|note|guidelines|tone|include|includes|things|p\.?s\.?|length|limit|max|min|should|must) ?:$"
    )]
);
// Matches a passage that follows without a colon: `summarize the text below.`
pattern!(
    BELOW,
    [
        r"\b",
        DOCUMENT,
        r" (?:that is |that's |given |pasted |provided |attached |quoted )?(?:below|that follows|which follows|underneath)\b"
    ]
);

/// The start of an unmarked pasted passage in the prepared `text`. It is assumed to extend to the end of the turn, since nothing marks its
/// end. `is_set_apart` receives the first character after a marker.
pub(super) fn unmarked(text: &str, is_set_apart: impl Fn(char) -> bool) -> Option<usize> {
    let colon = MARKER.find_iter(text).find_map(|marker| {
        let after = &text[marker.end()..];
        let first = after.trim_start().chars().next()?;
        let arguments = ARGUMENTS.is_match(marker.as_str());
        // The colon is inside a time or an address: `3:30`, `http://`.
        let inside = !after.starts_with([' ', '\n']);
        let link = after.trim_start().starts_with("http") || after.trim_start().starts_with("www.");
        (!arguments && !inside && !link && !is_set_apart(first)).then_some(marker.end())
    });
    let below = BELOW.find_iter(text).find_map(|marker| {
        let break_at = marker.end() + text[marker.end()..].find("\n")?;
        let first = text[break_at..].trim_start().chars().next()?;
        // A pasted passage follows a blank line; otherwise the next line is one more instruction.
        (!is_set_apart(first) && text[break_at..].starts_with("\n\n")).then_some(break_at)
    });
    match (colon, below) {
        (Some(colon), Some(below)) => Some(colon.min(below)),
        (either, other) => either.or(other),
    }
}
