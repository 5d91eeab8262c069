//! GBNF, the notation of llama.cpp and XGrammar, becomes Lark as the compiler takes it.
//!
//! What is not recursive becomes a terminal: a regular expression, which is matched exactly. The rest become rules, whose
//! terminals are read greedily, so that a grammar in which the end of a terminal depends on what follows allows less than it
//! says, and never more.

mod reader;

use reader::{Grammar, Node, read};

/// Bytes of a grammar that a client writes.
pub const BYTES: usize = 64 << 10;
/// Rules of one grammar.
pub const RULES: usize = 1_000;

/// The grammar `text` in Lark. Its first line defines the rule `start`; the names of all others begin with `gbnf`.
///
/// # Errors
/// What is wrong with the grammar, and in which line.
pub fn to_lark(text: &str) -> Result<String, String> {
    if text.len() > BYTES {
        return Err(format!("the grammar's bytes must be at most {BYTES}, got {}", text.len()));
    }
    if !text.contains("::=") {
        return Err("a grammar is written in GBNF, with rules such as `root ::= \"yes\" | \"no\"`".into());
    }
    let grammar = read(text)?;
    if grammar.rules.len() > RULES {
        return Err(format!("the number of rules must be at most {RULES}, got {}", grammar.rules.len()));
    }
    let writer = Writer { regular: regular(&grammar), grammar: &grammar };
    let mut lark = format!("start: {}\n", writer.name(grammar.root));
    for index in reachable(&grammar) {
        lark += &format!("{}: {}\n", writer.name(index), writer.body(&grammar.rules[index].1));
    }
    Ok(lark)
}

/// The rules that a node refers to.
fn references(node: &Node, found: &mut Vec<usize>) {
    match node {
        Node::Text(_) | Node::Class(..) | Node::Any => {}
        Node::Rule(index) => found.push(*index),
        Node::Sequence(parts) | Node::Choice(parts) => parts.iter().for_each(|part| references(part, found)),
        Node::Repeat(inner, _) => references(inner, found),
    }
}

fn references_of_all(grammar: &Grammar) -> Vec<Vec<usize>> {
    let of_rule = |(_, body): &(String, Node)| {
        let mut found = Vec::new();
        references(body, &mut found);
        found.sort_unstable();
        found.dedup();
        found
    };
    grammar.rules.iter().map(of_rule).collect()
}

/// Whether each rule is free of recursion, its own and that of the rules that it refers to.
fn regular(grammar: &Grammar) -> Vec<bool> {
    let references = references_of_all(grammar);
    let mut used_by = vec![Vec::new(); references.len()];
    let mut open: Vec<usize> = references.iter().map(Vec::len).collect();
    for (index, targets) in references.iter().enumerate() {
        targets.iter().for_each(|&target| used_by[target].push(index));
    }
    let mut regular = vec![false; references.len()];
    let mut settled: Vec<usize> = (0..open.len()).filter(|&index| open[index] == 0).collect();
    while let Some(index) = settled.pop() {
        regular[index] = true;
        for &user in &used_by[index] {
            open[user] -= 1;
            if open[user] == 0 {
                settled.push(user);
            }
        }
    }
    regular
}

/// The rules that the root needs, in their order.
fn reachable(grammar: &Grammar) -> Vec<usize> {
    let references = references_of_all(grammar);
    let mut seen = vec![false; references.len()];
    let mut open = vec![grammar.root];
    while let Some(index) = open.pop() {
        if !std::mem::replace(&mut seen[index], true) {
            open.extend(&references[index]);
        }
    }
    (0..seen.len()).filter(|&index| seen[index]).collect()
}

struct Writer<'a> {
    grammar: &'a Grammar,
    regular: Vec<bool>,
}

impl Writer<'_> {
    /// Lark distinguishes terminals from rules by their case.
    fn name(&self, index: usize) -> String {
        debug_assert!(index < self.grammar.rules.len());
        if self.regular[index] { format!("GBNF{index}") } else { format!("gbnf{index}") }
    }

    /// A node where alternatives need no brackets.
    fn body(&self, node: &Node) -> String {
        match node {
            Node::Choice(parts) => {
                let (empty, some): (Vec<_>, Vec<_>) = parts.iter().partition(|part| is_empty(part));
                let written: Vec<String> = some.into_iter().map(|part| self.part(part)).collect();
                match (empty.is_empty(), written.is_empty()) {
                    (true, _) => written.join(" | "),
                    (false, true) => "\"\"".into(),
                    (false, false) => format!("({})?", written.join(" | ")),
                }
            }
            Node::Sequence(parts) if !is_empty(node) => {
                let some = parts.iter().filter(|part| !is_empty(part));
                some.map(|part| self.part(part)).collect::<Vec<_>>().join(" ")
            }
            node => self.part(node),
        }
    }

    fn part(&self, node: &Node) -> String {
        match node {
            node if is_empty(node) => "\"\"".into(),
            Node::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
            Node::Class(negated, ranges) => class(*negated, ranges),
            Node::Any => r"/[\x{0}-\x{10ffff}]/".into(),
            Node::Rule(index) => self.name(*index),
            Node::Sequence(_) | Node::Choice(_) => format!("({})", self.body(node)),
            Node::Repeat(inner, times) => format!("({}){times}", self.body(inner)),
        }
    }
}

fn is_empty(node: &Node) -> bool {
    match node {
        Node::Text(text) => text.is_empty(),
        Node::Sequence(parts) => parts.iter().all(is_empty),
        // Lark has no repetition of zero times.
        Node::Repeat(_, times) => times.is_never(),
        _ => false,
    }
}

