/** The grid of thumbnails: only the tiles in sight are in the document, however many images there are. */

import { imageKey } from "./api.js";
import { byId, showTooltip } from "./dom.js";
import { LongScroll } from "./long_scroll.js";
import { ImagePages } from "./pages.js";
import { CAPTION_HEIGHT, Tile } from "./tile.js";
import { flagName } from "./words.js";

const GAP = 8;
// While the scrollbar is dragged, places flit by: what lies there is asked for once it comes to rest.
const FAR = 600;
const REST_MS = 60;
const SHAPE = 0.78; // height of a picture's frame by its width

export class Grid {
  #tiles = new Map(); // place in the result -> tile
  #current = 0;
  #columns = 1;
  #frame = 0;
  #first = 0; // the first place that was in sight at the last drawing
  #resting = 0;
  #hovered = null;

  /** `page`: what the parts of the page share, see app.js. */
  constructor(page) {
    this.page = page;
    this.size = 220;
    this.scroller = byId("grid");
    this.content = byId("grid-content");
    this.pages = new ImagePages("", () => {}, () => {});
    this.scroll = new LongScroll(this.scroller, this.content, () => this.#schedule());
    new ResizeObserver(() => this.#layout()).observe(this.scroller);
    this.scroller.addEventListener("keydown", (event) => this.moveByKey(event));
    this.content.addEventListener("click", (event) => this.#clicked(event));
    this.content.addEventListener("focusin", (event) => this.#focused(event));
    this.content.addEventListener("pointermove", (event) => this.#hover(event));
    this.content.addEventListener("pointerleave", () => this.#hover(null));
  }

  /** Show the images that pass a query; at the same place with `stay`. Returns when the first page is there. */
  async show(query, { stay = false } = {}) {
    this.pages.close();
    const pages = new ImagePages(query, (first, page) => this.#pageCame(pages, first, page), this.page.onError);
    // Until the first page is there as many images as before are meant: the grid keeps its height, and its place with it.
    if (stay) pages.total = this.pages.total;
    this.pages = pages;
    this.scroller.dataset.busy = "true";
    await pages.at(stay ? this.#current : 0);
    if (pages !== this.pages) return;
    for (const index of [...this.#tiles.keys()]) this.#remove(index);
    if (!stay) {
      this.#current = 0;
      this.scroll.scrollTo(0);
    }
    this.#layout();
  }

  setSize(size) {
    this.size = size;
    this.#layout();
  }

  /** Draw the tiles again: classes or kinds were hidden or shown. */
  redraw() {
    for (const tile of this.#tiles.values()) tile.draw();
  }

  /** Make a place of the result the current one and bring it into sight; its tile gets the focus. */
  moveTo(index) {
    if (!this.pages.total) return;
    this.#current = Math.max(0, Math.min(index, this.pages.total - 1));
    const { top } = this.#cell(this.#current);
    const bottom = top + this.#rowHeight - this.scroller.clientHeight;
    if (top - GAP < this.scroll.top) this.scroll.scrollTo(top - GAP);
    else if (bottom > this.scroll.top) this.scroll.scrollTo(bottom);
    this.#render();
    this.#tiles.get(this.#current)?.link.focus({ preventScroll: true });
  }

  focus() {
    this.moveTo(this.#current);
  }

  /** Move by a key of the grid; the event is used up if it is one. */
  moveByKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const row = this.#columns;
    const screen = Math.max(1, Math.floor(this.scroller.clientHeight / this.#rowHeight)) * row;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row, PageUp: -screen, PageDown: screen, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const target = this.#current + step;
    const leaves = Math.abs(step) === row && (target < 0 || target >= this.pages.total);
    this.moveTo(leaves ? this.#current : target);
  }

  get #tileWidth() {
    return (this.scroller.clientWidth - GAP * (this.#columns + 1)) / this.#columns;
  }

  get #rowHeight() {
    return Math.round(this.#tileWidth * SHAPE) + CAPTION_HEIGHT + GAP;
  }

  /** Where a place of the result is, in pixels of the whole content. */
  #cell(index) {
    const width = this.#tileWidth;
    const [row, column] = [Math.floor(index / this.#columns), index % this.#columns];
    return { left: GAP + column * (width + GAP), top: GAP + row * this.#rowHeight, width, height: this.#rowHeight - GAP };
  }

  #pageCame(pages, first, page) {
    if (pages !== this.pages) return;
    for (const [label, name] of page.classes) this.page.names.add(label, name);
    this.page.onPage(page);
    for (let index = first; index < first + page.images.length; index++) this.#tiles.get(index)?.fill(pages.peek(index));
    this.#layout();
  }

  #layout() {
    this.scroll.follow();
    const rowBefore = this.scroll.top / this.#rowHeight;
    const first = Math.floor(rowBefore) * this.#columns;
    const columns = Math.max(1, Math.floor((this.scroller.clientWidth - GAP) / (this.size + GAP)));
    const changed = columns !== this.#columns;
    this.#columns = columns;
    const { total, busy, hasFailed, isWaiting } = this.pages;
    byId("empty").hidden = total > 0 || busy || hasFailed;
    byId("empty").textContent = isWaiting ? "These images show once the annotations are indexed." : "No image passes these filters.";
    this.scroller.dataset.total = total;
    this.scroll.setHeight(Math.ceil(total / columns) * this.#rowHeight + GAP);
    if (changed) this.scroll.scrollTo((Math.floor(first / columns) + (rowBefore % 1)) * this.#rowHeight);
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
    for (const [index, { link }] of this.#tiles) {
      if ((index < first || index > last) && link !== document.activeElement) this.#remove(index);
    }
    for (let index = first; index <= last; index++) if (!this.#tiles.has(index)) this.#add(index);
    for (const tile of this.#tiles.values()) this.#place(tile);
    this.#want(first, last);
  }

  #want(first, last) {
    const isFar = Math.abs(first - this.#first) > FAR;
    this.#first = first;
    clearTimeout(this.#resting);
    if (isFar) this.#resting = setTimeout(() => this.#schedule(), REST_MS);
    else if (this.pages.total) this.pages.want(first, last);
    this.scroller.dataset.busy = isFar || this.pages.busy;
  }

  #place(tile) {
    const cell = this.#cell(tile.index);
    tile.place({ ...cell, top: this.scroll.place(cell.top) }, { isCurrent: tile.index === this.#current, total: this.pages.total });
  }

  #add(index) {
    const tile = new Tile(index, this.page);
    this.#tiles.set(index, tile);
    this.#place(tile);
    const found = this.pages.peek(index);
    if (found) tile.fill(found);
    this.content.append(tile.item);
  }

  #remove(index) {
    this.#tiles.get(index).remove();
    this.#tiles.delete(index);
  }

  #tileOf(event) {
    const item = event?.target.closest?.(".tile");
    return item && this.#tiles.get(Number(item.dataset.index));
  }

  #clicked(event) {
    const tile = this.#tileOf(event);
    if (!tile?.image || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    this.page.openImage(imageKey(tile.image));
  }

  #focused(event) {
    const tile = this.#tileOf(event);
    if (!tile || tile.index === this.#current) return;
    this.#current = tile.index;
    this.#schedule();
  }

  #hover(event) {
    const tile = this.#tileOf(event);
    if (this.#hovered && this.#hovered !== tile) this.#hovered.light(null);
    this.#hovered = tile;
    const lit = tile?.light(event);
    showTooltip(lit && [this.page.names.of(lit.label), ...lit.flags.map(flagName)].join(" · "), event?.clientX, event?.clientY);
  }
}
