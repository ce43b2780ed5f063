// One pair in full: its picture enlarged, its texts, where it comes from.
"use strict";
pairloom.details = (() => {
  const { make, picture, beforeOf, scoreList } = pairloom.strips;
  let shown = null; // what the dialog shows: context, page, id, at

  const dialog = () => document.getElementById("details");

  const fact = (name, value) => (value ? make("div", "", make("dt", "", name), make("dd", "", value)) : null);

  const pairId = () => `${shown.id}-${String(current().round_index).padStart(3, "0")}`;
  const current = () => shown.page.chains[shown.id].rows[shown.at];

  const modelOf = (row, at) => {
    const name = row.models[at];
    const model = shown.page.models.find((one) => one.name === name);
    return model ? [model.id, model.revision, model.licence].filter(Boolean).join(", ") : name;
  };

  const facts = (row) => {
    const list = make("dl", "facts", fact("Prompt", row.prompt), fact("Pair", pairId()));
    if (row.text !== undefined) {
      const [draw, describe, score] = row.seconds;
      list.append(
        ...[
          fact("Cut prompt", row.is_cut ? "yes: the text encoder took its first part only" : null),
          fact("Cut text", row.is_text_cut ? "yes: the captioner came to its token limit" : null),
          fact("Flags", (row.flags || []).join(", ")),
          fact("Drawn by", modelOf(row, 0)),
          fact("Described by", modelOf(row, 1)),
          fact("Scored by", modelOf(row, 2)),
          fact("rng_seeds", row.rng_seeds.join(", ")),
          fact("Seconds", [draw !== null ? `${draw} to draw` : "", describe !== null ? `${describe} to describe` : "", score !== null ? `${score} to score` : ""].filter(Boolean).join(", ")),
        ].filter(Boolean),
      );
    } else {
      list.append(...[fact("Stage", row.stage), fact("Attempts", row.attempts === null ? null : String(row.attempts))].filter(Boolean));
    }
    return list;
  };

  const button = (text, step, isThere) => {
    const one = make("button", "", text);
    one.type = "button";
    one.disabled = !isThere;
    one.addEventListener("click", () => turn(step));
    return one;
  };

  const render = () => {
    const { context, page, id, at } = shown;
    const chain = page.chains[id];
    const row = current();
    const title = make("h2", "", `Round ${row.round_index}`);
    title.id = "details-title";
    const text = make("p", "text");
    if (row.text !== undefined) {
      pairloom.words.show(text, beforeOf(context.head, chain, at, context.compare), row.text);
    } else {
      text.append(make("strong", "", row.reason), `: ${row.message}`);
    }
    const close = make("button", "", "Close");
    close.type = "button";
    close.addEventListener("click", () => dialog().close());
    const alt = row.text ? `Picture: ${row.text}` : "Picture";
    const column = make("div", "", text, make("p", "why", `${chain.head}. ${chain.why}`), facts(row), scoreList(row));
    dialog().replaceChildren(
      make("header", "", title, make("p", "turns-buttons", button("Round before", -1, at > 0), button("Next round", 1, at + 1 < chain.rows.length), close)),
      make("div", "pair", make("div", "large", picture(context.head, page, row, alt)), column),
    );
  };

  const turn = (step) => {
    const at = shown.at + step;
    if (shown.page.chains[shown.id].rows[at]) {
      shown.at = at;
      render();
    }
  };

  const open = (context, page, id, at) => {
    shown = { context, page, id, at };
    render();
    dialog().showModal();
  };

  return { open, turn };
})();
