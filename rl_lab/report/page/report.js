"use strict";
// Tables are sorted by their headers: a click or the Enter key, once up and once down. Without a script they stay as they are.

function compare(one, other) {
  const numbers = [one, other].map((text) => parseFloat(text.replaceAll(",", "")));
  if (numbers.every(Number.isFinite) && numbers[0] !== numbers[1]) return numbers[0] - numbers[1];
  return one.localeCompare(other, "en", { numeric: true });
}

function sort(table, header) {
  const column = header.cellIndex;
  const falls = header.getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => [row.cells[column].textContent.trim(), row]);
  const known = rows.filter(([text]) => text !== "-").sort(([one], [other]) => compare(one, other));
  if (falls) known.reverse();
  body.append(...known.map(([, row]) => row), ...rows.filter(([text]) => text === "-").map(([, row]) => row));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", falls ? "descending" : "ascending");
}

for (const table of document.querySelectorAll("table.sortable")) {
  if (table.tBodies[0].rows.length < 2) continue;
  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    button.addEventListener("click", () => sort(table, header));
    header.replaceChildren(button);
  }
}
