// The list: only cards near the view are in the page; the others are blocks as high as their cards were, or may be.

const NEAR = 1500; // pixels above and below the view
const MOST_BLOCKS = 3000;
const MOST_OF_CARD = 60; // pairs of a picture that stand in one card
let order = []; // the pairs that are shown, in order
let groups = []; // {picture, pairs}: neighbours in the order that are about the same picture
let blocks = []; // {element, from, to, shown, drawing}: of groups
let printing = false;
let current = null; // the pair that the keys act on
const placeOf = new Map(); // pair → [place in the order, number of its group]

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const block = blocks[target.block];
    if (block?.element !== target) continue; // of an earlier list
    if (isIntersecting) draw(block);
    else if (!printing) clear(block); // what is told late would take away what is to be printed
  }
}, { root: document, rootMargin: `${NEAR}px 0px` }); // without a root the margin is nothing in a notebook's frame

function setOrder(pairs) {
  order = pairs;
  groups = [];
  placeOf.clear();
  const stages = columns.facets[facetNames.indexOf("stage")];
  let last = null;
  pairs.forEach((pair, place) => {
    const joins = last && last.pairs.length < MOST_OF_CARD && columns.picture[last.pairs[0]] === columns.picture[pair] && stages[last.pairs[0]] === stages[pair];
    if (joins) last.pairs.push(pair);
    else groups.push((last = { picture: columns.picture[pair], pairs: [pair] }));
    placeOf.set(pair, [place, groups.length - 1]);
  });
  const size = Math.max(4, Math.ceil(groups.length / MOST_BLOCKS));
  watcher.disconnect();
  blocks = [];
  for (let from = 0; from < groups.length; from += size) {
    const block = { element: el("div", { class: "block" }), from, to: Math.min(from + size, groups.length), shown: false };
    block.element.block = blocks.length;
    block.element.style.height = `${likelyHeight(block)}px`;
    blocks.push(block);
  }
  showTip(null);
  byId("list").replaceChildren(...blocks.map((block) => block.element));
  for (const block of blocks) watcher.observe(block.element);
  byId("nothing").hidden = pairs.length > 0;
}

function likelyHeight({ from, to }) {
  const across = byId("list").clientWidth > 900 ? 2 : 1;
  return groups.slice(from, to).reduce((sum, { pairs }) => sum + 50 + Math.max(190, Math.ceil(pairs.length / across) * 170), 0);
}

function draw(block) {
  block.shown = true;
  block.drawing ??= drawn(block).finally(() => { block.drawing = null; });
  return block.drawing;
}

async function drawn(block) {
  let cards;
  try {
    cards = await Promise.all(groups.slice(block.from, block.to).map(cardElement));
  } catch (error) {
    cards = [el("p", { class: "notes" }, `Not shown: ${error.message}.`)];
  }
  if (!block.shown || !block.element.isConnected) return;
  block.element.replaceChildren(...cards);
  block.element.style.height = "";
  highlight();
}

function clear(block) {
  if (block.shown && block.element.firstChild) {
    block.element.style.height = `${block.element.getBoundingClientRect().height}px`;
    block.element.replaceChildren();
  }
  block.shown = false;
}

function elementOf(pair) {
  return byId("list").querySelector(`.pair[data-pair="${pair}"]`);
}

// Go to a pair that is in the list.
async function goTo(pair, focused = true) {
  const block = blocks.find(({ to }) => placeOf.get(pair)[1] < to);
  await draw(block);
  elementOf(current)?.removeAttribute("data-current");
  current = pair;
  const element = elementOf(pair);
  if (!element) return;
  element.setAttribute("data-current", "");
  if (focused) element.focus({ preventScroll: true });
  // Twice: what is drawn above it on the way may be higher than was thought.
  for (let times = 0; times < 2; times++) {
    const box = element.getBoundingClientRect();
    if (box.top < 8 || box.bottom > window.innerHeight) {
      element.scrollIntoView({ block: box.height > window.innerHeight * 0.8 ? "start" : "center", behavior: "instant" });
    }
    await new Promise((done) => setTimeout(done, 60));
    if (!element.isConnected) return;
  }
}

function goBy(by) {
  if (!order.length) return;
  const place = placeOf.get(current)?.[0];
  const next = place === undefined ? firstInView() : order[Math.max(0, Math.min(order.length - 1, place + by))];
  goTo(next);
}

function firstInView() {
  const inView = [...byId("list").querySelectorAll(".pair")].find((element) => element.getBoundingClientRect().top >= 0);
  return inView ? Number(inView.dataset.pair) : order[0];
}

// What is searched for, where it stands in the texts that are in the page.
function highlight() {
  if (!window.CSS?.highlights) return;
  CSS.highlights.delete("found");
  const sought = state.q.toLowerCase();
  if (!sought) return;
  const ranges = [];
  for (const text of byId("list").querySelectorAll(".question, .answer")) {
    const nodes = [];
    const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
    let all = "";
    while (walker.nextNode()) {
      nodes.push([walker.currentNode, all.length]);
      all += walker.currentNode.data;
    }
    const lower = all.toLowerCase();
    if (lower.length !== all.length) continue; // a letter that is longer in lower case: places would be wrong
    for (let at = lower.indexOf(sought); at >= 0 && ranges.length < 500; at = lower.indexOf(sought, at + sought.length)) {
      const nodeAt = (place) => nodes.findLast(([, start]) => start <= place);
      const [first, last] = [nodeAt(at), nodeAt(at + sought.length - 1)];
      const range = new Range();
      range.setStart(first[0], at - first[1]);
      range.setEnd(last[0], at + sought.length - last[1]);
      ranges.push(range);
    }
  }
  if (ranges.length) CSS.highlights.set("found", new Highlight(...ranges));
}

// Print what is filtered, not what is near the view.
const MOST_PRINTED = 300;
window.addEventListener("beforeprint", () => {
  printing = true;
  const last = order[Math.min(MOST_PRINTED, order.length) - 1];
  for (const block of blocks) if (block.from <= placeOf.get(last)[1]) draw(block);
  const more = order.length > MOST_PRINTED;
  byId("printed").textContent = more ? `Printed are the first ${MOST_PRINTED} of ${counted(order.length, "pair")}.` : "";
});
window.addEventListener("afterprint", () => {
  printing = false;
  watcher.disconnect(); // once more told which are near the view
  for (const block of blocks) watcher.observe(block.element);
});
