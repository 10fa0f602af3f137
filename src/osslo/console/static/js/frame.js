// What every page does: the theme, the folded navigation, copy buttons, dialogs, confirmations.

import { copyText } from "./copy.js";
import { setUpTabs } from "./tabs.js";

const root = document.documentElement;

function isDark() {
  const chosen = root.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function switchTheme() {
  root.dataset.theme = isDark() ? "light" : "dark";
  try {
    localStorage.setItem("osslo-theme", root.dataset.theme);
  } catch {
    // Not kept; it still holds for this page.
  }
}

function setMenu(open) {
  const frame = document.getElementById("frame");
  const button = document.getElementById("menu-open");
  if (!frame || !button) return;
  frame.dataset.menu = open ? "open" : "closed";
  button.setAttribute("aria-expanded", String(open));
  if (open) frame.querySelector(".sidebar a")?.focus();
  else if (document.activeElement?.closest(".sidebar")) button.focus();
}

document.addEventListener("click", (event) => {
  const target = event.target instanceof Element ? event.target : null;
  if (!target) return;
  if (target.closest(".theme-toggle")) switchTheme();
  if (target.closest("#menu-open")) setMenu(true);
  if (target.closest("#menu-scrim")) setMenu(false);

  const copy = target.closest("[data-copy]");
  if (copy) copyText(copy, document.getElementById(copy.dataset.copy)?.textContent ?? "");

  const opener = target.closest("[data-dialog]");
  if (opener) document.getElementById(opener.dataset.dialog)?.showModal();
  if (target.closest("[data-close]")) target.closest("dialog")?.close();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") setMenu(false);
});

setUpTabs(document);
// What does not fit is the past: a chart begins with its newest days in sight.
for (const scroll of document.querySelectorAll(".chart-scroll")) scroll.scrollLeft = scroll.scrollWidth;

document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});
