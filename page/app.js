"use strict";
// The page around the worker: what is asked, what is erased, and what is shown. Nothing is fetched:
// what a page opened as a file may not read is in scripts beside it, each of which calls `part`.
const $ = (id) => document.getElementById(id);
const MODEL = ["text", "unet", "vae"];
const SCALE = 4; // guidance, as the library's own
const SEEDS = 2 ** 32;
const shown = {}; // what was asked last, and the pictures
let told = {}; // of the model, as tools/page/build.py writes it
let worker, current = 0, chosen = [], undo = false;

// Light or dark, as in the book.
const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
const kept = (theme) => {
  try {
    if (theme) localStorage.setItem("theme", theme);
    return localStorage.getItem("theme");
  } catch { return theme; } // private
};
const paint = (theme) => { root.dataset.theme = theme ?? (dark.matches ? "dark" : "light"); };
paint(kept());
dark.addEventListener("change", () => paint(kept()));
$("theme").addEventListener("click", () => {
  paint(root.dataset.theme === "dark" ? "light" : "dark");
  kept(root.dataset.theme);
});

const element = (name, given = {}, ...inside) => {
  const made = Object.assign(document.createElement(name), given);
  made.append(...inside);
  return made;
};
const option = (value, text = value) => element("option", { value, textContent: text });
const pressed = (button, yes) => button.setAttribute("aria-pressed", String(yes));
const labelled = (name, ...more) => // a button with the concept's picture
  element("button", { type: "button" }, element("img", { src: told.pictures[name], alt: "" }), name, ...more);
const say = (text) => { $("status").textContent = text; };

// One sentence for whatever stops the model.
function sentence(error) {
  const text = String(error?.message ?? error);
  if (/memory|alloc|out of bounds|array buffer/i.test(text)) {
    return "This device has too little memory for the model: close other pages and load this one again.";
  }
  return /\.$/.test(text) ? text : `The model stopped (${text.slice(0, 160)}): load the page again.`;
}
// A function that counts bits in a vector of sixteen bytes: WebAssembly with SIMD knows it.
const simd = () => WebAssembly.validate(Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0,
  10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11));

const waiting = {};
globalThis.part = (name, value) => waiting[name](value);
const read = (name) => new Promise((resolve, reject) => {
  waiting[name] = resolve;
  const script = element("script", { src: `${name}.data.js` });
  const lacking = new Error(`${name}.data.js is missing: copy the whole folder.`);
  script.addEventListener("error", () => reject(lacking));
  script.addEventListener("load", () => script.remove());
  document.head.append(script);
});

