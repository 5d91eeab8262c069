#!/usr/bin/env python3
"""Checks texts: links of all markdown files, doc comments that are fragments, and pages that are too long.

    scripts/docs_check.py                 # all; prints what is wrong as file:line, and ends with 1
    scripts/docs_check.py links comments  # only these

Links: a relative link must name a file or folder of this repository, and its #anchor a heading of that file.

Comments: the first paragraph of a doc comment is what rustdoc, `--help` and the API document show alone, so it must make sense alone. It
is refused where it begins with a word that continues something else ("Of the draw.", "The same by seed.", "As the file has it."),
or has fewer than three words. Shapes of tensors, such as `(rows, columns)`, may stand alone. Descriptions of the API document, some of
which are no doc comments, are checked in the same way.

Words: every sentence of every comment has a main clause ("As [`judge`]." and "Where the list ends." have none), and it uses the
field's terms instead of the words listed in HOUSE_WORDS; CONTRIBUTING.md has the whole glossary. The rooms in UNREVISED are exempt.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Words at which a text continues the one before. A sentence that begins with one of them can begin with its subject.
CONTINUES = (
    "Of|By|As|Whose|In|On|From|With|Without|At|Then|Told|Such|Also|Beside|Not|Gone|Between|After|Before|Per|Instead|Among|"
    "Until|Against|Through|Into|To|Like|Than|All of|None of|The same|Their|Theirs"
)
FRAGMENT = re.compile(rf"(?:{CONTINUES})\b")
# A sentence that begins with one of these words and has no comma is a subordinate clause without a main clause.
SUBORDINATE = re.compile(r"(?:As|When|Where|If|Unless|While|Since|Because|Although|So that|Whose)\b[^,;:]*$")
# Words of this project that a reader would have to decode, and the field's term. Only words that have no other use here.
HOUSE_WORDS = {
    r"told": "flushed, notified, reported, stated",
    r"look(?:s|ed|ing)? out for": "spin",
    r"(?:goes|go|going|went) on": "resumes, continues",
    r"asked for ahead": "prefetched",
    r"(?:is|are|was|were) (?:not )?there(?: yet)?[.,;:]": "exists, is loaded",
    r"(?:is|are|was|were) gone": "is dropped",
    r"tak(?:e|es|en|ing) over": "accepted, reused",
    r"beside": "next to, with, during",
    r"by turns": "interleaved",
    r"so many(?! other)": "`n`",
    r"of ours|of theirs": "custom",
    r"mend(?:s|ed|ing)?": "fix",
    r"nobody|somebody|whoever": "the caller, nothing, no one that has a name",
    r"what (?:it|they) comes? to": "the result",
    r"(?<=, )of which": "two sentences",
    r"anew": "again",
}
# Rooms whose comments are not revised yet: paths from the root, folders end in a slash. Remove an entry when its room is revised.
UNREVISED = (
    "openapi/openapi.json", "src/chat.rs", "src/config/", "src/http/", "src/hub/", "src/jinja/", "src/lib.rs", "src/main.rs",
    "src/memory.rs", "src/openai/", "src/swap/", "src/telemetry/",
)
SHAPE = re.compile(r"`\([^`]*\)`\.?")
DOC = re.compile(r"\s*(///|//!)(?!/) ?(.*)")
COMMENT = re.compile(r"\s*(///|//!|//)(?![/!]) ?(.*)")
LINK = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^()\s]+)\)")


def files(suffix, *folders):
    """Files of the repository, also those that are not committed yet, but nothing that was built."""
    built = {"target", "runs", "node_modules", "venv"}
    for folder in folders or [ROOT]:
        for path in sorted(folder.rglob(f"*{suffix}")):
            parts = path.relative_to(ROOT).parts
            if path.is_file() and not built.intersection(parts) and not any(part.startswith(".") for part in parts):
                yield path


def without_code(text):
    """The text with fenced blocks and code spans blanked, so that lines keep their numbers."""
    text = re.sub(r"^```.*?^```", lambda block: "\n" * block.group().count("\n"), text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(path):
    """The anchors of a file's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *$", re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S), re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 1
        while anchor in found:
            anchor, number = f"{anchor.removesuffix(f'-{number - 1}')}-{number}", number + 1
        found.add(anchor)
    return found


