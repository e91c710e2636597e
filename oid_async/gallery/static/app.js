/** The gallery's page: joins the address, the grid, the filters, the legend and the large view. */

import { fetchFolder, RequestError } from "./api.js";
import { assignStyles } from "./class_styles.js";
import { byId, count, counted, element, setAttribute, visible } from "./dom.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { buildKindToggles, DRAWN_KINDS, followKindToggles, kindOfKey, Legend } from "./legend.js";
import { Address, addressOf, filterQuery, toggled } from "./state.js";
import { Viewer } from "./viewer.js";
import { ClassNames } from "./words.js";

const REFRESH_MS = 10_000;
const INDEX_MS = 1_000;
const WIDE = matchMedia("(min-width: 900px)");

/** What the parts of the page share. */
class Page {
  address = new Address();
  names = new ClassNames();
  folder = { classes: [], kinds: [], flags: [], images: {}, notes: [], index: { ready: false } };
  #hidden = new Set();
  #latest = this.folder; // the latest answer about it; `folder` is what is shown
  #timer = 0;

  constructor() {
    this.grid = new Grid(this);
    this.viewer = new Viewer(this);
    this.filters = new Filters(this);
    this.legend = new Legend(this);
    this.address.subscribe((state, before) => this.#follow(state, before));
    this.#connect();
  }

  async start() {
    showTheme(this.address.state.theme);
    this.#showFilters(WIDE.matches);
    try {
      this.#became(await fetchFolder());
    } catch (error) {
      this.onError(error);
    }
    await this.#showImages();
    if (this.address.state.image) this.#showImage(this.address.state.image);
    this.#refreshIn(this.#pause);
  }

  isHidden(kindOrLabel) {
    return this.#hidden.has(kindOrLabel);
  }

  toggleHidden(kindOrLabel) {
    this.address.change({ hide: toggled([...this.#hidden], kindOrLabel) }, { replace: true });
  }

  addressOfImage(image) {
    return addressOf({ ...this.address.state, image });
  }

  /** Open an image in the large view; `options` are those of `Address.change`. */
  openImage(image, options) {
    this.address.change({ image }, options);
  }

  closeImage() {
    this.address.change({ image: "" });
  }

  onError = (error) => {
    this.#note("error", error instanceof RequestError ? error.message : `The page failed: ${error.message}`, null, true);
    if (this.grid.pages.hasFailed && !this.grid.pages.total) byId("found").textContent = "";
    byId("grid").dataset.busy = "false";
  };

  onPage({ total, revision }) {
    byId("found").textContent = total === null ? "" : counted(total, "image");
    if (revision !== this.folder.revision) this.#refreshIn(0);
    this.#note("error");
  }

  #connect() {
    const { address } = this;
    byId("sort").addEventListener("change", (event) => address.change({ sort: event.target.value }));
    byId("order").addEventListener("click", () => address.change({ order: address.state.order === "asc" ? "desc" : "asc" }));
    byId("theme").addEventListener("click", () => this.#changeTheme());
    byId("help-open").addEventListener("click", () => byId("help").showModal());
    byId("filters-toggle").addEventListener("click", () => this.#showFilters(byId("filters").hidden));
    byId("filters-close").addEventListener("click", () => this.#showFilters(false));
    byId("tile-size").addEventListener("input", (event) => this.grid.setSize(Number(event.target.value)));
    if (!WIDE.matches) {
      byId("tile-size").value = 160;
      this.grid.setSize(160);
    }
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  #became(folder) {
    const ranksChanged = folder.index.ready && !this.folder.index.ready;
    this.folder = this.#latest = folder;
    for (const { label, class_name: name } of folder.classes) this.names.add(label, name);
    const boxes = ({ rows }) => rows?.bbox ?? 0;
    assignStyles([...folder.classes].sort((a, b) => boxes(b) - boxes(a)).map(({ label }) => label), { anew: ranksChanged });
    document.title = `${visible(folder.name)} · gallery`;
    byId("folder-name").textContent = visible(folder.name);
    const { selected, ok, failed, pending } = folder.images;
    byId("folder-name").title = `${counted(selected, "image")}: ${count(ok)} saved, ${count(failed)} failed, ${count(pending ?? 0)} not fetched yet`;
    for (const place of ["kind-toggles", "sheet-kind-toggles", "viewer-kind-toggles"]) buildKindToggles(byId(place), this, folder.kinds);
    this.filters.build(folder);
    this.legend.build(folder);
    this.#showFolderNotes(folder);
    this.#follow(this.address.state, this.address.state);
  }

  #follow(state, before) {
    this.#hidden = new Set(state.hide.map((value) => (DRAWN_KINDS.includes(value) ? value : this.names.labelOf(value))));
    byId("sort").value = state.sort;
    const isAscending = state.order === "asc";
    byId("order").textContent = isAscending ? "↑" : "↓";
    for (const name of ["aria-label", "title"]) setAttribute(byId("order"), name, isAscending ? "Ascending" : "Descending");
    this.filters.follow(state);
    this.legend.follow();
    followKindToggles(this);
    if (state.theme !== before.theme) showTheme(state.theme);
    if (filterQuery(state) !== filterQuery(before)) this.#showImages();
    else this.grid.redraw();
    this.viewer.redraw();
    if (state.image !== before.image) this.#showImage(state.image);
  }

  #showImage(image) {
    if (image) return void this.viewer.show(image);
    this.viewer.hide();
    if (this.viewer.place >= 0) this.grid.moveTo(this.viewer.place);
  }

  async #showImages(options) {
    await this.grid.show(filterQuery(this.address.state), options);
  }

  get #pause() {
    return this.#latest.index.ready ? REFRESH_MS : INDEX_MS;
  }

  /** Ask how the folder is now: while the index is made and during a run it changes. */
  async #refresh() {
    try {
      if (!document.hidden) this.#compare(await fetchFolder());
    } catch (error) {
      this.onError(error);
    }
    this.#refreshIn(this.#pause);
  }

  #refreshIn(milliseconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#refresh(), milliseconds);
  }

  #compare(folder) {
    if (this.grid.pages.hasFailed) this.#showImages({ stay: true }); // now that the server answers
    else this.#note("error");
    this.#showFolderNotes(folder);
    const indexCame = folder.index.ready && !this.#latest.index.ready;
    this.#latest = folder;
    if (folder.revision === this.folder.revision) return;
    const more = folder.images.ok - (this.folder.images.ok ?? folder.images.ok);
    if ((indexCame || this.folder.revision === undefined) && (more === 0 || this.grid.pages.isWaiting)) return this.#show(folder);
    const text = more > 0 ? `${counted(more, "more image")} since then.` : "The folder has changed.";
    const show = element("button", { type: "button", "data-testid": "refresh", click: () => this.#show(this.#latest) }, "Show");
    this.#note("refresh", text, show);
  }

  #show(folder) {
    this.#note("refresh");
    this.#became(folder);
    this.#showImages({ stay: true });
  }

  #showFolderNotes({ notes, index: { ready, done, total, error } }) {
    this.#note("folder", notes.join(" "));
    if (error) return this.#note("index", error);
    const share = total ? Math.floor((100 * done) / total) : 0;
    const text = `The annotations are being indexed: ${share} %. Filters by class, flag, size and caption answer when it is done.`;
    this.#note("index", ready ? "" : text, element("progress", { max: 100, value: share, "aria-label": "Index" }));
  }

