/** The large view: one image with its annotations drawn over it and listed beside it. */

import { fetchImage, imageAddress, imageKey } from "./api.js";
import { styleOf } from "./class_styles.js";
import { showDetails } from "./details.js";
import { byId, count, element, setAttribute, showTooltip, visible } from "./dom.js";
import { contain, loadMask } from "./drawing.js";
import { Overlay } from "./overlay.js";
import { shapesOf } from "./shapes.js";
import { reasonInWords } from "./words.js";
import { ZoomPan } from "./zoom_pan.js";

const MASKS_AT_ONCE = 4;
const ZOOM_STEP = 1.5;
const TURNS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -1, PageDown: 1, Home: -Infinity, End: Infinity };

export class Viewer {
  place = -1; // of the image in the result of the filters; -1 if it is not there, or not known yet
  #frame = 0;
  #abort = new AbortController();

  constructor(page) {
    this.page = page;
    this.dialog = byId("viewer");
    this.stage = byId("stage");
    this.picture = byId("picture");
    this.details = byId("details");
    this.overlay = new Overlay(byId("overlay"), page, () => this.redraw());
    this.zoom = new ZoomPan(this.stage, {
      onChange: () => this.redraw(),
      onSwipe: (step) => this.#turn(step),
      onTap: (event) => this.#tapped(event),
    });
    new ResizeObserver(() => this.redraw()).observe(this.stage);
    this.dialog.addEventListener("cancel", (event) => this.#cancel(event));
    this.dialog.addEventListener("click", (event) => this.#act(event.target.closest?.("[data-action]")?.dataset.action));
    this.dialog.addEventListener("keydown", (event) => this.#key(event));
    this.stage.addEventListener("pointermove", (event) => this.#hover(event));
    this.stage.addEventListener("pointerleave", () => this.#hover(null));
    this.picture.addEventListener("load", () => this.#pictureCame());
    this.picture.addEventListener("error", () => this.#noPicture("The picture is not on the disk or cannot be read."));
    for (const name of ["pointerover", "focusin"]) this.details.addEventListener(name, (event) => this.overlay.light(this.#shapeOf(event)));
    for (const name of ["pointerout", "focusout"]) this.details.addEventListener(name, () => this.overlay.light(null));
    this.details.addEventListener("click", (event) => this.#keep(this.#shapeOf(event)));
  }

  async show(image) {
    this.#abort.abort();
    this.#abort = new AbortController();
    this.detail = null;
    this.overlay.show([], []);
    this.picture.removeAttribute("src");
    this.picture.hidden = true;
    byId("no-picture").hidden = true;
    this.zoom.fit();
    Object.assign(this.dialog.dataset, { image, busy: "true" });
    byId("viewer-title").textContent = visible(image);
    if (!this.dialog.open) {
      this.dialog.showModal();
      this.stage.focus();
    }
    this.#findPlace(image);
    await this.#load(image, this.#abort.signal);
  }

  hide() {
    this.#abort.abort();
    showTooltip("");
    this.picture.removeAttribute("src");
    if (this.dialog.open) this.dialog.close();
  }

  redraw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  async #load(image, signal) {
    try {
      const detail = await fetchImage(image, signal);
      if (signal.aborted) return;
      this.#became(detail, image);
      const decoded = this.picture.decode().catch(() => {}); // its error event says so
      await Promise.all([decoded, this.#loadMasks(signal)]);
      this.redraw();
      await new Promise(requestAnimationFrame);
    } catch (error) {
      if (!signal.aborted) this.#noPicture(error.message);
    }
    if (!signal.aborted) this.dialog.dataset.busy = "false";
  }

  #became(detail, image) {
    this.detail = detail;
    const { Status: status, Reason: reason, FileName: name, ImageID: imageId } = detail.image;
    for (const [label, className] of [...detail.classes, ...detail.verified_absent]) this.page.names.add(label, className);
    byId("viewer-title").textContent = visible(name || imageId);
    this.picture.alt = `Image ${visible(image)}`;
    const shapes = shapesOf(detail);
    const rows = showDetails(detail, shapes, this.page.names);
    rows.forEach((row, i) => setAttribute(row, "tabindex", i === 0 ? 0 : -1));
    this.overlay.show(shapes, rows);
    if (status === "ok") this.picture.src = imageAddress(image);
    else this.#noPicture(status === "failed" ? reasonInWords(detail.failure?.reason ?? reason) : "Not fetched yet.");
  }

  #pictureCame() {
    this.picture.hidden = false;
    this.redraw();
  }

  #noPicture(text) {
    if (!this.picture.hidden && !this.picture.hasAttribute("src")) return;
    this.picture.hidden = true;
    byId("no-picture").hidden = false;
    byId("no-picture").replaceChildren(element("p", { "data-testid": "missing" }, visible(text)));
    this.redraw();
  }

  async #loadMasks(signal) {
    const { shapes, rows } = this.overlay;
    const waiting = shapes.filter(({ mask }) => mask);
    const missing = (shape) => rows[shapes.indexOf(shape)].append(element("span", { class: "muted" }, "not on the disk"));
    const work = async () => {
      for (let shape = waiting.shift(); shape && !signal.aborted; shape = waiting.shift()) {
        shape.pixels = await loadMask(shape.mask, styleOf(shape.label)).catch(() => missing(shape));
        this.redraw();
      }
    };
    await Promise.all(Array.from({ length: MASKS_AT_ONCE }, work));
  }

  /** The image's size in pixels: of the manifest, else of the picture; a square where neither is known. */
  get #imageSize() {
    const { Width: width, Height: height } = this.detail?.image ?? {};
    return width && height ? [width, height] : [this.picture.naturalWidth || 1, this.picture.naturalHeight || 1];
  }

  #draw() {
    if (!this.dialog.open) return;
    const frame = { width: this.stage.clientWidth, height: this.stage.clientHeight };
    const fitted = contain(...this.#imageSize, frame.width, frame.height);
    const view = this.zoom.apply(fitted, frame.width, frame.height);
    for (const side of ["left", "top", "width", "height"]) this.picture.style[side] = `${view[side]}px`;
    this.picture.classList.toggle("pixels", view.width > 3 * this.#imageSize[0]);
    this.stage.dataset.zoom = this.zoom.scale.toFixed(3);
    this.overlay.draw(view, frame);
  }

  /** Go to the next (1) or previous (-1) image of the result, or to the first (-Infinity) or last one. */
  async #turn(step) {
    const { pages } = this.page.grid;
    const target = Math.max(0, Math.min(this.place + step, pages.total - 1));
    if (this.place < 0 || target === this.place) return;
    const from = this.dialog.dataset.image;
    const image = await pages.at(target);
    if (image && this.dialog.dataset.image === from) this.page.openImage(imageKey(image), { replace: true });
  }

  async #findPlace(image) {
    const { pages } = this.page.grid;
    this.#placeIs(-1);
    const place = await pages.placeOf(image).catch(() => -1); // why not, the grid says
    if (this.dialog.dataset.image !== image) return;
    this.#placeIs(place);
    if (place < 0) return;
    for (const step of [1, -1]) {
      const neighbour = await pages.at(place + step);
      if (neighbour?.status === "ok") new Image().src = imageAddress(imageKey(neighbour));
    }
  }

  #placeIs(place) {
    this.place = place;
    const { total } = this.page.grid.pages;
    byId("viewer-position").textContent = place < 0 ? "" : `${count(place + 1)} of ${count(total)}`;
    this.dialog.querySelector("[data-action=previous]").disabled = place <= 0;
    this.dialog.querySelector("[data-action=next]").disabled = place < 0 || place + 1 >= total;
  }

  #shapeOf(event) {
    return this.overlay.ofRow(event.target.closest?.(".row"));
  }

  #shapeAt(event) {
    const corner = this.stage.getBoundingClientRect();
    return this.overlay.at(event.clientX - corner.left, event.clientY - corner.top);
  }

  #hover(event) {
    const looks = event && event.pointerType !== "touch" && !event.target.closest("button") && !this.zoom.moving;
    const over = looks ? this.#shapeAt(event) : null;
    this.overlay.light(over);
    showTooltip(over && [this.page.names.of(over.label), ...over.remarks].join(" · "), event?.clientX, event?.clientY);
  }

  #tapped(event) {
    const shape = this.#shapeAt(event);
    this.#keep(shape);
    if (shape) this.overlay.rows[this.overlay.shapes.indexOf(shape)].scrollIntoView({ block: "nearest" });
  }

