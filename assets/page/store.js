// What survives a reload: the tab's own things for as long as it is open, the theme for longer.
// A browser may forbid storage or run out of it; the page works without.

function read(storage, name) {
  try {
    return JSON.parse(window[storage].getItem(`spar.${name}`));
  } catch {
    return null;
  }
}

function write(storage, name, value) {
  try {
    if (value === null) window[storage].removeItem(`spar.${name}`);
    else window[storage].setItem(`spar.${name}`, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** What this tab remembers under a name, or null. */
export const recall = (name) => read("sessionStorage", name);

/** Remembers a value in this tab; null forgets. Returns whether that was possible. */
export const remember = (name, value) => write("sessionStorage", name, value);

/** What this browser remembers under a name, or null. */
export const recallForLong = (name) => read("localStorage", name);

/** Remembers a value in this browser. */
export const rememberForLong = (name, value) => write("localStorage", name, value);