  /** Show a line of one sort above the grid; without a text, take it away. */
  #note(sort, text = "", extra = null, alert = false) {
    const before = byId("notes").querySelector(`[data-note=${sort}]`);
    if (!text) return before?.remove();
    const attributes = { class: `note ${sort}`, "data-testid": "note", "data-note": sort, role: alert && "alert" };
    const line = element("p", attributes, element("span", {}, visible(text)), extra);
    if (!before) byId("notes").append(line);
    else if (before.firstChild.textContent !== line.firstChild.textContent) before.replaceWith(line);
  }

  #showFilters(shown) {
    byId("filters").hidden = !shown;
    setAttribute(byId("filters-toggle"), "aria-expanded", String(shown));
  }

  #changeTheme() {
    const shown = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    this.address.change({ theme: shown === "dark" ? "light" : "dark" }, { replace: true });
  }

  #key(event) {
    const types = event.target.matches?.("input:not([type=checkbox], [type=range]), select");
    if (types || event.ctrlKey || event.metaKey || event.altKey) return;
    const kind = kindOfKey(event.key);
    if (kind) this.toggleHidden(kind);
    else if (event.key === "?") byId("help").showModal();
    else if (this.viewer.dialog.open || byId("help").open) return;
    else if (event.key === "/") this.#searchClass();
    else if (event.key === "f") this.#showFilters(byId("filters").hidden);
    else if (event.key === "Escape" && !WIDE.matches) this.#showFilters(false);
    else if (event.target !== document.body) return;
    else if (event.key.startsWith("Arrow")) this.grid.focus();
    else return this.grid.moveByKey(event);
    event.preventDefault();
  }

  #searchClass() {
    this.#showFilters(true);
    this.filters.search.input.focus();
  }
}

/** Dark or light as the address says, else as the system is. */
function showTheme(theme) {
  if (["dark", "light"].includes(theme)) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

new Page().start();
