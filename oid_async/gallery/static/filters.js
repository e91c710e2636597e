/** The form of the filters, and the chips of those in use. The form writes to the address and follows it. */

import { ClassSearch, swatch } from "./class_search.js";
import { byId, count, element, named, setAttribute, visible } from "./dom.js";
import { filtersInUse, NO_FILTERS, toggled } from "./state.js";
import { flagName, KIND_NAMES, STATUS_NAMES } from "./words.js";

const TYPING_MS = 400;

const option = (value, text) => element("option", { value }, text);

const field = (text, control) => element("label", { class: "field" }, element("span", {}, text), control);

export class Filters {
  #typing = 0;

  constructor(page) {
    this.page = page;
    this.form = byId("filter-form");
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.search = new ClassSearch(() => page.folder.classes, (found) => this.#pickClass(found));
    const clear = { type: "button", "data-testid": "clear-filters", class: "clear", click: () => page.address.change(NO_FILTERS) };
    this.clear = element("button", clear, "Clear filters");
    this.meaning = "class"; // what a pick of a class adds to: class or without
  }

  /** Build the form for a folder; again when the folder has changed. */
  build(folder) {
    if (this.form.contains(document.activeElement)) return; // not under the hands of who types
    const { ok, failed, pending } = folder.images;
    const statuses = { ok, failed, pending };
    const values = (name, title, counts, say) => this.#checkboxes(name, title, counts, say);
    this.form.replaceChildren(
      ...[
        this.#classes(),
        byId("legend-section"),
        this.#boxes(folder),
        folder.kinds.includes("narrative") && field("Caption has", this.#text("caption", { type: "search", placeholder: "a text" })),
        values("status", "Status", statuses, (value) => STATUS_NAMES[value]),
        values("reason", "Reason of a failure", folder.reasons),
        values("split", "Split", folder.splits),
        values("source", "Source", folder.sources),
        values("role", "Role", folder.roles),
      ].filter(Boolean),
    );
    this.follow(this.page.address.state);
  }

  /** Show a state in the form and in the chips. */
  follow(state) {
    for (const control of this.form.querySelectorAll("[data-filter]")) {
      const { filter, value, flag } = control.dataset;
      if (control.type === "checkbox") control.checked = state[filter].includes(value);
      else if (flag) control.value = state.flag.find((each) => each.startsWith(`${flag}:`))?.slice(flag.length + 1) ?? "";
      // Not under the hands of who types: a letter more is on its way, or a blank at the end.
      else if (!this.#typing && control.value.trim() !== state[filter]) control.value = state[filter];
    }
    const inUse = filtersInUse(state);
    byId("chips").hidden = inUse.length === 0;
    byId("chips").replaceChildren(...inUse.map(([name, value]) => this.#chip(state, name, value)), this.clear);
    byId("filters-toggle").dataset.count = inUse.length || "";
  }

  #classes() {
    const meanings = [["class", "with"], ["without", "without"]].map(([name, text]) => {
      const attributes = { type: "button", "data-testid": `class-${text}`, "aria-pressed": String(this.meaning === name) };
      return element("button", { ...attributes, click: (event) => this.#mean(name, event.target) }, text);
    });
    const group = element("div", { class: "toggles", role: "group", "aria-label": "Images with or without the class" }, ...meanings);
    const match = this.#select("match", { "data-testid": "class-match", "aria-label": "Any or all of the classes" },
      [option("any", "any of them"), option("all", "all of them")]);
    const title = element("legend", {}, "Images with a class");
    return element("fieldset", {}, title, this.search.element, element("div", { class: "line" }, group, match));
  }

  #mean(name, button) {
    this.meaning = name;
    for (const each of button.parentNode.children) setAttribute(each, "aria-pressed", String(each === button));
    this.search.input.focus();
  }

  #boxes({ kinds, flags }) {
    const kind = this.#select("kind", { "data-testid": "filter-kind" },
      [option("", "any kind"), ...kinds.map((name) => option(name, KIND_NAMES[name] ?? name))]);
    const title = element("legend", {}, "Annotations");
    if (!kinds.includes("bbox")) return element("fieldset", {}, title, field("Kind", kind));
    const range = element("span", { class: "range" }, this.#area("min_area", "least"), "–", this.#area("max_area", "most"));
    const area = element("div", { class: "field" }, element("span", {}, "Box, % of image"), range);
    return element("fieldset", {}, title, field("Kind", kind), ...flags.map((flag) => this.#flag(flag)), area);
  }

  #area(name, text) {
    const label = `${text} size of a box in percent of the image`;
    return this.#text(name, { type: "number", min: 0, max: 100, step: "any", placeholder: text, "aria-label": label });
  }

  #flag(flag) {
    const attributes = { "data-testid": `flag-${flag}`, "data-filter": "flag", "data-flag": flag };
    const change = (event) => this.#changeFlag(flag, event.target.value);
    const answers = [option("", "any"), option("yes", "yes"), option("no", "no")];
    return field(flagName(flag), element("select", { ...attributes, change }, ...answers));
  }

  #select(name, attributes, options) {
    const change = (event) => this.page.address.change({ [name]: event.target.value });
    return element("select", { ...attributes, "data-filter": name, change }, ...options);
  }

  #text(name, attributes) {
    const apply = (event) => {
      this.#stopTyping();
      // One step of the history for a text, not one for each of its letters.
      this.page.address.change({ [name]: event.target.value.trim() }, { replace: this.page.address.state[name] !== "" });
    };
    const wait = (event) => {
      this.#stopTyping();
      this.#typing = setTimeout(() => apply(event), TYPING_MS);
    };
    return element("input", { ...attributes, "data-testid": name.replace("_", "-"), "data-filter": name, input: wait, change: apply });
  }

  #stopTyping() {
    clearTimeout(this.#typing);
    this.#typing = 0;
  }

  #checkboxes(name, title, counts, say = (value) => value) {
    const values = Object.entries(counts).filter(([, number]) => number > 0);
    if (values.length < (name === "reason" ? 1 : 2)) return null;
    const boxes = values.map(([value, number]) => {
      const attributes = { type: "checkbox", "data-testid": name, "data-filter": name, "data-value": value };
      const change = () => this.page.address.change({ [name]: toggled(this.page.address.state[name], value) });
      const text = [named(say(value)), element("span", { class: "muted" }, count(number))];
      return element("label", { class: "check" }, element("input", { ...attributes, change }), ...text);
    });
    return element("fieldset", {}, element("legend", {}, title), ...boxes);
  }

