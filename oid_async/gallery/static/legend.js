/** The legend: the classes of the folder with their looks; a click hides or shows a class. And the same for kinds. */

import { swatch } from "./class_search.js";
import { styleOf } from "./class_styles.js";
import { byId, count, element, named, setAttribute, visible } from "./dom.js";
import { toggled } from "./state.js";
import { KIND_NAMES } from "./words.js";

const FIRST_ROWS = 12;
const MORE_ROWS = 200;
/** What can be drawn or not: kinds of annotations, and the names on them. */
export const DRAWN_KINDS = ["bbox", "segmentation", "relationship", "point", "names"];
const KEYS = { bbox: "b", segmentation: "m", relationship: "r", point: "p", names: "n" };

export class Legend {
  #most = FIRST_ROWS;

  constructor(page) {
    this.page = page;
    this.list = byId("legend");
  }

  build(folder) {
    const rows = folder.classes.slice(0, this.#most).map((each) => this.#row(each));
    const left = folder.classes.length - rows.length;
    if (left > 0) {
      rows.push(element("li", {}, element("button", {
        type: "button", class: "more", "data-testid": "legend-more", click: () => {
          const first = this.#most;
          this.#most += MORE_ROWS;
          this.build(folder);
          this.list.querySelectorAll(".legend-row")[first].focus();
        },
      }, `show ${count(Math.min(left, MORE_ROWS))} more`)));
    }
    this.list.replaceChildren(...rows);
    byId("legend-section").hidden = rows.length === 0;
    this.follow();
  }

  follow() {
    for (const row of this.list.querySelectorAll("[data-label]")) {
      setAttribute(row, "aria-pressed", String(!this.page.isHidden(row.dataset.label)));
    }
  }

  #row({ label, class_name: name, images }) {
    const { address } = this.page;
    const style = styleOf(label);
    const row = element("button", {
      type: "button", class: "legend-row", "data-testid": "legend-row", title: "Hide or show",
      "data-label": label, "data-color": style.color, "data-pattern": style.pattern,
      click: () => this.page.toggleHidden(label),
    }, swatch(label), named(name ?? label), element("span", { class: "muted" }, images === null ? "" : count(images)));
    const only = element("button", {
      type: "button", class: "only", "data-testid": "legend-only", title: "Only images with it",
      "aria-label": `Only images with ${visible(name ?? label)}`,
      click: () => address.change({ class: toggled(address.state.class, label) }),
    }, "only");
    return element("li", {}, row, only);
  }
}

/** Fill a place with a button for each kind that can be drawn. */
export function buildKindToggles(place, page, kinds) {
  const shown = DRAWN_KINDS.filter((kind) => kind === "names" || kinds.includes(kind));
  place.replaceChildren(...shown.map((kind) =>
    element("button", {
      type: "button", "data-testid": "kind-toggle", "data-kind": kind, "aria-pressed": "true", title: `${KIND_NAMES[kind]} (${KEYS[kind]})`,
      click: () => page.toggleHidden(kind),
    }, KIND_NAMES[kind])));
}

export function followKindToggles(page) {
  for (const toggle of document.querySelectorAll("[data-testid=kind-toggle]")) {
    setAttribute(toggle, "aria-pressed", String(!page.isHidden(toggle.dataset.kind)));
  }
}

/** The kind that a key toggles, if any. */
export const kindOfKey = (key) => DRAWN_KINDS.find((kind) => KEYS[kind] === key);
