#!/usr/bin/env python3
"""Checks the structure of the crates by their `use` lines: no circle between files, and no arrow against the layers of ARCHITECTURE.md.

A name that a module re-exports leads to the file that defines it, and a re-export by itself is no arrow. Tests are left out. Prints
what it finds and exits with 1 if there is a circle or an upward arrow.
"""

import collections
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Rooms that the table of layers puts outside of all layers.
OUTSIDE = {"config", "telemetry", "testing", "memory", "causes", "jinja", "hub"}
TESTS = {"tests", "properties", "reference", "testing", "measures", "scored"}

TEST_ITEM = re.compile(
    r"#\[cfg\((?:all\()?test[^\]]*\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?(?:mod\s+\w+\s*\{|use [^;]*;|mod \w+;)"
)
USE = re.compile(r"(?:^|[\n;{}])\s*(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);")
MODULE = re.compile(r"(?:^|\n)\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+);")

def without_tests(text):
    """The source without comments and items that only tests have."""
    text = re.sub(r"//[^\n]*", "", text)
    kept, at = [], 0
    for match in TEST_ITEM.finditer(text):
        if match.start() < at:
            continue
        kept.append(text[at : match.start()])
        at = match.end()
        if match.group().rstrip().endswith("{"):
            depth = 1
            while depth and at < len(text):
                depth += {"{": 1, "}": -1}.get(text[at], 0)
                at += 1
    return "".join(kept) + text[at:]

def expanded(tree):
    """The paths of a use tree: `a::{b, c::d}` is `a::b` and `a::c::d`."""
    tree = tree.strip()
    group = re.match(r"^((?:\w+\s*::\s*)*)\{(.*)\}$", tree, re.S)
    if not group:
        path = re.sub(r"\s+as\s+\w+", "", tree)
        return [[part.strip() for part in path.split("::") if part.strip()]]
    prefix = [part.strip() for part in group.group(1).split("::") if part.strip()]
    parts, depth, part = [], 0, ""
    for letter in group.group(2):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += letter
    return [prefix + path for part in [*parts, part] if part.strip() for path in expanded(part)]

class Crate:
    """The files of a crate, with what each uses from the others."""

    def __init__(self, folder):
        self.folder = folder
        self.files = {}
        for path in sorted((ROOT / folder).rglob("*.rs")):
            parts = list(path.relative_to(ROOT / folder).with_suffix("").parts)
            if not TESTS.intersection(parts):
                self.files[self.module(parts)] = path
        self.children, self.exported, self.used = collections.defaultdict(set), {}, {}
        for module, path in self.files.items():
            text = without_tests(path.read_text())
            self.children[module] = set(MODULE.findall(text))
            self.exported[module], self.used[module] = {}, []
            for public, tree in USE.findall(text):
                for used in expanded(tree):
                    if public:
                        self.exported[module][used[-1]] = used
                    else:
                        self.used[module].append(used)

    @staticmethod
    def module(parts):
        if parts[-1] == "mod":
            parts = parts[:-1]
        return () if parts == ["lib"] else tuple(parts)

    def absolute(self, module, path):
        """The path from the root of the crate; None for other crates."""
        if path[0] == "crate":
            return path[1:]
        if path[0] == "self":
            return [*module, *path[1:]]
        if path[0] == "super":
            base = list(module)
            while path and path[0] == "super":
                base, path = base[:-1], path[1:]
            return base + path
        return [*module, *path] if path[0] in self.children[module] else None

    def file_of(self, path, depth=0):
        """The module that defines what a path names."""
        for count in range(len(path), -1, -1):
            module = tuple(path[:count])
            if module in self.files:
                exported = self.exported[module].get(path[count]) if count < len(path) else None
                inner = exported and depth < 8 and self.absolute(module, exported)
                return self.file_of(inner + path[count + 1 :], depth + 1) if inner else module
        return None

    def arrows(self):
        """For each module the modules that it uses, with the names."""
        arrows = {module: collections.defaultdict(set) for module in self.files}
        for module, used in self.used.items():
            for path in used:
                absolute = self.absolute(module, path)
                target = None if absolute is None else self.file_of(absolute)
                if target is not None and target != module:
                    arrows[module][target].add(absolute[-1] if absolute else "")
        return arrows

    def name(self, module):
        return str(self.files[module].relative_to(ROOT))

def circles(arrows):
    """The strongly connected components of more than one module (Tarjan's algorithm)."""
    index, low, stack, found = {}, {}, [], []

    def visit(module):
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in arrows[module]:
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            component = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(component) > 1:
                found.append(sorted(component))

    sys.setrecursionlimit(10_000)
    for module in arrows:
        if module not in index:
            visit(module)
    return found

def layers():
    """The number of each room's layer, 0 for the top one."""
    table = re.search(r"\| layer \| rooms \|\n.*?\n((?:\|.*\n)+)", (ROOT / "ARCHITECTURE.md").read_text()).group(1)
    found = {}
    for number, row in enumerate(table.splitlines()):
        for room in re.findall(r"`([\w/.]+)`", row):
            if not room.startswith("training"):
                found[room.strip("/").removesuffix(".rs")] = number
    return found

def main():
    wrong = []
    for folder in ["src", "training/src"]:
        crate = Crate(folder)
        arrows = crate.arrows()
        for circle in circles(arrows):
            wrong.append(f"a circle of {len(circle)} files:")
            for module in circle:
                for target in circle:
                    if arrows[module].get(target):
                        used = ", ".join(sorted(arrows[module][target]))
                        wrong.append(f"  {crate.name(module)} uses {crate.name(target)}: {used}")
        if folder != "src":
            continue
        layer = layers()
        missing = {module[0] for module in crate.files if module} - set(layer) - OUTSIDE
        wrong.extend(f"ARCHITECTURE.md names no layer of {room}" for room in sorted(missing - {"lib"}))
        for module, targets in arrows.items():
            for target in targets:
                here, there = module[:1], target[:1]
                if not here or not there or here == there:
                    continue
                if layer.get(here[0], 0) > layer.get(there[0], len(layer)):
                    names = ", ".join(sorted(targets[target]))
                    wrong.append(f"{crate.name(module)} uses {crate.name(target)}, which is above it: {names}")
    print("\n".join(wrong) or "no circle and no upward arrow")
    return bool(wrong)

if __name__ == "__main__":
    sys.exit(main())
