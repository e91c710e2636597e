/** The images that pass the filters, fetched from the server in pages as they are needed. */

import { fetchPage, fetchPlace, imageKey } from "./api.js";

const PAGE_SIZE = 120;
const KEPT_PAGES = 50;

export class ImagePages {
  total = 0;
  isWaiting = false; // the server has to make its index first
  revision = null;
  hasFailed = false;
  #pages = new Map(); // number -> {images, classes} once it is there, in order of last use
  #requests = new Map(); // number -> {abort, promise, pinned}

  /** `onPage` is called for each page that has come, `onError` with what went wrong. */
  constructor(query, onPage, onError) {
    this.query = query;
    this.onPage = onPage;
    this.onError = onError;
  }

  get busy() {
    return this.#requests.size > 0;
  }

  /** The image at a place of the result and its page's classes, if it is here. */
  peek(index) {
    const page = this.#pages.get(Math.floor(index / PAGE_SIZE));
    const image = page?.images[index % PAGE_SIZE];
    return image && { image, classes: page.classes };
  }

  /** The place of an image: from the pages that are here, else from the server; -1 if it is not in the result. */
  async placeOf(image) {
    for (const [number, { images }] of this.#pages) {
      const found = images.findIndex((each) => imageKey(each) === image);
      if (found >= 0) return number * PAGE_SIZE + found;
    }
    return fetchPlace(this.query, image);
  }

  /** The image at a place of the result, fetched if need be; undefined past the end or after an error. */
  async at(index) {
    if (index < 0) return undefined;
    const number = Math.floor(index / PAGE_SIZE);
    if (!this.#pages.has(number)) await this.#request(number, true);
    return this.peek(index)?.image;
  }

  /** Fetch what is missing between two places; give up requests of other places. */
  want(first, last) {
    const from = Math.floor(first / PAGE_SIZE);
    const to = Math.floor(last / PAGE_SIZE);
    for (const [number, request] of this.#requests) {
      if ((number < from || number > to) && !request.pinned) request.abort.abort();
    }
    for (let number = from; number <= to; number++) {
      const page = this.#pages.get(number);
      if (!page) this.#request(number, false);
      else this.#keep(number, page);
    }
  }

  close() {
    this.onPage = this.onError = () => {};
    for (const request of this.#requests.values()) request.abort.abort();
  }

  #request(number, pinned) {
    const running = this.#requests.get(number);
    if (running && !running.abort.signal.aborted) {
      running.pinned ||= pinned;
      return running.promise;
    }
    const abort = new AbortController();
    const request = { abort, pinned, promise: null };
    this.#requests.set(number, request);
    request.promise = this.#fetch(number, request);
    return request.promise;
  }

  async #fetch(number, request) {
    try {
      const answer = await fetchPage(this.query, number * PAGE_SIZE, PAGE_SIZE, request.abort.signal);
      this.isWaiting = answer.total === null;
      this.total = answer.total ?? 0;
      this.revision = answer.revision;
      this.hasFailed = false;
      this.#keep(number, answer);
      this.#end(number, request);
      this.onPage(number * PAGE_SIZE, answer);
    } catch (error) {
      this.#end(number, request);
      if (error.name === "AbortError") return;
      this.hasFailed = true;
      this.onError(error);
    }
  }

  #end(number, request) {
    if (this.#requests.get(number) === request) this.#requests.delete(number);
  }

  #keep(number, page) {
    this.#pages.delete(number);
    this.#pages.set(number, page);
    if (this.#pages.size > KEPT_PAGES) this.#pages.delete(this.#pages.keys().next().value);
  }
}