  #changeFlag(flag, answer) {
    const others = this.page.address.state.flag.filter((each) => !each.startsWith(`${flag}:`));
    this.page.address.change({ flag: answer ? [...others, `${flag}:${answer}`] : others });
  }

  #pickClass({ label }) {
    const now = this.page.address.state[this.meaning];
    if (!now.includes(label)) this.page.address.change({ [this.meaning]: [...now, label] });
  }

  #chip(state, name, value) {
    const rest = Array.isArray(state[name]) ? state[name].filter((other) => other !== value) : "";
    const remove = () => this.page.address.change({ [name]: rest });
    const label = this.page.names.labelOf(value);
    const isClass = name === "class" || name === "without";
    const text = isClass ? this.page.names.of(label) : CHIP_TEXTS[name]?.(value) ?? value;
    const attributes = { type: "button", class: "chip", "data-testid": "chip", "data-filter": name, "data-value": value };
    const title = element("span", { class: "muted" }, CHIP_TITLES[name] ?? name);
    const says = { title: "Remove", "aria-label": `Remove the filter ${name} ${visible(text)}` };
    return element("button", { ...attributes, ...says, click: remove }, title, isClass ? swatch(label) : null, named(text), "✕");
  }
}

const CHIP_TITLES = { class: "with", min_area: "box at least", max_area: "box at most", caption: "caption has" };

const CHIP_TEXTS = {
  flag: (value) => `${flagName(value.split(":")[0])}: ${value.split(":")[1]}`,
  kind: (value) => KIND_NAMES[value],
  status: (value) => STATUS_NAMES[value],
  min_area: (value) => `${value} %`,
  max_area: (value) => `${value} %`,
  caption: (value) => `“${value}”`,
};
