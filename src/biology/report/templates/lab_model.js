// The model of the page `lab`, run in plain JavaScript: words to tokens, a Llama-like network, and its transcoders.
// Sums are in double precision over the shipped weights, so that numbers are torch's to within its own rounding.
"use strict";

// Data ---------------------------------------------------------------------------------------------------------------

// What SmallModel.packed packed: facts, and the weights, first all upper bytes and then all lower ones.
const unpackedModel = async (id) => {
  const { facts, bytes: high } = await unpackedBytes(id), count = high.length / 2, low = high.subarray(count);
  const known = new Float32Array(65536), weights = new Float32Array(count);
  for (let i = 0; i < 65536; i++) known[i] = facts.format === "F16" ? half(i) : brain(i);
  for (let i = 0; i < count; i++) weights[i] = known[(high[i] << 8) | low[i]];
  return { facts, weights };
};
const half = (bits) => {
  const sign = bits >> 15 ? -1 : 1, power = (bits >> 10) & 31, rest = bits & 1023;
  return sign * (power ? (1 + rest / 1024) * 2 ** (power - 15) : rest * 2 ** -24);
};
const brain = (bits) => new Float32Array(new Uint32Array([bits << 16]).buffer)[0];

// Words --------------------------------------------------------------------------------------------------------------

const WORD = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";

