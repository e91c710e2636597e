/** The large view: one image with its annotations drawn over it and listed beside it. */

import { fetchImage, imageAddress, imageKey } from "./api.js";
import { styleOf } from "./class_styles.js";
import { showDetails } from "./details.js";
import { byId, count, element, setAttribute, showTooltip } from "./dom.js";
import * as drawing from "./drawing.js";
import { shapesOf } from "./shapes.js";
import { reasonInWords } from "./words.js";
import { ZoomPan } from "./zoom_pan.js";

const MASKS_AT_ONCE = 4;

export class Viewer {
  #shapes = [];
  #rows = [];
  #lit = null; // the shape under the pointer or the focus
  #kept = new Set(); // shapes that a click keeps highlighted
  #frame = 0;
  #abort = new AbortController();

  constructor(page) {
    this.page = page;
    this.dialog = byId("viewer");
    this.stage = byId("stage");
    this.picture = byId("picture");
    this.details = byId("details");
    this.zoom = new ZoomPan(this.stage, { onChange: () => this.#schedule(), onSwipe: (step) => this.turn(step), onTap: (event) => this.#tapped(event) });
    new ResizeObserver(() => this.#schedule()).observe(this.stage);
    this.dialog.addEventListener("cancel", (event) => this.#cancel(event));
    this.dialog.addEventListener("click", (event) => this.#act(event.target.closest?.("[data-action]")?.dataset.action));
    this.dialog.addEventListener("keydown", (event) => this.#key(event));
    this.stage.addEventListener("pointermove", (event) => this.#hover(event));
    this.stage.addEventListener("pointerleave", () => this.#hover(null));
    this.picture.addEventListener("load", () => this.#pictureCame());
    this.picture.addEventListener("error", () => this.#noPicture("The picture is not on the disk or cannot be read.", "missing"));
    for (const [event, end] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
      this.details.addEventListener(event, (entered) => this.#light(this.#shapeOfRow(entered.target)));
      this.details.addEventListener(end, () => this.#light(null));
    }
    this.details.addEventListener("click", (event) => this.#keep(this.#shapeOfRow(event.target)));
  }

  /** Open an image; `at` is its place in the result of the filters, or -1. */
  async show(image, at) {
    this.#abort.abort();
    this.#abort = new AbortController();
    this.#shapes = this.#rows = [];
    this.#lit = null;
    this.#kept.clear();
    this.detail = null;
    this.picture.removeAttribute("src");
    this.picture.hidden = true;
    byId("no-picture").hidden = true;
    this.zoom.fit();
    Object.assign(this.dialog.dataset, { image, busy: "true" });
    byId("viewer-title").textContent = image;
    if (!this.dialog.open) {
      this.dialog.showModal();
      this.stage.focus();
    }
    this.#place(image, at);
    await this.#load(image, this.#abort.signal);
  }

  hide() {
    this.#abort.abort();
    showTooltip("");
    this.picture.removeAttribute("src");
    if (this.dialog.open) this.dialog.close();
  }

  redraw() {
    this.#schedule();
  }

  /** Go to the next (1) or previous (-1) image of the result, or to the first (-Infinity) or last one. */
  async turn(step) {
    const { pages } = this.page.grid;
    if (this.at < 0) return;
    const target = Math.max(0, Math.min(this.at + step, pages.total - 1));
    if (target === this.at) return;
    const from = this.dialog.dataset.image;
    const image = await pages.at(target);
    if (image && this.dialog.dataset.image === from) this.page.openImage(imageKey(image), target, { replace: true });
  }

  async #place(image, at) {
    this.at = -1;
    this.#showPlace();
    const place = await this.page.placeOf(image, at);
    if (this.dialog.dataset.image !== image) return;
    this.at = place;
    this.#showPlace();
    for (const step of [1, -1]) this.#preload(await this.page.grid.pages.at(place < 0 ? -1 : place + step));
  }

  #showPlace() {
    const { total } = this.page.grid.pages;
    byId("viewer-position").textContent = this.at < 0 ? "" : `${count(this.at + 1)} of ${count(total)}`;
    this.dialog.querySelector("[data-action=previous]").disabled = this.at <= 0;
    this.dialog.querySelector("[data-action=next]").disabled = this.at < 0 || this.at + 1 >= total;
  }

  #preload(image) {
    if (image?.status === "ok") new Image().src = imageAddress(imageKey(image));
  }

  async #load(image, signal) {
    try {
      const detail = await fetchImage(image, signal);
      if (signal.aborted) return;
      this.#became(detail, image);
      await this.#loadMasks(signal);
    } catch (error) {
      if (signal.aborted) return;
      this.#noPicture(error.message, "missing");
    }
    if (!signal.aborted) this.dialog.dataset.busy = "false";
  }

  #became(detail, image) {
    this.detail = detail;
    const row = detail.image;
    for (const [label, name] of detail.classes) this.page.names.add(label, name);
    byId("viewer-title").textContent = row.FileName || row.ImageID;
    this.picture.alt = `Image ${image}`;
    this.#shapes = shapesOf(detail);
    this.#rows = showDetails(detail, this.#shapes, this.page.names);
    this.#rows.forEach((each, i) => setAttribute(each, "tabindex", i === 0 ? 0 : -1));
    if (row.Status === "ok") this.picture.src = imageAddress(image);
    else if (row.Status === "failed") this.#noPicture(reasonInWords(detail.failure?.reason ?? row.Reason), "missing");
    else this.#noPicture("Not fetched yet.", "missing");
    this.#schedule();
  }

  #pictureCame() {
    this.picture.hidden = false;
    this.#schedule();
  }

  #noPicture(text, name) {
    if (!this.dialog.open) return;
    this.picture.hidden = true;
    byId("no-picture").hidden = false;
    byId("no-picture").replaceChildren(element("p", { "data-testid": name }, text));
    this.#schedule();
  }

  async #loadMasks(signal) {
    const waiting = this.#shapes.filter(({ mask }) => mask);
    const work = async () => {
      for (let shape = waiting.shift(); shape && !signal.aborted; shape = waiting.shift()) {
        try {
          shape.drawn = await drawing.loadMask(shape.mask, styleOf(shape.label));
        } catch {
          shape.remarks.push("its file is not there");
        }
        this.#schedule();
      }
    };
    await Promise.all(Array.from({ length: MASKS_AT_ONCE }, work));
  }

  #schedule() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  /** The image's size in pixels: of the manifest, else of the picture; a square where neither is known. */
  get #imageSize() {
    const { Width: width, Height: height } = this.detail?.image ?? {};
    if (width && height) return [width, height];
    return [this.picture.naturalWidth || 1, this.picture.naturalHeight || 1];
  }

  #draw() {
    if (!this.dialog.open) return;
    const [stageWidth, stageHeight] = [this.stage.clientWidth, this.stage.clientHeight];
    const fitted = drawing.contain(...this.#imageSize, stageWidth, stageHeight);
    const view = this.zoom.apply(fitted, stageWidth, stageHeight);
    for (const side of ["left", "top", "width", "height"]) this.picture.style[side] = `${view[side]}px`;
    this.picture.classList.toggle("pixels", view.width > 3 * this.#imageSize[0]);
    this.stage.dataset.zoom = (view.width / fitted.width).toFixed(3);
    const context = drawing.prepare(byId("overlay"), stageWidth, stageHeight);
    this.frame = { width: stageWidth, height: stageHeight };
    this.#drawShapes(context, view);
  }

  #drawShapes(context, view) {
    const drawn = this.#shapes.filter((shape) => this.#isDrawn(shape));
    for (const shape of this.#shapes) shape.rectangle = shape.rectangle2 = null;
    for (const shape of drawn) {
      const [x, y] = shape.point ?? [];
      const place = shape.point ? [x, y, x, y] : shape.box;
      if (place) shape.rectangle = drawing.rectangleOf(place, view);
      if (shape.box2) shape.rectangle2 = drawing.rectangleOf(shape.box2, view);
    }
    const order = (shape) => ["segmentation", "bbox", "relationship", "point", "narrative"].indexOf(shape.kind) + (this.#isLit(shape) ? 10 : 0);
    const sorted = [...drawn].sort((a, b) => order(a) - order(b));
    for (const shape of sorted) this.#drawShape(context, shape, view);
    if (!this.page.isHidden("names")) this.#drawNames(context, sorted);
    this.#rows.forEach((each, i) => this.#mark(each, this.#shapes[i]));
  }

  #isLit(shape) {
    return shape === this.#lit || this.#kept.has(shape);
  }

  #isDrawn(shape) {
    if (shape.kind === "label" || !this.detail) return false;
    if (shape.kind === "narrative") return this.#isLit(shape);
    return !this.page.isHidden(shape.kind) && !this.page.isHidden(shape.label) && !(shape.label2 && this.page.isHidden(shape.label2));
  }

  #drawShape(context, shape, view) {
    const lit = this.#isLit(shape);
    const { kind, rectangle, rectangle2 } = shape;
    if (kind === "narrative") {
      for (const trace of shape.traces) drawing.drawTrace(context, trace, view, styleOf("trace"));
      return;
    }
    const style = styleOf(shape.label);
    if (kind === "bbox") drawing.drawBox(context, rectangle, style, lit);
    else if (kind === "point") drawing.drawPoint(context, rectangle.left, rectangle.top, style, shape.answer, lit);
    else if (kind === "segmentation") {
      if (shape.drawn) drawing.drawMask(context, shape.drawn, view, lit);
      if (lit) drawing.drawBox(context, rectangle, style, false, true);
    } else {
      if (lit || !this.detail.boxes?.length) {
        drawing.drawBox(context, rectangle, style, false, true);
        if (rectangle2) drawing.drawBox(context, rectangle2, styleOf(shape.label2), false, true);
      }
      if (rectangle2) drawing.drawRelationship(context, rectangle, rectangle2, style, lit);
    }
  }

  #drawNames(context, shapes) {
    const { names } = this.page;
    const taken = [];
    const chip = (text, x, y, style, must) => drawing.drawChip(context, text, x, y, style, this.frame, taken, must);
    for (const shape of [...shapes].sort((a, b) => this.#isLit(b) - this.#isLit(a))) {
      const { kind, label, rectangle, rectangle2 } = shape;
      const lit = this.#isLit(shape);
      if (!rectangle || !drawing.overlaps(rectangle2 ?? rectangle, this.frame)) continue;
      if (kind === "relationship") {
        const [x1, y1] = drawing.middle(rectangle);
        const [x2, y2] = drawing.middle(rectangle2 ?? rectangle);
        const text = rectangle2 ? shape.predicate : `${shape.predicate} ${names.of(shape.label2)}`;
        chip(text, (x1 + x2) / 2 - 12, (y1 + y2) / 2 - 8, drawing.PLAIN, lit);
      } else if (kind === "bbox" || lit) chip(names.of(label), rectangle.left - 2, rectangle.top - 17, styleOf(label), lit);
    }
  }

  /** Say in a row where its shape is drawn, and whether it is highlighted. */
  #mark(row, shape) {
    for (const side of ["left", "top", "width", "height"]) {
      if (shape.rectangle) setAttribute(row, `data-${side}`, shape.rectangle[side].toFixed(2));
      else row.removeAttribute(`data-${side}`);
    }
    row.toggleAttribute("data-lit", this.#isLit(shape));
    setAttribute(row, "aria-pressed", String(this.#kept.has(shape)));
    row.classList.toggle("not-drawn", shape.kind !== "label" && shape.kind !== "narrative" && !shape.rectangle);
  }

  #shapeOfRow(target) {
    const row = target.closest?.(".row");
    return row ? this.#shapes[this.#rows.indexOf(row)] : null;
  }

  #shapeAt(event) {
    const corner = this.stage.getBoundingClientRect();
    const [x, y] = [event.clientX - corner.left, event.clientY - corner.top];
    const size = ({ rectangle: { width, height } }) => width * height;
    const hit = ({ kind, rectangle }) => rectangle && kind !== "relationship" && drawing.contains(rectangle, x, y);
    // Points first, they have no size; a box before the mask of the same object.
    return this.#shapes.filter(hit).sort((a, b) => size(a) - size(b))[0] ?? null;
  }

  #hover(event) {
    const over = event && event.pointerType !== "touch" && !event.target.closest("button") && !this.zoom.moving ? this.#shapeAt(event) : null;
    if (event === null || over || this.#lit) this.#light(over);
    showTooltip(over && [this.page.names.of(over.label), ...over.remarks].join(" · "), event?.clientX, event?.clientY);
  }

  #tapped(event) {
    const shape = this.#shapeAt(event);
    this.#keep(shape);
    if (shape) this.#rows[this.#shapes.indexOf(shape)].scrollIntoView({ block: "nearest" });
  }

  #light(shape) {
    if (shape === this.#lit) return;
    this.#lit = shape;
    this.#schedule();
  }

  #keep(shape) {
    if (!shape) return;
    if (!this.#kept.delete(shape)) this.#kept.add(shape);
    this.#schedule();
  }

  #cancel(event) {
    if (event.target !== this.dialog) return;
    event.preventDefault();
    this.page.closeImage();
  }

  #act(action) {
    if (action === "close") this.page.closeImage();
    else if (action === "next") this.turn(1);
    else if (action === "previous") this.turn(-1);
    else if (action === "zoom-in") this.zoom.by(1.5);
    else if (action === "zoom-out") this.zoom.by(1 / 1.5);
    else if (action === "zoom-fit") this.zoom.fit();
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.shiftKey && event.key.startsWith("Arrow")) this.zoom.moveByKey(event.key);
    else if (["ArrowUp", "ArrowDown"].includes(event.key) && this.#shapeOfRow(event.target)) this.#focusRow(event);
    else if (event.key in TURNS && (event.key.startsWith("Arrow") || !this.details.contains(event.target))) this.turn(TURNS[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom.by(1.5);
    else if (event.key === "-") this.zoom.by(1 / 1.5);
    else if (event.key === "0") this.zoom.fit();
    else return;
    event.preventDefault();
  }

  #focusRow(event) {
    const rows = [...this.details.querySelectorAll(".row")];
    const target = rows[rows.indexOf(event.target.closest(".row")) + (event.key === "ArrowDown" ? 1 : -1)];
    target?.focus();
  }
}

const TURNS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -1, PageDown: 1, Home: -Infinity, End: Infinity };
