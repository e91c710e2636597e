/** The grid of thumbnails: only the tiles in sight are in the document, however many images there are. */

import { imageKey, thumbnailAddress } from "./api.js";
import { styleOf } from "./class_styles.js";
import { byId, count, element, named, setAttribute, showTooltip } from "./dom.js";
import { contain, contains, drawBox, drawChip, prepare, rectangleOf } from "./drawing.js";
import { LongScroll } from "./long_scroll.js";
import { ImagePages } from "./pages.js";
import { flagName, FLAGS, reasonInWords, STATUS_NAMES } from "./words.js";

const GAP = 8;
const CAPTION = 24;
const CHIPS_FROM = 170; // a narrower tile has no room for names

/** What a tile says beside the name of the image. */
function remark({ role, rows }) {
  if (role === "negative") return element("span", { class: "muted", title: "selected as an image without the class" }, "negative");
  return rows?.bbox ? element("span", { class: "muted", title: "boxes" }, `▢ ${count(rows.bbox)}`) : "";
}

export class Grid {
  #tiles = new Map(); // place in the result -> tile
  #current = 0;
  #columns = 1;
  #frame = 0;

  /** `page`: what the grid shares with the rest of the page, see app.js. */
  constructor(page) {
    this.page = page;
    this.scroller = byId("grid");
    this.content = byId("grid-content");
    this.size = 220;
    this.scroll = new LongScroll(this.scroller, this.content, () => this.#schedule());
    new ResizeObserver(() => this.#layout()).observe(this.scroller);
    this.scroller.addEventListener("keydown", (event) => this.moveByKey(event));
    this.content.addEventListener("click", (event) => this.#clicked(event));
    this.content.addEventListener("focusin", (event) => this.#focused(event));
    this.content.addEventListener("pointermove", (event) => this.#hover(event));
    this.content.addEventListener("pointerleave", () => this.#hover(null));
    this.pages = new ImagePages("", () => {}, () => {});
  }

  /** Show the images that pass a query; at the same place with `stay`. Returns when the first page is there. */
  async show(query, { stay = false } = {}) {
    this.pages.close();
    const pages = new ImagePages(query, (first, page) => this.#pageCame(pages, first, page), this.page.onError);
    this.pages = pages;
    this.scroller.dataset.busy = "true";
    await pages.at(stay ? this.#current : 0);
    if (pages !== this.pages) return;
    this.#clear();
    if (!stay) this.#current = 0;
    if (!stay) this.scroll.scrollTo(0);
    this.#layout();
  }

  setSize(size) {
    this.size = size;
    this.#layout();
  }

  /** Draw the tiles again: classes or kinds were hidden or shown. */
  redraw() {
    for (const tile of this.#tiles.values()) this.#drawBoxes(tile);
  }

  /** Make a place of the result the current one and bring it into sight; its tile gets the focus. */
  moveTo(index, { focus = true } = {}) {
    if (!this.pages.total) return;
    this.#current = Math.max(0, Math.min(index, this.pages.total - 1));
    const top = Math.floor(this.#current / this.#columns) * this.#rowHeight + GAP;
    const visible = this.scroller.clientHeight;
    if (top < this.scroll.top) this.scroll.scrollTo(top - GAP);
    else if (top + this.#rowHeight > this.scroll.top + visible) this.scroll.scrollTo(top + this.#rowHeight - visible);
    this.#render();
    if (focus) this.#tiles.get(this.#current)?.link.focus({ preventScroll: true });
  }

  focus() {
    this.moveTo(this.#current);
  }

  get #rowHeight() {
    return this.#tileHeight + GAP;
  }

  get #tileWidth() {
    return (this.scroller.clientWidth - GAP * (this.#columns + 1)) / this.#columns;
  }

  get #tileHeight() {
    return Math.round(this.#tileWidth * 0.78) + CAPTION;
  }

  #pageCame(pages, first, page) {
    if (pages !== this.pages) return;
    for (const [label, name] of page.classes ?? []) this.page.names.add(label, name);
    this.page.onPage(page);
    for (let i = 0; i < page.images.length; i++) {
      const tile = this.#tiles.get(first + i);
      if (tile) this.#fill(tile);
    }
    this.#layout();
  }

  #layout() {
    const first = Math.floor(this.scroll.top / this.#rowHeight) * this.#columns;
    const within = this.scroll.top % this.#rowHeight;
    const columns = Math.max(1, Math.floor((this.scroller.clientWidth - GAP) / (this.size + GAP)));
    const changed = columns !== this.#columns;
    this.#columns = columns;
    const { total } = this.pages;
    byId("empty").hidden = total > 0 || this.pages.busy || this.pages.hasFailed;
    byId("empty").textContent = this.pages.isWaiting ? "These images show once the annotations are indexed." : "No image passes these filters.";
    this.scroller.dataset.total = total;
    this.scroll.setHeight(Math.ceil(total / columns) * this.#rowHeight + GAP);
    if (changed) this.scroll.scrollTo(Math.floor(first / columns) * this.#rowHeight + within);
    for (const tile of this.#tiles.values()) this.#drawBoxes(tile);
    this.#schedule();
  }

  #schedule() {
    this.#frame ||= requestAnimationFrame(() => this.#render());
  }

  #render() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const { total } = this.pages;
    const row = Math.floor(this.scroll.top / this.#rowHeight);
    const rows = Math.ceil(this.scroller.clientHeight / this.#rowHeight) + 1;
    const first = Math.max(0, (row - 1) * this.#columns);
    const last = Math.min(total - 1, (row + rows + 1) * this.#columns - 1);
    for (const [index, tile] of this.#tiles) {
      if ((index < first || index > last) && tile.link !== document.activeElement) this.#remove(index, tile);
    }
    for (let index = first; index <= last; index++) {
      if (!this.#tiles.has(index)) this.#add(index);
    }
    for (const [index, tile] of this.#tiles) this.#place(index, tile);
    if (total) this.pages.want(first, last);
    this.scroller.dataset.busy = this.pages.busy;
  }

  #place(index, { item, link }) {
    const [row, column] = [Math.floor(index / this.#columns), index % this.#columns];
    const width = this.#tileWidth;
    item.style.left = `${GAP + column * (width + GAP)}px`;
    item.style.top = `${this.scroll.place(GAP + row * this.#rowHeight)}px`;
    item.style.width = `${width}px`;
    item.style.height = `${this.#tileHeight}px`;
    setAttribute(link, "tabindex", index === this.#current ? 0 : -1);
    setAttribute(item, "aria-setsize", this.pages.total);
  }

  #add(index) {
    const canvas = element("canvas", { "aria-hidden": "true" });
    const frame = element("span", { class: "frame" });
    const caption = element("span", { class: "tile-caption" });
    const link = element("a", { class: "tile-link" }, frame, caption);
    const item = element("div", { class: "tile", role: "listitem", "data-testid": "tile", "data-index": index, "aria-posinset": index + 1 }, link);
    const tile = { index, item, link, frame, caption, canvas, boxes: [], lit: null };
    this.#tiles.set(index, tile);
    this.#place(index, tile);
    this.#fill(tile);
    this.content.append(item);
  }

  #remove(index, tile) {
    tile.frame.querySelector("img")?.removeAttribute("src"); // ends its request
    tile.item.remove();
    this.#tiles.delete(index);
  }

  #clear() {
    for (const [index, tile] of [...this.#tiles]) this.#remove(index, tile);
  }

  #fill(tile) {
    const found = this.pages.peek(tile.index);
    tile.item.classList.toggle("loading", !found);
    if (!found) return;
    const { image, classes } = found;
    const key = imageKey(image);
    tile.image = image;
    tile.shapes = (image.boxes ?? []).map(([index, xmin, ymin, xmax, ymax, bits]) => ({
      label: classes[index]?.[0] ?? "",
      box: [xmin, ymin, xmax, ymax],
      flags: FLAGS.filter((_, bit) => bits & (1 << bit)),
    }));
    Object.assign(tile.item.dataset, { image: key, status: image.status });
    tile.link.href = this.page.addressOfImage(key, tile.index);
    tile.link.setAttribute("aria-label", this.#description(image, tile.shapes));
    tile.caption.replaceChildren(named(image.file_name || image.image_id), remark(image));
    tile.frame.replaceChildren(image.status === "ok" ? this.#picture(tile, key) : this.#noPicture(image), tile.canvas);
    this.#drawBoxes(tile);
  }

  #description(image, shapes) {
    const names = [...new Set(shapes.map(({ label }) => this.page.names.of(label)))].slice(0, 6).join(", ");
    const status = image.status === "ok" ? "" : `, ${STATUS_NAMES[image.status]}: ${image.reason ?? ""}`;
    return `${image.file_name || image.image_id}${status}${names ? `: ${names}` : ""}`;
  }

  #picture(tile, key) {
    const picture = element("img", { alt: "", decoding: "async", draggable: "false", src: thumbnailAddress(key) });
    picture.addEventListener("error", () => {
      if (!picture.hasAttribute("src")) return;
      picture.replaceWith(element("span", { class: "no-picture", "data-testid": "missing" }, "The picture is not on the disk or cannot be read."));
    });
    picture.addEventListener("load", () => {
      if (!tile.image.width) Object.assign(tile.image, { width: picture.naturalWidth, height: picture.naturalHeight });
      this.#drawBoxes(tile);
    });
    return picture;
  }

  #noPicture({ status, reason }) {
    if (status !== "failed") return element("span", { class: "no-picture" }, "Not fetched yet.");
    return element("span", { class: "no-picture failed" }, element("strong", {}, reason ?? "failed"), ` ${reasonInWords(reason)}`);
  }

  #drawBoxes(tile) {
    if (!tile.image) return;
    const { canvas, image, shapes } = tile;
    const [width, height] = [this.#tileWidth, this.#tileHeight - CAPTION];
    const context = prepare(canvas, width, height);
    tile.boxes = [];
    if (image.status !== "ok" || !image.width || this.page.isHidden("bbox")) return;
    const view = contain(image.width, image.height, width, height);
    tile.boxes = shapes
      .filter(({ label }) => !this.page.isHidden(label))
      .map((shape) => ({ ...shape, rectangle: rectangleOf(shape.box, view) }));
    for (const { label, rectangle } of tile.boxes) drawBox(context, rectangle, styleOf(label), false, true);
    if (tile.lit) drawBox(context, tile.lit.rectangle, styleOf(tile.lit.label), true, true);
    if (width >= CHIPS_FROM && !this.page.isHidden("names")) this.#drawNames(context, tile, { width, height });
    tile.item.dataset.boxes = JSON.stringify(tile.boxes.map(({ label, rectangle }) => ({ label, ...rectangle })));
  }

  #drawNames(context, { boxes }, frame) {
    const taken = [];
    for (const { label, rectangle } of boxes) {
      if (rectangle.width < 34 || rectangle.height < 26) continue;
      drawChip(context, this.page.names.of(label), rectangle.left - 1, rectangle.top - 1, styleOf(label), frame, taken);
    }
  }

  #tileOf(event) {
    const item = event?.target.closest?.(".tile");
    return item ? this.#tiles.get(Number(item.dataset.index)) : undefined;
  }

  #clicked(event) {
    const tile = this.#tileOf(event);
    if (!tile?.image || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    this.page.openImage(imageKey(tile.image), tile.index);
  }

  #focused(event) {
    const tile = this.#tileOf(event);
    if (!tile || tile.index === this.#current) return;
    this.#tiles.get(this.#current)?.link.setAttribute("tabindex", -1);
    this.#current = tile.index;
    tile.link.setAttribute("tabindex", 0);
  }

  #hover(event) {
    const tile = this.#tileOf(event);
    let lit = null;
    if (tile) {
      const corner = tile.canvas.getBoundingClientRect();
      const [x, y] = [event.clientX - corner.left, event.clientY - corner.top];
      lit = tile.boxes.filter(({ rectangle }) => contains(rectangle, x, y)).at(-1) ?? null; // the smallest comes last
    }
    const before = this.lit;
    this.lit = lit && tile;
    if (before && before !== this.lit) this.#light(before, null);
    if (tile) this.#light(tile, lit);
    const text = lit && [this.page.names.of(lit.label), ...lit.flags.map(flagName)].join(" · ");
    showTooltip(text, event?.clientX, event?.clientY);
  }

  #light(tile, lit) {
    if (tile.lit?.box === lit?.box) return;
    tile.lit = lit;
    this.#drawBoxes(tile);
  }

  /** Move by a key of the grid; the event is used up if it is one. */
  moveByKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const screen = Math.max(1, Math.floor(this.scroller.clientHeight / this.#rowHeight)) * this.#columns;
    const steps = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -this.#columns,
      ArrowDown: this.#columns,
      PageUp: -screen,
      PageDown: screen,
      Home: -Infinity,
      End: Infinity,
    };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const target = this.#current + step;
    const stays = Math.abs(step) === this.#columns && (target < 0 || target >= this.pages.total);
    this.moveTo(stays ? this.#current : target);
  }
}
