// The page at `/`, as a reader meets it.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { browser, picture, serve, settled, visit } from "./pages.mjs";

const EXAMPLES = JSON.parse(readFileSync(new URL("../../assets/page/examples.json", import.meta.url))).embedded;
const LANTERN = EXAMPLES[0];
const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

let server;
let keyed;

before(async () => {
  [server, keyed] = await Promise.all([serve(), serve("alpha")]);
});

after(async () => {
  await browser.close();
  server?.end();
  keyed?.end();
});

/** Opens the page, runs `steps` with it, and expects that its console stayed silent. */
async function on({ at = server, ...options }, steps) {
  const { page, context, complaints } = await visit(at.url, options);
  await steps(page, context);
  assert.deepEqual(complaints, [], "the console");
  await context.close();
}

const start = (page, title) => page.getByRole("button", { name: title }).click();

async function ask(page, prompt) {
  await page.getByLabel("Prompt", { exact: true }).fill(prompt);
  await page.keyboard.press("Enter");
}

/** The bodies of the page's requests for answers, as they are sent. */
function bodies(page) {
  const sent = [];
  page.on("request", (request) => request.url().endsWith("/v1/chat/completions") && sent.push(request.postDataJSON()));
  return sent;
}

for (const example of EXAMPLES) {
  test(`the example "${example.title}" shows a draft that fails and an answer that is mended`, () =>
    on({}, async (page) => {
      await start(page, example.title);
      await settled(page);
      const [plain, searched] = [page.locator(".answer.plain"), page.locator(".answer.searched")];
      assert.match(await plain.locator(".pill").innerText(), /instructions? fails?/);
      assert.equal(await searched.locator(".pill").innerText(), "accepted");
      assert.equal(await plain.locator(".answer-marks .holds").count() < await searched.locator(".answer-marks .holds").count(), true);
      assert.equal(await searched.locator(".answer-marks .fails").count(), 0);
      const way = await page.locator(".node.on-way").count();
      assert.ok(way >= 2, `the answer is a refinement: ${way} nodes lead to it`);
    }));
}

test("the tree is drawn node by node while the search runs, and the draft comes first", () =>
  on({}, async (page) => {
    await page.evaluate(() => {
      window.steps = [];
      new MutationObserver(() => {
        const cards = [...document.querySelectorAll(".node")];
        const step = cards.map((card) => `${card.dataset.node}${card.classList.contains("unjudged") ? "?" : ""}`).join(" ");
        if (step && step !== window.steps.at(-1)) window.steps.push(step);
      }).observe(document.getElementById("conversation"), { childList: true, subtree: true, attributes: true });
    });
    await start(page, "A tree of tries");
    await settled(page);
    const steps = await page.evaluate(() => window.steps);
    const sizes = steps.map((step) => step.split(" ").length);
    assert.match(steps[0], /^0\b/, `begins with the draft: ${steps}`);
    assert.deepEqual(sizes, [...sizes].sort((a, b) => a - b), "only grows");
    assert.equal(sizes.at(-1), 6, "the draft and five nodes");
    // Siblings are refined together, and a busy browser draws several events at once.
    assert.ok(new Set(sizes).size >= 2, `in steps: ${steps}`);
    await picture(page, "tree-of-tries", { fullPage: true });
  }));

