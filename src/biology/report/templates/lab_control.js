// What is held in the page `lab`, and its control, as `biology steer` has them (held_features.py, controls.py): the same features at
// the same values, and the same random sets of others, drawn with the same generator.
"use strict";

const DRAWS = 10;

// Features at values, by layer and token: at one token each, or at every token from `first` on, new ones included.
class Held {
  constructor(sites, first = null) {
    this.first = first;
    this.layers = [];
    for (const { layer, at, pos, value } of sites) {
      const places = (this.layers[layer] ??= new Map()), where = first === null ? pos : 0;
      if (!places.has(where)) places.set(where, []);
      places.get(where).push([at, value]);
    }
    this.lowest = Math.min(...sites.map((site) => site.layer));
    this.from = first ?? (sites.length ? Math.min(...sites.map((site) => site.pos)) : Infinity);
  }

  at(layer, position) {
    if (this.first === null) return this.layers[layer]?.get(position);
    return position >= this.first ? this.layers[layer]?.get(0) : undefined;
  }
}

const valueAt = (network, reading, layer, pos, at) => network.features(reading, layer, pos).find(([one]) => one === at)?.[1] ?? 0;

// The features that `holds` name on a prompt (`clean` is its reading), each with its value, and what stands for it in the control:
// what is put in is matched by what is active where it comes from, what is taken away by what is active here. Where two name one
// feature, what is put in goes before what is taken away, and a feature before a supernode.
const sitesOf = (network, clean, holds) => {
  const sites = new Map();
  const put = (layer, at, pos, value, from) => sites.set(`${layer}/${at}`, { layer, at, pos, value, from });
  for (const { strength, own } of holds) {
    for (const [layer, at] of own?.members ?? []) put(layer, at, own.pos, -strength * valueAt(network, clean, layer, own.pos, at), { reading: clean, pos: own.pos });
  }
  for (const { strength, pos, from, members } of holds) {
    for (const [layer, at] of members ?? []) put(layer, at, pos, strength * valueAt(network, from.reading, layer, from.pos, at), from);
  }
  for (const { strength, pos, feature } of holds) {
    if (feature) put(feature.layer, feature.at, pos, strength * (valueAt(network, clean, feature.layer, pos, feature.at) || feature.largest), null);
  }
  const found = [...sites.values()], sources = [...new Set(found.flatMap(({ from }) => (from ? [from.reading] : [])))];
  return found.map(({ from, ...site }) => {
    const pool = from && site.value > 0 ? { ...from, order: 1 + sources.indexOf(from.reading) } : { reading: clean, pos: site.pos, order: 0 };
    return { ...site, pool };
  });
};

// numpy's PCG64 from a known state, as numbers in [0, 1); those that were drawn are kept, since every control begins anew.
class Uniform {
  constructor({ state, inc }) {
    this.state = BigInt(state);
    this.inc = BigInt(inc);
    this.drawn = [];
  }

  number(place) {
    while (this.drawn.length <= place) {
      this.state = BigInt.asUintN(128, this.state * 0x2360ed051fc65da44385df649fccf645n + this.inc);
      const mixed = BigInt.asUintN(64, (this.state >> 64n) ^ this.state), turn = this.state >> 122n;
      const turned = BigInt.asUintN(64, (mixed >> turn) | (mixed << ((64n - turn) & 63n)));
      this.drawn.push(Number(turned >> 11n) * 2 ** -53);
    }
    return this.drawn[place];
  }
}

// DRAWS sets of other features that are active at the same layers and tokens, as many, and pushed as hard (controls.matched_sets).
const matchedSets = (network, clean, sites, uniform) => {
  const d = network.width, sets = Array.from({ length: DRAWS }, () => []);
  let drawn = 0;
  const order = (count) => {
    const keys = Array.from({ length: count }, (_, i) => uniform.number(drawn + i));
    drawn += count;
    return [...keys.keys()].sort((a, b) => keys[a] - keys[b]);
  };
  const pushed = (layer, list) => {
    const sum = new Float64Array(d), { decoder } = network.layers[layer];
    for (const [at, push] of list) for (let i = 0; i < d; i++) sum[i] += push * decoder[at * d + i];
    return Math.hypot(...sum);
  };
  const scaled = (layer, list, wanted) => {
    const length = pushed(layer, list);
    return list.map(([at, push]) => [at, length > 0 ? (push * wanted) / length : 0]);
  };
  const changed = sites.map((site) => ({ ...site, change: site.value - valueAt(network, clean, site.layer, site.pos, site.at) }));
  const edited = Map.groupBy(changed, (site) => site.layer);
  for (const cell of grouped(changed, (site) => [site.layer, site.pos])) {
    const { layer, pos } = cell[0], taken = new Set(edited.get(layer).map((site) => site.at)), parts = sets.map(() => []);
    const count = network.layers[layer].numbers.length;
    for (const group of grouped(cell, (site) => [site.pool.order, site.pool.pos, site.change > 0 ? 1 : 0])) {
      const { pool, change } = group[0], sign = change > 0 ? 1 : -1;
      const active = network.features(pool.reading, layer, pool.pos).filter(([at]) => !taken.has(at));
      const chosen = sets.map(() => order(active.length).slice(0, group.length).map((i) => active[i]));
      if (active.length < group.length) {
        const there = new Set(active.map(([at]) => at));
        const others = Array.from({ length: count }, (_, at) => at).filter((at) => !taken.has(at) && !there.has(at));
        const typical = active.length ? active.reduce((sum, [, value]) => sum + value, 0) / active.length : 1;
        for (const set of chosen) set.push(...order(others.length).slice(0, group.length - active.length).map((i) => [others[i], typical]));
      }
      const wanted = pushed(layer, group.map((site) => [site.at, site.change]));
      chosen.forEach((set, draw) => parts[draw].push(...scaled(layer, set.map(([at, value]) => [at, sign * value]), wanted)));
    }
    const target = pushed(layer, cell.map((site) => [site.at, site.change]));
    parts.forEach((part, draw) => {
      const total = new Map();
      for (const [at, push] of scaled(layer, part, target)) total.set(at, (total.get(at) ?? 0) + push);
      for (const [at, push] of total) sets[draw].push({ layer, at, pos, value: valueAt(network, clean, layer, pos, at) + push });
    });
  }
  return sets;
};

// Lists of what has equal keys, in ascending order of the keys; a key is a list of numbers.
const grouped = (list, key) => {
  const groups = new Map();
  for (const one of list) {
    const name = key(one).join();
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(one);
  }
  const compare = (a, b) => a.map((value, i) => value - b[i]).find((difference) => difference) ?? 0;
  return [...groups.values()].sort((a, b) => compare(key(a[0]), key(b[0])));
};
