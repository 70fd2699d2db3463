"use strict";
// Noise and steps as the library takes them: the same seed gives the same picture.

// Standard normal numbers of torch's generator on a CPU, n a multiple of 16: Mersenne twister
// (Matsumoto & Nishimura 1998), 24 bits a number, and Box-Muller's pairs eight apart.
function noise(seed, n) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i++) {
    state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  }
  let at = 624;
  const uniform = () => {
    if (at === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return ((y ^ (y >>> 18)) & 0xffffff) / 0x1000000;
  };
  const out = Float32Array.from({ length: n }, uniform);
  for (let i = 0; i < n; i += 16) {
    for (let j = i; j < i + 8; j++) {
      const radius = Math.sqrt(-2 * Math.log(1 - out[j])), angle = 2 * Math.PI * out[j + 8];
      [out[j], out[j + 8]] = [radius * Math.cos(angle), radius * Math.sin(angle)];
    }
  }
  return out;
}

// DDIM without noise (Song et al. 2021, eq. 12) at evenly spaced timesteps, the last first.
class Sampler {
  constructor(noise, steps) {
    Object.assign(this, noise);
    this.stride = Math.floor(noise.num_train_timesteps / steps);
    this.timesteps = Array.from({ length: steps }, (_, i) =>
      (steps - 1 - i) * this.stride + noise.steps_offset);
  }

  // z a step nearer to the picture, by the UNet's output for the empty prompt and for the prompt,
  // one after the other: guidance is u + scale (c − u).
  step(z, t, outputs, scale) {
    const before = t - this.stride, n = z.length;
    const a = this.alphas[t], next = before >= 0 ? this.alphas[before] : this.last;
    const [signal, sigma] = [Math.sqrt(a), Math.sqrt(1 - a)];
    return z.map((value, i) => {
      const v = outputs[i] + scale * (outputs[n + i] - outputs[i]);
      const predictsV = this.prediction_type === "v_prediction";
      const clean = predictsV ? signal * value - sigma * v : (value - sigma * v) / signal;
      const epsilon = predictsV ? signal * v + sigma * value : v;
      return Math.sqrt(next) * clean + Math.sqrt(1 - next) * epsilon;
    });
  }
}