  #keep(shape) {
    if (shape) this.overlay.toggleKept(shape);
  }

  #cancel(event) {
    if (event.target !== this.dialog) return;
    event.preventDefault();
    this.page.closeImage();
  }

  #act(action) {
    if (action === "close") this.page.closeImage();
    else if (action === "next") this.#turn(1);
    else if (action === "previous") this.#turn(-1);
    else if (action === "zoom-in") this.zoom.by(ZOOM_STEP);
    else if (action === "zoom-out") this.zoom.by(1 / ZOOM_STEP);
    else if (action === "zoom-fit") this.zoom.fit();
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const inList = this.details.contains(event.target);
    const isArrow = event.key.startsWith("Arrow");
    if (event.shiftKey && isArrow) this.zoom.moveByKey(event.key);
    else if (inList && (event.key === "ArrowUp" || event.key === "ArrowDown")) this.#focusRow(event);
    else if (event.key in TURNS && (isArrow || !inList)) this.#turn(TURNS[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom.by(ZOOM_STEP);
    else if (event.key === "-") this.zoom.by(1 / ZOOM_STEP);
    else if (event.key === "0") this.zoom.fit();
    else return;
    event.preventDefault();
  }

  #focusRow(event) {
    const rows = [...this.details.querySelectorAll(".row")];
    rows[rows.indexOf(event.target.closest(".row")) + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
  }
}
