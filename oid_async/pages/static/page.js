"use strict";
// Tables first: they work without plots. Whatever a file or a table said arrives as text and leaves as text.
for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, head, column));
  });
  const rest = table.tBodies[1];
  if (!rest) continue;
  const more = document.createElement("button");
  more.type = "button";
  more.className = "more";
  more.textContent = `Show all ${bodyRows(table).length.toLocaleString("en")} rows`;
  more.addEventListener("click", () => {
    rest.hidden = false;
    more.hidden = true;
  });
  table.parentElement.after(more);
}

function bodyRows(table) {
  return [...table.tBodies].flatMap((body) => [...body.rows]);
}

function sort(table, head, column) {
  const rows = bodyRows(table);
  // A number as people read it (1.2 GB) has the number itself beside it.
  const value = (row) => row.cells[column]?.dataset.value ?? row.cells[column]?.textContent ?? "";
  const keys = new Map(rows.map((row) => [row, value(row).replaceAll(",", "")]));
  const numeric = rows.every((row) => keys.get(row) === "" || !Number.isNaN(Number(keys.get(row))));
  const order = new Intl.Collator("en", { numeric: true });
  const compare = numeric
    ? (a, b) => Number(keys.get(a) || -1) - Number(keys.get(b) || -1)
    : (a, b) => order.compare(value(a), value(b));
  // Numbers from the largest, names from A; a second click turns it round.
  const before = head.getAttribute("aria-sort");
  const descending = before ? before === "ascending" : numeric;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  rows.sort((a, b) => (descending ? -compare(a, b) : compare(a, b)));
  const [first, rest] = table.tBodies;
  const shown = first.rows.length;
  first.append(...rows.slice(0, shown));
  rest?.append(...rows.slice(shown));
}

for (const search of document.querySelectorAll(".search")) {
  const [input, output] = [search.querySelector("input"), search.querySelector("output")];
  const table = search.nextElementSibling.querySelector("table");
  const rest = table.tBodies[1];
  const names = new Map();
  search.hidden = false;
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    const rows = bodyRows(table);
    if (!names.size) for (const row of rows) names.set(row, row.textContent.toLowerCase());
    let found = 0;
    for (const row of rows) {
      row.hidden = !names.get(row).includes(wanted);
      found += row.hidden ? 0 : 1;
    }
    // Found rows are shown wherever they are; then the rest is as the button beside the table says.
    if (rest) rest.hidden = !wanted && !table.parentElement.nextElementSibling.hidden;
    output.textContent = wanted ? `${found.toLocaleString("en")} of ${rows.length.toLocaleString("en")}` : "";
  });
}

// Colours are CSS variables: a change between dark and light, or printing, draws nothing anew.
const config = {
  background: null,
  font: "system-ui, sans-serif",
  view: { stroke: null },
  // Who listens to a page has the tables: the marks of a plot say less.
  mark: { aria: false },
  axis: {
    labelColor: "var(--muted)", titleColor: "var(--muted)", gridColor: "var(--line)", domainColor: "var(--line)",
    tickColor: "var(--line)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelLimit: 150,
  },
};

function hover(handler, event, item, value) {
  const box = document.getElementById("hover");
  // A finger that is lifted leaves what it has touched; the next touch hides it.
  if (event.pointerType === "touch" && event.type === "pointerout") return;
  box.hidden = value === null || value === undefined || value === "";
  if (box.hidden) return;
  const list = document.createElement("dl");
  for (const [name, content] of Object.entries(value)) {
    const [term, description] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    description.textContent = content;
    list.append(term, description);
  }
  box.replaceChildren(list);
  const [width, height] = [box.offsetWidth, box.offsetHeight];
  const left = event.clientX + 14 + width > innerWidth ? event.clientX - 14 - width : event.clientX + 14;
  const top = event.clientY + 14 + height > innerHeight ? event.clientY - 14 - height : event.clientY + 14;
  box.style.left = `${Math.max(4, left)}px`;
  box.style.top = `${Math.max(4, top)}px`;
}

document.addEventListener("pointerdown", (event) => {
  // Vega's renderer keeps a mark's item at its element.
  if (event.pointerType === "touch") hover(null, event, null, event.target.__data__?.tooltip);
});

async function draw() {
  const plots = document.getElementById("plots");
  // The page's policy forbids code made of text: expressions are interpreted (ast), and nothing is loaded.
  const loader = { load: async () => { throw new Error("nothing is loaded"); }, sanitize: async () => ({ href: "#" }) };
  const options = {
    mode: "vega-lite", ast: true, actions: false, renderer: "svg", defaultStyle: false, tooltip: hover, config, loader,
  };
  for (const [id, spec] of Object.entries(JSON.parse(plots?.textContent ?? "{}"))) {
    await vegaEmbed(document.getElementById(id), spec, options);
  }
  document.documentElement.dataset.plots = "drawn";
}
draw();
