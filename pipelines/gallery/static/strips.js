// A chain as a film strip. Every text of a run enters as a text node or an attribute, never as HTML.
"use strict";
pairloom.strips = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const MARKS = { kept: "=", drifted: "~", lost: "\u00d7", failed: "!" };

  const make = (tag, className, ...children) => {
    const node = document.createElement(tag);
    if (className) {
      node.className = className;
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  };

  const chip = (status) => {
    const mark = make("span", "mark", MARKS[status]);
    mark.setAttribute("aria-hidden", "true");
    return make("span", `chip ${status}`, mark, status);
  };

  // One place of a sprite, as large as the box that it stands in.
  const picture = (head, page, row, alt) => {
    const sheet = page.sheets[row.commit];
    if (!row.picture || !sheet) {
      return make("span", "no-picture", "no picture");
    }
    const [place, width, height] = row.picture;
    const [cellWidth, cellHeight] = sheet.cell;
    const columns = head.sprite_columns;
    const perSprite = columns * columns;
    const file = sheet.files[Math.floor(place / perSprite)];
    const at = place % perSprite;
    const svg = document.createElementNS(SVG, "svg");
    // Half a pixel in: an enlarged edge would take colour from the picture beside it.
    const [left, top] = [(at % columns) * cellWidth + 0.5, Math.floor(at / columns) * cellHeight + 0.5];
    svg.setAttribute("viewBox", `${left} ${top} ${width - 1} ${height - 1}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", alt);
    svg.classList.add("picture");
    if (Math.max(width, height) < 128) {
      svg.classList.add("small");
    }
    const image = document.createElementNS(SVG, "image");
    image.setAttribute("href", `pictures/${file.slice(0, 4)}/${file}`);
    svg.append(image);
    return svg;
  };

  const seedCell = (chain) => make("li", "cell seed", make("h4", "", "Seed"), make("p", "text", chain.seed));

  const keptBar = (row) => {
    const kept = 100 - row.drift;
    const meter = make("meter", "");
    meter.min = 0;
    meter.max = 100;
    meter.value = kept;
    meter.setAttribute("aria-label", `words of the seed kept in round ${row.round_index}`);
    return make("p", "kept-bar", meter, make("span", "", `${kept}% of seed words`));
  };

  const scoreList = (row) => {
    if (!row.scores) {
      return null;
    }
    const list = make("dl", "scores");
    for (const [name, value] of Object.entries(row.scores)) {
      list.append(make("div", "", make("dt", "", name.replaceAll("_", " ")), make("dd", "", value.toFixed(3))));
    }
    return list;
  };

  // The description that a round goes back to: the seed, or a fresh one that took its place.
  const seedOf = (chain, at) => {
    const began = chain.rows.slice(0, at + 1).findLast((row) => row.seed !== undefined);
    return began ? began.seed : chain.seed;
  };

  // What a round's text is compared with: the text that it was drawn from, or the seed.
  const beforeOf = (head, chain, at, compare) =>
    compare === "seed" || at === 0 || head.mode !== "loop" || chain.rows[at].seed !== undefined ? seedOf(chain, at) : chain.rows[at - 1].text || "";

  const roundCell = (context, page, chain, at) => {
    const row = chain.rows[at];
    const isTurning = chain.turning === row.round_index && chain.status !== "kept";
    const title = make("h4", "", `Round ${row.round_index}`);
    if (isTurning) {
      const told = { lost: "lost here", drifted: "drifted here", failed: "broke off here" }[chain.status];
      title.append(make("span", "turning", told));
    }
    const alt = row.text ? `Picture of round ${row.round_index}: ${row.text}` : `Picture of round ${row.round_index}`;
    const open = make("button", "frame", picture(context.head, page, row, alt));
    open.type = "button";
    open.dataset.at = String(at);
    const fresh = row.seed === undefined ? null : make("p", "fresh", "Began anew: ", make("q", "", row.seed));
    const cell = make("li", `cell round${isTurning ? ` is-turning ${chain.status}` : ""}`, title, fresh, open);
    if (row.text === undefined) {
      cell.append(make("p", "text failure", make("strong", "", row.reason), ` in ${row.stage}: ${row.message}`));
      return cell;
    }
    cell.append(keptBar(row));
    cell.append(pairloom.words.show(make("p", "text"), beforeOf(context.head, chain, at, context.compare), row.text));
    const scores = scoreList(row);
    if (scores) {
      cell.append(scores);
    }
    return cell;
  };

  const strip = (context, page, id) => {
    const chain = page.chains[id];
    const head = make("header", "", chip(chain.status), make("h3", "", chain.head));
    head.append(make("code", "chain-id", id));
    const film = make("ol", "film", seedCell(chain), ...chain.rows.map((_, at) => roundCell(context, page, chain, at)));
    film.tabIndex = 0;
    film.setAttribute("aria-label", `Rounds of chain ${id}`);
    const article = make("article", `strip ${chain.status}`, head, make("p", "why", chain.why), film);
    article.tabIndex = -1;
    article.setAttribute("aria-label", `Chain ${id}: ${chain.head}`);
    article.dataset.chain = id;
    article.dataset.page = page.unit;
    return make("li", "", article);
  };

  return { strip, picture, make, chip, beforeOf, scoreList };
})();
