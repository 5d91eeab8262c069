//! The tree of a search as lines of text.

use serde::Deserialize;

use super::paint::{Paint, Tone};

/// A node, as the server reports it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Node {
    /// Its place in the tree.
    pub id: usize,
    /// The node that it refines; `None` for a draft.
    pub parent: Option<usize>,
    /// The share of instructions that hold; `None` before it is judged.
    pub value: Option<f64>,
    /// Whether it was accepted.
    #[serde(default)]
    pub accepted: bool,
    /// Instructions that are known to fail.
    #[serde(default)]
    pub failed: Vec<String>,
    /// The text of the response.
    #[serde(default)]
    pub text: Option<String>,
}

/// What has grown of a tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// The answer, once it is known.
    pub best: Option<usize>,
}

impl Tree {
    /// Adds a node, or replaces what is known of it. A text that is known already is kept.
    pub fn put(&mut self, node: Node) {
        match self.nodes.iter_mut().find(|known| known.id == node.id) {
            Some(known) => {
                let text = node.text.or_else(|| known.text.take());
                *known = Node { text, ..node };
            }
            None => self.nodes.push(node),
        }
    }

    /// A node by its number.
    pub fn node(&self, id: usize) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Whether there is no node yet.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// One line for each node, children below their parents, each at most `width` columns wide.
    pub fn lines(&self, width: usize, paint: Paint) -> Vec<String> {
        let mut lines = Vec::new();
        for root in self.nodes.iter().filter(|node| node.parent.is_none()) {
            self.draw(root, ("", ""), (width, paint), &mut lines);
        }
        lines
    }

    /// Draws a node after the branch `at`, and its children after the trunk `below`.
    fn draw(&self, node: &Node, (at, below): (&str, &str), style: (usize, Paint), lines: &mut Vec<String>) {
        lines.push(self.line(node, at, style));
        let mut children = self.nodes.iter().filter(|child| child.parent == Some(node.id)).peekable();
        while let Some(child) = children.next() {
            let (branch, trunk) = if children.peek().is_some() { ("├─ ", "│  ") } else { ("└─ ", "   ") };
            self.draw(child, (&format!("{below}{branch}"), &format!("{below}{trunk}")), style, lines);
        }
    }

    fn line(&self, node: &Node, at: &str, (width, paint): (usize, Paint)) -> String {
        let Node { id, value, accepted, failed, text, .. } = node;
        let value = value.map_or("   –".to_owned(), |value| format!("{value:.2}"));
        let (mark, tone) = match (accepted, node.value) {
            (true, _) => ("✓", Tone::Good),
            (false, Some(_)) => ("✗", Tone::Bad),
            (false, None) => ("…", Tone::Dim),
        };
        let best = if self.best == Some(*id) { " ← answer" } else { "" };
        let about = match (failed.is_empty(), text) {
            (false, _) => format!("fails: {}", failed.join("; ")),
            (true, Some(text)) => text.split_whitespace().collect::<Vec<_>>().join(" "),
            (true, None) => String::new(),
        };
        let head = format!("{at}{id} {value} ");
        let used = columns(&head) + 1 + columns(best) + 2;
        let about = cut(&about, width.saturating_sub(used));
        let shown = format!(
            "{head}{}{}  {}",
            paint.tone(tone, mark),
            paint.tone(Tone::Bold, best),
            paint.tone(Tone::Dim, &about)
        );
        shown.trim_end().to_owned()
    }
}

/// The columns that a text takes.
fn columns(text: &str) -> usize {
    console::measure_text_width(text)
}

/// `text` in at most `width` columns, with an ellipsis where it was cut.
fn cut(text: &str, width: usize) -> String {
    if width == 0 {
        return String::new();
    }
    console::truncate_str(text, width, "…").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: usize, parent: Option<usize>, value: Option<f64>) -> Node {
        let accepted = value == Some(1.0);
        let failed = if accepted || value.is_none() { Vec::new() } else { vec!["include the word lantern".to_owned()] };
        Node { id, parent, value, accepted, failed, text: Some(format!("text\nof {id}")) }
    }

    fn grown() -> Tree {
        let mut tree = Tree::default();
        for (id, parent, value) in [
            (0, None, Some(0.0)),
            (1, Some(0), Some(0.5)),
            (2, Some(0), Some(0.25)),
            (3, Some(1), Some(1.0)),
            (4, None, None),
        ] {
            tree.put(node(id, parent, value));
        }
        tree.best = Some(3);
        tree
    }

    #[test]
    fn children_are_drawn_below_their_parents() {
        let lines = grown().lines(60, Paint::Plain);
        assert_eq!(
            lines,
            [
                "0 0.00 ✗  fails: include the word lantern",
                "├─ 1 0.50 ✗  fails: include the word lantern",
                "│  └─ 3 1.00 ✓ ← answer  text of 3",
                "└─ 2 0.25 ✗  fails: include the word lantern",
                "4    – …  text of 4",
            ]
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut tree = grown();
        let wide = Node { text: Some("漢字 ".repeat(80)), ..node(5, Some(3), Some(1.0)) };
        tree.put(wide);
        for width in [20, 33, 80] {
            for line in tree.lines(width, Paint::Colours) {
                assert!(console::measure_text_width(&line) <= width.max(24), "{width}: {line}");
            }
        }
    }

    #[test]
    fn a_node_keeps_its_text_when_its_verdict_comes() {
        let mut tree = Tree::default();
        tree.put(Node { text: Some("draft".into()), ..Node::default() });
        tree.put(Node { value: Some(0.5), ..Node::default() });
        let root = tree.node(0).unwrap();
        assert_eq!((root.text.as_deref(), root.value), (Some("draft"), Some(0.5)));
        assert!(tree.node(1).is_none() && !tree.is_empty());
    }
}