async function load() {
  if (!globalThis.WebAssembly || !simd()) {
    throw new Error("This browser lacks WebAssembly’s SIMD, which the model needs: take one of 2022 or later.");
  }
  if (!globalThis.DecompressionStream) {
    throw new Error("This browser cannot unpack the model: take one of 2023 or later.");
  }
  say("Loading the model …");
  told = await read("page");
  lay();
  const wasm = new URLSearchParams(location.search).get("on") === "wasm";
  const gpu = !wasm && await navigator.gpu?.requestAdapter().catch(() => null);
  const kind = gpu ? "webgpu" : "wasm";
  const needed = [Tokenizer, noise, Sampler, together, identity, times, inverse, heard];
  const text = `"use strict";\n${needed.join("\n")}\n(${work})();`;
  worker = new Worker(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
  const models = MODEL.map((name) => ["model", name]);
  const tasks = [["runtime", kind], ...models, ["erasures", "erasures"]];
  await given("page", told);
  for (const [i, [take, name]] of tasks.entries()) {
    await given(take, { ...await read(name), kind, name }).catch((error) => {
      if (gpu) location.replace("?on=wasm"); // slower, but it runs
      throw error;
    });
    $("loading").value = (i + 1) / tasks.length;
  }
  worker.onmessage = ({ data }) => hear(data);
  worker.onerror = (error) => hear({ failed: error.message });
  $("loading").hidden = true;
  for (const id of ["draw", "another", "undo"]) $(id).disabled = false;
  $("told").textContent = `It runs on ${gpu ? "WebGPU" : "WebAssembly"}.`;
  request();
}
const given = (take, value) => new Promise((resolve, reject) => {
  worker.onmessage = ({ data }) => (data.failed ? reject(new Error(data.failed)) : resolve());
  worker.onerror = reject;
  worker.postMessage({ take, value });
});

// What is typed, or a sentence that says what is wrong with it.
function asked() {
  const [concept, style, seed] = ["concept", "style", "seed"].map((id) => $(id).value.trim());
  const prompt = `a ${concept}${style ? ` in ${style} style` : ""}`;
  const tokenizer = shown.tokenizer ??= new Tokenizer(told.tokenizer);
  const [odd] = tokenizer.unknown(concept);
  if (!concept) throw new Error("Type a concept, such as church, or pick one.");
  if (odd) {
    throw new Error(`The model does not know “${odd}”: did you mean “${nearest(odd, told.words)}”?`);
  }
  if (tokenizer.tokens(prompt).length > tokenizer.length - 2) {
    throw new Error("That is too long for the model: take fewer words.");
  }
  if (!/^\d+$/.test(seed) || Number(seed) >= SEEDS) {
    throw new Error(`The seed is “${seed}”: expected a whole number from 0 to ${SEEDS - 1}.`);
  }
  return { prompt, seed: Number(seed), steps: Number($("steps").value), scale: SCALE };
}

// The word that the fewest letters changed, left out, added or swapped lead to.
function nearest(word, known) {
  const distance = (a, b) => {
    const rows = [[...Array(b.length + 1).keys()]];
    for (let i = 1; i <= a.length; i++) {
      rows.push([i]);
      for (let j = 1; j <= b.length; j++) {
        const other = rows[i - 1][j - 1] + (a[i - 1] !== b[j - 1]);
        rows[i][j] = Math.min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, other);
        const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
        if (swapped) rows[i][j] = Math.min(rows[i][j], rows[i - 2][j - 2] + 1);
      }
    }
    return rows[a.length][b.length];
  };
  const far = known.map((one) => distance(word, one));
  return known[far.indexOf(Math.min(...far))];
}

// Ask the worker for what is on the page now; whatever it still draws is given up.
function request() {
  if (!worker || $("draw").disabled) return;
  try {
    const erased = chosen.map(({ at, strength }) => ({ at, strength }));
    const draw = { ...asked(), id: ++current, erased, undo };
    const same = draw.prompt === shown.asked?.prompt;
    shown.asked = draw;
    $("wrong").textContent = "";
    $("progress").value = 0;
    $("stop").disabled = false;
    say("Drawing …");
    $("before").classList.toggle("old", !same);
    $("after").classList.add("old");
    worker.postMessage({ wanted: current, draw });
  } catch (error) {
    stop("");
    $("wrong").textContent = error.message;
  }
}
function stop(said = "Stopped.") {
  worker?.postMessage({ wanted: ++current });
  $("stop").disabled = true;
  say(said);
}

// What the worker tells: a step, a picture, the end, or what went wrong.
function hear({ id, done, of, place, rgba, seconds, end, failed }) {
  if (failed) stop(sentence(failed));
  if (id !== current) return;
  const { prompt } = shown.asked, names = chosen.map(({ at }) => told.erasures[at].name).join(" and ");
  const undone = undo && names !== "";
  if (of) $("progress").value = done / of;
  if (place) {
    const erased = place === "after" && names ? `, ${names} erased${undone ? " and undone" : ""}` : "";
    const canvas = Object.assign($(place), { width: told.pixels, height: told.pixels });
    canvas.getContext("2d").putImageData(new ImageData(rgba, told.pixels), 0, 0);
    canvas.setAttribute("aria-label", `${place}: ${prompt}${erased}`);
    shown[place] = rgba;
    if (seconds) shown.seconds = `${seconds.toFixed(1)} s a picture.`;
  }
  if (place || end) $(place ?? "before").classList.remove("old");
  if (!end) return;
  $("after").classList.remove("old");
  $("progress").value = 1;
  $("stop").disabled = true;
  $("how").textContent = `after${names && `, without ${names}`}${undone ? ", undone with T⁻¹" : ""}`;
  const gap = shown.before.reduce((most, v, i) => Math.max(most, Math.abs(v - shown.after[i])), 0);
  const back = `The old picture is back: no colour differs by more than ${gap} of 255.`;
  $("undone").textContent = undone ? back : "";
  say(`Drawn: ${prompt}, before and after. ${shown.seconds}`);
}

