/** Small helpers for the document. Whatever comes from files enters it as text nodes, never as markup. */

export const byId = (id) => document.getElementById(id);

/** Make an element; an attribute that is null, undefined or false is left out, strings among the children become text. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// Those of `redaction.printable`, but for tabs and line ends: control characters, what turns the direction of the text
// behind it ("exe.png" could be written as "gnp.exe"), what has no width, tags, halves of a character.
const UNSEEN = new RegExp(
  "[\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e" +
    "\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\ud800-\\udfff\\ufffe\\uffff\\u{e0000}-\\u{e007f}]",
  "gu",
);

/** A text of a file as it may be shown: characters that cannot be seen have a mark in their place. */
export const visible = (text) => String(text).replace(UNSEEN, "\ufffd");

/** A name or text of the dataset, isolated so that its direction of writing changes nothing around it. */
export const named = (text, attributes = {}) => element("bdi", { ...attributes, class: "name" }, visible(text));

/** A link out of the gallery; only http and https, anything else stays text. */
export function outside(address, text, attributes = {}) {
  if (!/^https?:\/\//i.test(address ?? "")) return named(text, attributes);
  return element("a", { ...attributes, href: address, target: "_blank", rel: "noopener noreferrer" }, named(text));
}

const NUMBER = new Intl.NumberFormat("en");

export const count = (number) => NUMBER.format(number);

export const counted = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

export function bytes(size) {
  if (size < 1000) return counted(size, "byte");
  const power = Math.min(3, Math.floor(Math.log10(size) / 3));
  return `${(size / 1000 ** power).toFixed(1)} ${["", "kB", "MB", "GB"][power]}`;
}

export function setAttribute(target, name, value) {
  if (target.getAttribute(name) !== String(value)) target.setAttribute(name, value);
}

let tooltip;

/** Show a text at the pointer, inside the open dialog if there is one (a dialog lies above everything else). */
export function showTooltip(text, x, y) {
  tooltip ??= byId("tooltip");
  if (!text) return void (tooltip.hidden = true);
  const holder = document.querySelector("dialog[open]") ?? document.body;
  if (tooltip.parentNode !== holder) holder.append(tooltip);
  tooltip.textContent = visible(text);
  tooltip.hidden = false;
  const { width, height } = tooltip.getBoundingClientRect();
  tooltip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 4))}px`;
  tooltip.style.top = `${y + 18 + height > innerHeight ? y - height - 10 : y + 18}px`;
}
