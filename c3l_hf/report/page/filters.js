// Which pairs are shown and in which order: one state, which the controls, the address and the list all have.

const plainState = () => ({
  q: "", ...Object.fromEntries(facetNames.map((name) => [name, ""])), mark: "",
  score: head.ranking ?? head.scores[0] ?? "", from: null, below: null, sort: "data", image: null,
});
let state = plainState();

const FACET_TITLES = { stage: "Stage", type: "Type", language: "Language", template: "Template", status: "Status", role: "Role", kept: "Dataset", truth: "Truth", mark: "Mark" };
const MARKS = { keep: "keep", reject: "reject", none: "none" };

// Change some of the state, and show what that gives.
function change(changes, { address = true } = {}) {
  state = { ...state, ...changes };
  fillControls();
  if (address) writeAddress();
  return update();
}

function changed(name) {
  return state[name] !== plainState()[name];
}

const READ_TOGETHER = 12; // files of a search
let search = 0; // number of the latest update, so that an earlier one that still reads files stops

async function update() {
  const mine = ++search;
  const sought = state.q.normalize("NFC").toLowerCase();
  show(filtered(sought));
  if (!sought || haystacks.size === pieceCount()) return;
  for (let first = 0; first < pieceCount(); first += READ_TOGETHER) {
    const numbers = Array.from({ length: Math.min(READ_TOGETHER, pieceCount() - first) }, (_, n) => first + n);
    try {
      await Promise.all(numbers.filter((number) => !haystacks.has(number)).map(readHaystack));
    } catch (error) {
      byId("shown").textContent = `The search ended: ${error.message}.`;
      return;
    }
    if (mine !== search) return;
    tellShown(order.length); // how far it is
    // In a large report, what was found so far is shown now and then.
    if (head.beside && first % (8 * READ_TOGETHER) === 0) show(filtered(sought), { onward: true });
  }
  show(filtered(sought), { onward: true });
}

// Texts of all pairs in lower case, piece by piece: read at the first search, and kept.
const haystacks = new Map();
const pieceCount = () => Math.ceil(head.count / head.pairs_of_piece);

async function readHaystack(number) {
  const texts = await piece(`texts-${number}`);
  haystacks.set(number, texts.map(([, , turns]) => turns.map(([q, a]) => `${q}\n${a}`).join("\n").normalize("NFC").toLowerCase()));
}

function filtered(sought) {
  const facets = facetNames.flatMap((name, number) => {
    const value = head.facets[number][1].indexOf(state[name]);
    return state[name] === "" ? [] : [[columns.facets[number], value]];
  });
  const scores = state.from === null && state.below === null ? null : scoresNamed(state.score);
  const pairs = [];
  for (let pair = 0; pair < head.count; pair++) {
    if (!facets.every(([column, value]) => column[pair] === value)) continue;
    if (state.image !== null && columns.picture[pair] !== state.image) continue;
    if (scores && !inRange(scores[pair])) continue;
    if (state.mark && (markOf(pair) ?? "none") !== state.mark) continue;
    if (sought) {
      const haystack = haystacks.get(Math.floor(pair / head.pairs_of_piece));
      if (!haystack?.[pair % head.pairs_of_piece].includes(sought)) continue;
    }
    pairs.push(pair);
  }
  return sorted(pairs);
}

function inRange(score) {
  return score !== null && (state.from === null || score >= state.from) && (state.below === null || score < state.below);
}

// What each order sorts by, the smallest first; pairs without it come last.
function sortedBy() {
  const [direction, name] = [state.sort.slice(0, 1), state.sort.slice(1)];
  // What was no candidate of the dataset has no distance from its threshold.
  if (state.sort === "near") return (pair) => (facet("kept", pair) === undefined ? null : distance(scoresNamed(head.threshold_score)[pair]));
  if (state.sort === "longest") return (pair) => -columns.length[pair];
  if (state.sort === "shortest") return (pair) => columns.length[pair];
  const values = scoresNamed(name);
  return direction === "+" ? (pair) => values[pair] : (pair) => (values[pair] === null ? null : -values[pair]);
}

function distance(score) {
  return score === null ? null : Math.abs(score - head.threshold);
}

function sorted(pairs) {
  if (state.sort === "data") return pairs;
  const by = sortedBy();
  const values = new Map(pairs.map((pair) => [pair, by(pair) ?? Infinity]));
  return pairs.sort((a, b) => values.get(a) - values.get(b) || a - b || 0);
}

function tellShown(number) {
  const share = Math.floor((100 * haystacks.size) / pieceCount());
  const part = state.q && share < 100 ? `, ${share} % of the texts searched` : "";
  const found = number === head.count ? "" : `${number.toLocaleString("en")} of `;
  byId("shown").textContent = `${found}${counted(head.count, "pair")}${part}`;
}

// `onward`: more of what is looked at already, so that nobody is thrown back to its beginning.
function show(pairs, { onward = false } = {}) {
  tellShown(pairs.length);
  if (!onward && byId("list").getBoundingClientRect().top < 0) byId("gallery").scrollIntoView({ behavior: "instant" });
  setOrder(pairs);
  drawHistogram();
}

