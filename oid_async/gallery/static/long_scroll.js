/**
 * A scrollbar for content of any height. Browsers end elements at 17 to 33 million pixels; above LIMIT the scrollbar
 * stands for the whole at a scale: the wheel and keys move by the same pixels as ever, a drag of the bar by the scale.
 */

const LIMIT = 8_000_000;
const SETTLED_MS = 120;

export class LongScroll {
  #last = 0;
  #timer = 0;

  /** `content` is the one child that gives `scroller` its height; `onScroll` is called when `top` has changed. */
  constructor(scroller, content, onScroll) {
    this.scroller = scroller;
    this.content = content;
    this.onScroll = onScroll;
    this.height = 0;
    this.top = 0; // in pixels of the whole content
    scroller.addEventListener("scroll", () => this.follow(), { passive: true });
  }

  /** Where the scroller shows what lies at a pixel of the whole content. */
  place(pixel) {
    return pixel - this.top + this.#last;
  }

  setHeight(height) {
    this.height = height;
    this.content.style.height = `${Math.min(height, LIMIT)}px`;
    this.scrollTo(this.top);
  }

  scrollTo(top) {
    this.top = Math.max(0, Math.min(top, this.height - this.scroller.clientHeight));
    this.#settle();
    this.onScroll();
  }

  get #scale() {
    const visible = this.scroller.clientHeight;
    return this.height > LIMIT ? (this.height - visible) / (LIMIT - visible) : 1;
  }

  /** Take over where the bar is now; the browser tells of a scroll only with the next frame. */
  follow() {
    const now = this.scroller.scrollTop;
    if (now === this.#last) return;
    const atAnEnd = now <= 0 || now + this.scroller.clientHeight >= this.scroller.scrollHeight - 1;
    const jumped = Math.abs(now - this.#last) > 2 * this.scroller.clientHeight;
    if (this.#scale === 1 || jumped || atAnEnd) this.top = now * this.#scale;
    else this.top += now - this.#last;
    this.#last = now;
    clearTimeout(this.#timer);
    if (this.#scale !== 1) this.#timer = setTimeout(() => this.scrollTo(this.top), SETTLED_MS);
    this.onScroll();
  }

  /** Move the bar to where the content is; the content does not move. */
  #settle() {
    const bar = this.top / this.#scale;
    if (Math.abs(this.scroller.scrollTop - bar) >= 1) this.scroller.scrollTop = bar;
    this.#last = this.scroller.scrollTop;
  }
}
