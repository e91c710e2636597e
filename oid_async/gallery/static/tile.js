/** One tile of the grid: a thumbnail with its boxes, or why there is none. It is a link to the large view. */

import { imageKey, thumbnailAddress } from "./api.js";
import { styleOf } from "./class_styles.js";
import { count, element, named, setAttribute, visible } from "./dom.js";
import { contain, contains, drawBox, drawChip, prepare, rectangleOf } from "./drawing.js";
import { FLAGS, reasonInWords, STATUS_NAMES } from "./words.js";

export const CAPTION_HEIGHT = 24;
const NAMES_FROM = { tile: 170, width: 34, height: 26 }; // below, a tile or a box has no room for names

export class Tile {
  image = null; // as the server's page has it; null until it has come
  #shapes = [];
  #boxes = []; // the shapes that are drawn, with their rectangles
  #lit = null;

  constructor(index, page) {
    Object.assign(this, { index, page });
    this.canvas = element("canvas", { "aria-hidden": "true" });
    this.frame = element("span", { class: "frame" });
    this.caption = element("span", { class: "tile-caption" });
    this.link = element("a", { class: "tile-link" }, this.frame, this.caption);
    const attributes = { class: "tile loading", role: "listitem", "data-testid": "tile", "data-index": index, "aria-posinset": index + 1 };
    this.item = element("div", attributes, this.link);
  }

  place({ left, top, width, height }, { isCurrent, total }) {
    Object.assign(this.item.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
    setAttribute(this.link, "tabindex", isCurrent ? 0 : -1);
    setAttribute(this.item, "aria-setsize", total);
    const resized = this.width !== width || this.height !== height - CAPTION_HEIGHT;
    Object.assign(this, { width, height: height - CAPTION_HEIGHT });
    if (resized) this.draw();
  }

  /** Take the image that has come, with the [label, name] pairs that its boxes refer to. */
  fill({ image, classes }) {
    const key = imageKey(image);
    this.image = image;
    this.#shapes = (image.boxes ?? []).map(([number, xmin, ymin, xmax, ymax, bits]) => ({
      label: classes[number][0],
      box: [xmin, ymin, xmax, ymax],
      flags: FLAGS.filter((_, bit) => bits & (1 << bit)),
    }));
    this.item.classList.remove("loading");
    Object.assign(this.item.dataset, { image: key, status: image.status });
    this.link.setAttribute("aria-label", this.#description());
    this.caption.replaceChildren(named(image.file_name || image.image_id), remark(image));
    this.frame.replaceChildren(image.status === "ok" ? this.#picture(key) : noPicture(image), this.canvas);
    this.draw();
  }

  remove() {
    this.frame.querySelector("img")?.removeAttribute("src"); // ends its request
    this.item.remove();
  }

  draw() {
    const { image, width, height } = this;
    if (!image || !width) return;
    this.link.href = this.page.addressOfImage(imageKey(image));
    const context = prepare(this.canvas, width, height);
    this.#boxes = [];
    if (image.status === "ok" && image.width && !this.page.isHidden("bbox")) {
      const view = contain(image.width, image.height, width, height);
      const shown = this.#shapes.filter(({ label }) => !this.page.isHidden(label));
      this.#boxes = shown.map((shape) => ({ ...shape, rectangle: rectangleOf(shape.box, view) }));
    }
    for (const { label, rectangle } of this.#boxes) drawBox(context, rectangle, styleOf(label), false, true);
    if (this.#lit) drawBox(context, this.#lit.rectangle, styleOf(this.#lit.label), true, true);
    if (width >= NAMES_FROM.tile && !this.page.isHidden("names")) this.#drawNames(context);
    this.item.dataset.boxes = JSON.stringify(this.#boxes.map(({ label, rectangle }) => ({ label, ...rectangle })));
  }

  /** Highlight the smallest box under the pointer and return it; none without an event. */
  light(event) {
    const corner = this.canvas.getBoundingClientRect();
    const under = ({ rectangle }) => contains(rectangle, event.clientX - corner.left, event.clientY - corner.top);
    const lit = (event && this.#boxes.filter(under).at(-1)) ?? null; // they come largest first
    if (lit?.box !== this.#lit?.box) {
      this.#lit = lit;
      this.draw();
    }
    return lit;
  }

  #drawNames(context) {
    const taken = [];
    for (const { label, rectangle } of this.#boxes) {
      if (rectangle.width < NAMES_FROM.width || rectangle.height < NAMES_FROM.height) continue;
      drawChip(context, this.page.names.of(label), rectangle.left - 1, rectangle.top - 1, styleOf(label), this, taken);
    }
  }

  #description() {
    const { status, reason, file_name: fileName, image_id: imageId } = this.image;
    const classes = [...new Set(this.#shapes.map(({ label }) => this.page.names.of(label)))].slice(0, 6).join(", ");
    return visible([fileName || imageId, status === "ok" ? "" : STATUS_NAMES[status], reason, classes].filter(Boolean).join(", "));
  }

  #picture(key) {
    const picture = element("img", { alt: "", decoding: "async", draggable: "false", src: thumbnailAddress(key) });
    picture.addEventListener("error", () => {
      if (picture.hasAttribute("src")) picture.replaceWith(missing());
    });
    picture.addEventListener("load", () => {
      if (this.image.width) return;
      Object.assign(this.image, { width: picture.naturalWidth, height: picture.naturalHeight });
      this.draw();
    });
    return picture;
  }
}

const missing = () => element("span", { class: "no-picture", "data-testid": "missing" }, "The picture is not on the disk or cannot be read.");

function noPicture({ status, reason }) {
  if (status !== "failed") return element("span", { class: "no-picture" }, "Not fetched yet.");
  return element("span", { class: "no-picture failed" }, element("strong", {}, named(reason ?? "failed")), ` ${reasonInWords(reason)}`);
}

/** What a tile says beside the name of the image. */
function remark({ role, rows }) {
  if (role === "negative") return element("span", { class: "muted", title: "selected as an image without the class" }, "negative");
  return rows?.bbox ? element("span", { class: "muted", title: "boxes" }, `▢ ${count(rows.bbox)}`) : "";
}
