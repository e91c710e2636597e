/** The search for a class: a combobox with suggestions from the folder's classes. */

import { styleOf } from "./class_styles.js";
import { count, element, named, setAttribute } from "./dom.js";
import { comparable } from "./words.js";

const MOST_SUGGESTIONS = 12;

/** A small sample of how a class is drawn. */
export function swatch(label) {
  const { color, pattern, rgb } = styleOf(label);
  const sample = element("span", { class: `swatch ${pattern}`, "aria-hidden": "true" });
  sample.style.borderColor = color;
  sample.style.backgroundColor = `rgb(${rgb.join(" ")} / 30%)`;
  return sample;
}

export class ClassSearch {
  #active = 0;
  #found = [];

  /** `classes()` returns the folder's classes, `pick(class)` is called with the chosen one. */
  constructor(classes, pick) {
    this.classes = classes;
    this.pick = pick;
    this.input = element("input", {
      id: "class-search", "data-testid": "class-search", type: "search", placeholder: "Class, for example Dog", role: "combobox",
      "aria-label": "Search for a class", "aria-autocomplete": "list", "aria-controls": "class-options", "aria-expanded": "false",
      blur: () => this.#close(),
      keydown: (event) => this.#key(event),
    });
    for (const name of ["input", "focus", "click"]) this.input.addEventListener(name, () => this.#suggest());
    this.list = element("ul", { id: "class-options", role: "listbox", class: "suggestions", "aria-label": "Classes", hidden: true });
    this.list.addEventListener("pointerdown", (event) => event.preventDefault()); // keeps the focus where it is
    this.list.addEventListener("click", (event) => this.#clicked(event));
    this.element = element("div", { class: "combobox" }, this.input, this.list);
  }

  #suggest() {
    const asTyped = this.input.value.trim();
    const typed = comparable(asTyped);
    const rank = ({ label, class_name: name }) => {
      const compared = comparable(name ?? label);
      if (compared === typed || label === asTyped) return 0;
      return compared.startsWith(typed) ? 1 : compared.includes(typed) ? 2 : 3;
    };
    const ranked = this.classes().map((each) => [rank(each), each]).filter(([place]) => place < 3);
    this.#found = ranked.sort(([a], [b]) => a - b).slice(0, MOST_SUGGESTIONS).map(([, each]) => each);
    this.#active = typed ? 0 : -1; // Enter in an empty field chooses nothing
    this.#show();
  }

  #show() {
    const options = this.#found.map((found, place) => this.#option(found, place));
    if (!options.length) options.push(element("li", { class: "muted" }, "No class of this folder."));
    this.list.replaceChildren(...options);
    this.list.hidden = false;
    setAttribute(this.input, "aria-expanded", "true");
    setAttribute(this.input, "aria-activedescendant", this.#found[this.#active] ? `class-option-${this.#active}` : "");
  }

  #option({ label, class_name: name, images }, place) {
    const attributes = { id: `class-option-${place}`, role: "option", "data-testid": "class-option", "data-label": label };
    return element("li", { ...attributes, "aria-selected": String(place === this.#active) },
      swatch(label), named(name ?? label), element("span", { class: "muted" }, images === null ? "" : count(images)));
  }

  #close() {
    this.list.hidden = true;
    setAttribute(this.input, "aria-expanded", "false");
  }

  #choose(found) {
    this.input.value = "";
    this.#close();
    if (found) this.pick(found);
  }

  #clicked(event) {
    const option = event.target.closest("[data-label]");
    if (option) this.#choose(this.#found.find(({ label }) => label === option.dataset.label));
  }

  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && this.#found.length) {
      this.#active = (Math.max(this.#active, step < 0 ? 0 : -1) + step + this.#found.length) % this.#found.length;
      this.#show();
    } else if (event.key === "Enter") {
      if (this.list.hidden) this.#suggest();
      else this.#choose(this.#found[this.#active]);
    } else if (event.key === "Escape" && !this.list.hidden) {
      this.#close();
      event.stopPropagation();
    } else return;
    event.preventDefault();
  }
}
