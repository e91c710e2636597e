/**
 * How a class is drawn: a colour that colour-blind people can tell from the others (Okabe and Ito 2008,
 * https://jfly.uni-koeln.de/color/, without black), then a pattern of the line, then a lightness.
 * A class starts at the colour that its MID hashes to and takes the next free one; those with most boxes come first,
 * so that they never share one.
 */

const OKABE_ITO = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
const PATTERNS = [
  { name: "solid", dash: [] },
  { name: "dashed", dash: [9, 4] },
  { name: "dotted", dash: [3, 3] },
];
const SHADES = [(channel) => channel, (channel) => channel * 0.45 + 140, (channel) => channel * 0.6];

const STYLES = SHADES.flatMap((shade) =>
  PATTERNS.flatMap((pattern) => OKABE_ITO.map((color) => makeStyle(color, pattern, shade))),
);

const ofClass = new Map();
const taken = new Set();

function makeStyle(color, pattern, shade) {
  const rgb = [1, 3, 5].map((start) => Math.round(shade(parseInt(color.slice(start, start + 2), 16))));
  const [red, green, blue] = rgb.map((channel) => (channel / 255) ** 2.2);
  const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  return { rgb, color: `rgb(${rgb.join(" ")})`, ink: luminance > 0.18 ? "#000" : "#fff", pattern: pattern.name, dash: pattern.dash };
}

function hash(label) {
  let value = 2166136261; // FNV-1a, 32 bits
  for (let i = 0; i < label.length; i++) value = Math.imul(value ^ label.charCodeAt(i), 16777619) >>> 0;
  return value;
}

/** Give every class of the folder its style, in order. A class that has one keeps it, unless all start `anew`. */
export function assignStyles(labels, { anew }) {
  if (anew) {
    ofClass.clear();
    taken.clear();
  }
  for (const label of labels) styleOf(label);
}

/** The style of a class: {rgb, color, ink (of text on it), pattern, dash}. */
export function styleOf(label) {
  if (!ofClass.has(label)) ofClass.set(label, STYLES[chooseFree(hash(label))]);
  return ofClass.get(label);
}

function chooseFree(start) {
  const hues = OKABE_ITO.length;
  for (let tried = 0; tried < STYLES.length; tried++) {
    const index = Math.floor(tried / hues) * hues + ((start + tried) % hues);
    if (!taken.has(index)) {
      taken.add(index);
      return index;
    }
  }
  return start % STYLES.length;
}
