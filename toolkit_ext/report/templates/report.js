
// The libraries, the list of runs and their details are kept gzipped, and unpacked when they are first wanted.
async function unpacked(place) {
  const bytes = Uint8Array.from(atob(place.textContent.trim()), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

async function library(id) {
  return URL.createObjectURL(new Blob([await unpacked(document.getElementById(id))], { type: "text/javascript" }));
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const shade = () => document.documentElement.classList.toggle("dark", dark.matches); // the class that DataTables reads
dark.addEventListener("change", shade);
shade();

let plotly;
function charts() {
  plotly ??= library("chart-script").then((url) => new Promise((done, failed) => {
    document.head.append(Object.assign(document.createElement("script"), { src: url, onload: done, onerror: failed }));
  }));
  return plotly;
}

// Texts of records become text nodes, never markup.
function made(tag, about = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(about)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function table(head, lines, rows = false) {
  const cells = (line) => line.map((text, i) => rows && !i ? made("th", { scope: "row" }, text) : made("td", {}, text));
  const heading = made("thead", {}, made("tr", {}, ...head.map((text) => made("th", { scope: "col" }, text))));
  return made("table", {}, ...(head.length ? [heading] : []), made("tbody", {}, ...lines.map((line) => made("tr", {}, ...cells(line)))));
}

const rows = JSON.parse(await unpacked(document.getElementById("rows")));
const places = new Map(rows.map((row, place) => [row[0], place]));
const chunks = [...document.querySelectorAll("script.details")];
const chunkSize = Number(document.querySelector("main").dataset.chunk);
const opened = new Map();
async function details(run) {
  const place = places.get(run);
  const chunk = Math.floor(place / chunkSize);
  if (!opened.has(chunk)) opened.set(chunk, unpacked(chunks[chunk]).then(JSON.parse));
  return (await opened.get(chunk))[place % chunkSize];
}

function section(about) {
  const part = (heading, ...children) => made("div", {}, made("h3", {}, heading), ...children);
  const audit = about.audit.length ? table(["what", "verdict", "figures"], about.audit)
    : made("p", {}, "No warning, and no sanity battery in the record.");
  const attacks = about.attacks.length
    ? [part("Attacks", table(["attack", "attempted", "broken", "accuracy", "seconds"], about.attacks))] : [];
  const measures = about.measures.map((measure) => part(measure.heading,
    made("div", { class: "wide" }, table(measure.columns, measure.lines))));
  const alt = "Clean images, adversarial examples with what the model sees in them, and the amplified differences";
  const picture = about.picture ? [made("h3", {}, "Pictures"), made("img", { src: about.picture, alt })] : [];
  const curves = about.charts.map((chart) => made("div", { class: "chart", role: "img", "aria-label": chart.text }));
  return made("section", { class: "run", "aria-label": `Details of ${about.run_id}` },
    made("h2", { tabindex: "-1" }, about.run_id),
    made("h3", {}, "Command"), made("pre", { class: "command", tabindex: "0" }, about.command),
    ...(curves.length ? [made("h3", {}, "Curves"), made("div", { class: "charts" }, ...curves)] : []), ...picture,
    made("div", { class: "parts" }, made("div", {}, part("Audit", audit), ...attacks), ...measures,
      part("Hyper-parameters", table([], about.parameters, true)), part("Run", table([], about.facts, true))));
}

async function draw(place, about) {
  const drawn = [...place.querySelectorAll(".chart")];
  if (!drawn.length) return;
  await charts();
  const style = getComputedStyle(document.body);
  for (const [index, chart] of drawn.entries()) {
    if (!chart.isConnected) continue;
    const layout = structuredClone(about.charts[index].layout);
    Object.assign(layout, { paper_bgcolor: "transparent", plot_bgcolor: "transparent", autosize: true });
    layout.font = { color: style.color };
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis/.test(name)) layout[name].gridcolor = style.getPropertyValue("--line");
    }
    await window.Plotly.newPlot(chart, about.charts[index].data, layout, { displayModeBar: false, responsive: true });
  }
}

// One listener for every button that opens something below its row.
async function open(button, run, put) {
  const about = await details(run);
  const shown = section(about);
  put(shown);
  shown.querySelector("h2").focus({ preventScroll: true });
  await draw(shown, about);
}

function below(line, ...children) {
  const cell = made("td", { colspan: String(line.cells.length) }, ...children);
  line.after(made("tr", { class: "below" }, cell));
  return cell;
}

document.querySelector("main").addEventListener("click", (event) => {
  const button = event.target.closest("button.runs, button.run");
  if (!button) return;
  const expand = button.getAttribute("aria-expanded") === "false";
  button.setAttribute("aria-expanded", String(expand));
  if (button.classList.contains("runs")) {
    const line = button.closest("tr");
    if (!expand) return void line.nextElementSibling.remove();
    const items = button.dataset.runs.split(" ").map((run) => made("li", {},
      made("button", { type: "button", class: "run", "aria-expanded": "false" }, run)));
    return void below(line, made("ul", { class: "single" }, ...items));
  }
  if (!expand) return void button.nextElementSibling?.remove();
  open(button, button.textContent, (shown) => button.after(shown));
});

const { jQuery } = await import(await library("table-script"));
const element = document.getElementById("runs");
const names = [...element.querySelectorAll("thead th")].map((heading) => heading.dataset.name);
const chosen = element.dataset.sort;
const cell = (place) => ({
  name: names[place],
  orderSequence: names[place].endsWith("_acc") ? ["desc", "asc"] : ["asc", "desc"],
  // DataTables would write what it displays as HTML: it gets nothing, and createdCell writes the text.
  data: (row, kind) => ({ display: "", sort: row[place][1], type: row[place][1] })[kind] ?? row[place][0],
  createdCell: (td, _, row) => {
    td.textContent = row[place][0];
    if (row[place][2]) td.title = row[place][2];
  },
});
const opener = {
  name: "open", orderable: false, searchable: false, data: () => "",
  createdCell: (td, _, row) => td.replaceChildren(
    made("button", { type: "button", class: "open", "aria-expanded": "false", "aria-label": `Details of ${row[0]}` })),
};
const list = jQuery(element).DataTable({
  data: rows,
  deferRender: true,
  createdRow: (line, row) => { line.dataset.run = row[0]; },
  order: [[names.indexOf(chosen), chosen === "method" ? "asc" : "desc"]],
  columns: names.map((_, place) => place ? cell(place) : opener),
  pageLength: 50,
  lengthMenu: [10, 25, 50, 100, 500],
  autoWidth: false,
  language: { search: "Search in all columns" },
});

for (const select of document.querySelectorAll("#filters select")) {
  select.addEventListener("change", () => {
    const column = list.column(`${select.dataset.column}:name`);
    column.search(select.value, { exact: Boolean(select.value) }).draw();
  });
}
document.getElementById("filters").addEventListener("reset", () => list.search("").columns().search("").draw());

element.addEventListener("click", (event) => {
  const button = event.target.closest("button.open");
  if (!button) return;
  const line = button.closest("tr");
  const row = list.row(line);
  const expand = !row.child.isShown();
  button.setAttribute("aria-expanded", String(expand));
  if (expand) open(button, line.dataset.run, (shown) => row.child(shown).show());
  else row.child.hide();
});
document.documentElement.dataset.ready = String(Math.round(performance.now()));
