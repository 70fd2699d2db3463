"use strict";
// The page around the worker: what is asked, what is erased, and what is shown. Nothing is fetched:
// what a page opened as a file may not read is in scripts beside it, each of which calls `part`.
const $ = (id) => document.getElementById(id);
const MODEL = ["text", "unet", "vae"];
const SCALE = 4; // guidance, as the library's own
let told = {}; // of the model, as tools/page/build.py writes it
let worker, current = 0, chosen = [], undo = false;

// Light or dark, as in the book.
const kept = (...given) => { try { return given.length ? localStorage.setItem("theme", given[0]) : localStorage.getItem("theme"); } catch { return null; } };
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => { document.documentElement.dataset.theme = kept() ?? (dark.matches ? "dark" : "light"); };
paint();
dark.addEventListener("change", paint);
$("theme").addEventListener("click", () => {
  kept(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  paint();
});

const element = (name, given = {}, ...inside) => {
  const made = Object.assign(document.createElement(name), given);
  made.append(...inside);
  return made;
};
const say = (text) => { $("status").textContent = text; };

// One sentence for whatever stops the model.
function sentence(error) {
  const text = String(error?.message ?? error);
  if (/memory|alloc|out of bounds|array buffer/i.test(text)) {
    return "This device has too little memory for the model, which takes some 400 MB: close other pages and load this one again.";
  }
  return /\.$/.test(text) ? text : `The model stopped (${text.slice(0, 160)}): load the page again.`;
}
// A function that adds two vectors of four numbers: a browser without them cannot run the model.
const simd = () => WebAssembly.validate(Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11));

const waiting = {};
globalThis.part = (name, value) => waiting[name](value);
const read = (name) => new Promise((resolve, reject) => {
  waiting[name] = resolve;
  const script = element("script", { src: `${name}.data.js` });
  script.addEventListener("error", () => reject(new Error(`${script.src} is missing: copy the whole folder.`)));
  script.addEventListener("load", () => script.remove());
  document.head.append(script);
});

async function load() {
  if (!globalThis.WebAssembly || !simd()) {
    throw new Error("This browser lacks WebAssembly’s SIMD, which the model needs: take one from 2021 or later.");
  }
  if (!globalThis.DecompressionStream) throw new Error("This browser cannot unpack the model: take one from 2023 or later.");
  say("Loading the model …");
  told = await read("page");
  lay();
  const wasm = new URLSearchParams(location.search).get("on") === "wasm";
  const kind = !wasm && (await navigator.gpu?.requestAdapter().catch(() => null)) ? "webgpu" : "wasm";
  const source = [Tokenizer, noise, Sampler, together, identity, times, inverse, heard];
  const text = `"use strict";\n${source.join("\n")}\n(${work})();`;
  worker = new Worker(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
  const tasks = [["page", told], ["runtime", kind], ...MODEL.map((name) => ["model", name]), ["erasures", "erasures"]];
  for (const [i, [take, name]] of tasks.entries()) {
    const value = take === "page" ? name : { ...await read(name), kind, name };
    const taken = new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => (data.failed ? reject(new Error(data.failed)) : resolve());
      worker.onerror = reject;
    });
    worker.postMessage({ take, value });
    await taken.catch((error) => {
      if (kind === "webgpu") location.replace("?on=wasm"); // it is slower there, but it runs
      throw error;
    });
    $("loading").value = (i + 1) / tasks.length;
  }
  worker.onmessage = ({ data }) => hear(data);
  worker.onerror = (error) => hear({ failed: error.message });
  $("loading").hidden = true;
  for (const id of ["draw", "another", "undo"]) $(id).disabled = false;
  $("told").textContent = `It runs on ${kind === "webgpu" ? "WebGPU" : "WebAssembly"}.`;
  request();
}

// What is typed, or a sentence that says what is wrong with it.
function asked() {
  const concept = $("concept").value.trim(), style = $("style").value, seed = $("seed").value.trim();
  const tokenizer = new Tokenizer(told.tokenizer), prompt = `a ${concept}${style ? ` in ${style} style` : ""}`;
  if (!concept) throw new Error("Type a concept, such as church, or pick one.");
  const [odd] = tokenizer.unknown(concept);
  if (odd) throw new Error(`The model does not know “${odd}”: did you mean “${nearest(odd, told.words)}”?`);
  if (tokenizer.tokens(prompt).length > tokenizer.length - 2) throw new Error("That is too long for the model: take fewer words.");
  if (!/^\d+$/.test(seed) || Number(seed) >= 2 ** 32) throw new Error(`The seed is “${seed}”: expected a whole number from 0 to ${2 ** 32 - 1}.`);
  return { prompt, seed: Number(seed), steps: Number($("steps").value), scale: SCALE };
}

// The word that fewest letters changed, left out, added or swapped lead to.
function nearest(word, known) {
  const distance = (a, b) => {
    const rows = [[...Array(b.length + 1).keys()]];
    for (let i = 1; i <= a.length; i++) {
      rows.push([i]);
      for (let j = 1; j <= b.length; j++) {
        rows[i][j] = Math.min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (a[i - 1] !== b[j - 1]));
        if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) rows[i][j] = Math.min(rows[i][j], rows[i - 2][j - 2] + 1);
      }
    }
    return rows[a.length][b.length];
  };
  return known.map((one) => [distance(word, one), one]).reduce((best, one) => (one[0] < best[0] ? one : best))[1];
}

