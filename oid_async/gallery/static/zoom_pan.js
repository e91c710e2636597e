/** Zoom and pan of the large view: wheel, drag, pinch, double click, keys; a swipe at the whole image turns to the next. */

const LARGEST = 40;
const KEY_STEP = 60;
const SWIPE = 50;

export class ZoomPan {
  moving = false;
  #pointers = new Map();
  #travelled = 0;

  constructor(stage, { onChange, onSwipe, onTap }) {
    Object.assign(this, { stage, onChange, onSwipe, onTap });
    this.scale = 1;
    this.x = this.y = 0; // of the image's middle, from the middle of the stage, in CSS pixels
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.addEventListener("dblclick", (event) => this.#doubled(event));
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => this.#up(event));
  }

  fit() {
    this.scale = 1;
    this.x = this.y = 0;
    this.onChange();
  }

  /** Zoom by a factor; the point of the image that lies at (x, y) from the stage's middle stays there. */
  by(factor, x = 0, y = 0) {
    const scale = Math.max(1, Math.min(LARGEST, this.scale * factor));
    const applied = scale / this.scale;
    this.x = x - (x - this.x) * applied;
    this.y = y - (y - this.y) * applied;
    this.scale = scale;
    this.onChange();
  }

  moveByKey(key) {
    this.x += { ArrowLeft: KEY_STEP, ArrowRight: -KEY_STEP }[key] ?? 0;
    this.y += { ArrowUp: KEY_STEP, ArrowDown: -KEY_STEP }[key] ?? 0;
    this.onChange();
  }

  /** The image's rectangle on the stage, from the one of the whole image. No side leaves more room than it must. */
  apply(fitted, stageWidth, stageHeight) {
    const [width, height] = [fitted.width * this.scale, fitted.height * this.scale];
    const [spareX, spareY] = [Math.max(0, (width - stageWidth) / 2), Math.max(0, (height - stageHeight) / 2)];
    this.x = Math.max(-spareX, Math.min(spareX, this.x));
    this.y = Math.max(-spareY, Math.min(spareY, this.y));
    return { left: (stageWidth - width) / 2 + this.x, top: (stageHeight - height) / 2 + this.y, width, height };
  }

  #fromMiddle({ clientX, clientY }) {
    const { left, top, width, height } = this.stage.getBoundingClientRect();
    return [clientX - left - width / 2, clientY - top - height / 2];
  }

  #wheel(event) {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 33 : 1);
    this.by(Math.exp(-pixels * (event.ctrlKey ? 0.01 : 0.002)), ...this.#fromMiddle(event)); // ctrl: a pinch on a touchpad
  }

  #doubled(event) {
    if (event.target.closest("button")) return;
    if (this.scale > 1) this.fit();
    else this.by(2.5, ...this.#fromMiddle(event));
  }

  #down(event) {
    if (event.button !== 0 || event.target.closest("button")) return;
    this.stage.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, event);
    if (this.#pointers.size === 1) Object.assign(this, { start: event, moving: false });
    this.#travelled = this.#pointers.size > 1 ? Infinity : 0;
  }

  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
    this.#pointers.set(event.pointerId, event);
    this.#travelled += Math.abs(dx) + Math.abs(dy);
    if (other) {
      const distance = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
      const center = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
      this.x += dx / 2;
      this.y += dy / 2;
      this.by(distance(event) / distance(before), ...this.#fromMiddle(center));
    } else if (this.scale > 1) {
      this.moving = this.#travelled > 4;
      this.x += dx;
      this.y += dy;
      this.onChange();
    }
  }

  #up(event) {
    if (!this.#pointers.delete(event.pointerId) || event.type === "pointercancel") return;
    const [dx, dy] = [event.clientX - this.start.clientX, event.clientY - this.start.clientY];
    if (this.#travelled <= 4) this.onTap(event);
    else if (this.scale === 1 && this.#travelled < Infinity && Math.abs(dx) > SWIPE && Math.abs(dx) > 2 * Math.abs(dy)) this.onSwipe(dx < 0 ? 1 : -1);
    this.moving = false;
  }
}
