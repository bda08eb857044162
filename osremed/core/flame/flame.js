"use strict";
// Draws one stack tree on a canvas. All text comes from programs that may be hostile: it reaches the page only through
// textContent and fillText. Nodes are in pre-order; `last[i]` is the node after i's subtree, so what is out of sight or
// too narrow is skipped whole and a tree of 50,000 nodes is drawn in a few milliseconds.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const canvas = document.getElementById("flame"), said = document.getElementById("said");
  const search = document.getElementById("search"), found = document.getElementById("found");
  const ROW = 18, LEAST_PX = 0.6, pen = canvas.getContext("2d");
  // Words in the language that is spoken: the page is made with them. Values go into the gaps of a phrase as they are.
  const put = (phrase, ...values) => phrase.replace(/\{([1-9])\}/g, (_gap, number) => values[number - 1]);
  let view, width = "union", zoom = 0, focus = 0, rows = [], query = "", matches = null;

  function load(index) {
    view = Object.assign({}, data.views[index]);
    const { depth } = view, count = depth.length;
    view.parent = new Int32Array(count);
    view.last = new Int32Array(count).fill(count);
    const open = [];
    for (let i = 0; i < count; i++) {
      while (open.length > depth[i]) view.last[open.pop()] = i;
      view.parent[i] = open.length ? open[open.length - 1] : -1;
      open.push(i);
    }
    zoom = focus = 0;
    weigh();
  }

  // The width of each node and where it begins: children lie side by side from their parent's left edge.
  function weigh() {
    const count = view.depth.length, before = view.before, after = view.weight;
    const total = [before ? before[0] || 1 : 1, after[0] || 1];
    view.size = new Float64Array(count);
    view.left = new Float64Array(count);
    for (let i = 0; i < count; i++) {
      const one = before ? before[i] / total[0] : 0, two = after[i] / total[1];
      view.size[i] = !before ? two : width === "before" ? one : width === "after" ? two : (one + two) / 2;
    }
    const next = new Float64Array(count);
    for (let i = 0; i < count; i++) {
      const up = view.parent[i];
      view.left[i] = up < 0 ? 0 : next[up];
      next[i] = view.left[i];
      if (up >= 0) next[up] += view.size[i];
    }
    find();
  }

  function find() {
    matches = null;
    found.textContent = "";
    if (query) {
      const wanted = query.toLowerCase();
      const hit = data.frames.map((frame) => frame.text.toLowerCase().includes(wanted));
      matches = view.frame.map((frame) => hit[frame]);
      let share = 0;
      for (let i = 0; i < matches.length; i++) {
        if (matches[i]) { share += view.size[i]; const end = view.last[i]; if (end > i + 1) i = end - 1; }
      }
      const nodes = matches.reduce((sum, each) => sum + (each ? 1 : 0), 0);
      found.textContent = put(_("{1} frames match, {2} % of all"), nodes, (100 * share / (view.size[0] || 1)).toFixed(1));
    }
    draw();
  }

  const dark = () => getComputedStyle(document.documentElement).getPropertyValue("--bg").trim() !== "#fff";
  const HUES = { python: 48, java: 130, node: 95, jit: 110, native: 20, kernel: 205, note: 265 };

  function colour(i, night) {
    if (view.before) {
      const verdict = view.verdict[i];  // 0 grey, 1 more, -1 less
      if (!verdict) return night ? "#3a4047" : "#d9dde1";
      const change = Math.abs(view.weight[i] / (view.weight[0] || 1) - view.before[i] / (view.before[0] || 1));
      const depth = Math.min(1, change / 0.1), light = night ? 30 + 15 * depth : 80 - 30 * depth;
      return `hsl(${verdict > 0 ? 5 : 215} 80% ${light}%)`;
    }
    const frame = data.frames[view.frame[i]], hue = HUES[frame.kind] ?? 20;
    let hash = 0;
    for (let at = 0; at < frame.text.length; at++) hash = (hash * 31 + frame.text.charCodeAt(at)) >>> 0;
    return `hsl(${hue + hash % 14 - 7} ${night ? 45 : 75}% ${night ? 32 + hash % 7 : 68 + hash % 9}%)`;
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1, wide = canvas.clientWidth;
    let deepest = 0;
    for (let i = zoom; i < view.last[zoom]; i++) {
      if (view.size[i] / (view.size[zoom] || 1) * wide < LEAST_PX) { i = view.last[i] - 1; continue; }
      if (view.depth[i] > deepest) deepest = view.depth[i];
    }
    const high = Math.min(deepest + 1, 400) * ROW;
    canvas.style.height = `${high}px`;
    canvas.width = Math.max(1, Math.round(wide * ratio));
    canvas.height = Math.max(1, Math.round(high * ratio));
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    const night = dark(), ink = night ? "#f0f2f4" : "#16181a", style = getComputedStyle(document.documentElement);
    const mark = style.getPropertyValue("--mark").trim();
    rows = [];
    const put = (i, x, w) => {
      const y = view.depth[i] * ROW;
      pen.fillStyle = matches && matches[i] ? mark : colour(i, night);
      pen.fillRect(x, y, Math.max(w - 0.5, 0.4), ROW - 1);
      if (view.before && view.verdict[i] && (!view.before[i] || !view.weight[i])) {  // new or vanished: an edge
        pen.strokeStyle = ink;
        pen.setLineDash(view.weight[i] ? [] : [4, 3]);
        pen.strokeRect(x + 0.75, y + 0.75, Math.max(w - 2, 0.5), ROW - 2.5);
        pen.setLineDash([]);
      }
      if (i === focus) { pen.strokeStyle = "#3b82f6"; pen.lineWidth = 2; pen.strokeRect(x + 1, y + 1, Math.max(w - 2.5, 1), ROW - 3); pen.lineWidth = 1; }
      if (w > 26) {
        pen.save();
        pen.beginPath(); pen.rect(x, y, w - 2, ROW); pen.clip();
        pen.fillStyle = matches && matches[i] ? (night ? "#000" : "#fff") : ink;
        pen.fillText(data.frames[view.frame[i]].text, x + 3, y + ROW / 2);
        pen.restore();
      }
      (rows[view.depth[i]] = rows[view.depth[i]] || []).push([x, w, i]);
    };
    for (let up = view.parent[zoom]; up >= 0; up = view.parent[up]) put(up, 0, wide);
    const scale = wide / (view.size[zoom] || 1);
    for (let i = zoom; i < view.last[zoom]; i++) {
      const w = view.size[i] * scale;
      if (w < LEAST_PX || view.depth[i] >= 400) { i = view.last[i] - 1; continue; }
      put(i, (view.left[i] - view.left[zoom]) * scale, w);
    }
    canvas.dataset.drawn = String(rows.reduce((sum, row) => sum + row.length, 0));
  }

  const percent = (part, whole) => `${(100 * part / (whole || 1)).toFixed(2)} %`;

  function tell(i) {
    const text = data.frames[view.frame[i]].text;
    if (view.before) {
      const before = percent(view.before[i], view.before[0]), after = percent(view.weight[i], view.weight[0]);
      const verdict = { 0: _("not significant"), 1: _("more"), "-1": _("less") }[view.verdict[i]];
      said.textContent = put(_("{1}: {2} before, {3} after, {4}"), text, before, after, verdict);
    } else {
      const weight = `${view.weight[i].toFixed(3)} ${data.unit}`, all = percent(view.weight[i], view.weight[0]);
      said.textContent = put(_("{1}: {2}, {3} of all, {4} of what is shown"), text, weight, all, percent(view.weight[i], view.weight[zoom]));
    }
  }

  function at(event) {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const hit = (rows[Math.floor(y / ROW)] || []).find(([left, w]) => x >= left && x < left + w);
    return hit ? hit[2] : -1;
  }

  function go(i) { focus = i; tell(i); draw(); }
  function into(i) { zoom = i; go(i); }

  canvas.addEventListener("mousemove", (event) => { const i = at(event); if (i >= 0) tell(i); });
  canvas.addEventListener("click", (event) => { const i = at(event); if (i >= 0) into(i); });
  const shown = (i) => view.size[i] / (view.size[zoom] || 1) * canvas.clientWidth >= LEAST_PX;
  function sibling(i, step) {
    const up = view.parent[i];
    if (up < 0) return i;
    const all = [];
    for (let child = up + 1; child < view.last[up]; child = view.last[child]) if (shown(child)) all.push(child);
    return all[Math.min(all.length - 1, Math.max(0, all.indexOf(i) + step))] ?? i;
  }
  const KEYS = {
    ArrowUp: () => go(Math.max(0, view.parent[focus])),
    ArrowDown: () => { const child = focus + 1; if (child < view.last[focus] && shown(child)) go(child); },
    ArrowLeft: () => go(sibling(focus, -1)),
    ArrowRight: () => go(sibling(focus, 1)),
    Enter: () => into(focus),
    Escape: () => into(0),
  };
  canvas.addEventListener("keydown", (event) => {
    const act = KEYS[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== search) { event.preventDefault(); search.focus(); }
  });
  search.addEventListener("input", () => { query = search.value; find(); });
  search.addEventListener("keydown", (event) => { if (event.key === "Escape") { search.value = query = ""; find(); canvas.focus(); } });

  function buttons(group, act) {
    const all = [...document.querySelectorAll(`button[data-${group}]`)];
    for (const button of all) {
      button.addEventListener("click", () => {
        for (const each of all) each.setAttribute("aria-pressed", String(each === button));
        act(button.dataset[group]);
      });
    }
  }
  buttons("view", (index) => { load(Number(index)); tell(0); });
  buttons("width", (name) => { width = name; weigh(); });
  document.getElementById("reset").addEventListener("click", () => into(0));
  document.getElementById("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    draw();
  });
  window.addEventListener("resize", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  load(0);
  tell(0);
})();
