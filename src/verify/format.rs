//! The rules of `detectable_format:` about bullets, highlights, sections, titles, JSON, and a choice of three answers.

use super::CheckError;
use super::json::is_json;
use super::kwargs::{Kwargs, plural};
use super::pattern::Pattern;
use super::text::{is_blank, is_digit, is_space, trim};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rule {
    Bullets(usize),
    Constrained,
    Highlights(usize),
    Sections { splitter: String, pattern: Pattern, least: usize },
    Json,
    Title,
}

const ANSWERS: [&str; 3] = ["My answer is yes.", "My answer is no.", "My answer is maybe."];

impl Rule {
    pub(super) fn number_bullet_lists(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::Bullets(kwargs.count("num_bullets")?))
    }

    pub(super) fn number_highlighted_sections(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::Highlights(kwargs.count("num_highlights")?))
    }

    pub(super) fn multiple_sections(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        let (splitter, pattern) = kwargs.pattern("section_spliter", Pattern::exact)?;
        Ok(Self::Sections { splitter, pattern, least: kwargs.count("num_sections")? })
    }

    pub(super) fn accepts(&self, response: &str) -> bool {
        match self {
            Self::Bullets(count) => bullets(response, '*') + bullets(response, '-') == *count,
            Self::Constrained => ANSWERS.iter().any(|answer| response.contains(answer)),
            Self::Highlights(least) => highlights(response) >= *least,
            Self::Sections { pattern, least, .. } => sections(response, pattern) >= *least,
            Self::Json => is_json(response),
            Self::Title => response.split('\n').any(has_title),
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Bullets(count) => {
                format!(
                    "use exactly {count} bullet point{}, each on a line that starts with \"* \" or \"- \"",
                    plural(*count)
                )
            }
            Self::Constrained => format!("answer with one of \"{}\"", ANSWERS.join("\", \"")),
            Self::Highlights(least) => {
                format!("highlight at least {least} part{} with asterisks, *like this*", plural(*least))
            }
            Self::Sections { splitter, least, .. } => {
                format!("write at least {least} section{}, marked {splitter} 1, {splitter} 2 and so on", plural(*least))
            }
            Self::Json => "write the whole response as JSON".to_string(),
            Self::Title => "give a title in double angle brackets, <<like this>>".to_string(),
        }
    }
}

/// Counts lines that start with `mark`. Spaces and line breaks before the mark belong to the bullet. After `*` there must be one character
/// other than `*`; if it is the line break, the next line is the bullet's text.
fn bullets(response: &str, mark: char) -> usize {
    let mut count = 0;
    let mut rest = response;
    loop {
        rest = rest.trim_start_matches(is_space);
        let text = rest
            .strip_prefix(mark)
            .and_then(|text| if mark == '*' { text.strip_prefix(|c| c != '*') } else { Some(text) });
        if let Some(text) = text {
            count += 1;
            rest = text;
        }
        match rest.split_once('\n') {
            Some((_, next)) => rest = next,
            None => return count,
        }
    }
}

/// Counts text in one line between two asterisks, plus text between two pairs of them. Blank text does not count.
fn highlights(response: &str) -> usize {
    response.split('\n').map(|line| starred(line, "*") + starred(line, "**")).sum()
}

fn starred(line: &str, marks: &str) -> usize {
    let mut count = 0;
    let mut rest = line;
    while let Some((_, inside)) = rest.split_once(marks) {
        let end = inside.find('*').unwrap_or(inside.len());
        let (text, after) = inside.split_at(end);
        if let Some(after) = after.strip_prefix(marks) {
            count += usize::from(!is_blank(text));
            rest = after;
        } else {
            // The mark is not closed, so the search continues one asterisk further.
            rest = &rest[rest.len() - inside.len() - (marks.len() - 1)..];
        }
    }
    count
}

/// Counts occurrences of the splitter, followed by at most one space and a number.
fn sections(response: &str, splitter: &Pattern) -> usize {
    let mut count = 0;
    let mut from = 0;
    while let Some((end, retry)) = splitter.find_at(response, from) {
        let rest = &response[end..];
        let number = rest.strip_prefix(is_space).unwrap_or(rest);
        let after = number.trim_start_matches(is_digit);
        if after.len() < number.len() {
            count += 1;
            from = response.len() - after.len();
        } else {
            from = retry;
        }
    }
    count
}

/// Whether the line has `<<` and `>>` with something between them that is neither a bracket nor a space.
fn has_title(line: &str) -> bool {
    let (Some(open), Some(close)) = (line.find("<<"), line.rfind(">>")) else {
        return false;
    };
    close >= open + 3 && !trim(line[open..close].trim_start_matches('<').trim_end_matches('>')).is_empty()
}