test("a node shows its text, what fails in it, and the difference to its parent word by word", () =>
  on({}, async (page) => {
    await start(page, LANTERN.title);
    await settled(page);
    const card = (id) => page.locator(`.node[data-node="${id}"]`);
    await card(0).click();
    const panel = page.locator(".node-panel");
    const draft = await panel.locator(".text").first().innerText();
    assert.equal(draft, await page.locator(".answer.plain .prose").innerText(), "with one seed the plain answer is the draft");
    assert.deepEqual(await panel.locator("li.fails").allTextContents(), ["✗Include the word lantern: fails"]);
    assert.match(await panel.locator(".critique").innerText(), /lantern/);
    assert.equal(await panel.locator("ins, del").count(), 0, "a draft has no parent");

    await card(1).click();
    assert.equal(await card(1).getAttribute("aria-pressed"), "true");
    const parts = await panel.locator(".difference").evaluate((line) => [...line.childNodes].map((part) => {
      const copy = part.cloneNode(true);
      copy.querySelector?.(".hidden")?.remove();
      return [part.nodeName, copy.textContent];
    }));
    const without = (name) => parts.filter(([kind]) => kind !== name).map(([, text]) => text).join("");
    assert.equal(without("INS"), draft);
    assert.equal(without("DEL"), await page.locator(".answer.searched .prose").innerText());
    assert.ok(parts.some(([kind, text]) => kind === "DEL" && text === "forest"), JSON.stringify(parts));
    assert.ok(parts.some(([kind, text]) => kind === "INS" && text === "lantern"), JSON.stringify(parts));
    assert.equal(await panel.locator("li.fails").count(), 0);
  }));

test("what both sides cost is shown, and the parts are the whole", () =>
  on({}, async (page) => {
    await start(page, LANTERN.title);
    await settled(page);
    const rows = await page.locator(".costs tbody tr").evaluateAll((all) => all.map((row) => [...row.cells].map((cell) => cell.innerText)));
    const of = (name) => rows.find(([head]) => head === name).slice(1);
    const [plain, searched] = of("Generated tokens").map(Number);
    const parts = ["for drafts", "for refinements", "for critiques"].map((name) => Number(of(name)[1]));
    assert.ok(plain > 5 && searched > plain, JSON.stringify(rows));
    assert.equal(parts.reduce((sum, part) => sum + part, 0), searched);
    assert.equal(of("for drafts")[1], String(plain), "the draft is the plain answer");
    assert.match(of("Model calls")[1], /1 draft, 1 refinement/);
    for (const text of of("Seconds in all")) assert.match(text, /^\d+(\.\d)? s$/);
  }));

test("the checks of a prompt are found while it is typed, and can be edited", () =>
  on({}, async (page) => {
    const sent = bodies(page);
    await page.getByLabel("Prompt", { exact: true }).fill("Write about what the river does. Do not use any commas. Use at least 5 words.");
    const chips = page.locator(".check-chip");
    await page.waitForFunction(() => document.querySelectorAll(".check-chip").length === 2);
    assert.deepEqual(await chips.locator(".chip-open").allInnerTexts(), ["not use any commas", "at least 5 words"]);
    await page.getByRole("button", { name: "Remove the check: not use any commas" }).click();
    await page.getByRole("button", { name: "at least 5 words", exact: true }).click();
    await page.getByLabel("num words").fill("4");
    await page.getByRole("button", { name: "Keep" }).click();
    await page.getByRole("button", { name: "+ Add" }).click();
    await page.getByLabel("Kind").fill("keywords:existence");
    await page.getByLabel("keywords, separated by commas").fill("river");
    await page.getByRole("button", { name: "Keep" }).click();
    await page.getByRole("radio", { name: "Searched" }).check();
    await page.getByLabel("Prompt", { exact: true }).press("Enter");
    await settled(page);
    assert.deepEqual(sent.at(-1).search.checks, [
      { id: "length_constraints:number_words", kwargs: { relation: "at least", num_words: 4 } },
      { id: "keywords:existence", kwargs: { keywords: ["river"] } },
    ]);
    assert.equal(await page.locator(".answer.searched .answer-marks li").count(), 2);
    assert.equal(await page.locator(".answer.plain").count(), 0);
    await page.getByRole("button", { name: "Turn off" }).click();
    assert.equal(await chips.count(), 0);
  }));

