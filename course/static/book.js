// Light or dark, code or none, the contents on a phone, search, and pictures large. Nothing is
// fetched from any network: what is searched is a script beside the pages.
"use strict";
const root = document.documentElement;
const kept = {
  get: (name) => { try { return localStorage.getItem(name); } catch { return null; } },
  set: (name, value) => { try { localStorage.setItem(name, value); } catch { /* private */ } },
};
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => { root.dataset.theme = kept.get("theme") ?? (dark.matches ? "dark" : "light"); };
paint();
dark.addEventListener("change", paint);
addEventListener("beforeprint", () => { root.dataset.theme = "light"; }); // paper is white
addEventListener("afterprint", paint);
document.getElementById("theme").addEventListener("click", () => {
  kept.set("theme", root.dataset.theme === "dark" ? "light" : "dark");
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

const code = document.getElementById("code");
const showCode = (yes) => {
  root.dataset.code = yes ? "shown" : "hidden";
  code?.setAttribute("aria-pressed", String(yes));
};
showCode(kept.get("code") !== "hidden");
code?.addEventListener("click", () => {
  showCode(root.dataset.code === "hidden");
  kept.set("code", root.dataset.code);
});

const search = document.getElementById("search");
const found = document.getElementById("found");
let words; // what is searched, each section in small letters beside it
const line = (entry, asked) => {
  const item = document.createElement("li");
  const link = document.createElement("a");
  link.href = entry.file;
  link.textContent = entry.title;
  item.append(link, entry.page === entry.title ? "" : ` · ${entry.page}`);
  const at = Math.min(...asked.map((word) => entry.small.indexOf(word)).filter((i) => i >= 0));
  if (Number.isFinite(at)) {
    const some = document.createElement("p");
    const from = Math.max(0, at - 40);
    some.textContent = `${from ? "…" : ""}${entry.text.slice(from, at + 80)}…`;
    item.append(some);
  }
  return item;
};
const find = () => {
  const asked = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  found.hidden = !asked.length;
  document.getElementById("contents").hidden = asked.length > 0;
  if (!words) return;
  // all words in the titles first, then all of them anywhere in a section
  const rank = (entry) => asked.every((word) => entry.titles.includes(word)) ? 0
    : asked.every((word) => entry.titles.includes(word) || entry.small.includes(word)) ? 1 : 2;
  const ranked = words.map((entry) => [rank(entry), entry]).filter(([place]) => place < 2);
  const hits = asked.length ? ranked.sort(([a], [b]) => a - b).slice(0, 30) : [];
  found.replaceChildren(...hits.map(([, entry]) => line(entry, asked)));
  if (asked.length && !hits.length) {
    const item = document.createElement("li");
    item.textContent = "no section has these words";
    found.append(item);
  }
};
search.addEventListener("focus", () => {
  const script = document.createElement("script");
  script.src = "words.js";
  script.addEventListener("load", () => {
    words = WORDS.map((entry) => ({
      ...entry, small: entry.text.toLowerCase(),
      titles: `${entry.title} ${entry.page}`.toLowerCase(),
    }));
    find();
  });
  document.head.append(script);
}, { once: true });
search.addEventListener("input", find);
search.addEventListener("keydown", (event) => {
  const first = found.querySelector("a");
  if (event.key === "Enter" && first) first.click();
});

// A picture is opened by a click or Enter, turned by the arrows, closed by Escape or a click.
const large = document.getElementById("large");
const pictures = [...document.querySelectorAll("main img")].filter((image) => !image.closest("a"));
const view = new Image();
let shown = 0;
const show = (i) => {
  shown = (i + pictures.length) % pictures.length;
  view.src = pictures[shown].src;
  view.alt = pictures[shown].alt;
  large.lastElementChild.textContent = view.alt;
  if (!view.parentNode) large.lastElementChild.before(view);
  if (!large.open) large.showModal();
};
pictures.forEach((image, i) => {
  image.tabIndex = 0;
  image.setAttribute("role", "button");
  image.addEventListener("click", () => show(i));
  image.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); show(i); }
  });
});
large.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) { event.preventDefault(); show(shown + step); }
});
large.addEventListener("click", () => large.close());
large.addEventListener("close", () => pictures[shown].focus());
