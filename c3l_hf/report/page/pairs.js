// One card: a picture, and beside it its pairs, the chosen one beside those that were rejected.

const LONGEST_TAG = 60; // characters

function pairElement(pair, [pairId, , turns, raw, reason]) {
  const ranking = head.ranking && scoresNamed(head.ranking)[pair];
  const status = reason ?? facet("status", pair);
  const tag = (name, className) => {
    const value = facet(name, pair);
    const told = state[name] !== "" || head.facets[facetNames.indexOf(name)][1].length < 2 && !["kept", "truth"].includes(name);
    if (value === undefined || told) return null;
    const text = visible(value), cut = text.length > LONGEST_TAG;
    return el("span", { class: className, dir: "auto", title: cut ? text : null }, cut ? `${text.slice(0, LONGEST_TAG)}…` : text);
  };
  const element = el("article", {
    class: "pair", tabindex: -1, "data-pair": pair, "aria-label": `Pair ${visible(pairId)}`,
    "data-mark": markOf(pair) ?? null, "data-current": pair === current,
  },
    el("div", { class: "tags" },
      ranking === null || ranking === undefined ? null
        : el("span", { class: "score", title: `${head.ranking}, the score that pairs are ranked by` }, shownNumber(ranking)),
      tag("type", "strong"), tag("stage"), tag("role", "role"), tag("kept"), tag("truth"), tag("language"), tag("template")),
    el("div", { class: "turns" }, ...turns.flatMap((turn, number) => [
      longText(`${pair}q${number}`, "question", turn[0]), answerText(`${pair}a${number}`, turn),
    ])));
  if (status !== "ok") element.append(el("p", { class: "bad", dir: "auto" }, visible(status)));
  if (raw !== null && (status !== "ok" || !turns.length)) {
    element.append(el("p", { class: "muted" }, "What the generator wrote:"), longText(`${pair}r`, "raw", raw));
  }
  element.append(actions(pair, pairId));
  return element;
}

function actions(pair, pairId) {
  const mark = (name, label) => el("button", {
    type: "button", value: name, "aria-pressed": String(markOf(pair) === name),
    onclick: () => setMark(pair, markOf(pair) === name ? null : name),
  }, label);
  const scores = head.scores.filter((name) => scoresNamed(name)[pair] !== null);
  return el("div", { class: "actions" }, mark("keep", "Keep"), mark("reject", "Reject"),
    el("a", { href: `#${new URLSearchParams({ pair: columns.key[pair] })}`, title: "The address of this pair", "aria-label": `Link to pair ${visible(pairId)}` }, "#"),
    el("details", {}, el("summary", {}, scores.length ? "scores" : "id"), el("p", { class: "muted", dir: "auto" }, visible(pairId)),
      el("dl", { class: "scores" }, ...scores.map((name) =>
        el("div", {}, el("dt", {}, name), el("dd", {}, shownNumber(scoresNamed(name)[pair])))))));
}

function pictureImage([id, width, height, webp], attributes = {}) {
  return el("img", {
    src: `data:image/webp;base64,${webp}`, width, height, alt: `Picture ${visible(id)}`, decoding: "async",
    class: Math.max(width, height) < 100 ? "small" : null, ...attributes,
  });
}

async function pictureElement(number) {
  const picture = await pictureOf(number);
  const box = el("div", { class: "picture" });
  box.append(picture.length === 2
    ? el("div", { class: "unreadable", role: "img", "aria-label": `Picture ${visible(picture[0])} cannot be read` }, el("span", { dir: "auto" }, visible(picture[1])))
    : pictureImage(picture));
  box.append(el("span", { dir: "auto" }, visible(picture[0])));
  const all = pairsOfPicture.get(number);
  if (all > 1 && state.image !== number) {
    box.append(el("button", { type: "button", class: "quiet", onclick: () => change({ ...plainState(), image: number }) }, `all ${all} pairs`));
  }
  const alike = (columns.alike[number] ?? []).slice(0, 4);
  if (alike.length) {
    const pictures = await Promise.all(alike.map(pictureOf));
    box.append(el("div", { class: "alike" }, el("span", {}, "looks like"), ...pictures.flatMap((other, at) => other.length === 2 ? [] : [
      el("button", { type: "button", title: visible(other[0]), "aria-label": `The pairs of picture ${visible(other[0])}`, onclick: () => change({ ...plainState(), image: alike[at] }) },
        pictureImage(other, { alt: "", class: null })),
    ])));
  }
  return box;
}

async function cardElement({ picture, pairs }) {
  const [box, texts] = await Promise.all([pictureElement(picture), Promise.all(pairs.map(textsOf))]);
  const elements = pairs.map((pair, at) => pairElement(pair, texts[at]));
  const side = (role) => elements.filter((_, at) => facet("role", pairs[at]) === role);
  const [chosen, rejected] = [side("chosen"), side("rejected")];
  const rest = elements.filter((element) => !chosen.includes(element) && !rejected.includes(element));
  const card = el("section", { class: "card", "aria-label": `Picture and ${counted(pairs.length, "pair")}` }, box);
  const right = el("div", {});
  const duel = chosen.length && rejected.length;
  if (duel) {
    right.append(el("div", { class: "pairs duel" },
      el("div", { class: "side chosen" }, el("h3", {}, "Chosen"), ...chosen),
      el("div", { class: "side rejected" }, el("h3", {}, "Rejected"), ...rejected)));
  } else rest.unshift(...chosen, ...rejected);
  if (rest.length) {
    // Else they would be read as further chosen and rejected ones.
    if (duel) right.append(el("h3", { class: "neither" }, "Neither"));
    right.append(el("div", { class: `pairs${rest.length > 1 ? " many" : ""}` }, ...rest));
  }
  card.append(right);
  return card;
}