test("settings reach the request, and only those that are set", () =>
  on({}, async (page) => {
    const sent = bodies(page);
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("System turn").fill("You write short answers.");
    await page.getByLabel("Temperature", { exact: true }).fill("0.3");
    await page.getByLabel("Seed;").fill("7");
    await page.getByLabel("How the model judges").selectOption("votes");
    await page.getByLabel("Votes per judgement").fill("3");
    assert.match(await page.locator("#who-judges").innerText(), /g-1 drafts, g-2 judges and refines/);
    await page.getByRole("button", { name: "Close the settings" }).click();
    await page.getByLabel("Budget").fill("1");
    await page.getByLabel("Strategy").selectOption("refine_chain");
    await ask(page, "Describe what the river does.");
    await settled(page);
    const [plain, searched] = [sent.find((body) => !body.search), sent.find((body) => body.search)];
    assert.deepEqual(plain, {
      model: "spar-tiny",
      messages: [{ role: "system", content: "You write short answers." }, { role: "user", content: "Describe what the river does." }],
      temperature: 0.3, seed: 7, stream: true, stream_options: { include_usage: true },
    });
    assert.equal(searched.search_budget, 1);
    assert.deepEqual(searched.search, { strategy: "refine_chain", checks: "auto", judging: "votes", votes: 3, trace: "full", events: true });
  }));

test("an error is shown in words, with the field that it is about", () =>
  on({ expected: [400] }, async (page) => {
    await page.getByRole("button", { name: "+ Add" }).click();
    await page.getByLabel("Kind").fill("nothing:known");
    await page.getByRole("button", { name: "Keep" }).click();
    await ask(page, "Describe what the river does.");
    await settled(page);
    const problem = page.locator(".answer.searched").getByRole("alert");
    assert.match(await problem.innerText(), /nothing:known/);
    assert.match(await problem.innerText(), /search\.checks/);
    assert.equal(await page.locator(".answer.searched .pill").innerText(), "failed");
    assert.notEqual(await page.locator(".answer.plain .prose").innerText(), "", "the other side answers all the same");
  }));

test("a server that is gone is reported, and a check whose arguments cannot be read is not kept", () =>
  on({}, async (page) => {
    await page.getByRole("button", { name: "+ Add" }).click();
    await page.getByLabel("Kind").fill("some:kind");
    await page.getByLabel("arguments as JSON").fill("{");
    await page.getByRole("button", { name: "Keep" }).click();
    assert.match(await page.locator("#check-problem").innerText(), /not JSON/);
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.route("**/v1/chat/completions", (route) => route.fulfill({
      status: 200, contentType: "text/event-stream", body: 'data: {"choices": [{"delta": {"content": "Half of"}}]}\n\n',
    }));
    await ask(page, "Describe what the river does.");
    await settled(page);
    assert.match(await page.locator(".answer.plain").getByRole("alert").innerText(), /connection ended/);
    assert.equal(await page.locator(".answer.plain .prose").innerText(), "Half of");
  }));

test("a key is asked for where the server wants one, once for both sides, and again where it is wrong", () =>
  on({ at: keyed, expected: [401] }, async (page, context) => {
    await page.getByText("This server asks for an API key.").waitFor();
    await ask(page, LANTERN.prompt);
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("API key").fill("wrong");
    await page.keyboard.press("Enter");
    await page.getByText("The key was not accepted.").waitFor();
    await dialog.getByLabel("API key").fill("alpha");
    await dialog.getByRole("button", { name: "Use this key" }).click();
    await settled(page);
    assert.equal(await page.locator(".answer .pill.bad").count(), 0);
    assert.notEqual(await page.locator(".answer.searched .prose").innerText(), "");
    await page.locator(".answer.searched").getByRole("button", { name: "Code" }).click();
    const code = await page.locator("#code").innerText();
    assert.match(code, /authorization: Bearer \$SPAR_API_KEY/);
    assert.ok(!code.includes("alpha"), "the key itself is not shown");
    await page.reload();
    await page.waitForSelector("html[data-ready]");
    assert.equal(await page.getByText("This server asks for an API key.").count(), 0, "the tab remembers the key");
    assert.equal((await context.cookies()).length, 0);
  }));

test("without a key the answer fails with the reason", () =>
  on({ at: keyed, expected: [401] }, async (page) => {
    await ask(page, "Hello");
    await page.getByRole("button", { name: "Cancel" }).click();
    await settled(page);
    assert.match(await page.locator(".answer.plain").getByRole("alert").innerText(), /key/);
  }));

