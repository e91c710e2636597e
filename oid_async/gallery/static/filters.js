/** The form of the filters, and the chips of those in use. The form writes to the address and follows it. */

import { ClassSearch, swatch } from "./class_search.js";
import { byId, count, element, named } from "./dom.js";
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
    this.clear = element("button", { type: "button", "data-testid": "clear-filters", class: "clear", click: () => page.address.change(NO_FILTERS) }, "Clear filters");
    this.meaning = "class"; // what a pick of a class adds to: class or without
  }

  /** Build the form for a folder; again when the folder has changed. */
  build(folder) {
    if (this.form.contains(document.activeElement)) return; // not under the hands of who types
    const values = (name, title, counts, say) => this.#checkboxes(name, title, counts, say);
    this.form.replaceChildren(
      ...[
        this.#classes(),
        byId("legend-section"),
        this.#boxes(folder),
        folder.kinds.includes("narrative") ? field("Caption has", this.#text("caption", { type: "search", placeholder: "words of a caption" })) : null,
        values("status", "Status", folder.images, (value) => STATUS_NAMES[value]),
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
      else if (control !== document.activeElement) control.value = state[filter];
    }
    const inUse = filtersInUse(state);
    byId("chips").hidden = inUse.length === 0;
    byId("chips").replaceChildren(...inUse.map(([name, value]) => this.#chip(state, name, value)), this.clear);
    byId("filters-toggle").dataset.count = inUse.length || "";
  }

  #classes() {
    const meanings = [["class", "with"], ["without", "without"]].map(([name, text]) =>
      element("button", {
        type: "button", "data-testid": `class-${text}`, "aria-pressed": String(this.meaning === name), click: (event) => {
          this.meaning = name;
          for (const other of event.target.parentNode.children) other.setAttribute("aria-pressed", String(other === event.target));
          this.search.input.focus();
        },
      }, text));
    const match = this.#select("match", { "data-testid": "class-match", "aria-label": "Any or all of the classes" },
      [option("any", "any of them"), option("all", "all of them")]);
    return element("fieldset", {}, element("legend", {}, "Images with a class"), this.search.element,
      element("div", { class: "line" }, element("div", { class: "toggles", role: "group", "aria-label": "Images with or without the class" }, ...meanings), match));
  }

  #boxes({ kinds, flags }) {
    const kind = this.#select("kind", { "data-testid": "filter-kind" },
      [option("", "any kind"), ...kinds.map((name) => option(name, KIND_NAMES[name] ?? name))]);
    const ofFlags = flags.map((flag) => field(flagName(flag), element("select", {
      "data-testid": `flag-${flag}`, "data-filter": "flag", "data-flag": flag, change: (event) => this.#changeFlag(flag, event.target.value),
    }, option("", "any"), option("yes", "yes"), option("no", "no"))));
    const area = (name, text) => this.#text(name, { type: "number", min: 0, max: 100, step: "any", placeholder: text, "aria-label": `${text} size of a box in percent of the image` });
    return element("fieldset", {}, element("legend", {}, "Annotations"), field("Kind", kind),
      ...(kinds.includes("bbox") ? [
        ...ofFlags,
        element("div", { class: "field" }, element("span", {}, "Box, % of image"), element("span", { class: "range" }, area("min_area", "least"), "–", area("max_area", "most"))),
      ] : []));
  }

  #select(name, attributes, options) {
    return element("select", { ...attributes, "data-filter": name, change: (event) => this.page.address.change({ [name]: event.target.value }) }, ...options);
  }

  #text(name, attributes) {
    const apply = (event) => {
      clearTimeout(this.#typing);
      // One step of the history for a text, not one for each of its letters.
      this.page.address.change({ [name]: event.target.value.trim() }, { replace: this.page.address.state[name] !== "" });
    };
    const wait = (event) => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => apply(event), TYPING_MS);
    };
    return element("input", { ...attributes, "data-testid": name.replace("_", "-"), "data-filter": name, input: wait, change: apply });
  }

  #checkboxes(name, title, counts, say = (value) => value) {
    const values = Object.entries(counts ?? {}).filter(([value, number]) => value !== "selected" && value !== "bytes" && number > 0 || name === "role");
    if (values.length < (name === "reason" ? 1 : 2)) return null;
    return element("fieldset", {}, element("legend", {}, title), ...values.map(([value, number]) =>
      element("label", { class: "check" },
        element("input", {
          type: "checkbox", "data-testid": name, "data-filter": name, "data-value": value,
          change: () => this.page.address.change({ [name]: toggled(this.page.address.state[name], value) }),
        }), named(say(value) ?? value), element("span", { class: "muted" }, count(number)))));
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
    const remove = () => this.page.address.change({ [name]: Array.isArray(state[name]) ? state[name].filter((other) => other !== value) : "" });
    const label = this.page.names.labelOf(value);
    const isClass = name === "class" || name === "without";
    const text = isClass ? this.page.names.of(label) : CHIP_TEXTS[name]?.(value) ?? value;
    return element("button", {
      type: "button", class: "chip", "data-testid": "chip", "data-filter": name, "data-value": value, click: remove, "aria-label": `Remove the filter ${name} ${text}`, title: "Remove",
    }, element("span", { class: "muted" }, CHIP_TITLES[name] ?? name), isClass ? swatch(label) : null, named(text), "✕");
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
