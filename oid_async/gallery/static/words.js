/** The dataset's and the downloader's short names in words. Without a prototype: files may say "constructor". */

const REASONS = {
  __proto__: null,
  bad_response: "The answer could not be read.",
  bad_url: "The address is not a web address.",
  blocked: "The address leads into a private network and was not asked.",
  checksum: "The picture is not the published one: its checksum differs.",
  empty: "The answer was empty.",
  forbidden: "The server refuses it (403).",
  gone: "The photo was removed (410).",
  network: "The connection failed.",
  not_found: "The server has no such picture (404).",
  not_image: "The answer is not a picture.",
  opted_out: "The photo's site does not allow this use.",
  placeholder: "A placeholder came in place of the photo.",
  rate_limited: "The server asked to wait too long.",
  redirect: "The address leads elsewhere too many times.",
  server_error: "The server failed (5xx).",
  timeout: "The server was too slow.",
  too_large: "The picture is larger than allowed.",
  truncated: "The picture ended early.",
};

export const reasonInWords = (reason) => REASONS[reason] ?? "It was not downloaded.";

export const STATUS_NAMES = { __proto__: null, ok: "saved", failed: "failed", pending: "not fetched yet" };

export const KIND_NAMES = {
  __proto__: null,
  bbox: "boxes",
  segmentation: "masks",
  relationship: "relationships",
  narrative: "narratives",
  label: "labels",
  point: "points",
  names: "names",
};

const FLAG_NAMES = {
  __proto__: null,
  IsOccluded: "occluded",
  IsTruncated: "truncated",
  IsGroupOf: "group",
  IsDepiction: "depiction",
  IsInside: "inside",
};

/** The flags of boxes; the k-th is bit k of a box of a page. */
export const FLAGS = Object.keys(FLAG_NAMES);

export const flagName = (flag) => FLAG_NAMES[flag] ?? flag;

/** A class name as names are compared: in any case, `_` for a blank. */
export const comparable = (name) => name.toLowerCase().replaceAll("_", " ");

/** The classes of the folder by MID and by name; a class without a name shows its MID. */
export class ClassNames {
  #names = new Map();

  add(label, className) {
    if (label && className) this.#names.set(label, className);
  }

  of(label) {
    return this.#names.get(label) ?? label;
  }

  /** The MID of a display name (the case is not looked at) or of a MID. */
  labelOf(value) {
    if (this.#names.has(value)) return value;
    const wanted = comparable(value);
    for (const [label, name] of this.#names) if (comparable(name) === wanted) return label;
    return value;
  }
}