test("a link shows a kept search with its prompt, and says so where it is not kept", async () => {
  let link;
  await on({}, async (page) => {
    await start(page, LANTERN.title);
    await settled(page);
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await page.locator("[data-action=link]").click();
    link = new URL(await page.evaluate(() => navigator.clipboard.readText()));
  });
  assert.match(link.search, /^\?search=srch_/);
  await on({ path: `/${link.search}${link.hash}` }, async (page) => {
    assert.equal(await page.locator(".asked .text").innerText(), LANTERN.prompt);
    assert.equal(await page.locator(".node").count(), 2);
    assert.match(await page.locator(".answer.searched .prose").innerText(), /lantern/);
    await page.locator('.node[data-node="1"]').click();
    assert.ok(await page.locator(".difference ins").count() > 0);
  });
  await on({ path: "/?search=srch_none", expected: [404] }, async (page) => {
    assert.match(await page.getByRole("alert").innerText(), /srch_none/);
  });
});

test("the prompt and the conversation survive a reload, and a new chat begins empty", () =>
  on({}, async (page) => {
    await start(page, LANTERN.title);
    await settled(page);
    await page.getByLabel("Prompt", { exact: true }).fill("not sent yet");
    await page.reload();
    await page.waitForSelector("html[data-ready]");
    assert.equal(await page.getByLabel("Prompt", { exact: true }).inputValue(), "not sent yet");
    assert.equal(await page.locator(".node").count(), 2);
    assert.equal(await page.locator(".answer").count(), 2);
    await page.getByRole("button", { name: "New chat" }).click();
    assert.equal(await page.locator(".turn").count(), 0);
    assert.ok(await page.getByText("Start with an example").isVisible());
  }));

test("a plain answer can be searched afterwards, regenerated, and the chat continues from the one that is chosen", () =>
  on({}, async (page) => {
    const sent = bodies(page);
    await page.getByRole("radio", { name: "Plain" }).check();
    await ask(page, "Describe what the river does. Do not use any commas.");
    await settled(page);
    assert.equal(sent.length, 1);
    assert.ok(!("search" in sent[0]) && !("search_budget" in sent[0]));
    await page.getByRole("button", { name: "Search this answer" }).click();
    await settled(page);
    assert.equal(sent[1].seed, sent[0].seed, "the search drafts with the seed of the answer");
    await page.locator(".answer.plain").getByRole("button", { name: "Regenerate" }).click();
    await settled(page);
    assert.notEqual(sent[2].seed, sent[0].seed);
    await page.locator(".answer.plain").getByRole("button", { name: "Continue from this answer" }).click();
    const chosen = await page.locator(".answer.plain .prose").innerText();
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("Send earlier turns").check();
    await page.getByRole("button", { name: "Close the settings" }).click();
    await ask(page, "Write about what the sailor does.");
    await settled(page);
    assert.deepEqual(sent[3].messages.map(({ role }) => role), ["user", "assistant", "user"]);
    assert.equal(sent[3].messages[1].content.replace(/\s+/g, " "), chosen.replace(/\s+/g, " "));
  }));

test("Escape stops both sides, and what had arrived stays", () =>
  on({}, async (page) => {
    await page.route("**/v1/chat/completions", () => {}); // Never answered.
    await ask(page, "Describe what the river does.");
    await page.getByRole("button", { name: "Stop" }).waitFor();
    await page.keyboard.press("Escape");
    await settled(page);
    assert.deepEqual(await page.locator(".pill").allInnerTexts(), ["stopped", "stopped"]);
    assert.ok(await page.getByRole("button", { name: "Send" }).isEnabled());
  }));

