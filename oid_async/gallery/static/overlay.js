/** The canvas over the large image: draws its shapes, knows where they are and which of them are highlighted. */

import { styleOf } from "./class_styles.js";
import { setAttribute } from "./dom.js";
import * as drawing from "./drawing.js";

const FROM_BELOW = ["segmentation", "bbox", "relationship", "point", "narrative"];

const area = ({ width, height }) => width * height;

export class Overlay {
  shapes = [];
  rows = []; // the shapes' rows in the list beside the image
  #lit = null; // the shape under the pointer or the focus
  #kept = new Set(); // shapes that stay highlighted

  /** `onChange` is called when it has to be drawn again. */
  constructor(canvas, page, onChange) {
    Object.assign(this, { canvas, page, onChange });
  }

  show(shapes, rows) {
    Object.assign(this, { shapes, rows });
    this.#lit = null;
    this.#kept.clear();
    this.onChange();
  }

  light(shape) {
    if (shape === this.#lit) return;
    this.#lit = shape;
    this.onChange();
  }

  toggleKept(shape) {
    if (!this.#kept.delete(shape)) this.#kept.add(shape);
    this.onChange();
  }

  ofRow(row) {
    return this.shapes[this.rows.indexOf(row)] ?? null;
  }

  /** The smallest shape at a point of the canvas: a point before the box it is in, a box before its mask. */
  at(x, y) {
    const hit = ({ kind, rectangle }) => rectangle && kind !== "relationship" && drawing.contains(rectangle, x, y);
    return this.shapes.filter(hit).sort((a, b) => area(a.rectangle) - area(b.rectangle))[0] ?? null;
  }

  /** Draw all on an image that fills the rectangle `view` of the canvas; tell the rows where their shapes are. */
  draw(view, frame) {
    const context = drawing.prepare(this.canvas, frame.width, frame.height);
    for (const shape of this.shapes) place(shape, this.#isDrawn(shape) ? view : null);
    const level = (shape) => FROM_BELOW.indexOf(shape.kind) + (this.#isLit(shape) ? FROM_BELOW.length : 0);
    const drawn = this.shapes.filter((shape) => this.#isDrawn(shape)).sort((a, b) => level(a) - level(b));
    for (const shape of drawn) this.#drawShape(context, shape, view);
    if (!this.page.isHidden("names")) this.#drawNames(context, drawn, frame);
    this.rows.forEach((row, i) => this.#mark(row, this.shapes[i]));
  }

  #isLit(shape) {
    return shape === this.#lit || this.#kept.has(shape);
  }

  #isDrawn(shape) {
    const { kind, label, label2 } = shape;
    if (kind === "label") return false;
    if (kind === "narrative") return this.#isLit(shape);
    return ![kind, label, label2].some((name) => name && this.page.isHidden(name));
  }

  #drawShape(context, shape, view) {
    const { kind, rectangle, rectangle2, label } = shape;
    const lit = this.#isLit(shape);
    if (kind === "narrative") {
      for (const trace of shape.traces) drawing.drawTrace(context, trace, view);
      return;
    }
    const style = styleOf(label);
    if (kind === "bbox") drawing.drawBox(context, rectangle, style, lit);
    else if (kind === "segmentation") {
      if (shape.pixels) drawing.drawMask(context, shape.pixels, view, lit);
      if (lit) drawing.drawBox(context, rectangle, style, false, true);
    } else if (kind === "relationship") {
      if (lit || !this.shapes.some((other) => other.kind === "bbox")) {
        drawing.drawBox(context, rectangle, style, false, true);
        if (rectangle2) drawing.drawBox(context, rectangle2, styleOf(shape.label2), false, true);
      }
      if (rectangle2) drawing.drawRelationship(context, rectangle, rectangle2, style, lit);
    } else drawing.drawPoint(context, rectangle.left, rectangle.top, style, shape.answer, lit);
  }

  #drawNames(context, shapes, frame) {
    const { names } = this.page;
    const taken = [];
    for (const shape of [...shapes].sort((a, b) => this.#isLit(b) - this.#isLit(a))) {
      const { kind, label, rectangle, rectangle2 } = shape;
      const lit = this.#isLit(shape);
      const chip = (text, x, y, style) => drawing.drawChip(context, text, x, y, style, frame, taken, lit);
      if (!rectangle || !drawing.overlaps(rectangle2 ?? rectangle, frame)) continue;
      if (kind === "relationship" && rectangle2) {
        const [x1, y1] = drawing.middle(rectangle);
        const [x2, y2] = drawing.middle(rectangle2);
        chip(shape.predicate, (x1 + x2) / 2 - 12, (y1 + y2) / 2 - 8, drawing.PLAIN);
      } else if (kind === "relationship") {
        chip(`${shape.predicate} ${names.of(shape.label2)}`, rectangle.left, rectangle.top + 1, drawing.PLAIN); // an attribute
      } else if (kind === "bbox" || lit) chip(names.of(label), rectangle.left - 2, rectangle.top - 17, styleOf(label));
    }
  }

  #mark(row, shape) {
    const { rectangle, kind } = shape;
    for (const side of ["left", "top", "width", "height"]) {
      if (rectangle) setAttribute(row, `data-${side}`, rectangle[side].toFixed(2));
      else row.removeAttribute(`data-${side}`);
    }
    row.toggleAttribute("data-lit", this.#isLit(shape));
    setAttribute(row, "aria-pressed", String(this.#kept.has(shape)));
    row.classList.toggle("not-drawn", kind !== "label" && kind !== "narrative" && !rectangle);
  }
}

/** Give a shape its rectangles on the canvas; none where it is not drawn. */
function place(shape, view) {
  const box = shape.box ?? (shape.point && [...shape.point, ...shape.point]);
  shape.rectangle = view && box ? drawing.rectangleOf(box, view) : null;
  shape.rectangle2 = view && shape.box2 ? drawing.rectangleOf(shape.box2, view) : null;
}
