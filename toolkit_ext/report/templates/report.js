
// The libraries are kept gzipped; Plotly is unpacked only when the first chart is wanted.
async function unpacked(id) {
  const text = document.getElementById(id).textContent.trim();
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return URL.createObjectURL(new Blob([await new Response(stream).text()], { type: "text/javascript" }));
}

let plotly;
function charts() {
  plotly ??= unpacked("chart-script").then((url) => new Promise((done, failed) => {
    const script = Object.assign(document.createElement("script"), { src: url, onload: done, onerror: failed });
    document.head.append(script);
  }));
  return plotly;
}

async function draw(section) {
  const places = [...section.querySelectorAll(".chart")];
  if (!places.length) return;
  await charts();
  for (const place of places) {
    if (!place.isConnected) continue;
    const chart = JSON.parse(place.querySelector("script").textContent);
    await window.Plotly.newPlot(place, chart.data, chart.layout, { displayModeBar: false, responsive: true });
  }
}

const { jQuery } = await import(await unpacked("table-script"));
const element = document.getElementById("runs");
const headings = [...element.querySelectorAll("thead th")];
const names = headings.map((heading) => heading.dataset.name);
const chosen = element.dataset.sort;
const table = jQuery(element).DataTable({
  order: [[names.indexOf(chosen), chosen === "method" ? "asc" : "desc"]],
  columns: names.map((name) => ({ name, orderSequence: name.endsWith("_acc") ? ["desc", "asc"] : ["asc", "desc"] })),
  pageLength: 50,
  lengthMenu: [10, 25, 50, 100, { label: "all", value: -1 }],
  autoWidth: false,
  language: { search: "Search in all columns" },
});

for (const select of document.querySelectorAll("#filters select")) {
  select.addEventListener("change", () => {
    const column = table.column(`${select.dataset.column}:name`);
    column.search(select.value, { exact: Boolean(select.value) }).draw();
  });
}
document.getElementById("filters").addEventListener("reset", () => table.search("").columns().search("").draw());

element.addEventListener("click", (event) => {
  const button = event.target.closest("button.open");
  if (!button) return;
  const line = button.closest("tr");
  const row = table.row(line);
  const open = !row.child.isShown();
  button.setAttribute("aria-expanded", String(open));
  if (!open) return void row.child.hide();
  const kept = document.querySelector(`template[data-run="${CSS.escape(line.dataset.run)}"]`);
  row.child(kept.content.cloneNode(true).firstElementChild).show();
  const section = line.nextElementSibling.querySelector("section");
  section.querySelector("h2").focus();
  draw(section);
});
document.documentElement.dataset.ready = String(Math.round(performance.now()));
