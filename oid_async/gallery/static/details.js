/** What stands beside a large image: its failure, captions, every annotation, where it comes from, the file. */

import { swatch } from "./class_search.js";
import { byId, bytes, count, element, named, outside, visible } from "./dom.js";
import { KIND_NAMES, reasonInWords, STATUS_NAMES } from "./words.js";

const LISTED_KINDS = ["narrative", "bbox", "segmentation", "relationship", "point", "label"];

/** Fill the panel; return the rows of the shapes, in their order. */
export function showDetails(detail, shapes, names) {
  const rows = shapes.map((shape) => row(shape, names));
  byId("details").replaceChildren(...[
    failure(detail),
    ...LISTED_KINDS.map((kind) => listOf(kind, shapes, rows, detail)),
    absent(detail, names),
    attribution(detail),
    file(detail),
  ].filter(Boolean));
  byId("details").scrollTop = 0;
  return rows;
}

function section(title, ...content) {
  return element("section", {}, element("h3", {}, title), ...content);
}

function failure({ image, failure: failed }) {
  if (!failed && image.Status !== "failed") return null;
  const reason = failed?.reason ?? image.Reason;
  return element("section", { class: "failure", "data-testid": "failure" },
    element("h3", {}, "Failed: ", named(reason ?? "unknown")), element("p", {}, reasonInWords(reason)),
    failed?.detail ? element("p", { class: "muted" }, named(failed.detail)) : null);
}

function titleOf(shape, names) {
  if (shape.kind === "narrative") return [named(shape.caption ?? "", { "data-testid": "caption-text" })];
  if (shape.kind !== "relationship") return [swatch(shape.label), named(names.of(shape.label))];
  const side = (label) => [swatch(label), named(names.of(label))];
  return [...side(shape.label), element("em", {}, named(shape.predicate)), ...side(shape.label2)];
}

function row(shape, names) {
  const { kind, label, remarks } = shape;
  const attributes = { type: "button", class: "row", "data-testid": "row", "data-kind": kind, "data-label": label };
  const remark = remarks.length ? element("span", { class: "muted" }, visible(remarks.join(" · "))) : null;
  return element("button", attributes, element("span", { class: "row-title" }, ...titleOf(shape, names)), remark);
}

function listOf(kind, shapes, rows, detail) {
  const ofKind = rows.filter((_, i) => shapes[i].kind === kind);
  if (!ofKind.length) return null;
  const total = detail.totals?.[kind] ?? ofKind.length;
  const title = total > ofKind.length ? `${KIND_NAMES[kind]}: ${count(ofKind.length)} of ${count(total)}` : `${KIND_NAMES[kind]}: ${count(total)}`;
  return section(title, element("ul", { class: "rows" }, ...ofKind.map((each) => element("li", {}, each))));
}

/** The classes that a person has looked for and not found: labels of confidence 0, and those the query asked to know. */
function absent({ verified_absent: asked, labels }, names) {
  const found = labels.filter(({ Confidence: confidence }) => Number(confidence) === 0).map(({ LabelName: label }) => label);
  const all = [...new Set([...found, ...asked.map(([label]) => label)])];
  if (!all.length) return null;
  const attributes = { class: "tag", "data-testid": "absent" };
  const tags = all.map((label) => element("span", { ...attributes, "data-label": label }, named(names.of(label))));
  return section("Verified absent", element("p", { class: "absent" }, ...tags));
}

function facts(entries) {
  const present = entries.filter(([, , value]) => value !== null && value !== undefined && value !== "");
  return element("dl", { class: "facts" }, ...present.flatMap(([name, title, value]) =>
    [element("dt", {}, title), element("dd", { "data-testid": "fact", "data-fact": name }, value instanceof Node ? value : named(value))]));
}

function attribution({ image, links = {} }) {
  const link = (name, text) => (links[name] ? outside(links[name], text, { "data-testid": name }) : null);
  return section("Photo", facts([
    ["Title", "Title", image.Title],
    ["Author", "Author", image.Author ? outside(links.author, image.Author, { "data-testid": "author" }) : null],
    ["License", "Licence", image.License ? outside(image.License, image.License, { "data-testid": "licence" }) : null],
    ["Changes", "Changes", image.Changes],
    ["OriginalLandingURL", "Page", link("landing", "landing page")],
    ["OriginalURL", "Original", link("original", "original file")],
  ]));
}

function file({ image }) {
  return section("File", facts([
    ["FileName", "Name", image.FileName],
    ["Status", "Status", STATUS_NAMES[image.Status] ?? image.Status],
    ["ImageID", "ImageID", image.ImageID],
    ["Subset", "Split", image.Subset],
    ["Source", "Source", image.Source],
    ["Width", "Size", image.Width ? `${image.Width} × ${image.Height} px` : null],
    ["Bytes", "Bytes", image.Bytes ? `${count(image.Bytes)} (${bytes(image.Bytes)})` : null],
    ["MD5", "MD5", image.MD5],
    ["Rotation", "Rotation", image.Rotation ? `${image.Rotation}° (drawn as stored, as the boxes are)` : null],
    ["Role", "Role", image.Role],
  ]));
}