def broken_links():
    """Every relative link of a markdown file that leads nowhere."""
    for path in files(".md"):
        for number, line in enumerate(without_code(path.read_text("utf-8")).split("\n"), 1):
            for link in LINK.findall(line):
                if re.match(r"[a-z]+:", link):
                    continue
                name, _, anchor = link.partition("#")
                target = (path.parent / name).resolve() if name else path
                place = f"{path.relative_to(ROOT)}:{number}"
                if not target.exists() or ROOT not in [target, *target.parents]:
                    yield f"{place}: the link {link} leads to no file of this repository"
                elif anchor and (target.suffix != ".md" or anchor not in anchors(target)):
                    yield f"{place}: {target.relative_to(ROOT)} has no heading for #{anchor}"


def first_paragraphs(path):
    """Line and first paragraph of every doc comment."""
    start, kind, text = 0, "", []
    for number, line in enumerate([*path.read_text("utf-8").split("\n"), ""], 1):
        doc = DOC.fullmatch(line)
        if text and (not doc or doc.group(1) != kind):
            yield start, " ".join(text).split("\0")[0].strip()
            text = []
        if doc:
            if not text:
                start, kind = number, doc.group(1)
            text.append(doc.group(2) or "\0")


def described(value, place=""):
    """Place and text of every description in the API document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in pairs:
        if name in ("description", "summary") and isinstance(inner, str) and inner:
            yield f"{place}/{name}", inner.split("\n\n")[0]
        yield from described(inner, f"{place}/{name}")


def fragments():
    """Every doc comment, and every text of the API document, whose first paragraph is no sentence."""
    for place, text in described(json.loads((ROOT / "openapi/openapi.json").read_text("utf-8"))):
        # What a status means may be a word or two.
        if FRAGMENT.match(text) or len(text.split()) < 3 and "/responses/" not in place:
            yield f"openapi/openapi.json{place}: a description is a sentence: {text}"
    for path in files(".rs", ROOT / "src", ROOT / "training/src"):
        for number, text in first_paragraphs(path):
            place = f"{path.relative_to(ROOT)}:{number}"
            if FRAGMENT.match(text):
                yield f"{place}: a doc comment begins with its subject or its verb: {text}"
            elif len(text.split()) < 3 and not SHAPE.fullmatch(text):
                yield f"{place}: a doc comment has at least three words: {text}"


def comment_blocks(path):
    """Line and text of every run of comment lines of one kind, with headings and blank lines as paragraph breaks."""
    start, kind, text = 0, "", []
    for number, line in enumerate([*path.read_text("utf-8").split("\n"), ""], 1):
        comment = COMMENT.fullmatch(line)
        if text and (not comment or comment.group(1) != kind):
            yield start, "\n".join(text)
            text = []
        if comment:
            if not text:
                start, kind = number, comment.group(1)
            text.append("" if comment.group(2).startswith("#") else comment.group(2))


def decoded():
    """Every sentence of a comment, or of the API document, that has no main clause or uses a word of this project's own."""
    folders = (ROOT / "src", ROOT / "training/src", ROOT / "benches")
    texts = [(f"{path.relative_to(ROOT)}", line, text) for path in files(".rs", *folders) for line, text in comment_blocks(path)]
    document = json.loads((ROOT / "openapi/openapi.json").read_text("utf-8"))
    texts += [("openapi/openapi.json", place, text) for place, text in described(document) if "/responses/" not in place]
    for name, line, text in texts:
        if any(name == room or room.endswith("/") and name.startswith(room) for room in UNREVISED):
            continue
        for paragraph in re.split(r"\n\s*\n", re.sub(r"`[^`]*`", "`code`", text)):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())):
                if SUBORDINATE.match(sentence):
                    yield f"{name}:{line}: a sentence has a main clause: {sentence}"
                for word, instead in HOUSE_WORDS.items():
                    if found := re.search(rf"\b(?:{word})", sentence, re.I):
                        yield f"{name}:{line}: instead of \"{found.group()}\" write {instead}: {sentence}"


def long_pages():
    """Every page that is longer than a newcomer reads at once."""
    for name, most in (("README.md", 150), ("ARCHITECTURE.md", 150)):
        if (lines := len((ROOT / name).read_text("utf-8").splitlines())) > most:
            yield f"{name}: it has {lines} lines and may have {most}; move what changes often to docs/ or into module docs"


CHECKS = {"links": broken_links, "comments": fragments, "words": decoded, "lengths": long_pages}


def main(names):
    """Runs the named checks, or all."""
    if unknown := [name for name in names if name not in CHECKS]:
        sys.exit(f"unknown check {unknown[0]}; there are {', '.join(CHECKS)}")
    found = [problem for name in names or CHECKS for problem in CHECKS[name]()]
    print("\n".join(found), end="\n" if found else "")
    sys.exit(bool(found))


if __name__ == "__main__":
    main(sys.argv[1:])
