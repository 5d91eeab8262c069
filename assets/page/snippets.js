// A request of the page as code to copy. It asks for the whole answer at once: that is the simplest call.

const python = (value, indent) => {
  const pad = " ".repeat(indent + 4);
  const end = " ".repeat(indent);
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) {
    if (value.every((item) => typeof item !== "object")) return `[${value.map((item) => python(item, 0)).join(", ")}]`;
    return `[\n${value.map((item) => `${pad}${python(item, indent + 4)},\n`).join("")}${end}]`;
  }
  if (typeof value === "object") {
    const entries = Object.entries(value);
    const flat = `{${entries.map(([name, item]) => `${JSON.stringify(name)}: ${python(item, 0)}`).join(", ")}}`;
    if (flat.length < 90 && !flat.includes("\n")) return flat;
    return `{\n${entries.map(([name, item]) => `${pad}${JSON.stringify(name)}: ${python(item, indent + 4)},\n`).join("")}${end}}`;
  }
  return JSON.stringify(value);
};

/** OpenAI's own fields; Python's package takes others in `extra_body`. */
const OWN = new Set(["model", "messages", "temperature", "top_p", "max_tokens", "seed", "stop"]);

/** The request as it would be sent for a whole answer. */
export function whole(request) {
  const { stream, stream_options: _, search, ...rest } = request;
  if (!search) return rest;
  const { events, trace, ...options } = search;
  return Object.keys(options).length > 0 ? { ...rest, search: options } : rest;
}

function curl(body, base, keyed) {
  const json = JSON.stringify(body).replaceAll("'", "'\\''");
  const key = keyed ? `  -H "authorization: Bearer $SPAR_API_KEY" \\\n` : "";
  return `curl ${base}/v1/chat/completions -H 'content-type: application/json' \\\n${key}  -d '${json}'`;
}

function fromPython(body, base, keyed) {
  const own = Object.entries(body).filter(([name]) => OWN.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OWN.has(name)));
  const lines = own.map(([name, value]) => `    ${name}=${python(value, 4)},\n`);
  if (Object.keys(extra).length > 0) lines.push(`    extra_body=${python(extra, 4)},\n`);
  const account = body.search_budget ? `\nprint(answer.model_extra["search"]["stop_reason"])` : "";
  const key = keyed ? `os.environ["SPAR_API_KEY"]` : `"none"`;
  return `${keyed ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${base}/v1", api_key=${key})
answer = client.chat.completions.create(
${lines.join("")})
print(answer.choices[0].message.content)${account}`;
}

function fromNode(body, base, keyed) {
  const json = JSON.stringify(body, null, 2);
  const account = body.search_budget ? "\nconsole.log(answer.search.stop_reason);" : "";
  return `import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${base}/v1", apiKey: ${keyed ? "process.env.SPAR_API_KEY" : `"none"`} });
const answer = await client.chat.completions.create(${json});
console.log(answer.choices[0].message.content);${account}`;
}

const LANGUAGES = { curl, python: fromPython, node: fromNode };

/** The request in a language: `curl`, `python` or `node`. */
export const snippet = (language, request, base, keyed) => LANGUAGES[language](whole(request), base, keyed);