class Words {
  constructor({ vocabulary, special, joined, bos }) {
    Object.assign(this, { vocabulary, bos, special: new Set(special) });
    this.number = new Map(vocabulary.map((word, id) => [word, id]));
    this.joined = new Set(joined);
    const whole = [...joined, ...special].map((id) => vocabulary[id]).sort((a, b) => b.length - a.length);
    const escaped = whole.map((word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
    this.wholes = new RegExp(escaped.join("|") || "(?!)", "gu");
    this.pieces = new RegExp(`\\n|\\p{Nd}+|(?:(?!\\p{Nd})[${WORD}])+|[^${WORD}\\s]`, "gu");
  }

  // Token ids of a text behind the BOS, as `model.encode` gives them. Throws an Error that names an unknown word.
  encode(text) {
    const ids = [];
    let from = 0;
    for (const { 0: word, index } of text.matchAll(this.wholes)) {
      const id = this.number.get(word), end = index + word.length;
      if (this.joined.has(id) && (this.inWord(text.slice(0, index), true) || this.inWord(text.slice(end), false))) continue;
      ids.push(...this.split(text.slice(from, index)), id);
      from = end;
    }
    ids.push(...this.split(text.slice(from)));
    if (!ids.length) throw new Error("The prompt is empty.");
    return this.bos === null || this.special.has(ids[0]) ? ids : [this.bos, ...ids];
  }

  inWord(text, atEnd) {
    return new RegExp(atEnd ? `[${WORD}]$` : `^[${WORD}]`, "u").test(text);
  }

  split(text) {
    return [...text.matchAll(this.pieces)].flatMap(([word]) => {
      const letters = [...word], ids = [];
      for (let start = 0, end; start < letters.length; start = end) {
        let id;
        for (end = letters.length; end > start && id === undefined; end--) id = this.number.get((start ? "##" : "") + letters.slice(start, end).join(""));
        if (id === undefined) throw new Error(`The model does not know the word \u201c${word}\u201d.`);
        ids.push(id);
        end++;
      }
      return ids;
    });
  }

  decode(ids) {
    return ids.map((id, place) => {
      const piece = this.vocabulary[id];
      return place === 0 ? piece : piece.startsWith("##") ? piece.slice(2) : ` ${piece}`;
    }).join("");
  }

  // The word that a token is a piece of.
  around(ids, pos) {
    const piece = (at) => this.vocabulary[ids[at]]?.startsWith("##");
    let from = pos, to = pos + 1;
    while (piece(from)) from--;
    while (piece(to)) to++;
    return this.decode(ids.slice(from, to));
  }

  // What the tokens `after` add to the text of those `before`.
  continuation(before, after) {
    const start = this.decode(before), whole = this.decode([...before, ...after]);
    let same = 0;
    while (same < start.length && start[same] === whole[same]) same++;
    return whole.slice(same);
  }
}

// Numbers ------------------------------------------------------------------------------------------------------------

// out[p] = W x[p] for n vectors: several products at once, so that each number that is read is used more than once.
const times = (W, x, n, rows, cols, out) => {
  let p = 0;
  for (; p + 4 <= n; p += 4) {
    const a = p * cols, b = a + cols, c = b + cols, d = c + cols;
    for (let r = 0; r < rows; r += 2) {
      const w = r * cols, y = r + 1 < rows ? w + cols : w, o = p * rows + r;
      let s = 0, t = 0, u = 0, v = 0, s1 = 0, t1 = 0, u1 = 0, v1 = 0;
      for (let i = 0; i < cols; i++) {
        const k = W[w + i], l = W[y + i], xa = x[a + i], xb = x[b + i], xc = x[c + i], xd = x[d + i];
        s += k * xa; t += k * xb; u += k * xc; v += k * xd;
        s1 += l * xa; t1 += l * xb; u1 += l * xc; v1 += l * xd;
      }
      out[o] = s; out[o + rows] = t; out[o + 2 * rows] = u; out[o + 3 * rows] = v;
      if (r + 1 < rows) { out[o + 1] = s1; out[o + rows + 1] = t1; out[o + 2 * rows + 1] = u1; out[o + 3 * rows + 1] = v1; }
    }
  }
  for (; p < n; p++) {
    const a = p * cols, o = p * rows;
    let r = 0;
    for (; r + 8 <= rows; r += 8) {
      const w = r * cols, w1 = w + cols, w2 = w1 + cols, w3 = w2 + cols, w4 = w3 + cols, w5 = w4 + cols, w6 = w5 + cols, w7 = w6 + cols;
      let s = 0, t = 0, u = 0, v = 0, s1 = 0, t1 = 0, u1 = 0, v1 = 0;
      for (let i = 0; i < cols; i++) {
        const k = x[a + i];
        s += k * W[w + i]; t += k * W[w1 + i]; u += k * W[w2 + i]; v += k * W[w3 + i];
        s1 += k * W[w4 + i]; t1 += k * W[w5 + i]; u1 += k * W[w6 + i]; v1 += k * W[w7 + i];
      }
      const y = o + r;
      out[y] = s; out[y + 1] = t; out[y + 2] = u; out[y + 3] = v; out[y + 4] = s1; out[y + 5] = t1; out[y + 6] = u1; out[y + 7] = v1;
    }
    for (; r < rows; r++) out[o + r] = dot(W, r * cols, x, a, cols);
  }
};
const dot = (a, i, b, j, n) => {
  let sum = 0;
  for (let k = 0; k < n; k++) sum += a[i + k] * b[j + k];
  return sum;
};
const softmax = (values) => {
  const top = values.reduce((a, b) => Math.max(a, b));
  const weights = values.map((value) => Math.exp(value - top)), total = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / total);
};

// The network --------------------------------------------------------------------------------------------------------

// A text on its way through the model. `held` is what `holding` in lab_control.js makes: features at values, by layer.
// `reads` is what features read, `keys` and `values` what later tokens attend to; tokens before `from` are taken over.
class Reading {
  constructor(model, ids, { held = null, after = null, from = 0, room = 0 } = {}) {
    Object.assign(this, { model, ids: [...ids], held, from, active: [] });
    const size = (ids.length + room) * model.width, kept = from * model.width;
    for (const part of ["keys", "values", "reads"]) {
      this[part] = Array.from({ length: model.layers.length }, (_, layer) => {
        const whole = new Float64Array(size);
        if (kept) whole.set(after[part][layer].subarray(0, kept));
        return whole;
      });
    }
  }
}

class Network {
  constructor({ facts, weights }) {
    const { shape } = facts;
    Object.assign(this, shape, { facts, layers: [], words: new Words(facts.words) });
    let place = 0;
    const take = (count) => weights.subarray(place, (place += count));
    this.embedding = take(shape.vocabulary * shape.width);
    const square = shape.width ** 2, wide = shape.width * shape.hidden;
    for (const features of facts.features) {
      const n = features.length;
      this.layers.push({
        gain1: take(shape.width), query: take(square), key: take(square), value: take(square), output: take(square),
        gain2: take(shape.width), gate: take(wide), up: take(wide), down: take(wide),
        numbers: features, index: new Map(features.map((feature, at) => [feature, at])),
        encoder: take(n * shape.width), bias: take(n), threshold: take(n), decoder: take(n * shape.width),
      });
    }
    this.gain = take(shape.width);
    const half = shape.width / shape.heads / 2;
    this.turns = Array.from({ length: half }, (_, i) => shape.theta ** (-i / half));
  }

