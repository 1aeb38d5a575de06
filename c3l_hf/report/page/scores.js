// The range of a score: two numbers, a histogram to draw it on, and the overview's bars.

const BINS = 48;
let bins = null; // {low, width, counts} of the score that is chosen

function startRange() {
  byId("range").hidden = !head.scores.length;
  byId("score").replaceChildren(...head.scores.map((name) => el("option", { value: name }, name)));
  byId("score").addEventListener("change", () => change({ score: byId("score").value, from: null, below: null }));
  for (const name of ["from", "below"]) {
    byId(name).addEventListener("change", () => change({ [name]: byId(name).value === "" ? null : byId(name).valueAsNumber }));
  }
  const histogram = byId("histogram");
  let start = null;
  const scoreAt = (event) => {
    const box = histogram.getBoundingClientRect();
    return bins.low + bins.width * BINS * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };
  const draw = (event) => {
    const [low, high] = [start, scoreAt(event)].sort((a, b) => a - b);
    const tiny = high - low < bins.width / 2; // a click: no range
    // The outermost bars have all below and above.
    return { from: tiny || low <= bins.low ? null : short(low), below: tiny || high >= bins.low + bins.width * BINS ? null : short(high) };
  };
  histogram.addEventListener("pointerdown", (event) => {
    if (!bins) return;
    start = scoreAt(event);
    histogram.setPointerCapture(event.pointerId);
  });
  histogram.addEventListener("pointermove", (event) => {
    if (start !== null) colourBars(draw(event));
  });
  histogram.addEventListener("pointerup", (event) => {
    if (start === null) return;
    const range = draw(event);
    start = null;
    change(range);
  });
  histogram.addEventListener("pointercancel", () => {
    start = null;
    colourBars(state);
  });
}

// As many digits as tell bars apart.
const short = (value) => Number(value.toFixed(Math.max(0, Math.min(20, 1 - Math.floor(Math.log10(bins.width))))));

function fillRange() {
  byId("score").value = state.score;
  for (const name of ["from", "below"]) if (byId(name).valueAsNumber !== state[name]) byId(name).value = state[name] ?? "";
}

// Of the pairs of the chosen stage; without the outermost half percent, which would make all others one bar.
function drawHistogram() {
  if (!head.scores.length) return;
  const column = scoresNamed(state.score), stages = facetNames.indexOf("stage");
  const stage = head.facets[stages][1].indexOf(state.stage);
  const values = column.filter((value, pair) => value !== null && (stage < 0 || columns.facets[stages][pair] === stage));
  const histogram = byId("histogram");
  bins = null;
  histogram.replaceChildren();
  if (!values.length) return;
  const inOrder = Float64Array.from(values).sort();
  const at = (share) => inOrder[Math.round(share * (inOrder.length - 1))];
  const low = at(0.005), width = (at(0.995) - low) / BINS || 1;
  const counts = new Array(BINS).fill(0);
  for (const value of values) counts[Math.max(0, Math.min(BINS - 1, Math.floor((value - low) / width)))]++;
  bins = { low, width, counts };
  const most = Math.max(...counts);
  counts.forEach((count, bin) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const height = count ? Math.max(1, (46 * count) / most) : 0;
    for (const [name, value] of Object.entries({ x: bin * 5 + 0.5, y: 48 - height, width: 4, height })) bar.setAttribute(name, value);
    histogram.append(bar);
  });
  colourBars(state);
}

function colourBars({ from, below }) {
  [...byId("histogram").children].forEach((bar, bin) => {
    const middle = bins.low + (bin + 0.5) * bins.width;
    bar.setAttribute("class", (from === null || middle >= from) && (below === null || middle < below) ? "in" : "");
  });
}

// Bars of the overview's charts as buttons.
function startCharts() {
  for (const [id, { score, stage, edges }] of Object.entries(head.charts)) {
    for (let bar = 0; bar < edges.length - 1; bar++) {
      const element = byId(`${id}-bar-${bar}`);
      // A bar without pairs has no height: nobody sees where to click.
      if (!element?.getBBox().height || !head.scores.includes(score)) continue;
      const range = { from: bar ? edges[bar] : null, below: bar < edges.length - 2 ? edges[bar + 1] : null };
      const label = [score, range.from === null ? "" : `from ${shownNumber(range.from)}`, range.below === null ? "" : `below ${shownNumber(range.below)}`];
      element.setAttribute("role", "button");
      element.setAttribute("tabindex", "0");
      element.setAttribute("aria-label", `Show the pairs with ${label.filter(Boolean).join(" ")}${stage ? `, ${stage}` : ""}`);
      const choose = () => {
        change({ ...plainState(), score, ...range, stage: stage ?? "" });
        byId("gallery").focus({ preventScroll: true });
        byId("gallery").scrollIntoView();
      };
      element.addEventListener("click", choose);
      element.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        choose();
      });
    }
  }
}
