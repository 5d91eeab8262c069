//! Makes prompts harder: a model is asked to add constraints from a taxonomy.

use minijinja::context;

use super::{TemplateError, Templates};
use crate::chat::Message;

/// The name and the text of the question's template.
pub(super) const TEMPLATE: (&str, &str) = ("evolve", include_str!("../../prompts/evolve.txt"));

/// Kinds of constraints, each with the description of what a model should add.
pub const TAXONOMY: [(&str, &str); 6] = [
    (
        "content",
        "content: a point that the answer must cover or must leave out, or a word that it must or must not use",
    ),
    ("situation", "situation: a background, role, or circumstance that the answer must fit"),
    ("style", "style: a tone, register, point of view, or manner of writing"),
    ("format", "format: a layout such as a list, a table, a title, a given first or last sentence, or a letter case"),
    ("length", "length: a number of words, sentences, paragraphs, or items"),
    ("example", "example: a pattern, given by a short sample, that the answer must follow"),
];

impl Templates {
    /// The conversation that asks for a harder version of `prompt`, with constraints of these kinds of [`TAXONOMY`].
    ///
    /// # Errors
    /// Fails if the template cannot be rendered.
    pub fn evolve(&self, prompt: &str, kinds: &[usize]) -> Result<Vec<Message>, TemplateError> {
        let constraints: Vec<&str> = kinds.iter().filter_map(|&kind| TAXONOMY.get(kind)).map(|kind| kind.1).collect();
        let (start, end) = (&self.text.start, &self.text.end);
        let text = self.jinja.render(TEMPLATE.0, context! { prompt, constraints, start, end });
        let text = text.map_err(|e| TemplateError { path: "built in".into(), reason: format!("evolve: {e}") })?;
        Ok(vec![Message::user(text)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_holds_the_prompt_the_kinds_and_the_markers() {
        let templates = Templates::general();
        let text = templates.evolve("Describe {{ a }} river.", &[0, 4]).unwrap().swap_remove(0).content;
        for part in ["Describe {{ a }} river.", "- content: ", "- length: ", "2 further constraints of", "[[start]]"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("- style: "));
        let one = templates.evolve("Describe a river.", &[2]).unwrap().swap_remove(0).content;
        assert!(one.contains("1 further constraint of the following kind:"), "{one}");
    }
}
