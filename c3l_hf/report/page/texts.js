// Questions and answers: long ones folded, tokens coloured, their numbers on hover, focus and tap.

const FOLDED = 1200; // characters of a text that are shown at first
const STEPS = 5;
const unfolded = new Set(); // which texts somebody has opened, so that they stay open when they come into view again

// A text as it may be shown: control characters as their signs, halves of characters as what they are, no characters.
function visible(text) {
  const whole = text.toWellFormed ? text.toWellFormed() : text;
  return whole.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g, (c) =>
    c === "\u007f" ? "\u2421" : String.fromCharCode(0x2400 + c.charCodeAt(0)));
}

function step(value, scale) {
  return value === null || value === undefined || !scale ? 0 : Math.min(STEPS, Math.round((Math.abs(value) / scale) * STEPS));
}

function tokenClasses(gain, divergence) {
  const gained = step(gain, head.gain_scale), diverged = step(divergence, head.divergence_scale);
  return `t${gained ? ` ${gain < 0 ? "l" : "g"}${gained}` : ""}${diverged ? ` d${diverged}` : ""}`;
}

// A text, folded if it is long.
function longText(name, className, text) {
  const element = el("p", { class: `text ${className}`, dir: "auto" });
  const cut = text.length > FOLDED && !unfolded.has(name);
  element.append(visible(cut ? `${text.slice(0, FOLDED)}…` : text));
  return withFold(element, name, text, cut, () => longText(name, className, text));
}

// An answer, its tokens coloured if there are numbers of them.
function answerText(name, [, answer, tokens, gain = [], divergence = []]) {
  if (!tokens) return longText(name, "answer", answer);
  const element = el("p", {
    class: "text answer", dir: "auto", tabindex: 0, role: "group",
    "aria-label": "Answer. Arrow keys tell the numbers of its tokens.",
  });
  const whole = unfolded.has(name);
  let length = 0, number = 0;
  for (; number < tokens.length && (whole || length < FOLDED); number++) {
    const text = whole ? tokens[number] : tokens[number].slice(0, FOLDED);
    const [space, word] = /\S/.test(text) ? [text.match(/^\s*/)[0], text.trimStart()] : ["", text];
    const token = el("span", { class: tokenClasses(gain[number], divergence[number]) }, visible(word));
    token.numbers = [gain[number], divergence[number]];
    element.append(number ? space : "", token); // the space before a word has no colour, that before the answer is none
    length += tokens[number].length;
  }
  const cut = number < tokens.length || (!whole && length > 2 * FOLDED);
  if (cut) element.append("…");
  return withFold(element, name, answer, cut, () => answerText(name, [null, answer, tokens, gain, divergence]));
}

function withFold(element, name, text, cut, again) {
  if (!cut && !unfolded.has(name)) return element;
  const box = el("div", {}, element);
  box.append(el("button", {
    type: "button", class: "quiet more", "aria-expanded": String(!cut),
    onclick: () => {
      if (cut) unfolded.add(name);
      else unfolded.delete(name);
      const other = again();
      box.replaceWith(other);
      other.querySelector("button")?.focus();
    },
  }, cut ? `Show all ${counted(text.length, "character")}` : "Show less"));
  return box;
}

// The box with a token's numbers.
const tip = byId("tip");
let tipped = null;

function showTip(token) {
  tipped?.removeAttribute("data-on");
  tipped = token;
  tip.hidden = !token;
  if (!token) return;
  token.setAttribute("data-on", "");
  const [gain, divergence] = token.numbers;
  tip.textContent = [
    JSON.stringify(token.textContent.length > 40 ? `${token.textContent.slice(0, 40)}…` : token.textContent),
    gain === undefined ? null : gain === null ? "no gain" : `gain ${gain > 0 ? "+" : ""}${shownNumber(gain)}`,
    divergence === undefined ? null : divergence === null ? "no divergence" : `divergence ${shownNumber(divergence)}`,
  ].filter(Boolean).join("   ");
  const at = token.getClientRects()[0] ?? token.getBoundingClientRect(), box = tip.getBoundingClientRect();
  const above = at.top - box.height - 6;
  tip.style.top = `${above > 0 ? above : at.bottom + 6}px`;
  tip.style.left = `${Math.max(6, Math.min(at.left, document.documentElement.clientWidth - box.width - 6))}px`;
}

function followTokens(list) {
  const shown = (event) => showTip(event.target.closest?.(".t") ?? null);
  list.addEventListener("pointerover", shown);
  list.addEventListener("click", shown); // a tap, on a phone
  list.addEventListener("pointerleave", () => showTip(null));
  list.addEventListener("focusin", (event) => {
    if (event.target.matches(".answer:focus-visible")) showTip(event.target.querySelector(".t"));
  });
  list.addEventListener("focusout", () => showTip(null));
  window.addEventListener("scroll", () => showTip(null), { passive: true });
  list.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by || !event.target.matches(".answer")) return;
    event.preventDefault();
    const tokens = [...event.target.querySelectorAll(".t")], now = tokens.indexOf(tipped);
    showTip(tokens[Math.max(0, Math.min(tokens.length - 1, now + by))]);
  });
}

// Which colour the tokens have, and the legend of it. Nothing where no token has numbers.
const COLOURS = {
  gain: ["Gain", "ln p − ln q of a token, with and without the picture. Blue: the picture speaks for it; orange, underlined: against it."],
  divergence: ["Divergence", "How much the picture changes what could stand here: KL divergence in nats."],
  none: ["None", "Tokens are not coloured."],
};

function setColour(name) {
  document.documentElement.dataset.colour = name;
  for (const button of byId("colour").children) button.setAttribute("aria-pressed", String(button.value === name));
  const scale = { gain: head.gain_scale, divergence: head.divergence_scale }[name];
  const legend = byId("legend");
  legend.hidden = name === "none";
  byId("meaning").textContent = COLOURS[name][1];
  if (name === "none") return;
  const steps = name === "gain" ? [-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5] : [0, 1, 2, 3, 4, 5];
  const colourOf = (n) => (n ? ` ${name === "gain" ? (n < 0 ? "l" : "g") : "d"}${Math.abs(n)}` : "");
  legend.replaceChildren(
    el("div", { class: "strip" }, ...steps.map((n) => el("span", { class: `t${colourOf(n)}` }, n < 0 ? "a" : ""))),
    el("div", { class: "ends" }, ...(name === "gain" ? [`−${scale} or less`, "0", `+${scale} or more`] : ["0", `${scale} or more`]).map((end) => el("span", {}, end))),
  );
  legend.setAttribute("aria-label", `Colours from ${name === "gain" ? -scale : 0} to ${scale}`);
}

function colourNames() {
  return Object.keys(COLOURS).filter((name) => name === "none" || head[`${name}_scale`] !== null);
}

function startColours() {
  const names = colourNames();
  byId("colours").hidden = names.length < 2;
  byId("colour").replaceChildren(...names.map((name) =>
    el("button", { type: "button", value: name, onclick: () => setColour(name) }, COLOURS[name][0])));
  setColour(names[0]);
}
