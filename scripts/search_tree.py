#!/usr/bin/env python3
"""Draws the search tree of an answer, such as docs/tree.svg.

    scripts/search_tree.py ask docs/tree-request.json http://127.0.0.1:8080 > docs/tree.json   # asks a running server
    scripts/search_tree.py draw docs/tree.json > docs/tree.svg                                 # needs no server

The request must ask for a full trace: "search": {"trace": "full"}. Needs Python's standard library only.
"""

import json
import sys
import textwrap
import urllib.request
from html import escape

WIDTH, GAP, LINE, MARGIN = 300, 36, 17, 16
COLUMNS = 42  # characters of a line of a node's text
ACCEPTED, REJECTED, CHOSEN = "#1a7f37", "#8c959f", "#0969da"


def ask(path, url):
    """One request and its answer as JSON."""
    with open(path, encoding="utf-8") as file:
        request = json.load(file)
    body = json.dumps(request).encode()
    call = urllib.request.Request(f"{url}/v1/chat/completions", body, {"content-type": "application/json"})
    with urllib.request.urlopen(call, timeout=60) as reply:
        return {"request": request, "response": json.load(reply)}


def lines(node, best):
    """What a node's box says: colour and text, line by line."""
    kind = "draft" if node["parent"] is None else "refinement"
    value = "not judged" if node["value"] is None else f"value {node['value']:.2f}"
    state = "accepted" if node["accepted"] else "rejected"
    yield CHOSEN if node["id"] == best else "#1f2328", f"{node['id']} · {kind} · {value} · {state}"
    for line in textwrap.wrap(node["text"].replace("\n", " ⏎ "), COLUMNS, max_lines=6, placeholder=" …"):
        yield "#1f2328", line
    for failed in node.get("failed", []):
        for index, line in enumerate(textwrap.wrap(failed, COLUMNS - 2, max_lines=2, placeholder=" …")):
            yield "#cf222e", ("✗ " if index == 0 else "  ") + line


def places(tree):
    """The column (depth) and the row of every node: leaves get rows, parents stand next to their children's middle."""
    children = {node["id"]: [child["id"] for child in tree if child["parent"] == node["id"]] for node in tree}
    depth, row, leaves = {}, {}, 0

    def place(node, column):
        nonlocal leaves
        depth[node] = column
        for child in children[node]:
            place(child, column + 1)
        if children[node]:
            row[node] = sum(row[child] for child in children[node]) / len(children[node])
        else:
            row[node], leaves = leaves, leaves + 1

    for node in tree:
        if node["parent"] is None:
            place(node["id"], 0)
    return depth, row, leaves


def draw(record):
    """The picture as SVG."""
    search = record["response"]["search"]
    tree, answer = search["tree"], record["response"]["choices"][0]["message"]["content"]
    best = next((node["id"] for node in reversed(tree) if node["text"] == answer), None)
    text = {node["id"]: list(lines(node, best)) for node in tree}
    depth, row, leaves = places(tree)
    height = max(len(said) for said in text.values()) * LINE + 14
    prompt = textwrap.wrap("Prompt: " + record["request"]["messages"][-1]["content"], 130)
    top = MARGIN + (len(prompt) + 1) * LINE
    wide = MARGIN * 2 + (max(depth.values()) + 1) * (WIDTH + GAP) - GAP
    wide = max(wide, 700)
    tall = top + leaves * (height + GAP // 2) + 2 * LINE
    x = {node: MARGIN + depth[node] * (WIDTH + GAP) for node in depth}
    y = {node: top + row[node] * (height + GAP // 2) for node in row}
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall:.0f}" width="{wide}" height="{tall:.0f}" '
        'font-family="ui-monospace, SFMono-Regular, Menlo, monospace" font-size="11">',
        f'<rect width="{wide}" height="{tall:.0f}" fill="#ffffff"/>',
    ]

    def write(left, base, colour, words, weight="normal"):
        out.append(
            f'<text x="{left:.0f}" y="{base:.0f}" fill="{colour}" font-weight="{weight}" xml:space="preserve">{escape(words)}</text>'
        )

    for index, line in enumerate(prompt):
        write(MARGIN, MARGIN + (index + 0.6) * LINE, "#1f2328", line, "bold")
    for node in tree:
        parent = node["parent"]
        if parent is not None:
            from_x, from_y, to_x, to_y = x[parent] + WIDTH, y[parent] + height / 2, x[node["id"]], y[node["id"]] + height / 2
            out.append(
                f'<path d="M{from_x:.0f} {from_y:.0f} C{from_x + GAP / 2:.0f} {from_y:.0f} {to_x - GAP / 2:.0f} {to_y:.0f} '
                f'{to_x:.0f} {to_y:.0f}" fill="none" stroke="{REJECTED}" stroke-width="1.5"/>'
            )
    for node in tree:
        left, upper = x[node["id"]], y[node["id"]]
        colour = ACCEPTED if node["accepted"] else REJECTED
        fill = "#dafbe1" if node["accepted"] else "#f6f8fa"
        out.append(
            f'<rect x="{left:.0f}" y="{upper:.0f}" width="{WIDTH}" height="{height}" rx="6" fill="{fill}" stroke="{colour}" '
            f'stroke-width="{2.5 if node["id"] == best else 1}"/>'
        )
        for index, (shade, line) in enumerate(text[node["id"]]):
            write(left + 8, upper + (index + 1) * LINE, shade, line, "bold" if index == 0 else "normal")
    calls, tokens = search["calls"], search["tokens"]
    generated = tokens["answer"] + tokens["judge"] + tokens["refine"]
    write(
        MARGIN, tall - LINE * 0.7, "#57606a",
        f"{search['nodes']} nodes after the draft, {sum(calls.values())} model calls, {generated} generated tokens; "
        f"value {search['root_value']:.2f} → {search['value']:.2f}, stopped: {search['stop_reason']}",
    )
    return "\n".join([*out, "</svg>", ""])


def main(arguments):
    """Asks or draws."""
    match arguments:
        case ["ask", path, url]:
            json.dump(ask(path, url.rstrip("/")), sys.stdout, indent=1, ensure_ascii=False)
            print()
        case ["draw", path]:
            with open(path, encoding="utf-8") as file:
                sys.stdout.write(draw(json.load(file)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
