//! Parses the judge's verdict and the refiner's response out of any text.

use super::{Refinement, Templates, Verdict};

impl Templates {
    /// The first Yes or No after the last verdict marker; `None` is an invalid vote. The last marker counts because a critique may quote
    /// the marker before it decides. Yes and No must be whole words with this spelling, so `Nothing` is neither.
    pub fn parse_verdict(&self, critique: &str) -> Option<Verdict> {
        let marker = critique.rfind(self.text.verdict.as_str())?;
        let after = &critique[marker + self.text.verdict.len()..];
        after.split(|c: char| !c.is_alphanumeric()).find_map(|word| match word {
            "Yes" => Some(Verdict::Yes),
            "No" => Some(Verdict::No),
            _ => None,
        })
    }

    /// The trimmed text between the last start marker that is followed by an end marker and the first such end marker. Returns `None` if
    /// there is no such pair or if the text is empty. The last pair counts because a reflection may quote the markers.
    pub fn parse_refinement(&self, reply: &str) -> Option<Refinement> {
        let (start, end) = (self.text.start.as_str(), self.text.end.as_str());
        let open = reply[..reply.rfind(end)?].rfind(start)?;
        let body = &reply[open + start.len()..];
        let body = &body[..body.find(end)?];
        let response = body.trim();
        if response.is_empty() {
            return None;
        }
        let offset = open + start.len() + (body.len() - body.trim_start().len());
        Some(Refinement { reflection: reply[..open].trim().into(), response: response.into(), offset })
    }

    /// A critique without its verdict line, so that another verdict can follow.
    pub fn without_verdict<'t>(&self, critique: &'t str) -> &'t str {
        match critique.rfind(self.text.verdict.as_str()) {
            Some(marker) => critique[..marker].trim_end(),
            None => critique.trim_end(),
        }
    }
}