  normed(x, n, gain) {
    const d = this.width, out = new Float64Array(n * d);
    for (let p = 0; p < n; p++) {
      const scale = 1 / Math.sqrt(dot(x, p * d, x, p * d, d) / d + this.epsilon);
      for (let i = 0; i < d; i++) out[p * d + i] = x[p * d + i] * scale * gain[i];
    }
    return out;
  }

  // Rotary positions, in place: the two halves of each head are real and imaginary parts.
  turn(x, offset, position) {
    const half = this.turns.length;
    for (let head = 0; head < this.heads; head++) {
      for (let i = 0; i < half; i++) {
        const a = offset + 2 * half * head + i, b = a + half, angle = position * this.turns[i];
        const cos = Math.cos(angle), sin = Math.sin(angle), real = x[a], imaginary = x[b];
        x[a] = real * cos - imaginary * sin;
        x[b] = imaginary * cos + real * sin;
      }
    }
  }

  attended(reading, layer, query, at, position, out) {
    const d = this.width, size = d / this.heads, keys = reading.keys[layer], values = reading.values[layer];
    const scores = new Float64Array(position + 1);
    for (let head = 0; head < this.heads; head++) {
      const start = head * size;
      for (let p = 0; p <= position; p++) scores[p] = dot(query, at + start, keys, p * d + start, size) / Math.sqrt(size);
      softmax(scores).forEach((weight, p) => {
        for (let i = 0; i < size; i++) out[at + start + i] += weight * values[p * d + start + i];
      });
    }
  }

  // Runs the tokens of all readings from their `from` on, together. Gives each its probabilities of the next token.
  run(readings) {
    const d = this.width, sites = [];
    for (const reading of readings) for (let p = reading.from; p < reading.ids.length; p++) sites.push([reading, p]);
    const n = sites.length, x = new Float64Array(n * d), room = (size) => new Float64Array(n * size);
    sites.forEach(([reading, p], i) => x.set(this.embedding.subarray(reading.ids[p] * d, (reading.ids[p] + 1) * d), i * d));
    const add = (change) => { for (let i = 0; i < x.length; i++) x[i] += change[i]; };
    this.layers.forEach((block, layer) => {
      const seen = this.normed(x, n, block.gain1);
      const [query, key, value, mixed, out] = [room(d), room(d), room(d), room(d), room(d)];
      times(block.query, seen, n, d, d, query);
      times(block.key, seen, n, d, d, key);
      times(block.value, seen, n, d, d, value);
      sites.forEach(([reading, p], i) => {
        this.turn(query, i * d, p);
        this.turn(key, i * d, p);
        reading.keys[layer].set(key.subarray(i * d, (i + 1) * d), p * d);
        reading.values[layer].set(value.subarray(i * d, (i + 1) * d), p * d);
      });
      sites.forEach(([reading, p], i) => this.attended(reading, layer, query, i * d, p, mixed));
      times(block.output, mixed, n, d, d, out);
      add(out);
      const read = this.normed(x, n, block.gain2), gate = room(this.hidden), up = room(this.hidden);
      times(block.gate, read, n, this.hidden, d, gate);
      times(block.up, read, n, this.hidden, d, up);
      for (let i = 0; i < gate.length; i++) gate[i] *= up[i] / (1 + Math.exp(-gate[i]));
      times(block.down, gate, n, d, this.hidden, out);
      sites.forEach(([reading, p], i) => {
        reading.reads[layer].set(read.subarray(i * d, (i + 1) * d), p * d);
        for (const [at, aim] of reading.held?.at(layer, p) ?? []) this.move(block, at, aim, read, out, i * d);
      });
      add(out);
    });
    return readings.map((reading) => {
      const last = sites.findLastIndex(([one]) => one === reading), logits = new Float64Array(this.vocabulary);
      times(this.embedding, this.normed(x.subarray(last * d, (last + 1) * d), 1, this.gain), 1, this.vocabulary, d, logits);
      reading.said = softmax(logits);
      reading.from = reading.ids.length;
      return reading;
    });
  }