fn class(negated: bool, ranges: &[(char, char)]) -> String {
    let escaped = |c: char| {
        if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\x{{{:x}}}", u32::from(c)) }
    };
    let range = |&(from, to): &(char, char)| match from == to {
        true => escaped(from),
        false => format!("{}-{}", escaped(from), escaped(to)),
    };
    let ranges: String = ranges.iter().map(range).collect();
    format!("/[{}{ranges}]/", if negated { "^" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::grammar::matches;
    use crate::engine::{Constraint, Namespace};

    /// The grammar of JSON that llama.cpp's documentation describes, in our words.
    const JSON: &str = r#"
        # A value may be anything, the root is an object.
        root   ::= object
        value  ::= object | array | string | number | ("true" | "false" | "null") ws
        object ::= "{" ws ( pair ("," ws pair)* )? "}" ws
        pair   ::= string ":" ws value
        array  ::= "[" ws ( value ("," ws value)* )? "]" ws
        string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
        number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ws
        ws     ::= | " " | "\n" [ \t]{0,20}
    "#;

    async fn check(grammar: &str, matched: &[&str], others: &[&str]) {
        let constraint = Constraint::Lark(to_lark(grammar).unwrap());
        for (text, expected) in matched.iter().map(|text| (text, true)).chain(others.iter().map(|text| (text, false))) {
            assert_eq!(matches(&constraint, Namespace::SHARED, text).await, Ok(expected), "{text:?} of {grammar}");
        }
    }

    #[tokio::test]
    async fn a_grammar_matches_what_it_says() {
        check(r#"root ::= "yes" | "no""#, &["yes", "no"], &["", "y", "yesno", "Yes"]).await;
        check(r#"root ::= "a"? [0-9]+ "b"*"#, &["a1", "12bb", "7"], &["", "a", "aa1", "b"]).await;
        check(r#"root ::= [a-c]{2} "x"{1,3} "."{2,} "y"{,2}"#, &["abx..", "ccxxx...yy"], &["ax..", "abxxxx..", "abx."])
            .await;
        check("root ::= \"a\" |\n   \"b\"\n  \"c\"\nother ::= root", &["a", "bc"], &["b", "abc"]).await;
        check("root::=a-1 | a_2\na-1::=\"x\" a_2\na_2 ::= \"\" | \"y\"", &["x", "xy", "y", ""], &["yy", "xx"]).await;
        check(r#"root ::= "a"{0} "b"{0,0} "c""#, &["c"], &["ac", "bc", ""]).await;
        check("root ::= [^a-z] .", &["A\n", "é🦀"], &["aa", "A"]).await;
        check(r#"root ::= "\x41\u00e9\U0001F980\n\t\\\"/""#, &["Aé🦀\n\t\\\"/"], &["A"]).await;
        // Where one text ends depends on what follows: what is not recursive is exact.
        check(
            r#"root ::= ("a" | "ab") ("c" | "bc") end
                 end ::= [a-z]* "!""#,
            &["ac!", "abc!", "abbc!", "acxyz!"],
            &["abbbc!", "ac"],
        )
        .await;
        check("root ::= ([ \\t\\n] root)? | \"x\" #comment\n# another", &["", " ", " \n\t", " x"], &["x ", "y"]).await;
        check(r#"root ::= "(" root ")" | "x""#, &["x", "((x))"], &["((x)", "()"]).await;
        check(r#"root ::= root "a" | "b""#, &["b", "baa"], &["a", "ab"]).await;
        check(
            JSON,
            &["{}", "{\"a\": [1, -2.5, true, {\"b\": \"\\u00e9\\n\"}]\n  }", "{ \"ö\":null}"],
            &["[]", "{\"a\"}", "{\"a\": 01x}", "{\"a\": \"\n\"}"],
        )
        .await;
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let nested = format!("root ::= {}\"a\"{}", "(".repeat(200), ")".repeat(200));
        let many: String = (0..1_001)
            .map(|n| format!("root{} ::= \"a\"\n", if n == 0 { String::new() } else { n.to_string() }))
            .collect();
        for (grammar, expected) in [
            ("", "GBNF"),
            ("start: \"a\"", "GBNF"),
            ("a ::= \"x\"", "no rule `root`"),
            ("root ::= \"a\"\n  b c", "line 2: no rule `b`"),
            ("root ::= \"a\"\nroot ::= \"b\"", "line 2: the rule `root` is defined twice"),
            ("root ::= \"a", "line 1: the text that begins here does not end"),
            ("root ::= [a", "line 1: the characters that begin here do not end"),
            ("root ::= []", "line 1: a list of characters is empty"),
            ("root ::= [z-a]", "line 1: a range of characters ends before it begins"),
            ("root ::= (\"a\"", "line 1: a `)` is missing"),
            ("root ::= \"a\")", "line 1: `)` is not expected here"),
            ("root ::= *", "line 1: `*` is not expected here"),
            ("root ::= \"a\"{3,2}", "line 1: a repetition ends before it begins"),
            ("root ::= \"a\"{2001}", "line 1: a repetition must be at most 2000 times"),
            ("root ::= \"a\"{x}", "line 1: a repetition is written as {3}, {3,} or {3,5}"),
            ("root ::= \"\\q\"", "line 1: the escape `\\q` is not known"),
            ("root ::= \"\\xzz\"", "line 1: an escape is written as"),
            ("root ::= \"\\ud800\"", "line 1: an escape is no character"),
            ("\n\nroot = \"a\" ::= x", "line 3: a rule is written as `name ::= …`"),
            ("root ::= <[5]>", "line 1: `<` is not expected here"),
            (&nested, "brackets are nested deeper than 64"),
            (&many, "the number of rules must be at most 1000, got 1001"),
            (&format!("root ::= \"{}\"", "a".repeat(BYTES)), "the grammar's bytes must be at most 65536"),
        ] {
            let error = to_lark(grammar).unwrap_err();
            assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        }
    }
}
