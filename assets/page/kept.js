// Links to searches that the server has kept: the id goes to the server, the prompt stays in the browser, after the `#`.

import * as api from "./api.js";
import { keptRun } from "./run.js";

const PROMPT_AT_MOST = 2000;

/** The link to a turn's search. */
export function linkTo(turn, run) {
  const url = new URL(location.href);
  url.search = `?search=${encodeURIComponent(run.search.id)}`;
  url.hash = turn.user.length <= PROMPT_AT_MOST ? `prompt=${encodeURIComponent(turn.user)}` : "";
  return url.href;
}

/** The turn that this page's address asks for; null where it asks for none. */
export async function linked() {
  const id = new URLSearchParams(location.search).get("search");
  if (!id) return null;
  const prompt = new URLSearchParams(location.hash.slice(1)).get("prompt");
  const user = prompt ?? "The link does not carry the prompt of this search.";
  const run = keptRun(await api.keptSearch(id));
  return { user, searched: run, plain: null, kept: "searched", fromLink: true };
}
