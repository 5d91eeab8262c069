//! What is typed: a question, or a command that begins with a slash.

/// The help text of the commands.
pub(super) const HELP: &str = "\
/search N     search each answer with a budget of N refinements; 0 answers plainly
/system TEXT  give the model standing instructions; without TEXT none
/diff [NODE]  show the word differences between a node and the one that it refines; without NODE of the answer
/tree         draw the tree of the last search
/retry        ask the last question again
/save FILE    write the conversation and the last search to a JSON file
/new          begin a new conversation
/help         show this text
/quit         leave; so does Ctrl-D. Ctrl-C stops an answer
//TEXT        ask a question that begins with a slash
";

/// A line that was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The line is empty.
    Blank,
    /// A question to the model.
    Question(String),
    /// Sets the budget of each answer's search.
    Search(usize),
    /// Sets the standing instructions, or removes them.
    System(Option<String>),
    /// Shows the differences of a node, or of the answer.
    Diff(Option<usize>),
    /// Draws the tree of the last search.
    Tree,
    /// Asks the last question again.
    Retry,
    /// Writes the conversation to this file.
    Save(String),
    /// Begins a new conversation.
    New,
    /// Lists the commands.
    Help,
    /// Leaves the program.
    Quit,
}

impl Line {
    /// Reads a line.
    ///
    /// # Errors
    /// Names the command that is unknown, or what is missing or wrong in it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let line = line.trim();
        let Some(typed) = line.strip_prefix('/') else {
            return Ok(if line.is_empty() { Self::Blank } else { Self::Question(line.to_owned()) });
        };
        if typed.starts_with('/') {
            return Ok(Self::Question(typed.to_owned()));
        }
        let (name, rest) = typed.split_once(char::is_whitespace).unwrap_or((typed, ""));
        let rest = Some(rest.trim()).filter(|rest| !rest.is_empty());
        let number = |what: &str| {
            let number = rest.map(str::parse::<usize>).transpose();
            number.map_err(|_| format!("/{name} takes {what}, got {:?}", rest.unwrap_or_default()))
        };
        let line = match name {
            "search" => {
                Self::Search(number("a number of refinements")?.ok_or("/search needs a number, such as /search 8")?)
            }
            "diff" => return Ok(Self::Diff(number("the number of a node")?)),
            "system" => return Ok(Self::System(rest.map(str::to_owned))),
            "save" => Self::Save(rest.ok_or("/save needs the name of a file, such as /save chat.json")?.to_owned()),
            "tree" => Self::Tree,
            "retry" => Self::Retry,
            "new" => Self::New,
            "help" => Self::Help,
            "quit" | "exit" => Self::Quit,
            _ => return Err(format!("there is no command /{name}; /help lists the commands")),
        };
        match rest {
            Some(rest) if !matches!(line, Self::Search(_) | Self::Save(_)) => {
                Err(format!("/{name} takes nothing, got {rest:?}"))
            }
            _ => Ok(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_questions_or_commands() {
        for (typed, expected) in [
            ("", Ok(Line::Blank)),
            ("  \t", Ok(Line::Blank)),
            (" What is it? ", Ok(Line::Question("What is it?".into()))),
            ("//etc is a folder", Ok(Line::Question("/etc is a folder".into()))),
            ("/search 8", Ok(Line::Search(8))),
            ("/search", Err("needs a number")),
            ("/search many", Err("takes a number of refinements, got \"many\"")),
            ("/search -1", Err("got \"-1\"")),
            ("/system  Be brief. ", Ok(Line::System(Some("Be brief.".into())))),
            ("/system", Ok(Line::System(None))),
            ("/diff", Ok(Line::Diff(None))),
            ("/diff 3", Ok(Line::Diff(Some(3)))),
            ("/diff x", Err("takes the number of a node")),
            ("/tree", Ok(Line::Tree)),
            ("/tree 3", Err("takes nothing")),
            ("/retry", Ok(Line::Retry)),
            ("/save a b.json", Ok(Line::Save("a b.json".into()))),
            ("/save", Err("needs the name of a file")),
            ("/new", Ok(Line::New)),
            ("/help", Ok(Line::Help)),
            ("/quit", Ok(Line::Quit)),
            ("/exit", Ok(Line::Quit)),
            ("/serach 8", Err("no command /serach")),
            ("/", Err("no command /")),
        ] {
            match (Line::parse(typed), expected) {
                (Ok(line), Ok(expected)) => assert_eq!(line, expected, "{typed}"),
                (Err(message), Err(expected)) => assert!(message.contains(expected), "{typed}: {message}"),
                (line, _) => panic!("{typed}: {line:?}"),
            }
        }
    }
}
