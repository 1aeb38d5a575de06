// The start: dark or light, keys, and the parts in their order.

function startTheme() {
  const button = byId("theme");
  const isDark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();
}

function nextColour() {
  const names = colourNames();
  setColour(names[(names.indexOf(document.documentElement.dataset.colour) + 1) % names.length]);
}

const KEYS = {
  j: () => goBy(1),
  k: () => goBy(-1),
  y: () => markCurrent("keep"),
  n: () => markCurrent("reject"),
  u: () => markCurrent(null),
  t: nextColour,
  "/": () => byId("search").focus(),
  "?": () => byId("keys").showModal(),
};

function markCurrent(mark) {
  if (current !== null && placeOf.has(current)) setMark(current, mark);
}

function startKeys() {
  byId("help").addEventListener("click", KEYS["?"]);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || byId("keys").open) return;
    if (event.key === "Escape") showTip(null);
    if (event.target.closest("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (!Object.hasOwn(KEYS, event.key)) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  // What is clicked or has the focus is the pair that the keys act on.
  byId("list").addEventListener("focusin", (event) => {
    const element = event.target.closest(".pair");
    if (!element) return;
    elementOf(current)?.removeAttribute("data-current");
    current = Number(element.dataset.pair);
    element.setAttribute("data-current", "");
  });
}

// Links within the page. In the frame of a notebook the browser would look for them in the notebook.
function startLinks() {
  document.addEventListener("click", (event) => {
    const address = event.target.closest?.("a[href^='#']")?.getAttribute("href");
    if (!address || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    try {
      history.pushState(null, "", address);
    } catch {
      // There is no address to write.
    }
    const part = byId(address.slice(1));
    if (!part) return void readAddress(address);
    part.focus({ preventScroll: true });
    part.scrollIntoView();
  });
}

async function start() {
  startTheme();
  startKeys();
  startColours();
  try {
    await readColumns();
  } catch (error) {
    byId("shown").textContent = `The gallery cannot be shown: ${error.message}.`;
    return;
  }
  startMarks();
  startFilters();
  startRange();
  startCharts();
  followTokens(byId("list"));
  startLinks();
  window.addEventListener("hashchange", () => readAddress());
  await readAddress();
  document.documentElement.dataset.ready = "";
}

start();
