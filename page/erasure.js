"use strict";
// An erasure in closed form is one matrix T on the prompt's tokens: W' = W T, so that the edited
// layers see T c where the original sees c. Matrices are rows in one Float64Array, `wide` each.

// (1 − s) 1 + s T, of all erasures one after the other; `changes` are the T − 1.
function together(erased, changes, wide) {
  let product = identity(wide);
  for (const { at, strength } of erased) {
    const t = identity(wide), from = at * wide * wide;
    for (let i = 0; i < t.length; i++) t[i] += strength * changes[from + i];
    product = times(t, product, wide);
  }
  return product;
}

function identity(wide) {
  const m = new Float64Array(wide * wide);
  for (let i = 0; i < wide; i++) m[i * wide + i] = 1;
  return m;
}

function times(a, b, wide) {
  const m = new Float64Array(wide * wide);
  for (let i = 0; i < wide; i++) {
    for (let k = 0; k < wide; k++) {
      const value = a[i * wide + k];
      for (let j = 0; j < wide; j++) m[i * wide + j] += value * b[k * wide + j];
    }
  }
  return m;
}

// By Gauss and Jordan, the largest left in a column its pivot; null where there is none.
function inverse(matrix, wide) {
  const a = matrix.slice(), m = identity(wide);
  const row = (of, i) => of.subarray(i * wide, (i + 1) * wide);
  for (let i = 0; i < wide; i++) {
    let best = i;
    for (let k = i; k < wide; k++) {
      if (Math.abs(a[k * wide + i]) > Math.abs(a[best * wide + i])) best = k;
    }
    const pivot = a[best * wide + i];
    if (Math.abs(pivot) < 1e-12) return null;
    for (const of of [a, m]) {
      const kept = row(of, i).slice();
      row(of, i).set(row(of, best).map((value) => value / pivot));
      if (best !== i) row(of, best).set(kept);
    }
    for (let k = 0; k < wide; k++) {
      const factor = a[k * wide + i];
      if (k === i || !factor) continue;
      for (let j = 0; j < wide; j++) {
        a[k * wide + j] -= factor * a[i * wide + j];
        m[k * wide + j] -= factor * m[i * wide + j];
      }
    }
  }
  return m;
}

// T c of every token, `c` (tokens, wide).
function heard(c, t, wide) {
  return c.map((_, at) => {
    const token = at - (at % wide), i = at % wide;
    let sum = 0;
    for (let j = 0; j < wide; j++) sum += t[i * wide + j] * c[token + j];
    return sum;
  });
}
