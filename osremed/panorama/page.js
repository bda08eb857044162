"use strict";
// Every text of the host enters the page as a text node; nothing here builds markup from strings.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const KINDS = {anon: "anonymous memory", file: "files in page cache", shmem: "shared memory, tmpfs", kernel: "kernel",
    other: "other", unaccounted: "unaccounted", free: "free"};
  const known = (value) => typeof value === "number";
  const why = (value) => value && value.missing ? "not collected: " + value.missing + (value.detail ? " (" + value.detail + ")" : "") : "?";
  const list = (value) => Array.isArray(value) ? value : [];

  // Control characters, and marks that turn text around, are spelled out.
  const clean = (text) => String(text).replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (mark) => "\\u" + mark.charCodeAt(0).toString(16).padStart(4, "0"));

  function bytes(count) {
    if (!known(count)) return why(count);
    let size = count, unit = "B";
    for (const next of ["KiB", "MiB", "GiB", "TiB"]) { if (Math.abs(size) < 1024) break; size /= 1024; unit = next; }
    return (unit === "B" ? size.toFixed(0) : size.toFixed(1)) + " " + unit;
  }
  const share = (count) => known(count) && known(data.total_bytes) && data.total_bytes > 0 ? (100 * count / data.total_bytes).toFixed(2) + " %" : "";

  function el(name, attributes, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    for (const child of children) node.append(typeof child === "object" ? child : clean(child));
    return node;
  }
  function shape(name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = clean(text);
    return node;
  }

  // --- theme -----------------------------------------------------------------------------------------------------
  at("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme:dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // --- key figures and findings ------------------------------------------------------------------------------------
  const balance = data.balance && Array.isArray(data.balance.lines) ? data.balance : null;
  at("subject").textContent = clean((data.host ? data.host + " · " : "") + data.scope + " · " +
    (data.taken_ns ? new Date(data.taken_ns / 1e6).toISOString().replace("T", " ").slice(0, 19) + " UTC" : ""));
  const figures = [["total", bytes(data.total_bytes)], ["available", bytes(data.available_bytes)],
    ["unaccounted", balance ? bytes(balance.residual_bytes) + " · " + share(balance.residual_bytes) : why(data.balance)],
    ["page cache with a name", data.coverage && known(data.coverage.ratio) ? (100 * data.coverage.ratio).toFixed(1) + " %" : "?"],
    ["gaps", String(list(data.gaps).length)]];
  for (const [name, value] of figures) at("figures").append(el("div", {}, el("b", {}, value), name));
  for (const each of list(data.findings)) {
    const kind = ["growing", "stable", "reclaimable"].includes(each.kind) ? each.kind : "unknown";
    const card = el("div", {class: "card " + kind}, el("b", {}, each.name), el("span", {class: "tag"}, kind));
    card.append(el("p", {}, each.summary));
    const gain = known(each.gain_bytes) ? "gain up to " + bytes(each.gain_bytes) : "gain not known";
    card.append(el("p", {class: "dim"}, "confidence " + Math.round(100 * each.confidence) + " % · " + gain + " · from " + list(each.evidence).join(", ")));
    if (each.how) card.append(el("p", {}, each.how));
    if (each.action) card.append(el("p", {}, el("code", {}, each.action + " " + JSON.stringify(each.with))));
    at("findings").append(card);
  }
  if (!list(data.findings).length) at("findings").append(el("p", {class: "dim"}, data.growth ? "None: nothing large, nothing growing." : "None. Growth was not measured: --growth 8s looks twice."));

  // --- icicle --------------------------------------------------------------------------------------------------------
  const ROW = 42, WIDE = 1000;
  function tree() {
    const root = {name: "all memory", kind: "all", size: 0, inside: []};
    if (!balance) return root;
    for (const [kind, name] of Object.entries(KINDS)) {
      const lines = balance.lines.filter((line) => line.kind === kind && known(line.bytes) && line.bytes > 0);
      if (!lines.length) continue;
      const node = {name, kind, up: root, inside: []};
      node.inside = lines.map((line) => {
        const mine = {name: line.name, kind, up: node, size: line.bytes, note: [line.note, line.source].filter(Boolean).join(" · "), inside: []};
        mine.inside = list(line.parts).filter((part) => part.bytes > 0).map((part) => ({name: part.name, kind, up: mine, size: part.bytes, inside: []}));
        return mine;
      });
      node.size = node.inside.reduce((sum, line) => sum + line.size, 0);
      root.inside.push(node);
      root.size += node.size;
    }
    return root;
  }
  const whole = tree();
  let focus = whole;
  function tell(node) {
    at("told").textContent = clean(node.name + ": " + bytes(node.size) + " · " + share(node.size) + (node.note ? " · " + node.note : ""));
  }
  function draw(wanted) {
    const map = at("map");
    map.replaceChildren();
    const rows = [[focus], focus.inside, focus.inside.flatMap((node) => node.inside), focus.inside.flatMap((node) => node.inside.flatMap((each) => each.inside))]
      .filter((row) => row.length);
    map.setAttribute("viewBox", "0 0 " + WIDE + " " + rows.length * ROW);
    map.setAttribute("preserveAspectRatio", "none");
    const left = new Map([[focus, 0]]), next = new Map([[focus, 0]]);
    const scale = WIDE / Math.max(focus.size, 1);
    rows.forEach((row, depth) => row.forEach((node) => {
      if (depth) { left.set(node, next.get(node.up)); next.set(node.up, left.get(node) + node.size * scale); next.set(node, left.get(node)); }
      const width = node.size * scale;
      if (width < 0.4 && depth) return;
      const box = shape("g", {tabindex: node === wanted || (!wanted && node === focus) ? "0" : "-1", role: "button",
        class: node.kind === "free" || node.kind === "all" ? "onfree" : "", "aria-label": clean(node.name + ", " + bytes(node.size) + ", " + share(node.size))});
      box.append(shape("rect", {x: left.get(node), y: depth * ROW, width: Math.max(width, 0.4), height: ROW - 1, class: "k-" + node.kind}));
      const ratio = (map.clientWidth || WIDE) / WIDE, room = Math.floor(width * ratio / 6.6) - 1;
      if (room > 3) {
        const held = shape("g", {transform: "translate(" + (left.get(node) + 5 / ratio) + " " + (depth * ROW) + ") scale(" + 1 / ratio + " 1)"});
        held.append(shape("text", {x: 0, y: 17}, node.name.length > room ? node.name.slice(0, room - 1) + "…" : node.name));
        held.append(shape("text", {x: 0, y: 33}, room > 8 ? bytes(node.size) : ""));
        box.append(held);
      }
      box.append(shape("title", {}, node.name + ": " + bytes(node.size) + " · " + share(node.size)));
      box.addEventListener("focus", () => tell(node));
      box.addEventListener("mouseenter", () => tell(node));
      box.addEventListener("click", () => go(node === focus ? node.up || node : node));
      box.addEventListener("keydown", (event) => key(event, node));
      node.box = box;
      map.append(box);
    }));
    map.style.height = rows.length * ROW + "px";
    const path = [];
    for (let node = focus; node; node = node.up) path.unshift(node.name);
    at("crumbs").textContent = clean(path.join(" › ") + " · " + bytes(focus.size));
    if (wanted && wanted.box) wanted.box.focus();
  }
  function go(node) { if (node.inside.length) { focus = node; draw(node); } }
  function key(event, node) {
    const row = node.up && node !== focus ? node.up.inside.filter((each) => each.box && each.box.isConnected) : [node];
    const beside = {ArrowRight: row[row.indexOf(node) + 1], ArrowLeft: row[row.indexOf(node) - 1],
      ArrowDown: node.inside.find((each) => each.box && each.box.isConnected), ArrowUp: node === focus ? undefined : node.up}[event.key];
    if (beside && beside.box) beside.box.focus();
    else if (event.key === "Enter" || event.key === " ") go(node);
    else if (event.key === "Escape" || event.key === "Backspace") { focus = focus.up || focus; draw(focus); }
    else return;
    event.preventDefault();
  }
  if (balance) { draw(); addEventListener("resize", () => draw()); } else at("crumbs").textContent = clean(why(data.balance));

  // --- tables ----------------------------------------------------------------------------------------------------------
  const series = data.history && data.history.lines || {};
  function spark(points) {
    const drawing = shape("svg", {class: "spark", viewBox: "0 0 96 20", role: "img", "aria-label": "trend"});
    const values = points.filter(known);
    if (values.length < 2) return drawing;
    const low = Math.min(...values), span = Math.max(...values) - low || 1;
    const path = values.map((value, index) => (index ? "L" : "M") + (index * 94 / (values.length - 1) + 1).toFixed(1) + " " + (18 - 16 * (value - low) / span).toFixed(1)).join("");
    drawing.append(shape("path", {d: path}));
    return drawing;
  }
  // column: [title, cell -> value, how: text | word | bytes | number | share | spark]; a word is short and not wrapped
  const pageCache = data.page_cache || {}, traced = data.allocations || {};
  const joined = (between, ...texts) => texts.filter(Boolean).join(between);
  const called = new Map(list(data.containers).map((row) => [row.cgroup, row.name]));
  const some = (names) => names.slice(0, 4).join(", ") + (names.length > 4 ? ", and " + (names.length - 4) + " more" : "");
  const TABLES = [
    ["Balance, line by line", balance ? balance.lines : [], [["line", (r) => r.name, "word"], ["bytes", (r) => r.bytes, "bytes"], ["share", (r) => r.bytes, "share"],
      ["trend", (r) => series[r.name], "spark"], ["± error", (r) => r.error_bytes, "bytes"], ["source and method", (r) => joined(" · ", r.source, r.method), "text"],
      ["overlap rule, notes", (r) => joined("; ", r.overlap, r.note), "text"]]],
    ["Growth", data.growth ? data.growth.rows : [], [["what", (r) => r.kind, "word"], ["name", (r) => r.name, "text"], ["grew by", (r) => r.bytes, "bytes"],
      ["each second", (r) => r.rate_bytes_s, "bytes"], ["before", (r) => r.before_bytes, "bytes"], ["after", (r) => r.after_bytes, "bytes"]]],
    ["Processes", data.processes, [["pid", (r) => r.pid, "number"], ["name", (r) => r.name, "word"], ["heap", (r) => r.heap_bytes, "bytes"], ["divided (PSS)", (r) => r.pss_bytes, "bytes"],
      ["private", (r) => r.private_bytes, "bytes"], ["files", (r) => r.file_bytes, "bytes"], ["shared", (r) => r.shmem_bytes, "bytes"], ["swap", (r) => r.swap_bytes, "bytes"],
      ["page tables", (r) => r.page_table_bytes, "bytes"], ["adj", (r) => r.oom_score_adj, "number"], ["container or unit", (r) => r.container, "text"], ["command line", (r) => r.cmdline, "text"]]],
    ["Containers, units and groups", data.containers, [["name", (r) => r.name, "text"], ["kind", (r) => joined(", ", r.kind, r.runtime, joined("/", r.namespace, r.pod)), "text"],
      ["usage", (r) => r.usage_bytes, "bytes"], ["limit", (r) => r.limit_bytes, "bytes"], ["anonymous", (r) => r.anon_bytes, "bytes"], ["files", (r) => r.file_bytes, "bytes"], ["shared", (r) => r.shmem_bytes, "bytes"],
      ["kernel", (r) => r.kernel_bytes, "bytes"], ["processes", (r) => r.processes, "number"], ["control group", (r) => r.cgroup === r.name ? "" : r.cgroup, "text"]]],
    ["Heaps, in a sentence", data.heaps, [["pid", (r) => r.pid, "number"], ["process", (r) => r.name, "word"], ["runtime", (r) => r.runtime, "word"],
      ["heap", (r) => r.missing ? r : r.resident_bytes, "bytes"], ["what holds it", (r) => r.sentence || why(r), "text"]]],
    ["Heaps, by type", list(data.heaps).flatMap((heap) => list(heap.types).map((type) => ({...type, process: heap.name + " (" + heap.pid + ")"}))),
      [["process", (r) => r.process, "word"], ["type", (r) => r.name, "text"], ["objects", (r) => r.count, "number"], ["bytes", (r) => r.bytes, "bytes"]]],
    ["Heaps, by holder", list(data.heaps).flatMap((heap) => list(heap.holders).map((holder) => ({...holder, process: heap.name + " (" + heap.pid + ")"}))),
      [["process", (r) => r.process, "word"], ["held in", (r) => r.path, "text"], ["kind", (r) => r.kind, "word"], ["items", (r) => r.items, "number"], ["of", (r) => r.element, "text"], ["bytes", (r) => r.bytes, "bytes"]]],
    ["Java: where what was made meanwhile hangs", list(data.heaps).flatMap((heap) => list((heap.recording || {}).paths).map((path) => ({...path, process: heap.name + " (" + heap.pid + ")"}))),
      [["process", (r) => r.process, "word"], ["held in", (r) => r.held_in, "text"], ["container", (r) => joined(", ", r.container, r.detail), "text"], ["samples", (r) => r.samples, "number"],
      ["path down to the object", (r) => r.path, "text"], ["made in, innermost first", (r) => list(r.stack).join(" < "), "text"]]],
    ["Removed groups that still hold memory", data.dying_groups, [["below", (r) => r.parent, "text"], ["held", (r) => r.held_bytes, "bytes"], ["count", (r) => r.count, "number"]]],
    ["Files in page cache", data.files, [["path", (r) => r.path + (r.deleted ? " (deleted)" : ""), "text"], ["cached", (r) => r.cached_bytes, "bytes"], ["share", (r) => r.cached_bytes, "share"],
      ["dirty", (r) => r.dirty_bytes, "bytes"], ["size", (r) => r.size_bytes, "bytes"], ["active", (r) => r.active_bytes, "bytes"], ["kind", (r) => joined(", ", r.filesystem, r.type), "text"], ["open by", (r) => some(list(r.open_by)) || "nobody", "text"],
      ["paid by", (r) => r.charged_to && r.charged_to.missing ? r.charged_to : some(list(r.charged_to).map((each) => (called.get(each.group) || each.group || "no group") + (r.charged_to.length > 1 ? " " + bytes(each.bytes) : ""))), "text"],
      ["what frees it", (r) => r.frees, "text"]]],
    ["Page cache by file system", pageCache.file_systems, [["mounted at", (r) => r.mounted_at || "not mounted", "text"], ["kind", (r) => r.kind, "word"], ["source", (r) => r.source, "text"],
      ["cached", (r) => r.cached_bytes, "bytes"], ["share", (r) => r.cached_bytes, "share"], ["small files", (r) => r.small_files, "number"], ["in small files", (r) => r.small_bytes, "bytes"]]],
    ["Held by the kernel for somebody", (data.invisible || {}).owners, [["kind", (r) => r.kind, "word"], ["detail", (r) => r.detail, "text"], ["bytes", (r) => r.bytes, "bytes"],
      ["out of the residual", (r) => r.uncounted_bytes, "bytes"], ["held by", (r) => some(list(r.held_by)) || "nobody in sight", "text"], ["overlap rule", (r) => r.overlap, "text"]]],
    ["Page allocations that were kept", traced.keepers, [["bytes", (r) => r.bytes, "bytes"], ["allocations", (r) => r.allocations, "number"], ["counted as", (r) => r.counted_as || "nothing", "word"],
      ["for", (r) => r.comm + " (" + r.pid + ")", "word"], ["kernel stack, innermost first", (r) => list(r.functions).join(" < ") || "lost", "text"]]],
    ["GPUs: a pool of its own, not RAM", data.gpus, [["GPU", (r) => joined(" ", r.name, r.gpu), "text"], ["used", (r) => r.used_bytes, "bytes"], ["total", (r) => r.total_bytes, "bytes"], ["by nobody named", (r) => r.unnamed_bytes, "bytes"]]],
    ["GPU memory by process", data.vram, [["pid", (r) => r.pid, "number"], ["process", (r) => r.name || "not seen here", "word"], ["holds", (r) => r.bytes, "bytes"], ["GPU", (r) => r.gpu, "text"],
      ["container or unit", (r) => r.container, "text"], ["source", (r) => r.source, "word"], ["regions", (r) => Object.entries(r.regions || {}).map(([name, size]) => name + " " + bytes(size)).join(", "), "text"]]],
    ["Shared memory segments (SysV)", data.shared_segments, [["key", (r) => "0x" + (r.key >>> 0).toString(16), "word"], ["id", (r) => r.segment_id, "number"], ["in memory", (r) => r.resident_bytes, "bytes"], ["size", (r) => r.size_bytes, "bytes"],
      ["attached", (r) => r.attached, "number"], ["made by pid", (r) => r.creator_pid, "number"]]],
    ["Gaps: what could not be read", data.gaps, [["layer", (r) => r.layer, "word"], ["why", (r) => r.missing, "word"], ["source", (r) => r.source, "text"], ["detail", (r) => r.detail, "text"], ["times", (r) => r.count, "number"]]],
    ["Cost of this diagnosis", list(data.layers), [["layer", (r) => r.name, "word"], ["milliseconds", (r) => Math.round(1e4 * (data.durations_s || {})[r.name]) / 10, "number"], ["rows", (r) => r.rows, "number"],
      ["finished", (r) => r.finished ? "yes" : "no", "word"]]],
  ];
  const SHOWN = 500, TEXTUAL = ["text", "word", "spark"];
  function cell(column, row) {
    const [, value, how] = column, found = value(row);
    if (how === "spark") return el("td", {}, list(found).length > 1 ? spark(found) : "");
    if (found && found.missing) return el("td", {class: "gap", title: clean(why(found))}, found.missing);
    const text = found === undefined || found === null ? "" : found;
    if (how === "text") return el("td", {class: how}, el("div", String(text).length > 80 ? {tabindex: "0"} : {}, text));
    if (how === "word") return el("td", {class: how}, text);
    return el("td", {class: "n"}, how === "bytes" ? bytes(found) : how === "share" ? share(found) : known(found) ? String(found) : "?");
  }
  function words(columns, row) { return columns.map((column) => { const found = column[1](row); return found && found.missing ? found.missing : String(found); }).join(" ").toLowerCase(); }
  function compare(a, b) {
    const one = known(a), two = known(b);
    if (one && two) return a - b;
    if (one !== two) return one ? 1 : -1;
    return String(a).localeCompare(String(b));
  }
  TABLES.forEach(([title, rows, columns], index) => {
    rows = list(rows);
    if (!rows.length && title !== "Gaps: what could not be read") return;
    const filter = el("input", {type: "search", placeholder: "filter", "aria-label": "Filter " + title});
    const body = el("tbody"), count = el("span", {class: "dim"});
    let by = -1, down = true;
    const heads = columns.map(([name, , how], column) => {
      const button = el("button", {type: "button"}, name);
      const head = el("th", {scope: "col", class: TEXTUAL.includes(how) ? "" : "n", "aria-sort": "none"}, button);
      button.addEventListener("click", () => { down = by === column ? !down : !TEXTUAL.includes(how); by = column; fill(); });
      return head;
    });
    function fill() {
      const wanted = filter.value.toLowerCase();
      let shown = rows.filter((row) => !wanted || words(columns, row).includes(wanted));
      if (by >= 0) { const pick = columns[by][1]; shown = shown.slice().sort((a, b) => (down ? -1 : 1) * compare(pick(a), pick(b))); }
      heads.forEach((head, column) => head.setAttribute("aria-sort", column !== by ? "none" : down ? "descending" : "ascending"));
      body.replaceChildren(...shown.slice(0, SHOWN).map((row) => el("tr", {}, ...columns.map((column) => cell(column, row)))));
      count.textContent = shown.length + " of " + rows.length + (shown.length > SHOWN ? ", the first " + SHOWN + " shown" : "");
    }
    filter.addEventListener("input", fill);
    const heading = el("h2", {id: "t" + index}, title);
    at("tables").append(el("section", {"aria-labelledby": "t" + index}, el("div", {class: "bar"}, heading, count, filter),
      rows.length ? el("div", {class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "t" + index}, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body)) : el("p", {}, "none")));
    fill();
  });

  const cost = data.cost;
  at("cost").textContent = (cost ? "The diagnosis itself took " + cost.wall_s.toFixed(2) + " s, " + cost.cpu_s.toFixed(2) + " s of CPU and at most " + bytes(cost.peak_rss_bytes) + " of memory. " : "") +
    clean(data.coverage ? data.coverage.statement : "");
})();