test("the code of a request is right in each language, and curl runs as it is", () =>
  on({}, async (page) => {
    await page.getByLabel("Prompt", { exact: true }).fill("Write what the teacher's \"river\" does. Do not use any commas.");
    await page.getByRole("button", { name: "Copy as code" }).click();
    const code = page.locator("#code");
    const curl = await code.innerText();
    const answer = JSON.parse(execFileSync("bash", ["-c", `${curl} --silent --fail`], { encoding: "utf8", timeout: 60_000 }));
    assert.ok(answer.search.id.startsWith("srch_"));
    assert.equal(answer.choices[0].message.role, "assistant");
    await page.getByRole("radio", { name: "Python" }).check();
    const python = await code.innerText();
    execFileSync("python3", ["-c", "import ast, sys; ast.parse(sys.stdin.read())"], { input: python });
    assert.match(python, /extra_body=\{/);
    await page.getByRole("radio", { name: "Node" }).check();
    execFileSync("node", ["--input-type=module", "--check", "-"], { input: await code.innerText() });
  }));

test("a conversation can be exported", () =>
  on({}, async (page) => {
    await start(page, LANTERN.title);
    await settled(page);
    const save = async (name) => {
      await page.getByRole("button", { name: "Export" }).click();
      const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name }).click()]);
      return readFileSync(await download.path(), "utf8");
    };
    const json = JSON.parse(await save("JSON"));
    assert.equal(json.turns[0].searched.nodes.length, 2);
    assert.equal(json.turns[0].user, LANTERN.prompt);
    const text = await save("Markdown");
    assert.ok(text.includes("### Plain") && text.includes("node 1, refinement of node 0"), text);
  }));

test("Markdown is shown, and a model's text never becomes markup of its own", () =>
  on({}, async (page) => {
    const shown = (text) => page.evaluate(async (source) => {
      const { markdown } = await import("/page/markdown.js");
      const box = document.createElement("div");
      box.append(...markdown(source));
      return box.innerHTML;
    }, text);
    for (const [text, expected] of [
      ["a **bold** and *soft* `code`", "<p>a <strong>bold</strong> and <em>soft</em> <code>code</code></p>"],
      ["# Title\n\ntext\nmore", "<h4>Title</h4><p>text<br>more</p>"],
      ["- one\n- two\n  - inner\n\nend", "<ul><li>one</li><li>two<ul><li>inner</li></ul></li></ul><p>end</p>"],
      ["3. three\n4. four", '<ol start="3"><li>three</li><li>four</li></ol>'],
      ["> quoted\n> more", "<blockquote><p>quoted<br>more</p></blockquote>"],
      ["snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"],
      ["\\*not soft\\*", "<p>*not soft*</p>"],
      ["<img src=x onerror=alert(1)>", "<p>&lt;img src=x onerror=alert(1)&gt;</p>"],
      ["[a](javascript:alert(1))", "<p><span>a</span></p>"],
      ["[a](data:text/html;base64,x)", "<p><span>a</span></p>"],
      ["```html\n<script>alert(1)</script>\n```", '<pre tabindex="0" role="region" aria-label="Code in html"><code>&lt;script&gt;alert(1)&lt;/script&gt;</code></pre>'],
      ["```\nnot closed", '<pre tabindex="0" role="region" aria-label="Code"><code>not closed</code></pre>'],
    ]) assert.equal(await shown(text), expected, text);
    assert.match(await shown("[a](https://a.test/b_(c)) and https://b.test/x."), /href="https:\/\/a\.test\/b_\(c\)".*href="https:\/\/b\.test\/x"[^>]*>https:\/\/b\.test\/x<\/a>\./);
    assert.match(await shown("| a | b |\n| --- | ---: |\n| 1 | 2 |"), /<th scope="col">a<\/th>.*<td>2<\/td>/);
    for (const ugly of ["*".repeat(5000), "[".repeat(5000), "`".repeat(4999), "> ".repeat(500), "- ".repeat(500), "_a ".repeat(3000), "**a ".repeat(3000)]) {
      const took = await page.evaluate(async (source) => {
        const { markdown } = await import("/page/markdown.js");
        const began = performance.now();
        markdown(source);
        return performance.now() - began;
      }, ugly);
      assert.ok(took < 2000, `${ugly.slice(0, 4)} … took ${took} ms`);
    }
  }));

