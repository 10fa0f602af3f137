// Tabs over panels that are all on the page: one is shown, arrow keys move between them.

function setUp(root) {
  const list = root.querySelector("[role=tablist]");
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const choose = (chosen) => {
    for (const tab of tabs) {
      const is = tab === chosen;
      tab.setAttribute("aria-selected", String(is));
      tab.tabIndex = is ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !is;
    }
  };
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const other = tabs[(place + step + tabs.length) % tabs.length];
      choose(other);
      other.focus();
    });
  });
  list.hidden = false;
  choose(tabs[0]);
}

export function setUpTabs(within) {
  for (const root of within.querySelectorAll("[data-tabs]")) setUp(root);
}
