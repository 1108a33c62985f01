// What pages can do beyond links and forms. Nothing of it is needed.
"use strict";

// "/" goes to the search box, Escape leaves it.
document.addEventListener("keydown", (event) => {
  const search = document.querySelector("[data-search]");
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "/" && search && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search.focus();
    search.select();
  } else if (event.key === "Escape" && typing === search) {
    search.blur();
  }
});

// What is typed is looked for while it is typed. Leaving the box is no news: it must not ask again, and overtake a click.
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-search]")) event.stopPropagation();
}, true);

// Ticks: all of a page, a range with shift, and how many there are.
let last = null;

function boxes() {
  return [...document.querySelectorAll("td.tick input")];
}

function count() {
  const button = document.querySelector("[data-picked]");
  if (!button) return;
  const all = boxes();
  const ticked = all.filter((box) => box.checked).length;
  const text = button.querySelector("[data-picked-text]");
  const verb = button.dataset.picked || "Change";
  text.textContent = ticked ? `${verb} ${ticked} ticked` : `${verb} the ticked ones`;
  button.disabled = ticked === 0;
  const every = document.querySelector("[data-tick-all]");
  every.checked = ticked > 0 && ticked === all.length;
  every.indeterminate = ticked > 0 && ticked < all.length;
}

document.addEventListener("click", (event) => {
  const box = event.target.closest("td.tick input");
  if (box) {
    const all = boxes();
    if (event.shiftKey && all.includes(last)) {
      const [begin, end] = [all.indexOf(last), all.indexOf(box)].sort((one, other) => one - other);
      for (const between of all.slice(begin, end + 1)) between.checked = box.checked;
    }
    last = box;
    count();
  } else if (event.target.matches("[data-tick-all]")) {
    for (const each of boxes()) each.checked = event.target.checked;
    count();
  }
});

document.addEventListener("DOMContentLoaded", count);
document.addEventListener("htmx:afterSettle", count);
window.addEventListener("pageshow", count);

// The address of the list, without the filters that are not set.
document.addEventListener("htmx:afterRequest", (event) => {
  const form = event.target.closest("form.filter");
  if (!form || !event.detail.successful) return;
  const values = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value) values.set(name, value);
  const query = values.toString();
  history.replaceState(history.state, "", query ? `${form.action}?${query}` : form.action);
});

// A part that was taken into the page may want the focus: else the keyboard would start at the top again.
document.addEventListener("htmx:load", (event) => {
  const wanting = event.target.matches("#main") ? event.target : event.target.querySelector("[data-focus]");
  if (wanting) wanting.focus({ preventScroll: true });
});

// A grid of seats is one stop of the keyboard: arrows move in it, and what has the focus is told beside it.
let cellId = "";

function cellsOf(grid) {
  return [...grid.querySelectorAll("a.mark")];
}

function stops(root) {
  for (const grid of root.querySelectorAll("[data-grid]")) {
    const cells = cellsOf(grid);
    const current = cells.find((cell) => cell === document.activeElement || cell.id === cellId) || cells[0];
    for (const cell of cells) cell.tabIndex = cell === current ? 0 : -1;
  }
}

function beside(cell, key) {
  const rows = [...cell.closest("[data-grid]").querySelectorAll(".cells")].map((row) => [...row.children]);
  const row = rows.findIndex((cells) => cells.includes(cell));
  const place = rows[row].indexOf(cell);
  if (key === "ArrowRight") return rows[row][place + 1] || rows[row + 1]?.[0];
  if (key === "ArrowLeft") return rows[row][place - 1] || rows[row - 1]?.at(-1);
  if (key === "ArrowDown") return rows[row + 1]?.[Math.min(place, rows[row + 1].length - 1)];
  if (key === "ArrowUp") return rows[row - 1]?.[Math.min(place, rows[row - 1].length - 1)];
  if (key === "Home") return rows[row][0];
  if (key === "End") return rows[row].at(-1);
  return null;
}

function tell(event) {
  const cell = event.target.closest?.("[data-grid] a.mark");
  const readout = cell?.closest("section").querySelector("[data-readout]");
  if (readout) readout.textContent = cell.title;
}

document.addEventListener("keydown", (event) => {
  const cell = event.target.closest?.("[data-grid] a.mark");
  const next = cell && !event.ctrlKey && !event.metaKey && !event.altKey ? beside(cell, event.key) : null;
  if (!next) return;
  event.preventDefault();
  cell.tabIndex = -1;
  next.tabIndex = 0;
  cellId = next.id;
  next.focus();
});
document.addEventListener("focusin", tell);
document.addEventListener("mouseover", tell);
document.addEventListener("DOMContentLoaded", () => stops(document));
document.addEventListener("htmx:load", () => stops(document));

// What somebody has opened or closed stays so when the part around it is exchanged.
const folded = new Map();

document.addEventListener("click", (event) => {
  const details = event.target.closest?.("summary")?.parentElement;
  if (details?.id) folded.set(details.id, !details.open);
});
document.addEventListener("htmx:load", () => {
  for (const [id, open] of folded) {
    const details = document.getElementById(id);
    if (details) details.open = open;
  }
});

// What moves by itself must not look alive when nobody answers any more.
let heard = new Date();

function stale(old) {
  document.body.classList.toggle("is-old", old);
  for (const note of document.querySelectorAll("[data-stale]")) {
    note.hidden = !old;
    note.querySelector("[data-heard]").textContent = heard.toLocaleTimeString();
  }
}

for (const name of ["htmx:sendError", "htmx:timeout", "htmx:responseError"]) {
  document.addEventListener(name, (event) => {
    if (event.target.closest?.("[data-live]") || !event.target.isConnected) stale(true);
  });
}
document.addEventListener("htmx:beforeSwap", (event) => {
  // Of a service that is down, nginx has no page to show: what was there stays, marked as old.
  if (event.target.closest?.("[data-live]") && event.detail.xhr.status >= 500) event.detail.shouldSwap = false;
});
document.addEventListener("htmx:beforeOnLoad", (event) => {
  if (event.detail.xhr.status < 400 && event.target.closest?.("[data-live]")) {
    heard = new Date();
    stale(false);
  }
});

// What a stream tells (Server-Sent Events): elements that take the place of those with their ids.
const SILENCE = 25_000;

function takeParts(text) {
  const box = document.createElement("template");
  box.innerHTML = text;
  for (const child of [...box.content.children].flatMap((each) => (each.id ? [each] : [...each.children]))) {
    const old = document.getElementById(child.id);
    if (!old || old.outerHTML === child.outerHTML) continue;
    const focused = old.contains(document.activeElement) && old.querySelector("a");
    old.replaceWith(child);
    if (focused) child.querySelector("a")?.focus({ preventScroll: true });
  }
}

document.addEventListener("DOMContentLoaded", () => {
  const live = document.querySelector("[data-events]");
  if (!live) return;
  let silence;
  const alive = () => {
    heard = new Date();
    stale(false);
    clearTimeout(silence);
    silence = setTimeout(() => stale(true), SILENCE);
  };
  alive(); // the page itself was just heard; events may never begin
  const source = new EventSource(live.dataset.events);
  source.addEventListener("parts", (event) => {
    takeParts(event.data);
    alive();
  });
  source.addEventListener("beat", alive);
  source.addEventListener("again", () => location.reload());
  source.addEventListener("error", () => {
    clearTimeout(silence);
    silence = setTimeout(() => stale(true), source.readyState === EventSource.CLOSED ? 0 : 6_000);
  });
});
