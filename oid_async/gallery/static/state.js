/** The state of the page is its address: filters, the open image, what is not drawn, the theme. */

const DEFAULTS = { match: "any", sort: "image_id", order: "asc" };
const FILTER_LISTS = ["class", "without", "flag", "split", "source", "status", "reason", "role"];
const FILTER_TEXTS = ["match", "kind", "caption", "min_area", "max_area"];
const ORDER = ["sort", "order"];
const LISTS = [...FILTER_LISTS, "hide"];
const TEXTS = [...FILTER_TEXTS, ...ORDER, "image", "theme"];

function read(search) {
  const given = new URLSearchParams(search);
  const lists = LISTS.map((name) => [name, given.getAll(name)]);
  const texts = TEXTS.map((name) => [name, given.get(name) ?? DEFAULTS[name] ?? ""]);
  return Object.fromEntries([...lists, ...texts]);
}

function write(state, names) {
  const parameters = new URLSearchParams();
  for (const name of names) {
    for (const value of [state[name]].flat()) {
      if (value !== "" && value !== DEFAULTS[name]) parameters.append(name, value);
    }
  }
  return parameters.toString().replaceAll("%2F", "/").replaceAll("%3A", ":"); // both may stand in a query as they are
}

/** The part of the state that the server is asked with. */
export const filterQuery = (state) => write(state, [...FILTER_LISTS, ...FILTER_TEXTS, ...ORDER]);

/** The address of a state, relative to the page. */
export const addressOf = (state) => `./?${write(state, [...LISTS, ...TEXTS])}`.replace(/\?$/, "");

/** The filters in use, as [name, value] pairs. */
export function filtersInUse(state) {
  const lists = FILTER_LISTS.flatMap((name) => state[name].map((value) => [name, value]));
  const texts = FILTER_TEXTS.filter((name) => name !== "match" && state[name]).map((name) => [name, state[name]]);
  return [...lists, ...texts];
}

export const NO_FILTERS = Object.fromEntries([
  ...FILTER_LISTS.map((name) => [name, []]),
  ...FILTER_TEXTS.map((name) => [name, DEFAULTS[name] ?? ""]),
]);

export const toggled = (list, value) => (list.includes(value) ? list.filter((other) => other !== value) : [...list, value]);

/** The state now; those who subscribe are told of every change, by the page or by the browser's back and forward. */
export class Address {
  #listeners = [];

  constructor() {
    this.state = read(location.search);
    window.addEventListener("popstate", () => this.#become(read(location.search)));
  }

  subscribe(listener) {
    this.#listeners.push(listener);
  }

  /** Change some of the state. `replace`: without a step of its own in the history. */
  change(changes, { replace = false } = {}) {
    const next = { ...this.state, ...changes };
    const address = addressOf(next);
    if (address === addressOf(this.state)) return;
    if (replace) history.replaceState(null, "", address);
    else history.pushState(null, "", address);
    this.#become(next);
  }

  #become(next) {
    const before = this.state;
    this.state = next;
    for (const listener of this.#listeners) listener(next, before);
  }
}