test("differences of texts are words that went and words that came", () =>
  on({}, async (page) => {
    const found = (before, now) => page.evaluate(async ([one, other]) => {
      const { difference, changes } = await import("/page/diff.js");
      return [difference(one, other).map(({ kind, text }) => `${{ same: "=", removed: "-", added: "+" }[kind]}${text}`), changes(one, other)];
    }, [before, now]);
    for (const [before, now, parts, said] of [
      ["the river runs", "the river runs", ["=the river runs"], ""],
      ["the river runs", "the lantern runs", ["=the ", "-river", "+lantern", "= runs"], "river → lantern"],
      ["one two three", "one three", ["=one ", "-two ", "=three"], "− two"],
      ["it works", "it works tonight.", ["=it works", "+ tonight."], "+ tonight."],
      ["", "new", ["+new"], "+ new"],
      ["gone", "", ["-gone"], "− gone"],
      ["a fast red car", "a slow blue car", ["=a ", "-fast red", "+slow blue", "= car"], "fast red → slow blue"],
    ]) assert.deepEqual(await found(before, now), [parts, said], `${before} / ${now}`);
    const many = "word ".repeat(6000);
    const [parts] = await found(`a ${many}`, `b ${many}`);
    assert.deepEqual(parts.slice(0, 2), ["-a", "+b"]);
  }));

test("events are read whatever pieces they come in", () =>
  on({}, async (page) => {
    const read = await page.evaluate(async () => {
      const { events } = await import("/page/api.js");
      const bytes = new TextEncoder().encode(": sign of life\n\ndata: {\"a\":\"é\"}\n\ndata: 1\r\n\r\ndata: [DONE]\n\n");
      const all = [];
      for (const size of [1, 3, 1000]) {
        const stream = new ReadableStream({
          start(controller) {
            for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
            controller.close();
          },
        });
        const found = [];
        for await (const data of events(stream)) found.push(data);
        all.push(found);
      }
      return all;
    });
    for (const found of read) assert.deepEqual(found, ['{"a":"é"}', "1", "[DONE]"]);
  }));

test("votes are shown as they are cast, and items of the checklist as marks of their own", () =>
  on({}, async (page) => {
    const seen = await page.evaluate(async () => {
      const [{ absorb, bestNode, newRun }, { state }, { marks }] =
        await Promise.all(["run", "answer", "tree"].map((name) => import(`/page/${name}.js`)));
      const run = newRun("searched", {});
      const node = (id, more) => ({ id, parent: id === 0 ? null : 0, depth: id, value: null, accepted: false, votes: { yes: 0, no: 0, invalid: 0 }, text: `text ${id}`, ...more });
      const steps = [];
      const step = (chunk) => {
        absorb(run, { choices: [], ...chunk }, 10 * steps.length);
        steps.push(state(run));
      };
      step({ search_event: "drafted", search_node: node(0) });
      step({ search_event: "judging", search_votes: { yes: 1, no: 2, invalid: 0 } });
      step({ search_event: "root_judged", search_node: node(0, { value: 0.5, holds: [true], items: [0.9, 0.2] }) });
      step({ search_event: "node_added", search_node: node(1, { value: 0.9, holds: [true], items: [0.9, 0.8] }) });
      const best = bestNode(run);
      step({ search: { best: 1, stop_reason: "budget", checks: [{ id: "a:b", kwargs: {}, words: "no commas", holds: true }],
        checklist: [{ item: "It is short.", probability: 0.9 }, { item: "It rhymes.", probability: 0.8 }], tree: [] } });
      return { steps, best, marks: marks(run, run.nodes[0]).map(({ kind, holds, words }) => [kind, holds, words]) };
    });
    assert.deepEqual(seen.steps.slice(0, 4), ["judging the draft …", "judging the draft, 1 yes and 2 no so far …", "refining and judging …", "refining and judging …"]);
    assert.equal(seen.best, 1);
    assert.deepEqual(seen.marks, [["rule", true, "no commas"], ["model", true, "It is short."], ["model", false, "It rhymes."]]);
  }));

