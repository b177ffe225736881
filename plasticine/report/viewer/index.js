"use strict";

/** What a cell is sorted by: its number, or its text. */
function keyOf(row, column) {
  const cell = row.cells[column];
  const { number } = cell.dataset;
  if (!number) return cell.textContent.trim();
  return number === "nan" ? NaN : Number(number.replace("inf", "Infinity"));
}

/** Numbers before NaN before text; what is missing comes last either way. */
function compared(a, b, direction) {
  const rank = (key) => (key === "–" || key === "" ? 3 : typeof key === "string" ? 2 : Number.isNaN(key) ? 1 : 0);
  if (rank(a) !== rank(b)) return rank(a) - rank(b);
  if (rank(a) === 0) return direction * (a - b);
  if (rank(a) === 2) return direction * a.localeCompare(b, undefined, { numeric: true });
  return 0;
}

const table = document.getElementById("cases");
for (const head of table.querySelectorAll("thead th[aria-sort]")) {
  head.querySelector("button").addEventListener("click", () => {
    const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.querySelectorAll("thead th[aria-sort]")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => compared(keyOf(a, head.cellIndex), keyOf(b, head.cellIndex), direction));
    table.tBodies[0].append(...rows);
  });
}