// The controls.
function startFilters() {
  const totals = head.facets.map(([, values], number) => {
    const counts = values.map(() => 0);
    for (const value of columns.facets[number]) if (value >= 0) counts[value]++;
    return counts;
  });
  const fields = head.facets.flatMap(([name, values], number) =>
    values.length < (name === "status" || name === "stage" || name === "type" ? 1 : 2) && !["role", "kept", "truth"].includes(name) || !values.length ? [] : [
      selectField(name, values.map((value, at) => [value, `${visible(value).slice(0, 60)} (${totals[number][at].toLocaleString("en")})`])),
    ]);
  byId("facets").replaceChildren(...fields, selectField("mark", Object.entries(MARKS)));
  byId("search").addEventListener("input", debounced(() => change({ q: byId("search").value })));
  byId("sort").replaceChildren(...sortChoices().map(([value, label]) => el("option", { value }, label)));
  byId("sort").addEventListener("change", () => change({ sort: byId("sort").value }));
  byId("reset").addEventListener("click", () => change(plainState()));
  if (matchMedia("(max-width: 1000px)").matches) byId("filters").open = false;
  byId("presets").replaceChildren(...presets().map(([name, changes]) =>
    el("button", { type: "button", onclick: () => change({ ...plainState(), ...changes }) }, name)));
}

function selectField(name, options) {
  return el("label", { "data-facet": name }, FACET_TITLES[name],
    el("select", { onchange: (event) => change({ [name]: event.target.value }) },
      el("option", { value: "" }, "all"), ...options.map(([value, label]) => el("option", { value }, label))));
}

function sortChoices() {
  return [
    ["data", "as in the data"],
    ...(head.threshold_score === null || head.threshold === null ? [] : [["near", "near the threshold first"]]),
    ...head.scores.flatMap((name) => [[`-${name}`, `${name}, highest first`], [`+${name}`, `${name}, lowest first`]]),
    ["longest", "longest answer first"], ["shortest", "shortest answer first"],
  ];
}

function presets() {
  const found = [["All", {}]];
  if (head.ranking) found.push(["Most negative", { sort: `+${head.ranking}` }], ["Highest", { sort: `-${head.ranking}` }]);
  if (head.threshold !== null && head.threshold_score !== null) found.push(["Near the threshold", { sort: "near", score: head.threshold_score }]);
  return found;
}

function fillControls() {
  if (byId("search").value !== state.q) byId("search").value = state.q;
  for (const field of byId("facets").children) {
    field.querySelector("select").value = state[field.dataset.facet];
    field.toggleAttribute("data-chosen", state[field.dataset.facet] !== "");
  }
  byId("sort").value = state.sort;
  byId("reset").hidden = !Object.keys(state).some(changed);
  presets().forEach(([, changes], at) => {
    const wanted = { ...plainState(), ...changes };
    byId("presets").children[at].setAttribute("aria-pressed", String(Object.keys(state).every((name) => state[name] === wanted[name])));
  });
  fillRange();
  byId("chips").replaceChildren(...chips());
}

// What is filtered, as buttons that take it off again.
function chips() {
  const off = (label, changes) => el("button", { type: "button", onclick: () => change(changes), "aria-label": `${label}: take off` }, label);
  const found = [...facetNames, "mark"].filter((name) => state[name] !== "").map((name) => off(`${FACET_TITLES[name]}: ${visible(state[name])}`, { [name]: "" }));
  if (state.from !== null || state.below !== null) {
    const range = [state.from === null ? "" : `from ${shownNumber(state.from)}`, state.below === null ? "" : `below ${shownNumber(state.below)}`];
    found.push(off(`${state.score} ${range.join(" ").trim()}`, { from: null, below: null }));
  }
  if (state.image !== null) found.push(off("one picture", { image: null }));
  if (state.q) found.push(off(`“${state.q}”`, { q: "" }));
  return found;
}

function debounced(call) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(call, 120);
  };
}

// The address: what differs from the plain state, or one pair.
function writeAddress() {
  const parts = Object.entries(state).filter(([name]) => changed(name) && !(name === "score" && state.from === null && state.below === null));
  const text = new URLSearchParams(parts.map(([name, value]) => [name, value ?? ""])).toString();
  try {
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  } catch {
    // In a notebook's frame there is no address to write.
  }
}

async function readAddress(address = location.hash) {
  const found = new URLSearchParams(address.slice(1));
  if (address && ![...found.keys()].some((name) => name === "pair" || Object.hasOwn(state, name))) return update();
  const read = plainState();
  for (const [name, value] of found) {
    if (["from", "below", "image"].includes(name)) read[name] = value === "" || !Number.isFinite(Number(value)) ? null : Number(value);
    else if (Object.hasOwn(read, name)) read[name] = value;
  }
  for (const name of facetNames) if (read[name] !== "" && !head.facets[facetNames.indexOf(name)][1].includes(read[name])) read[name] = "";
  if (!Object.hasOwn(MARKS, read.mark)) read.mark = "";
  if (!head.scores.includes(read.score)) Object.assign(read, { score: plainState().score, from: null, below: null });
  if (!sortChoices().some(([value]) => value === read.sort)) read.sort = "data";
  const pair = pairOfKey.get(found.get("pair"));
  if (found.has("pair") && [...found.keys()].length === 1 && placeOf.has(pair)) return goTo(pair); // stay in this view
  await change(read, { address: false });
  if (!found.has("pair")) return found.size ? byId("gallery").scrollIntoView({ behavior: "instant" }) : null;
  if (pair === undefined) return tell(`No pair of this report has the key ${visible(found.get("pair"))}.`);
  if (!placeOf.has(pair)) await change(plainState(), { address: false });
  return goTo(pair);
}
