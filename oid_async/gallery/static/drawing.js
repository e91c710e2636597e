/**
 * Shapes on a canvas over an image. Shapes are in fractions of the image; `view` is the image's rectangle in CSS pixels
 * of the canvas: {left, top, width, height}.
 */

import { visible } from "./dom.js";

const HALO = "rgb(0 0 0 / 55%)";
const CHIP_HEIGHT = 17;
const LONGEST_CHIP = 240;
/** The look of a text that is of no class, such as the predicate of a relationship. */
export const PLAIN = { color: "rgb(22 24 28 / 85%)", ink: "#fff" };
const WHITE = { color: "#fff", dash: [] };
const MASK_THRESHOLD = 122; // of 255: above is the object, as FiftyOne reads these masks
const MASK_ALPHA = 0.42;
const LARGEST_MASK_SIDE = 1024;

/** The largest rectangle of the image's shape in a frame, in its middle. */
export function contain(width, height, frameWidth, frameHeight) {
  const scale = Math.min(frameWidth / width, frameHeight / height);
  const [w, h] = [width * scale, height * scale];
  return { left: (frameWidth - w) / 2, top: (frameHeight - h) / 2, width: w, height: h };
}

/** A box [xmin, ymin, xmax, ymax] as a rectangle of the canvas. */
export function rectangleOf([xmin, ymin, xmax, ymax], view) {
  return {
    left: view.left + xmin * view.width,
    top: view.top + ymin * view.height,
    width: (xmax - xmin) * view.width,
    height: (ymax - ymin) * view.height,
  };
}

export const contains = (rectangle, x, y) =>
  x >= rectangle.left - 2 && x <= rectangle.left + rectangle.width + 2 &&
  y >= rectangle.top - 2 && y <= rectangle.top + rectangle.height + 2;

/** Whether any of a rectangle is in a frame of this size. */
export const overlaps = ({ left, top, width, height }, frame) =>
  left < frame.width && top < frame.height && left + width > 0 && top + height > 0;

/** Size a canvas to CSS pixels at the screen's resolution and clear it; return its context in CSS pixels. */
export function prepare(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  const [deviceWidth, deviceHeight] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== deviceWidth) canvas.width = deviceWidth;
  if (canvas.height !== deviceHeight) canvas.height = deviceHeight;
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** Stroke the path that is set: in the class's colour and pattern, on a dark line that shows it on any picture. */
function strokeOnHalo(context, style, width) {
  context.setLineDash([]);
  context.lineWidth = width + 1.5;
  context.strokeStyle = HALO;
  context.stroke();
  context.setLineDash(style.dash);
  context.lineWidth = width;
  context.strokeStyle = style.color;
  context.stroke();
  context.setLineDash([]);
}

export function drawBox(context, { left, top, width, height }, style, lit, thin = false) {
  if (lit) {
    context.fillStyle = `rgb(${style.rgb.join(" ")} / 22%)`;
    context.fillRect(left, top, width, height);
  }
  context.beginPath();
  context.rect(left, top, width, height);
  strokeOnHalo(context, style, (thin ? 1.5 : 2) + (lit ? 1.5 : 0));
}

/** A point label: a disc for yes, a ring for no and unsure. */
export function drawPoint(context, x, y, style, answer, lit) {
  context.beginPath();
  context.arc(x, y, lit ? 8 : 5, 0, 2 * Math.PI);
  context.fillStyle = answer === "yes" ? style.color : HALO;
  context.fill();
  strokeOnHalo(context, { ...style, dash: answer === "unsure" ? [2, 2] : [] }, 1.5);
}

export const middle = ({ left, top, width, height }) => [left + width / 2, top + height / 2];

/** A relationship: a line from the middle of one box to the middle of the other, with an arrow's head. */
export function drawRelationship(context, from, to, style, lit) {
  const [x1, y1] = middle(from);
  const [x2, y2] = middle(to);
  const angle = Math.atan2(y2 - y1, x2 - x1);
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  for (const side of [-0.45, 0.45]) {
    context.moveTo(x2, y2);
    context.lineTo(x2 - 10 * Math.cos(angle + side), y2 - 10 * Math.sin(angle + side));
  }
  strokeOnHalo(context, { ...style, dash: [] }, lit ? 3 : 1.5);
}

