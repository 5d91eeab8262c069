// What the scripts of this folder for Node share: where the server is, packages, and how their promises are tried.
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

export const server = (process.argv[2] ?? "http://127.0.0.1:8080").replace(/\/+$/, "").replace(/\/v1$/, "");
export const QUESTION = [
  { role: "user", content: "Write about the river. Use at least 12 words. Do not use any commas. Include the word lantern." },
];
export const WEATHER = {
  type: "object",
  properties: { city: { type: "string", enum: ["Rome", "Oslo"] } },
  required: ["city"],
  additionalProperties: false,
};
export const WHERE = [{ role: "user", content: "How is the weather in Rome?" }];
export const CITIES = ["Rome", "Oslo"];

// Packages are looked for where the command is run, not beside the script.
const require = createRequire(pathToFileURL(path.join(process.cwd(), "x.js")));

export const load = (name) => import(pathToFileURL(require.resolve(name)).href);

// Tries every promise; the first that is broken ends the script with its error.
export async function attempt(about, promises) {
  console.log(about);
  for (const promise of promises) {
    const started = performance.now();
    const shown = await promise();
    console.log(`ok ${promise.name} (${((performance.now() - started) / 1000).toFixed(2)} s): ${String(shown).slice(0, 200)}`);
  }
}
