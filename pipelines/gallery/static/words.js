// What changed between two texts, word by word.
"use strict";
pairloom.words = (() => {
  const MAX_WORDS = 400; // longer texts are compared up to here: the table is quadratic
  const fold = (word) => word.toLowerCase().replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "");

  // The parts of `now` and what of `before` went, in order: [kind, text], kind of "same", "ins", "del".
  const compare = (before, now) => {
    const a = before.split(/\s+/).filter(Boolean).slice(0, MAX_WORDS);
    const all = now.split(/\s+/).filter(Boolean);
    const b = all.slice(0, MAX_WORDS);
    const left = a.map(fold);
    const right = b.map(fold);
    const width = b.length + 1;
    const table = new Uint16Array((a.length + 1) * width); // longest common rests
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        table[i * width + j] =
          left[i] === right[j]
            ? table[(i + 1) * width + j + 1] + 1
            : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
      }
    }
    const parts = [];
    const add = (kind, word) => {
      const last = parts[parts.length - 1];
      if (last && last[0] === kind) {
        last[1] += ` ${word}`;
      } else {
        parts.push([kind, word]);
      }
    };
    let i = 0;
    let j = 0;
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && left[i] === right[j]) {
        add("same", b[j]);
        i++;
        j++;
      } else if (i < a.length && (j >= b.length || table[(i + 1) * width + j] >= table[i * width + j + 1])) {
        add("del", a[i++]);
      } else {
        add("ins", b[j++]);
      }
    }
    if (all.length > MAX_WORDS) {
      add("same", all.slice(MAX_WORDS).join(" "));
    }
    return parts;
  };

  // As nodes: text is only ever text, whatever it holds.
  const show = (target, before, now, hasDeleted = true) => {
    for (const [kind, text] of compare(before, now)) {
      if (kind === "same") {
        target.append(text, " ");
      } else if (kind === "ins" || hasDeleted) {
        const node = document.createElement(kind);
        node.textContent = text;
        target.append(node, " ");
      }
    }
    return target;
  };

  return { compare, show };
})();