test("the tree is walked by arrow keys, and steps are announced", () =>
  on({}, async (page) => {
    await page.evaluate(() => {
      window.said = [];
      new MutationObserver(() => window.said.push(document.getElementById("status").textContent))
        .observe(document.getElementById("status"), { childList: true });
    });
    await start(page, LANTERN.title);
    await settled(page);
    const said = await page.evaluate(() => window.said.join(" | "));
    assert.match(said, /Draft judged: value 0\.50, 1 instruction fails\./);
    assert.match(said, /Refinement judged: value 1\.00\./);
    assert.match(said, /Searched answer: accepted\./);
    await page.locator('.node[data-node="0"]').focus();
    await page.keyboard.press("ArrowRight");
    assert.equal(await page.evaluate(() => document.activeElement.dataset.node), "1");
    assert.equal(await page.locator(".node-panel").getAttribute("data-shown"), "1");
    await page.keyboard.press("ArrowLeft");
    assert.equal(await page.locator(".node-panel").getAttribute("data-shown"), "0");
    assert.match(await page.locator('.node[data-node="0"] .hidden').textContent(), /draft, value 0\.50, .*fails: Include the word lantern/);
  }));

async function seriousFaults(page) {
  // Through the protocol, which the page's policy does not bind.
  await page.evaluate(readFileSync(AXE, "utf8"));
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  return serious.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.target} ${node.failureSummary}`));
}

test("the pictures of the documentation show a search that refines", async () => {
  for (const [name, width, height, scheme] of [["page-light", 1200, 1010, "light"], ["page-dark-phone", 400, 1190, "dark"]]) {
    await on({ width, height, scheme }, async (page) => {
      await start(page, "A tree of tries");
      await settled(page);
      // Seconds say more of the machine than of the page; without them the pictures are the same wherever they are taken.
      await page.evaluate(() => {
        document.activeElement.blur();
        for (const line of document.querySelectorAll(".figures")) line.textContent = line.textContent.replace(/ · [\d.]+ s\b/, "");
        for (const fact of document.querySelectorAll(".facts div")) if (fact.textContent.startsWith("Arrived")) fact.remove();
      });
      if (width < 500) await page.locator(".search-panel").evaluate((panel) => panel.scrollIntoView({ block: "start" }));
      assert.equal(await page.locator(".node.best").count(), 1);
      await picture(page, name);
    });
  }
});

const WIDTHS = [[1280, 900], [768, 1024], [360, 740]];

for (const scheme of ["light", "dark"]) {
  test(`axe finds nothing serious in ${scheme} at three widths, and nothing is cut off`, () =>
    on({ scheme }, async (page) => {
      const look = async (name, also = async () => {}) => {
        for (const [width, height] of WIDTHS) {
          await page.setViewportSize({ width, height });
          await page.waitForTimeout(200);
          assert.deepEqual(await seriousFaults(page), [], `${name} at ${width}`);
          const over = await page.evaluate(() => document.scrollingElement.scrollWidth - innerWidth);
          assert.ok(over <= 0, `${name} at ${width}: ${over} pixels too wide`);
          await picture(page, `${name}-${scheme}-${width}`);
          await also(width);
        }
      };
      await look("start");
      await start(page, "A tree of tries");
      await settled(page);
      await look("searched", async (width) => {
        await picture(page, `searched-whole-${scheme}-${width}`, { fullPage: true });
        const cut = await page.locator(".node").evaluateAll((cards) => {
          const room = document.querySelector(".tree-room").getBoundingClientRect();
          const outside = (box) => box.left < room.left || box.right > room.right + 1;
          return cards.filter((card) => outside(card.getBoundingClientRect())).length;
        });
        if (width === 360) assert.equal(cut, 0, "on a phone the tree fits without scrolling");
      });
      await page.getByRole("button", { name: "Settings" }).click();
      await look("settings");
    }));
}
