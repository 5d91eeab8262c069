// One answer plainly and one searched, with the openai package.
import OpenAI from "openai";

const prompt =
  "Write about what the river does. Use at least 12 words. Do not use any commas. Include the word lantern somewhere.";
const client = new OpenAI({
  baseURL: `${process.env.SPAR_URL ?? "http://127.0.0.1:8080"}/v1`,
  apiKey: process.env.SPAR_API_KEY ?? "none",
});
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: prompt }];

const plain = await client.chat.completions.create({ model, messages, seed: 2 });
console.log("plain:   ", plain.choices[0].message.content);

// Fields that the package does not know are sent as they are, and the report comes back next to the choices.
const searched = await client.chat.completions.create({ model, messages, seed: 2, search_budget: 8 });
console.log("searched:", searched.choices[0].message.content);
const { stop_reason, root_value, value, nodes, elapsed_ms } = searched.search;
console.log("search:  ", { stop_reason, root_value, value, nodes, elapsed_ms });
