// Light, dark, or as the system has it; remembered where the browser lets a page remember.
"use strict";
(() => {
  const THEMES = ["system", "light", "dark"];
  const KEY = "pairloom-theme";
  const remembered = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // a browser may deny storage to a page from a disk
    }
  };
  const remember = (theme) => {
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // it holds until the page is left
    }
  };
  let theme = THEMES.includes(remembered()) ? remembered() : "system";
  const show = () => {
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme-button");
    if (button) {
      button.textContent = `Theme: ${theme}`;
    }
  };
  const next = () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    remember(theme);
    show();
  };
  show();
  document.addEventListener("DOMContentLoaded", () => {
    show();
    document.getElementById("theme-button").addEventListener("click", next);
  });
  window.pairloomTheme = { next };
})();