/** A trace of a narrative: where the mouse was while the sentence was spoken. */
export function drawTrace(context, points, view) {
  context.beginPath();
  for (const { x, y } of points) context.lineTo(view.left + x * view.width, view.top + y * view.height);
  strokeOnHalo(context, WHITE, 2);
}

/**
 * Write a name on a chip of the class's colour at a corner, moved into the frame. Returns whether there was room:
 * a chip that would cover one of `taken` is not drawn (unless `must`), one that is drawn is added to it.
 */
export function drawChip(context, text, x, y, style, frame, taken, must = false) {
  context.font = "600 11px system-ui, sans-serif";
  const shown = shortened(context, visible(text), Math.min(LONGEST_CHIP, frame.width) - 10);
  const width = context.measureText(shown).width + 10;
  const left = Math.max(0, Math.min(x, frame.width - width));
  const top = Math.max(0, Math.min(y, frame.height - CHIP_HEIGHT));
  const covers = (other) => left < other.right && left + width > other.left && top < other.bottom && top + CHIP_HEIGHT > other.top;
  if (!must && taken.some(covers)) return false;
  taken.push({ left, top, right: left + width, bottom: top + CHIP_HEIGHT });
  context.fillStyle = style.color;
  context.fillRect(left, top, width, CHIP_HEIGHT);
  context.fillStyle = style.ink;
  context.textBaseline = "middle";
  context.fillText(shown, left + 5, top + CHIP_HEIGHT / 2 + 0.5);
  return true;
}

function shortened(context, text, width) {
  const start = text.slice(0, 80);
  const measured = context.measureText(start).width;
  return text.length <= 80 && measured <= width ? text : `${start.slice(0, Math.floor((start.length * width) / Math.max(measured, width)) - 1)}…`;
}

/**
 * Load a mask's PNG. Returns the part of it that has the object, in the class's colour on clear ground, with its place
 * in fractions of the image: {canvas, box}; null for a mask without an object.
 */
export async function loadMask(address, style) {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  const scale = Math.min(1, LARGEST_MASK_SIDE / Math.max(picture.naturalWidth, picture.naturalHeight));
  const [width, height] = [picture.naturalWidth, picture.naturalHeight].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  const bounds = paintObject(pixels, style.rgb);
  if (!bounds) return null;
  const [left, top, right, bottom] = bounds;
  Object.assign(canvas, { width: right - left, height: bottom - top }); // which clears it; the rest need not be kept
  context.putImageData(pixels, -left, -top, left, top, right - left, bottom - top);
  return { canvas, box: [left / width, top / height, right / width, bottom / height] };
}

/** Paint the object of a mask's pixels, clear the rest; return its bounds, the last ones behind it, if there is one. */
function paintObject({ data, width, height }, [red, green, blue]) {
  const words = new Uint32Array(data.buffer);
  const color = new Uint32Array(new Uint8ClampedArray([red, green, blue, 255]).buffer)[0];
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let i = 0; i < words.length; i++) {
    const isObject = data[4 * i] > MASK_THRESHOLD && data[4 * i + 3] > MASK_THRESHOLD;
    words[i] = isObject ? color : 0;
    if (!isObject) continue;
    const x = i % width;
    const y = (i - x) / width;
    if (x < left) left = x;
    if (x >= right) right = x + 1;
    if (y < top) top = y;
    if (y >= bottom) bottom = y + 1;
  }
  return right > 0 ? [left, top, right, bottom] : null;
}

export function drawMask(context, { canvas, box }, view, lit) {
  const { left, top, width, height } = rectangleOf(box, view);
  context.globalAlpha = lit ? 0.8 : MASK_ALPHA;
  context.imageSmoothingEnabled = false;
  context.drawImage(canvas, left, top, width, height);
  context.globalAlpha = 1;
}
