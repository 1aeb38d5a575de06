// What the page knows: the head, columns of all pairs, and pieces of texts and pictures, in the page or beside it.
"use strict";

const head = JSON.parse(document.getElementById("c3l-head").textContent);
const PIECES_KEPT = 60;
const kept = new Map(); // pieces by name, those asked for longest ago first
const awaited = new Map(); // name → {promise, arrived}
// Only what this function gives may be loaded as a script.
const addresses = window.trustedTypes
  ? window.trustedTypes.createPolicy("c3l", {
      createScriptURL: (name) => `${encodeURIComponent(head.beside)}/${encodeURIComponent(name)}.js`,
    })
  : { createScriptURL: (name) => `${encodeURIComponent(head.beside)}/${encodeURIComponent(name)}.js` };

// The files beside the page call this. Those of another report are none of this one: its texts are of other pairs.
window.c3lPiece = (id, name, value) => id === head.id && awaited.get(name)?.arrived(value);

// A piece, or a promise of one that has to be loaded; the promise fails if its file is not there.
function piece(name) {
  if (kept.has(name)) {
    const value = kept.get(name);
    kept.delete(name);
    return keep(name, value);
  }
  if (!head.beside) return keep(name, JSON.parse(document.getElementById(`c3l-${name}`).textContent));
  if (!awaited.has(name)) awaited.set(name, asked(name));
  return awaited.get(name).promise;
}

function keep(name, value) {
  kept.set(name, value);
  if (kept.size > PIECES_KEPT) kept.delete(kept.keys().next().value);
  return value;
}

function asked(name) {
  const script = document.createElement("script");
  const entry = {};
  entry.promise = new Promise((resolve, reject) => {
    entry.arrived = (value) => resolve(keep(name, value));
    script.onload = () => reject(new Error(`${head.beside}/${name}.js is not of this report; load the page again, or make the report once more`));
    script.onerror = () => reject(new Error(`${head.beside}/${name}.js is not there; the folder belongs beside this file`));
  }).finally(() => {
    awaited.delete(name);
    script.remove();
  });
  script.src = addresses.createScriptURL(name);
  document.head.append(script);
  return entry;
}

// The texts of a pair: [id in the data, digest, turns, what the generator wrote, the status if it says more than its filter].
async function textsOf(pair) {
  return (await piece(`texts-${Math.floor(pair / head.pairs_of_piece)}`))[pair % head.pairs_of_piece];
}

// A picture: [id, width, height, WebP as base64], or [id, why it cannot be read].
async function pictureOf(number) {
  return (await piece(`pictures-${Math.floor(number / head.pictures_of_piece)}`))[number % head.pictures_of_piece];
}

let columns; // key, picture, length, facets, scores, alike: see `page_data.py`
const facetNames = head.facets.map(([name]) => name);
const pairOfKey = new Map();
let pairsOfPicture = new Map();

async function readColumns() {
  columns = await piece("columns-0");
  columns.key.forEach((key, pair) => pairOfKey.set(key, pair));
  for (const picture of columns.picture) pairsOfPicture.set(picture, (pairsOfPicture.get(picture) ?? 0) + 1);
}

function facet(name, pair) {
  const number = facetNames.indexOf(name);
  return head.facets[number][1][columns.facets[number][pair]];
}

function scoresNamed(name) {
  return columns.scores[head.scores.indexOf(name)];
}

// An element: its attributes (those of "on…" are functions), and what is in it. Texts stay texts.
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function byId(id) {
  return document.getElementById(id);
}

function shownNumber(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size >= 1000 ? value.toLocaleString("en", { maximumFractionDigits: 0 })
    : size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1)
    : size >= 0.01 || value === 0 ? value.toFixed(2) : size >= 0.001 ? value.toFixed(3) : value.toExponential(1);
  return text.replaceAll("-", "−");
}

function counted(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}
