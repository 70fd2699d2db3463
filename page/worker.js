"use strict";
// What runs in the worker: the page makes it of this function's own text, for a page opened as a
// file may start no worker from another. It is given the parts, then asked to draw.
function work() {
  const BLOCK = 64; // weights that share a scale, as in tools/page/export.py
  const parts = {}, sessions = {}, embeddings = new Map();
  let wanted = 0, queue = Promise.resolve();

  const unzipped = async (text) => {
    const packed = await (await fetch(`data:application/gzip;base64,${text}`)).blob();
    const stream = packed.stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  };
  const halves = Float32Array.from({ length: 65536 }, (_, h) => {
    const sign = h >> 15 ? -1 : 1, exponent = (h >> 10) & 31, fraction = h & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
  });
  const floats = (buffer, count, bits) => {
    const half = new Uint16Array(buffer, 0, bits === 16 ? count : Math.ceil(count / BLOCK));
    const out = new Float32Array(count), whole = new Int8Array(buffer, half.byteLength);
    if (bits === 16) for (let i = 0; i < count; i++) out[i] = halves[half[i]];
    else for (let i = 0; i < count; i++) out[i] = whole[i] * halves[half[(i / BLOCK) | 0]];
    return out;
  };
  const address = (data) => URL.createObjectURL(new Blob([data], { type: "text/javascript" }));

  const take = {
    page: (page) => {
      parts.page = page;
      parts.tokenizer = new Tokenizer(page.tokenizer);
    },
    runtime: async ({ kind, script, module, binary }) => {
      importScripts(address(await unzipped(script)));
      ort.env.wasm.wasmPaths = { mjs: address(await unzipped(module)) };
      ort.env.wasm.wasmBinary = await unzipped(binary);
      const cores = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
      ort.env.wasm.numThreads = Math.min(4, cores);
      parts.kind = kind;
    },
    erasures: async ({ matrices }) => {
      const buffer = await unzipped(matrices);
      parts.changes = floats(buffer, buffer.byteLength / 2, 16);
    },
    model: async ({ name, graph, weights, bits, count }) => {
      const data = new Uint8Array(floats(await unzipped(weights), count, bits).buffer);
      sessions[name] = await ort.InferenceSession.create(new Uint8Array(await unzipped(graph)), {
        executionProviders: [parts.kind], externalData: [{ path: "weights", data }],
        logSeverityLevel: 3, // errors alone
      });
    },
  };

  const run = async (name, given) => {
    const tensors = Object.entries(given).map(([key, [data, ...dims]]) =>
      [key, new ort.Tensor(data instanceof Int32Array ? "int32" : "float32", data, dims)]);
    return (await sessions[name].run(Object.fromEntries(tensors))).out.data;
  };
  const embedded = async (text) => {
    const { tokenizer } = parts;
    if (!embeddings.has(text)) {
      const ids = [tokenizer.encode(text), 1, tokenizer.length];
      embeddings.set(text, await run("text", { ids }));
    }
    return embeddings.get(text);
  };

  // A picture (pixels, pixels, RGBA) of the prompt, heard through the matrices one by one; null
  // where another is wanted by now. `told` is called at each step.
  const draw = async ({ id, prompt, seed, steps, scale }, matrices, told) => {
    const { latent, pixels, width, tokenizer, noise: schedule } = parts.page;
    const c = new Float32Array(2 * tokenizer.length * width);
    for (const [i, text] of ["", prompt].entries()) {
      const e = await embedded(text);
      c.set(matrices.reduce((tokens, t) => heard(tokens, t, width), e), i * e.length);
    }
    const n = latent[0] * latent[1] * latent[2], sampler = new Sampler(schedule, steps);
    let z = noise(seed, n);
    for (const t of sampler.timesteps) {
      await new Promise((resume) => setTimeout(resume)); // here a stop is heard
      if (wanted !== id) return null;
      const both = new Float32Array(2 * n);
      both.set(z);
      both.set(z, n);
      const given = { z: [both, 2, ...latent], t: [Float32Array.of(t), 1] };
      const out = await run("unet", { ...given, c: [c, 2, tokenizer.length, width] });
      z = sampler.step(z, t, out, scale);
      told();
    }
    const drawn = await run("vae", { z: [z, 1, ...latent] }), area = pixels * pixels;
    const rgba = new Uint8ClampedArray(4 * area).fill(255); // which rounds, too
    for (let i = 0; i < 3 * area; i++) {
      rgba[4 * (i % area) + ((i / area) | 0)] = 127.5 * drawn[i] + 127.5;
    }
    return rgba;
  };

  // Before and after from the same noise; what has not changed is not drawn again.
  const shown = {};
  const pair = async (asked) => {
    const { id, prompt, seed, steps, scale, erased, undo } = asked, { width } = parts.page;
    const keys = { before: [], after: erased.length ? [erased, undo] : [] };
    for (const place in keys) {
      keys[place] = JSON.stringify([prompt, seed, steps, scale, ...keys[place]]);
    }
    const todo = Object.keys(keys).filter((place) => shown[place]?.key !== keys[place]);
    let done = 0;
    for (const place of todo) {
      const began = performance.now(), key = keys[place], matrices = [];
      if (place === "after" && erased.length) {
        matrices.push(together(erased, parts.changes, width));
        // the erased model hears T of the prompt: of T⁻¹ c it is c again, but for rounding
        if (undo) matrices.unshift(inverse(matrices[0], width));
        if (!matrices[0]) throw new Error("These erasures have no inverse: lower a strength.");
      }
      const told = () => postMessage({ id, done: ++done, of: todo.length * steps });
      const same = Object.values(shown).find((one) => one.key === key);
      const rgba = same?.rgba ?? await draw(asked, matrices, told);
      if (!rgba) return;
      shown[place] = { key, rgba };
      const seconds = same ? undefined : (performance.now() - began) / 1000;
      postMessage({ id, place, rgba, seconds });
    }
    postMessage({ id, end: true });
  };

  onmessage = ({ data }) => {
    if ("wanted" in data) wanted = data.wanted;
    if (!data.draw && !data.take) return;
    queue = queue.then(() => (data.draw ? pair(data.draw) : take[data.take](data.value))).then(
      () => data.take && postMessage({ taken: data.take }),
      (error) => postMessage({ failed: String(error?.message ?? error) }),
    );
  };
}
