// Light or dark, the contents on a phone, and search in the titles. Nothing is fetched.
"use strict";
const root = document.documentElement;
const kept = {
  get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
  set: (value) => { try { localStorage.setItem("theme", value); } catch { /* private reading */ } },
};
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => { root.dataset.theme = kept.get() ?? (dark.matches ? "dark" : "light"); };
paint();
dark.addEventListener("change", paint);
document.getElementById("theme").addEventListener("click", () => {
  kept.set(root.dataset.theme === "dark" ? "light" : "dark");
  paint();
});

const menu = document.getElementById("menu");
const open = (yes) => {
  document.body.classList.toggle("open", yes);
  menu.setAttribute("aria-expanded", String(yes));
};
menu.addEventListener("click", () => open(!document.body.classList.contains("open")));
document.getElementById("text").addEventListener("click", () => open(false));
document.getElementById("side").addEventListener("click", (event) => {
  if (event.target.closest("a")) open(false);
});

const search = document.getElementById("search");
const found = document.getElementById("found");
search.addEventListener("input", () => {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const hits = words.length
    ? TITLES.filter((entry) => words.every((word) => entry.words.includes(word))).slice(0, 30)
    : [];
  found.replaceChildren(...hits.map((entry) => {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = entry.file;
    link.textContent = entry.title;
    item.append(link, entry.page === entry.title ? "" : ` · ${entry.page}`);
    return item;
  }));
  if (words.length && !hits.length) {
    const item = document.createElement("li");
    item.textContent = "no title has these words";
    found.append(item);
  }
  found.hidden = !words.length;
  document.getElementById("contents").hidden = words.length > 0;
});
search.addEventListener("keydown", (event) => {
  const first = found.querySelector("a");
  if (event.key === "Enter" && first) first.click();
});
