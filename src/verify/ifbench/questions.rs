//! Checks four questions with five options each.

use std::sync::LazyLock;

use regex::Regex;

use crate::verify::text::{is_blank, is_space, is_word_char, trim};

/// Whether there are four pieces, each after a label such as `Question 1:`, with five options and a longer question than the piece before.
pub(super) fn are_four_growing_questions(response: &str) -> bool {
    static LABEL: LazyLock<Regex> = LazyLock::new(|| {
        let label = r"\n*Question \d+[.|):;]?[\s\x1c-\x1f]*";
        Regex::new(label).expect("the pattern is a constant that a test compiles")
    });
    if !response.starts_with("Question") {
        return false;
    }
    let pieces: Vec<Piece> =
        LABEL.split(response).map(trim).filter(|piece| !is_blank(piece)).map(Piece::read).collect();
    pieces.len() == 4
        && pieces.iter().all(|piece| piece.options == 5)
        && pieces.windows(2).all(|pair| pair[0].question < pair[1].question)
}

struct Piece {
    /// The number of characters before the options.
    question: usize,
    options: usize,
}

impl Piece {
    fn read(text: &str) -> Self {
        let options = text.split('\n').filter(|line| is_option(line)).count();
        let question: String =
            text.split('\n').take_while(|line| !is_option(line)).map(|line| format!(" {}", trim(line))).collect();
        Self { question: trim(&question).chars().count(), options }
    }
}

/// Whether the line has a letter from A to E, a mark, and text.
fn is_option(line: &str) -> bool {
    let text = trim(line)
        .strip_prefix(|c| matches!(c, 'A'..='E' | 'a'..='e'))
        .and_then(|rest| rest.strip_prefix(['.', '|', ')']));
    text.is_some_and(|text| text.trim_start_matches(is_space).starts_with(is_word_char))
}
