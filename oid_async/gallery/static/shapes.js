/** The annotations of one image as shapes: what the large view draws and lists. */

import { maskAddress } from "./api.js";
import { flagName, FLAGS } from "./words.js";

const box = (row, suffix = "", prefix = "") => ["XMin", "YMin", "XMax", "YMax"].map((name) => Number(row[`${prefix}${name}${suffix}`]));

const yes = (value) => Number(value) === 1;

const percent = ([xmin, ymin, xmax, ymax]) => `${(100 * (xmax - xmin) * (ymax - ymin)).toFixed(1)} %`;

function boxShape(row) {
  const flags = FLAGS.filter((flag) => yes(row[flag])).map(flagName);
  return { kind: "bbox", label: row.LabelName, box: box(row), remarks: [...flags, percent(box(row))] };
}

function maskShape(row) {
  const quality = row.PredictedIoU ? [`IoU ${Number(row.PredictedIoU).toFixed(2)}`] : [];
  const mask = row.url ? maskAddress(row.url) : null;
  return { kind: "segmentation", label: row.LabelName, box: box(row, "", "Box"), mask, remarks: quality };
}

function relationshipShape(row) {
  const [from, to] = [box(row, "1"), box(row, "2")];
  const isAttribute = from.every((edge, i) => edge === to[i]);
  const predicate = String(row.RelationshipLabel).replaceAll("_", " ");
  const labels = { label: row.LabelName1, label2: row.LabelName2 };
  return { kind: "relationship", ...labels, predicate, box: from, box2: isAttribute ? null : to, remarks: [] };
}

function pointShape(row) {
  const answer = String(row.EstimatedYesNo ?? "").toLowerCase();
  return { kind: "point", label: row.Label, point: [Number(row.X), Number(row.Y)], answer, remarks: [answer].filter(Boolean) };
}

function labelShape(row) {
  const confidence = Number(row.Confidence);
  const remark = confidence === 0 ? "verified absent" : confidence === 1 ? "present" : `confidence ${confidence}`;
  return { kind: "label", label: row.LabelName, remarks: [remark, row.Source].filter(Boolean) };
}

const narrativeShape = (row) => ({ kind: "narrative", caption: row.caption, traces: row.traces ?? [], remarks: row.traces?.length ? ["trace"] : [] });

/** Return the shapes, boxes from large to small, so that a small one is drawn above what it lies in. */
export function shapesOf(detail) {
  const area = ({ box: [xmin, ymin, xmax, ymax] }) => (xmax - xmin) * (ymax - ymin);
  return [
    ...(detail.narratives ?? []).map(narrativeShape),
    ...(detail.boxes ?? []).map(boxShape).sort((a, b) => area(b) - area(a)),
    ...(detail.masks ?? []).map(maskShape).sort((a, b) => area(b) - area(a)),
    ...(detail.relationships ?? []).map(relationshipShape),
    ...(detail.points ?? []).map(pointShape),
    ...(detail.labels ?? []).map(labelShape),
  ];
}
