// Data files are scripts: each calls pairloom.put(name, data). A page from a disk may load those.
"use strict";
const pairloom = (() => {
  const MAX_PAGES = 200; // unit pages in memory; the oldest go
  const NAME = /^data\/[\w./-]+\.js\?v=\w+$/;
  const waiting = new Map();
  const cache = new Map();
  let version = "0";

  const check = (url) => {
    if (!NAME.test(url) || url.includes("..")) {
      throw new TypeError(`no data file: ${url}`);
    }
    return url;
  };
  const policy = window.trustedTypes
    ? trustedTypes.createPolicy("pairloom", { createScriptURL: check })
    : { createScriptURL: check };

  const put = (name, data) => {
    const one = waiting.get(name);
    if (one) {
      waiting.delete(name);
      one.resolve(data);
    }
  };

  const fetchScript = (name, mark) =>
    new Promise((resolve, reject) => {
      const script = document.createElement("script");
      waiting.set(name, { resolve });
      script.onload = () => script.remove();
      script.onerror = () => {
        waiting.delete(name);
        script.remove();
        reject(new Error(`${name} is not there`));
      };
      script.src = policy.createScriptURL(`data/${name}.js?v=${mark}`);
      document.head.append(script);
    });

  const load = (name) => {
    let found = cache.get(name);
    if (found) {
      cache.delete(name); // and in again at the young end
    } else {
      found = fetchScript(name, version);
      found.catch(() => cache.delete(name));
    }
    cache.set(name, found);
    const pages = [...cache.keys()].filter((key) => key.startsWith("units/"));
    if (pages.length > MAX_PAGES) {
      cache.delete(pages[0]);
    }
    return found;
  };

  // The head is read anew each time: it says which version the other files have.
  const loadHead = async () => {
    const head = await fetchScript("head", String(Date.now()));
    return head;
  };
  const useVersion = (now) => {
    if (now !== version) {
      version = now;
      cache.clear();
    }
  };

  return { put, load, loadHead, useVersion };
})();
