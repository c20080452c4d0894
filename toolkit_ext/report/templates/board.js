
const dark = matchMedia("(prefers-color-scheme: dark)");
const shade = () => document.documentElement.classList.toggle("dark", dark.matches);
dark.addEventListener("change", shade);
shade();

const form = document.getElementById("filters");
const sections = [...document.querySelectorAll("section.ranking")];

// Rows that have every chosen value stay, are counted from 1 by their place in the ranking, and sections without rows go.
function filter() {
  const chosen = [...form.querySelectorAll("select")].filter((select) => select.value);
  let left = 0;
  for (const section of sections) {
    const rows = [...section.querySelectorAll("tbody tr")];
    for (const row of rows) row.hidden = !chosen.every((select) => row.dataset[select.name] === select.value);
    const shown = rows.filter((row) => !row.hidden).sort((a, b) => a.dataset.place - b.dataset.place);
    shown.forEach((row, place) => { row.querySelector(".rank").textContent = String(place + 1); });
    section.hidden = !shown.length;
    left += shown.length;
  }
  document.getElementById("nothing").hidden = left > 0;
  document.getElementById("count").textContent = `${left} ${left === 1 ? "setting" : "settings"}`;
}

// Numbers begin with the largest, texts with the first letter; cells without a value stay last either way.
function sort(heading) {
  const table = heading.closest("table");
  const column = heading.cellIndex;
  const text = !heading.classList.contains("number");
  const falling = heading.ariaSort ? heading.ariaSort !== "descending" : !text;
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  heading.ariaSort = falling ? "descending" : "ascending";
  const order = (row) => row.cells[column].dataset.order;
  const compare = (a, b) => (text ? a.localeCompare(b) : a - b) * (falling ? -1 : 1);
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const known = rows.filter((row) => order(row) !== undefined).sort((a, b) => compare(order(a), order(b)));
  body.append(...known, ...rows.filter((row) => order(row) === undefined));
}

for (const section of sections) {
  section.querySelectorAll("tbody tr").forEach((row, place) => { row.dataset.place = String(place); });
  for (const button of section.querySelectorAll("button.sort")) {
    button.addEventListener("click", () => sort(button.closest("th")));
  }
}
form.addEventListener("change", filter);
form.addEventListener("reset", (event) => {
  event.preventDefault(); // the form would be reset after this
  for (const select of form.querySelectorAll("select")) select.value = "";
  filter();
});
form.hidden = false;
filter();