// Everything on the page that hangs on the model.
function lay() {
  $("concepts").append(...told.concepts.map((name) => option(name)));
  $("style").append(...told.styles.map((name) => option(name)), option("", "any"));
  const { concepts, pictures, score, methods, here, model } = told.atlas;
  $("measured").textContent = `Measured by the atlas of erasures (notebook 09), which drew ${concepts}
    other concepts before and after, ${pictures} pictures each, so that one δ is rough: how far a picture
    moved (${score}). It erased by ${methods.join(", ")}, which trains; the matrices here are a closed form (${here}) and may
    hurt others. ${model} Press one to see for yourself.`;
  $("erasures").append(...told.erasures.map(({ name }, at) => {
    const button = labelled(name);
    button.addEventListener("click", () => {
      const others = chosen.filter((one) => one.at !== at);
      chosen = others.length < chosen.length ? others : [...chosen, { at, strength: 1 }];
      choose();
    });
    return button;
  }));
  const first = told.erasures.findIndex(({ name }) => name === $("concept").value);
  chosen = [{ at: Math.max(0, first), strength: 1 }];
  choose();
}

// The chosen erasures: a slider each, and whom the atlas saw hurt.
function choose() {
  const names = chosen.map(({ at }) => told.erasures[at].name);
  [...$("erasures").children].forEach((button, at) =>
    pressed(button, chosen.some((one) => one.at === at)));
  $("chosen").replaceChildren(...chosen.map((one, i) => {
    const range = { type: "range", min: 0, max: 1, step: 0.05, value: one.strength };
    const slider = element("input", range), output = element("output");
    const show = () => { output.textContent = one.strength.toFixed(2); };
    slider.addEventListener("input", () => {
      one.strength = Number(slider.value);
      show();
      request();
    });
    show();
    return element("div", {}, element("label", {}, element("span", {}, names[i]), slider), output);
  }));
  if (!chosen.length) $("chosen").textContent = "Nothing yet: choose one or more.";
  $("hurt").replaceChildren(...chosen.map(({ at }) => {
    const { name, hurt } = told.erasures[at];
    if (!hurt) return element("p", {}, `Without ${name}: the atlas did not erase it.`);
    const kin = hurt.map(([concept, delta]) => {
      const button = labelled(concept, element("small", {}, `δ ${delta.toFixed(2)}`));
      button.addEventListener("click", () => {
        $("concept").value = concept;
        request();
        $("pair").scrollIntoView({ block: "center" });
      });
      return button;
    });
    const title = element("h3", {}, `Without ${name}`);
    return element("div", {}, title, element("div", { className: "kin" }, ...kin));
  }));
  request();
}

$("asked").addEventListener("submit", (event) => {
  event.preventDefault();
  request();
});
for (const id of ["concept", "style", "seed", "steps"]) $(id).addEventListener("change", request);
$("another").addEventListener("click", () => {
  $("seed").value = (Number($("seed").value) || 0) + 1;
  request();
});
$("stop").addEventListener("click", () => stop());
$("undo").addEventListener("click", () => {
  undo = !undo;
  pressed($("undo"), undo);
  request();
});
load().catch((error) => {
  say(sentence(error));
  $("loading").hidden = true;
});