// Ask the worker for what is on the page now; whatever it still draws is given up.
function request() {
  if (!worker || $("draw").disabled) return;
  try {
    const draw = { ...asked(), id: ++current, erased: chosen.map(({ at, strength }) => ({ at, strength })), undo };
    $("wrong").textContent = "";
    $("progress").value = 0;
    $("stop").disabled = false;
    say("Drawing …");
    for (const id of ["before", "after"]) $(id).classList.toggle("old", id === "after" || draw.prompt !== shown.before?.prompt);
    shown.asked = draw;
    worker.postMessage({ wanted: current, draw });
  } catch (error) {
    stop();
    $("wrong").textContent = error.message;
  }
}
function stop() {
  worker?.postMessage({ wanted: ++current });
  $("stop").disabled = true;
  say("Stopped.");
}

const shown = {};
function hear({ id, done, of, place, rgba, seconds, end, failed }) {
  if (failed) return say(sentence(failed));
  if (id !== current) return undefined;
  if (of) $("progress").value = done / of;
  const names = chosen.map(({ at }) => told.erasures[at].name).join(" and ");
  if (place) {
    const { pixels } = told, canvas = $(place), words = names && place === "after" ? `, ${names} erased${undo ? " and undone with T⁻¹" : ""}` : "";
    Object.assign(canvas, { width: pixels, height: pixels }).getContext("2d").putImageData(new ImageData(rgba, pixels), 0, 0);
    canvas.classList.remove("old");
    canvas.setAttribute("aria-label", `${place}: ${shown.asked.prompt}${words}`);
    shown[place] = { prompt: shown.asked.prompt, rgba };
    $("how").textContent = undo && names ? "after, undone with T⁻¹" : "after";
    if (seconds) shown.seconds = `${seconds.toFixed(1)} s a picture.`;
  }
  if (end) {
    $("progress").value = 1;
    $("before").classList.remove("old");
    $("after").classList.remove("old");
    $("stop").disabled = true;
    const gap = shown.before.rgba.reduce((most, value, i) => Math.max(most, Math.abs(value - shown.after.rgba[i])), 0);
    $("undone").textContent = !undo || !names ? "" : `The old picture is back: no colour differs by more than ${gap} of 255.`;
    say(`Drawn: ${shown.asked.prompt}, before and after. ${shown.seconds}`);
  }
  return undefined;
}

// Everything on the page that hangs on the model.
function lay() {
  $("concepts").append(...told.concepts.map((value) => element("option", { value })));
  $("style").append(...told.styles.map((value) => element("option", { value, textContent: value })), element("option", { value: "", textContent: "any" }));
  $("measured").textContent = `Measured by the atlas of erasures (notebook 09): the ${told.atlas.concepts} other concepts drawn before and after,
    ${told.atlas.pictures} pictures each, by how far the picture moved (${told.atlas.score}). The atlas erased by ${told.atlas.methods.join(", ")},
    which trains and hurts more; the matrices here are ${told.atlas.here}. Press one to see for yourself.`;
  for (const [at, { name }] of told.erasures.entries()) {
    const button = element("button", { type: "button" }, element("img", { src: told.pictures[name], alt: "" }), name);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      chosen = chosen.some((one) => one.at === at) ? chosen.filter((one) => one.at !== at) : [...chosen, { at, strength: 1 }];
      choose();
    });
    $("erasures").append(button);
  }
  chosen = [{ at: Math.max(0, told.erasures.findIndex(({ name }) => name === $("concept").value)), strength: 1 }];
  choose();
}

// The chosen erasures: a slider each, and whom the atlas saw hurt.
function choose() {
  [...$("erasures").children].forEach((button, at) => button.setAttribute("aria-pressed", String(chosen.some((one) => one.at === at))));
  $("chosen").replaceChildren(...chosen.map((one) => {
    const slider = element("input", { type: "range", min: 0, max: 1, step: 0.05, value: one.strength });
    const output = element("output", { textContent: one.strength.toFixed(2) });
    slider.addEventListener("input", () => {
      one.strength = Number(slider.value);
      output.textContent = one.strength.toFixed(2);
      request();
    });
    return element("div", {}, element("label", {}, element("span", { textContent: told.erasures[one.at].name }), slider), output);
  }));
  if (!chosen.length) $("chosen").textContent = "Nothing yet: choose one or more.";
  $("hurt").replaceChildren(...chosen.map(({ at }) => {
    const { name, hurt } = told.erasures[at];
    if (!hurt) return element("p", { textContent: `Without ${name}: the atlas did not erase it.` });
    const kin = hurt.map(([concept, delta]) => {
      const button = element("button", { type: "button" }, element("img", { src: told.pictures[concept], alt: "" }), concept, element("small", { textContent: `δ ${delta.toFixed(2)}` }));
      button.addEventListener("click", () => {
        $("concept").value = concept;
        request();
        $("pair").scrollIntoView({ block: "center" });
      });
      return button;
    });
    return element("div", {}, element("h3", { textContent: `Without ${name}` }), element("div", { className: "kin" }, ...kin));
  }));
  request();
}

$("asked").addEventListener("submit", (event) => { event.preventDefault(); request(); });
for (const id of ["concept", "style", "seed", "steps"]) $(id).addEventListener("change", request);
$("another").addEventListener("click", () => { $("seed").value = (Number($("seed").value) || 0) + 1; request(); });
$("stop").addEventListener("click", stop);
$("undo").addEventListener("click", () => {
  undo = !undo;
  $("undo").setAttribute("aria-pressed", String(undo));
  request();
});
load().catch((error) => { say(sentence(error)); $("loading").hidden = true; });