  activation(block, at, reads, offset) {
    const before = dot(block.encoder, at * this.width, reads, offset, this.width) + block.bias[at];
    return before > Math.max(0, block.threshold[at]) ? before : 0;
  }

  // A feature is moved from its activation to `aim`: the change times its decoder joins what the MLP writes.
  move(block, at, aim, reads, out, offset) {
    const change = aim - this.activation(block, at, reads, offset), start = at * this.width;
    for (let i = 0; i < this.width; i++) out[offset + i] += change * block.decoder[start + i];
  }

  // The active features of a layer at a token, in order: places in the layer's list, and activations.
  features(reading, layer, position) {
    const cells = (reading.active[layer] ??= []);
    return (cells[position] ??= this.encoded(layer, reading.reads[layer].subarray(position * this.width, (position + 1) * this.width), 1)[0]);
  }

  encoded(layer, reads, n) {
    const block = this.layers[layer], count = block.numbers.length, before = new Float64Array(n * count);
    times(block.encoder, reads, n, count, this.width, before);
    return Array.from({ length: n }, (_, p) => {
      const found = [];
      for (let at = 0; at < count; at++) {
        const value = before[p * count + at] + block.bias[at];
        if (value > block.threshold[at] && value > 0) found.push([at, value]);
      }
      return found;
    });
  }

  // Fills in all active features of a reading. Before a token, and up to the first layer that is held, they are another reading's.
  see(reading, from = 0, before = null) {
    for (let layer = 0; layer < this.layers.length; layer++) {
      if (before && layer <= reading.held.lowest) {
        reading.active[layer] = before.active[layer];
        continue;
      }
      const n = reading.ids.length - from, reads = reading.reads[layer];
      const found = this.encoded(layer, reads.subarray(from * this.width, reading.ids.length * this.width), n);
      reading.active[layer] = [...(before?.active[layer].slice(0, from) ?? []), ...found];
    }
    return reading;
  }

  // The tokens that a feature raises most (or lowers most): its decoder on the unembedding. The mean over tokens, which `supernodes.promoted`
  // takes off, is the same for all of them.
  promoted(layer, at, count, sign = 1) {
    const start = at * this.width, vector = this.layers[layer].decoder.subarray(start, start + this.width);
    const written = Float64Array.from(vector, (value, i) => sign * value * this.gain[i]), effect = new Float64Array(this.vocabulary);
    times(this.embedding, written, 1, this.vocabulary, this.width, effect);
    return [...effect.keys()].sort((a, b) => effect[b] - effect[a]).slice(0, count);
  }

  // All readings write on, the most probable token each time, until `stops` says so or `most` tokens are written.
  write(readings, most, stops) {
    const written = readings.map(() => []), over = new Set();
    for (let number = 0; number < most && over.size < readings.length; number++) {
      const going = readings.filter((_, i) => !over.has(i));
      if (number) this.run(going);
      readings.forEach((reading, i) => {
        if (over.has(i)) return;
        const token = reading.said.reduce((best, p, t, all) => (p > all[best] ? t : best), 0);
        written[i].push(token);
        reading.ids.push(token);
        if (stops(token, written[i].length)) over.add(i);
      });
    }
    return written;
  }
}
