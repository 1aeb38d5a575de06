// Marks: what a person says of pairs. They stay in the browser, under the report's id, and leave it as a file.

const MARKS_FORM = 1;
const storageName = `c3l-marks:${head.id}`;
const marks = new Map(); // key → "keep" or "reject"

function markOf(pair) {
  return marks.get(columns.key[pair]);
}

function readMarks() {
  let stored = null;
  marks.clear();
  try {
    stored = JSON.parse(localStorage.getItem(storageName));
  } catch {
    tell("This browser does not keep marks; export them before you close the page.");
  }
  for (const entry of Array.isArray(stored) ? stored : []) {
    const [key, mark] = Array.isArray(entry) ? entry : []; // other pages on this disk may have written here too
    if (pairOfKey.has(key) && (mark === "keep" || mark === "reject")) marks.set(key, mark);
  }
  tellMarks();
}

function keepMarks() {
  try {
    localStorage.setItem(storageName, JSON.stringify([...marks]));
  } catch {
    tell("This browser does not keep marks; export them before you close the page.");
  }
  tellMarks();
}

function tellMarks() {
  const kept = [...marks.values()].filter((mark) => mark === "keep").length;
  byId("marked").textContent = marks.size ? `${kept} to keep, ${marks.size - kept} to reject` : "None yet.";
  byId("export").disabled = !marks.size;
}

function tell(sentence) {
  byId("told").textContent = sentence;
}

function setMark(pair, mark) {
  if (mark) marks.set(columns.key[pair], mark);
  else marks.delete(columns.key[pair]);
  keepMarks();
  showMark(pair);
}

function showMark(pair) {
  const element = elementOf(pair);
  if (!element) return;
  const mark = markOf(pair);
  if (mark) element.setAttribute("data-mark", mark);
  else element.removeAttribute("data-mark");
  for (const button of element.querySelectorAll(".actions button")) button.setAttribute("aria-pressed", String(button.value === mark));
}

// In the order of the data, so that the same marks give the same file.
async function exported() {
  const pairs = [...marks.keys()].map((key) => pairOfKey.get(key)).sort((a, b) => a - b);
  const rows = await Promise.all(pairs.map(async (pair) => {
    const [pairId, digest] = await textsOf(pair);
    return { key: columns.key[pair], pair_id: pairId, digest, stage: facet("stage", pair), mark: markOf(pair) };
  }));
  return `${JSON.stringify({ c3l_marks: MARKS_FORM, title: head.title, marks: rows }, null, 1)}\n`;
}

async function exportMarks() {
  let text;
  try {
    text = await exported();
  } catch (error) {
    return tell(`Nothing was exported: ${error.message}.`);
  }
  const file = new Blob([text], { type: "application/json" });
  const address = URL.createObjectURL(file);
  el("a", { href: address, download: "marks.json" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
  return tell(`${counted(marks.size, "mark")} written to marks.json.`);
}

// A mark is taken if this report has the pair with the same texts; the others are counted.
async function importMarks(file) {
  let rows;
  try {
    const read = JSON.parse(await file.text());
    if (read.c3l_marks !== MARKS_FORM || !Array.isArray(read.marks)) throw new Error("no marks");
    rows = read.marks;
  } catch {
    return tell(`${visible(file.name)} is not a file of marks, as “Export” writes it.`);
  }
  const isMark = (row) => row?.mark === "keep" || row?.mark === "reject";
  const wrong = rows.filter((row) => !isMark(row)).length;
  const known = rows.filter((row) => isMark(row) && pairOfKey.has(row.key));
  known.sort((a, b) => pairOfKey.get(a.key) - pairOfKey.get(b.key)); // each file of texts is read once
  const found = [];
  try {
    for (const row of known) if ((await textsOf(pairOfKey.get(row.key)))[1] === row.digest) found.push([row.key, row.mark]);
  } catch (error) {
    return tell(`Nothing was imported: ${error.message}.`);
  }
  const imported = new Map(found);
  for (const [key, mark] of found) {
    if (imported.get(key) !== mark) return tell(`${visible(file.name)} marks the same pair keep and reject; nothing was imported.`);
  }
  for (const [key, mark] of imported) marks.set(key, mark);
  const taken = imported.size, other = rows.length - wrong - found.length;
  keepMarks();
  await update();
  return tell([
    `${counted(taken, "mark")} taken.`,
    other ? `${other.toLocaleString("en")} are of pairs that this report does not have, or has with other texts.` : "",
    wrong ? `${wrong.toLocaleString("en")} are neither “keep” nor “reject”.` : "",
  ].filter(Boolean).join(" "));
}

function startMarks() {
  readMarks();
  // In another window the same report is open, and somebody has marked a pair there.
  window.addEventListener("storage", (event) => {
    if (event.key !== storageName) return;
    readMarks();
    for (const element of byId("list").querySelectorAll(".pair")) showMark(Number(element.dataset.pair));
  });
  byId("export").addEventListener("click", exportMarks);
  byId("import").addEventListener("change", async () => {
    const [file] = byId("import").files;
    if (file) await importMarks(file);
    byId("import").value = ""; // the same file may be chosen again
  });
}
