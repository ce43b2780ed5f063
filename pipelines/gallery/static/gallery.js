// The page: controls, keys, pages of strips, and what the address says of them.
"use strict";
(() => {
  const PER_PAGE = 20;
  const LOOK_MS = 5000; // at the head, while the run is on
  const STATUSES = ["lost", "drifted", "failed", "kept"];
  const FIELDS = ["q", "status", "round", "code", "sort", "compare", "score", "low", "high"];
  const $ = (id) => document.getElementById(id);
  const { make, chip } = pairloom.strips;
  let head = null;
  let index = null;
  let rows = [];
  let pageAt = 0;
  let asked = ""; // the state of the fields that is shown
  let turn = 0; // of the last update: an older one that ends later is dropped

  const plural = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
  const option = (value, text) => {
    const one = make("option", "", text);
    one.value = value;
    return one;
  };
  const label = (name) => name.replaceAll("_", " ");

  const turnedIn = (round, statuses) => statuses.reduce((sum, status) => sum + (head.turned[`${status}/${round}`] || 0), 0);

  const headline = () => {
    const kept = head.status.kept || 0;
    const parts = STATUSES.filter((one) => one !== "kept" && head.status[one]).map((one) => `${head.status[one].toLocaleString("en")} ${one === "failed" ? "broke off" : one === "lost" ? "lost it" : "drifted"}`);
    const told = `${plural(head.num_pairs, "pair")} of ${plural(head.num_chains, "chain")} over ${plural(head.num_rounds, "round")}. ${kept.toLocaleString("en")} kept the meaning of their seed${parts.length ? `, ${parts.join(", ")}` : ""}.`;
    return told + whatTurned();
  };

  // Of codes that say what went wrong in the round that turned a chain; others tell what became of it.
  const CAUSES = {
    picture_off_prompt: "the picture fits its prompt less well than before",
    description_off_picture: "the description fits its picture less well than before",
    shorter_text: "the description is much shorter than before",
    prompt_truncated: "the prompt was cut",
    description_cut: "the description was cut",
  };

  // Without those that were drifted in round 0: there word overlap takes other words for a loss.
  const whatTurned = () => {
    const isSure = (r) => r > 0 || head.mode !== "loop";
    const turned = [...Array(head.num_rounds).keys()].map((r) => [turnedIn(r, isSure(r) ? ["lost", "drifted"] : ["lost"]), turnedIn(r, ["lost"]), r]);
    const [most, , round] = turned.reduce((a, b) => (b[0] > a[0] || (b[0] === a[0] && b[1] > a[1]) ? b : a));
    if (!most) {
      return "";
    }
    const number = (head.status.lost || 0) + (head.status.drifted || 0);
    const known = Object.keys(CAUSES).filter((code) => head.codes[code]);
    const cause = known.reduce((a, b) => (a === null || head.codes[b] > head.codes[a] ? b : a), null);
    const told = ` Most meaning went in round ${round}: it turned ${most.toLocaleString("en")} of the ${number.toLocaleString("en")} that lost it or drifted.`;
    return cause === null ? told : `${told} What shows most often where a chain turned: ${CAUSES[cause]} (${head.codes[cause].toLocaleString("en")}).`;
  };

  // Of the embedded world: how much of what the seeds say the descriptions still say.
  const whatTheOracleSays = () => {
    const shares = head.mode === "loop" ? (head.seed_recall || []).filter((share) => share !== null) : [];
    if (!shares.length) {
      return "";
    }
    const told = shares.map((share) => `${Math.round(100 * share)}%`).join(", ");
    return `Read as scenes, whatever the words: of the colours, shapes, sizes and places that the seeds ask for, descriptions still tell ${told} in rounds 0 to ${shares.length - 1} (${plural(head.num_truth_chains, "chain")}, those that kept it too).`;
  };

  const filterButton = (className, field, value, ...children) => {
    const one = make("button", className, ...children);
    one.type = "button";
    one.dataset.field = field;
    one.dataset.value = value;
    one.addEventListener("click", () => {
      $(field).value = $(field).value === value ? "" : value;
      changed();
    });
    return one;
  };

  const renderOverview = () => {
    document.title = `${head.name}: pairloom gallery`;
    $("title").textContent = head.name;
    $("headline").textContent = headline() + (head.is_finished ? "" : " The run is not finished.");
    $("oracle").textContent = whatTheOracleSays();
    const total = Math.max(1, head.num_chains);
    $("statuses").replaceChildren(
      ...STATUSES.map((status) => {
        const number = head.status[status] || 0;
        const bar = make("span", `bar ${status}`);
        bar.style.width = `${(100 * number) / total}%`;
        return filterButton("status-button", "status", status, chip(status), make("span", "number", number.toLocaleString("en")), make("span", "track", bar));
      }),
    );
    const rounds = [...Array(head.num_rounds).keys()];
    const most = Math.max(1, ...rounds.map((r) => turnedIn(r, ["lost", "drifted", "failed"])));
    $("turns").replaceChildren(
      ...rounds.map((r) => {
        const stack = make("span", "stack");
        stack.setAttribute("aria-hidden", "true");
        for (const status of ["failed", "drifted", "lost"]) {
          const part = make("span", `bar ${status}`);
          part.style.height = `${(100 * turnedIn(r, [status])) / most}%`;
          stack.append(part);
        }
        const number = turnedIn(r, ["lost", "drifted", "failed"]);
        return filterButton("turn-button", "round", String(r), make("span", "number", number.toLocaleString("en")), stack, make("span", "", `round ${r}`));
      }),
    );
    $("measure").textContent =
      `How it is judged: the share of the seed's content words that a description still says. From ${Math.round(100 * head.kept_from)}% at the end a chain has kept its meaning, below ${Math.round(100 * head.lost_below)}% it has lost it. Word overlap takes a paraphrase for loss, and does not see two attributes that changed places.`;
  };

  const renderChoices = () => {
    const keep = state();
    $("status").replaceChildren(option("", "all"), ...STATUSES.map((one) => option(one, `${one} (${head.status[one] || 0})`)));
    $("round").replaceChildren(option("", "any round"), ...[...Array(head.num_rounds).keys()].map((r) => option(String(r), `round ${r}`)));
    $("code").replaceChildren(option("", "any"), ...Object.entries(head.codes).map(([code, number]) => option(code, `${label(code)} (${number})`)));
    $("sort").replaceChildren(
      option("drift:down", "most drift first"),
      option("drift:up", "least drift first"),
      option("seed:up", "seeds in order"),
      ...head.scores.flatMap((name) => [option(`${name}:up`, `${label(name)}, lowest first`), option(`${name}:down`, `${label(name)}, highest first`)]),
    );
    $("score").replaceChildren(option("drift", "drift %"), ...head.scores.map((name) => option(name, label(name))));
    restore(keep);
  };

  const state = () => Object.fromEntries(FIELDS.map((name) => [name, $(name).value]));
  const restore = (values) => {
    for (const name of FIELDS) {
      const field = $(name);
      const value = values[name] ?? "";
      const isKnown = field.tagName !== "SELECT" || [...field.options].some((one) => one.value === value);
      field.value = isKnown ? value : field.tagName === "SELECT" ? field.options[0].value : "";
    }
  };
  const DEFAULTS = { sort: "drift:down", compare: "before", score: "drift" };

  const toAddress = () => {
    const words = new URLSearchParams();
    for (const [name, value] of Object.entries(state())) {
      if (value && value !== DEFAULTS[name]) {
        words.set(name, value);
      }
    }
    if (pageAt) {
      words.set("page", String(pageAt + 1));
    }
    const hash = words.toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname.split("/").pop() || "index.html");
  };
  const fromAddress = () => {
    const words = new URLSearchParams(location.hash.slice(1));
    restore({ ...DEFAULTS, ...Object.fromEntries(words) });
    pageAt = Math.max(0, (Number.parseInt(words.get("page"), 10) || 1) - 1);
  };

  const context = () => ({ head, compare: $("compare").value });

  const update = async () => {
    const mine = ++turn;
    const wanted = state();
    asked = JSON.stringify(wanted);
    const found = await pairloom.query.select(index, wanted);
    if (mine !== turn) {
      return;
    }
    rows = found;
    pageAt = Math.min(pageAt, Math.max(0, Math.ceil(rows.length / PER_PAGE) - 1));
    await renderPage(mine);
    if (mine === turn) {
      toAddress();
    }
  };

  const renderPage = async (mine) => {
    const places = rows.slice(pageAt * PER_PAGE, (pageAt + 1) * PER_PAGE).map((at) => pairloom.query.place(index, at));
    const pages = await Promise.all(places.map((one) => pairloom.load(one.page)));
    if (mine !== turn) {
      return;
    }
    $("strips").replaceChildren(...places.map((one, at) => pairloom.strips.strip(context(), pages[at], Object.keys(pages[at].chains)[one.row])));
    const numPages = Math.ceil(rows.length / PER_PAGE);
    const isAll = rows.length === index.num;
    $("count").textContent = rows.length ? `${isAll ? "All" : "Found"} ${plural(rows.length, "chain")}` : index.num ? "No chain is like that: clear a filter." : "Nothing is committed yet.";
    $("pager").hidden = numPages < 2;
    $("page-number").textContent = `Page ${pageAt + 1} of ${numPages.toLocaleString("en")}`;
    $("page-before").disabled = pageAt === 0;
    $("page-next").disabled = pageAt + 1 >= numPages;
    for (const button of document.querySelectorAll("[data-field]")) {
      button.setAttribute("aria-pressed", String($(button.dataset.field).value === button.dataset.value));
    }
    $("strips").dataset.turn = String(mine); // for whoever waits until it is drawn
  };

  const fail = (error) => {
    $("count").textContent = `The gallery cannot be shown: ${error.message}. Is it being built? Load the page again.`;
  };
  const changed = () => {
    pageAt = 0;
    update().catch(fail);
  };
  const toPage = (step) => {
    const numPages = Math.ceil(rows.length / PER_PAGE);
    if (pageAt + step >= 0 && pageAt + step < numPages) {
      pageAt += step;
      update().then(() => {
        $("strips").focus({ preventScroll: true });
        $("count").scrollIntoView();
      }, fail);
    }
  };

  const toStrip = (step) => {
    const all = [...document.querySelectorAll(".strip")];
    const here = all.indexOf(document.activeElement?.closest(".strip"));
    const next = here < 0 ? (step > 0 ? 0 : all.length - 1) : here + step;
    if (all[next]) {
      all[next].focus({ preventScroll: true });
      all[next].scrollIntoView({ block: "nearest" });
    } else if (here >= 0) {
      toPage(step);
    }
  };

  const openStrip = async (article, at) => {
    const page = await pairloom.load(`units/${article.dataset.page}`);
    const id = article.dataset.chain;
    const chain = page.chains[id];
    const turning = chain.rows.findIndex((row) => row.round_index === chain.turning);
    pairloom.details.open(context(), page, id, at ?? Math.max(0, turning));
  };

  const alongFilm = (article, step) => {
    const film = article.querySelector(".film");
    film.scrollBy({ left: step * film.querySelector(".cell").offsetWidth });
  };

  const KEYS = {
    j: () => toStrip(1),
    k: () => toStrip(-1),
    n: () => toPage(1),
    p: () => toPage(-1),
    t: () => pairloomTheme.next(),
    c: () => {
      $("compare").value = $("compare").value === "seed" ? "before" : "seed";
      update().catch(fail);
    },
    "/": () => $("q").focus(),
    "?": () => $("help").showModal(),
  };

  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) {
      return;
    }
    const target = event.target;
    if ($("details").open) {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) {
        event.preventDefault();
        pairloom.details.turn(step);
      }
      return;
    }
    if (target.matches("input, select, textarea") || $("help").open) {
      return;
    }
    const strip = target.closest?.(".strip");
    if (strip && target === strip && event.key === "Enter") {
      event.preventDefault();
      openStrip(strip).catch(fail);
    } else if (strip && target === strip && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
      event.preventDefault();
      alongFilm(strip, event.key === "ArrowLeft" ? -1 : 1);
    } else if (strip && target === strip && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      toStrip(event.key === "ArrowDown" ? 1 : -1);
    } else if (KEYS[event.key] && $("has-keys").checked) {
      event.preventDefault();
      KEYS[event.key]();
    }
  };

  const listen = () => {
    let timer = 0;
    const soon = () => {
      clearTimeout(timer);
      // A field that is left says once more what it said as it was typed in.
      timer = setTimeout(() => JSON.stringify(state()) !== asked && changed(), 120);
    };
    $("filters").addEventListener("input", soon);
    $("filters").addEventListener("change", soon);
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    $("reset").addEventListener("click", (event) => {
      event.preventDefault();
      restore(DEFAULTS);
      changed();
    });
    $("more").addEventListener("click", () => {
      const isOpen = $("filters").classList.toggle("is-open");
      $("more").setAttribute("aria-expanded", String(isOpen));
    });
    $("page-before").addEventListener("click", () => toPage(-1));
    $("page-next").addEventListener("click", () => toPage(1));
    $("help-button").addEventListener("click", () => $("help").showModal());
    $("help-close").addEventListener("click", () => $("help").close());
    $("fresh-button").addEventListener("click", () => start().catch(fail));
    $("strips").addEventListener("click", (event) => {
      const frame = event.target.closest(".frame");
      if (frame) {
        openStrip(frame.closest(".strip"), Number(frame.dataset.at)).catch(fail);
      }
    });
    document.addEventListener("keydown", onKey);
    window.addEventListener("hashchange", () => {
      fromAddress();
      update().catch(fail);
    });
  };

  // While the run is on, the head is looked at; what is shown changes only when the reader says so.
  const look = async () => {
    try {
      const now = await pairloom.loadHead();
      $("fresh").hidden = now.version === head.version;
    } catch {
      // it is being replaced: the next look sees it
    }
    if (!head.is_finished) {
      setTimeout(look, LOOK_MS);
    }
  };

  const start = async () => {
    head = await pairloom.loadHead();
    pairloom.useVersion(head.version);
    $("fresh").hidden = true;
    renderOverview();
    renderChoices();
    fromAddress();
    index = await pairloom.query.readIndex(head);
    await update();
    document.documentElement.dataset.ready = "yes";
  };

  listen();
  start().then(() => {
    if (!head.is_finished) {
      setTimeout(look, LOOK_MS);
    }
  }, fail);
})();
