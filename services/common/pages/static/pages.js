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
  text.textContent = ticked ? `Change ${ticked} ticked` : "Change the ticked ones";
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
