"use strict";
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const set = (dark) => { root.dataset.theme = dark ? "dark" : "light"; };
  set(system.matches);
  system.addEventListener("change", () => set(system.matches));
  document.getElementById("theme").addEventListener("click", () => set(root.dataset.theme !== "dark"));
})();
