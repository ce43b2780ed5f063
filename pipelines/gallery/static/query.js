// Which chains to show and in which order, from the index alone.
"use strict";
pairloom.query = (() => {
  const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const VALUE = new Map([...DIGITS].map((one, at) => [one, at]));
  const STATUS = { k: "kept", d: "drifted", l: "lost", f: "failed" };
  const NONE = -32768; // no number: whole percents and thousandths stay far above it

  const column = (parts, num) => {
    const all = new Int32Array(num).fill(NONE);
    let at = 0;
    for (const part of parts) {
      for (const value of part.values) {
        if (value !== null) {
          all[at] = value;
        }
        at++;
      }
    }
    return all;
  };

  // All segments as columns with a row for each chain.
  const readIndex = async (head) => {
    const parts = await Promise.all(head.segments.map((name) => pairloom.load(`index/${name}`)));
    const num = parts.reduce((sum, part) => sum + part.status.length, 0);
    const index = {
      head,
      parts,
      num,
      segment: new Uint32Array(num),
      unit: new Uint32Array(num),
      row: new Uint32Array(num),
      status: parts.map((part) => part.status).join(""),
      turning: Int16Array.from(parts.flatMap((part) => part.turning)),
      codes: parts.flatMap((part) => part.code.map((list) => list.map((one) => part.codes[one]))),
      drift: [],
      scores: new Map(),
    };
    let at = 0;
    parts.forEach((part, segment) => {
      part.units.forEach((unit, place) => {
        for (let row = 0; row < part.rows[place]; row++, at++) {
          index.segment[at] = segment;
          index.unit[at] = unit;
          index.row[at] = row;
        }
      });
    });
    for (let r = 0; r < head.num_rounds; r++) {
      index.drift.push(column(parts.map((part) => ({ values: part.drift[r] })), num));
    }
    return index;
  };

  // A number by round: drift lies in the index, a score is loaded when it is asked for.
  const readScore = async (index, name) => {
    if (name === "drift") {
      return index.drift;
    }
    if (!index.scores.has(name)) {
      const read = index.head.segments.map(async (segment, at) => {
        const none = Array(index.parts[at].status.length).fill(null);
        try {
          return await pairloom.load(`scores/${segment}-${name}`);
        } catch {
          return index.drift.map(() => none); // a segment without that score
        }
      });
      const parts = await Promise.all(read);
      const rounds = index.drift.map((_, r) => column(parts.map((part) => ({ values: part[r] })), index.num));
      index.scores.set(name, rounds);
    }
    return index.scores.get(name);
  };

  const decodeInto = (text, found) => {
    let slot = -1;
    let value = 0;
    let shift = 0;
    for (const one of text) {
      const digit = VALUE.get(one);
      value |= (digit & 31) << shift;
      shift += 5;
      if (digit < 32) {
        slot += value + 1;
        found[slot] = 1;
        value = 0;
        shift = 0;
      }
    }
  };

  // The words that are looked for; of a chain's or a pair's id the digits that are in the index.
  const wordsOf = (head, text) =>
    (text.toLowerCase().replace(/\b([0-9a-f]{20})-\d{3}\b/g, "$1").match(/[\p{L}\p{N}]+/gu) || [])
      .filter((word) => !head.ignored_words.includes(word))
      .map((word) => (/^[0-9a-f]{20}$/.test(word) ? word.slice(0, head.id_chars) : word.slice(0, head.max_word_chars)));

  // For each segment a flag by slot: chains that have every word, or one that begins with it.
  const search = async (index, text) => {
    const words = wordsOf(index.head, text);
    if (!words.length) {
      return null;
    }
    return Promise.all(
      index.head.segments.map(async (segment, at) => {
        let all = null;
        for (const word of words) {
          const letter = word[0] < "\u0080" ? word[0] : "_";
          const found = new Uint8Array(index.head.segment_chains);
          if (index.parts[at].letters.includes(letter)) {
            const file = await pairloom.load(`words/${segment}-${letter}`);
            for (const [known, slots] of Object.entries(file)) {
              if (known.startsWith(word)) {
                decodeInto(slots, found);
              }
            }
          }
          all = all ? all.map((flag, slot) => flag & found[slot]) : found;
        }
        return all;
      }),
    );
  };

  const last = (rounds, at) => {
    for (let r = rounds.length - 1; r >= 0; r--) {
      if (rounds[r][at] !== NONE) {
        return rounds[r][at];
      }
    }
    return NONE;
  };

  const inRange = (rounds, at, low, high) => rounds.some((values) => values[at] !== NONE && values[at] >= low && values[at] <= high);

  // The rows of the index that pass, in order.
  const select = async (index, wanted) => {
    const { head } = index;
    const flags = await search(index, wanted.q);
    const hasRange = wanted.low !== "" || wanted.high !== "";
    const scale = wanted.score === "drift" ? 1 : head.score_scale;
    const ranged = hasRange ? await readScore(index, wanted.score) : null;
    const low = wanted.low === "" ? -Infinity : Math.round(Number(wanted.low) * scale);
    const high = wanted.high === "" ? Infinity : Math.round(Number(wanted.high) * scale);
    const rows = [];
    for (let at = 0; at < index.num; at++) {
      const isIn =
        (!flags || flags[index.segment[at]][index.unit[at] * head.unit_size + index.row[at]]) &&
        (!wanted.status || STATUS[index.status[at]] === wanted.status) &&
        (wanted.round === "" || (index.turning[at] === Number(wanted.round) && index.status[at] !== "k")) &&
        (!wanted.code || index.codes[at].includes(wanted.code)) &&
        (!ranged || inRange(ranged, at, low, high));
      if (isIn) {
        rows.push(at);
      }
    }
    return order(index, rows, wanted.sort);
  };

  const order = async (index, rows, sort) => {
    const [name, direction] = sort.split(":");
    if (name === "seed") {
      return rows;
    }
    const sign = direction === "up" ? 1 : -1;
    const rounds = await readScore(index, name);
    const keys = new Map(rows.map((at) => [at, last(rounds, at)]));
    return rows.sort((a, b) => {
      const [x, y] = [keys.get(a), keys.get(b)];
      if ((x === NONE) !== (y === NONE)) {
        return x === NONE ? 1 : -1; // without a number: at the end, whichever way
      }
      return sign * (x - y) || a - b;
    });
  };

  // The page that the chain of a row lies on, and its place there.
  const place = (index, at) => {
    const unit = Number(index.head.segments[index.segment[at]]) * index.head.segment_units + index.unit[at];
    return { page: `units/${String(unit).padStart(7, "0")}`, unit, row: index.row[at] };
  };

  return { readIndex, select, place };
})();
