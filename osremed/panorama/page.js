"use strict";
// Every text of the host enters the page as a text node; nothing here builds markup from strings.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  // Words in the language that is spoken: the page is made with them. Values go into the gaps of a phrase as they are.
  const put = (phrase, ...values) => phrase.replace(/\{([1-9])\}/g, (_gap, number) => values[number - 1]);
  const SVG = "http://www.w3.org/2000/svg";
  const KINDS = {anon: _("anonymous memory"), file: _("files in page cache"), shmem: _("shared memory, tmpfs"), kernel: _("kernel"),
    other: _("other"), unaccounted: _("unaccounted"), free: _("free")};
  const known = (value) => typeof value === "number";
  const why = (value) => value && value.missing ? put(_("not collected: {1}"), value.missing + (value.detail ? " (" + value.detail + ")" : "")) : "?";
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
  const figures = [[_("total"), bytes(data.total_bytes)], [_("available"), bytes(data.available_bytes)],
    [_("unaccounted"), balance ? bytes(balance.residual_bytes) + " · " + share(balance.residual_bytes) : why(data.balance)],
    [_("page cache with a name"), data.coverage && known(data.coverage.ratio) ? (100 * data.coverage.ratio).toFixed(1) + " %" : "?"],
    [_("gaps" /* readings */), String(list(data.gaps).length)]];
  for (const [name, value] of figures) at("figures").append(el("div", {}, el("b", {}, value), name));
  const SORTS = {growing: _("growing"), stable: _("stable"), reclaimable: _("reclaimable"), unknown: _("unknown")};
  for (const each of list(data.findings)) {
    const kind = Object.hasOwn(SORTS, each.kind) ? each.kind : "unknown";
    const card = el("div", {class: "card " + kind}, el("b", {}, each.name), el("span", {class: "tag"}, SORTS[kind]));
    card.append(el("p", {}, each.summary));
    const gain = known(each.gain_bytes) ? put(_("gain up to {1}"), bytes(each.gain_bytes)) : _("gain not known");
    card.append(el("p", {class: "dim"}, put(_("confidence {1} % · {2} · from {3}"), Math.round(100 * each.confidence), gain, list(each.evidence).join(", "))));
    if (each.how) card.append(el("p", {}, each.how));
    if (each.action) card.append(el("p", {}, el("code", {}, each.action + " " + JSON.stringify(each.with))));
    at("findings").append(card);
  }
  if (!list(data.findings).length) at("findings").append(el("p", {class: "dim"}, data.growth ? _("None: nothing large, nothing growing.") : _("None. Growth was not measured: --growth 8s looks twice.")));

  // --- icicle --------------------------------------------------------------------------------------------------------
  const ROW = 42, WIDE = 1000;
  function tree() {
    const root = {name: _("all memory"), kind: "all", size: 0, inside: []};
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
  // A Chinese character takes the room of two letters.
  const columns = (text) => [...text].reduce((sum, mark) => sum + (mark > "\u2e7f" ? 2 : 1), 0);
  function cut(text, room) {
    if (columns(text) <= room) return text;
    let kept = text.slice(0, room - 1);
    while (columns(kept) > room - 1) kept = kept.slice(0, -1);
    return kept + "…";
  }
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
        held.append(shape("text", {x: 0, y: 17}, cut(node.name, room)));
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
    const drawing = shape("svg", {class: "spark", viewBox: "0 0 96 20", role: "img", "aria-label": _("trend")});
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
  const some = (names) => names.slice(0, 4).join(", ") + (names.length > 4 ? put(_(", and {1} more"), names.length - 4) : "");
  const TABLES = [
    [_("Balance, line by line"), balance ? balance.lines : [], [[_("line"), (r) => r.name, "word"], [_("bytes"), (r) => r.bytes, "bytes"], [_("share"), (r) => r.bytes, "share"],
      [_("trend"), (r) => series[r.name], "spark"], [_("± error"), (r) => r.error_bytes, "bytes"], [_("source and method"), (r) => joined(" · ", r.source, r.method), "text"],
      [_("overlap rule, notes"), (r) => joined("; ", r.overlap, r.note), "text"]]],
    [_("Growth"), data.growth ? data.growth.rows : [], [[_("what" /* kind */), (r) => r.kind, "word"], [_("name"), (r) => r.name, "text"], [_("grew by"), (r) => r.bytes, "bytes"],
      [_("each second"), (r) => r.rate_bytes_s, "bytes"], [_("before"), (r) => r.before_bytes, "bytes"], [_("after"), (r) => r.after_bytes, "bytes"]]],
    [_("Processes"), data.processes, [[_("pid"), (r) => r.pid, "number"], [_("name"), (r) => r.name, "word"], [_("heap"), (r) => r.heap_bytes, "bytes"], [_("divided (PSS)"), (r) => r.pss_bytes, "bytes"],
      [_("private"), (r) => r.private_bytes, "bytes"], [_("files"), (r) => r.file_bytes, "bytes"], [_("shared"), (r) => r.shmem_bytes, "bytes"], [_("swap"), (r) => r.swap_bytes, "bytes"],
      [_("page tables"), (r) => r.page_table_bytes, "bytes"], [_("adj"), (r) => r.oom_score_adj, "number"], [_("container or unit"), (r) => r.container, "text"], [_("command line"), (r) => r.cmdline, "text"]]],
    [_("Containers, units and groups"), data.containers, [[_("name"), (r) => r.name, "text"], [_("kind"), (r) => joined(", ", r.kind, r.runtime, joined("/", r.namespace, r.pod)), "text"],
      [_("usage"), (r) => r.usage_bytes, "bytes"], [_("limit"), (r) => r.limit_bytes, "bytes"], [_("anonymous"), (r) => r.anon_bytes, "bytes"], [_("files"), (r) => r.file_bytes, "bytes"], [_("shared"), (r) => r.shmem_bytes, "bytes"],
      [_("kernel"), (r) => r.kernel_bytes, "bytes"], [_("processes"), (r) => r.processes, "number"], [_("control group"), (r) => r.cgroup === r.name ? "" : r.cgroup, "text"]]],
    [_("Heaps, in a sentence"), data.heaps, [[_("pid"), (r) => r.pid, "number"], [_("process"), (r) => r.name, "word"], [_("runtime"), (r) => r.runtime, "word"],
      [_("heap"), (r) => r.missing ? r : r.resident_bytes, "bytes"], [_("what holds it"), (r) => r.sentence || why(r), "text"]]],
    [_("Heaps, by type"), list(data.heaps).flatMap((heap) => list(heap.types).map((type) => ({...type, process: heap.name + " (" + heap.pid + ")"}))),
      [[_("process"), (r) => r.process, "word"], [_("type"), (r) => r.name, "text"], [_("objects"), (r) => r.count, "number"], [_("bytes"), (r) => r.bytes, "bytes"]]],
    [_("Heaps, by holder"), list(data.heaps).flatMap((heap) => list(heap.holders).map((holder) => ({...holder, process: heap.name + " (" + heap.pid + ")"}))),
      [[_("process"), (r) => r.process, "word"], [_("held in"), (r) => r.path, "text"], [_("kind"), (r) => r.kind, "word"], [_("items"), (r) => r.items, "number"], [_("of" /* element */), (r) => r.element, "text"], [_("bytes"), (r) => r.bytes, "bytes"]]],
    [_("Java: where what was made meanwhile hangs"), list(data.heaps).flatMap((heap) => list((heap.recording || {}).paths).map((path) => ({...path, process: heap.name + " (" + heap.pid + ")"}))),
      [[_("process"), (r) => r.process, "word"], [_("held in"), (r) => r.held_in, "text"], [_("container"), (r) => joined(", ", r.container, r.detail), "text"], [_("samples"), (r) => r.samples, "number"],
      [_("path down to the object"), (r) => r.path, "text"], [_("made in, innermost first"), (r) => list(r.stack).join(" < "), "text"]]],
    [_("Removed groups that still hold memory"), data.dying_groups, [[_("below"), (r) => r.parent, "text"], [_("held"), (r) => r.held_bytes, "bytes"], [_("count"), (r) => r.count, "number"]]],
    [_("Files in page cache"), data.files, [[_("path"), (r) => r.path + (r.deleted ? " " + _("(deleted)") : ""), "text"], [_("cached"), (r) => r.cached_bytes, "bytes"], [_("share"), (r) => r.cached_bytes, "share"],
      [_("dirty"), (r) => r.dirty_bytes, "bytes"], [_("size"), (r) => r.size_bytes, "bytes"], [_("active"), (r) => r.active_bytes, "bytes"], [_("kind"), (r) => joined(", ", r.filesystem, r.type), "text"], [_("open by"), (r) => some(list(r.open_by)) || (r.open_by_whole === false ? _("not known") : _("nobody")), "text"],
      [_("paid by"), (r) => r.charged_to && r.charged_to.missing ? r.charged_to : some(list(r.charged_to).map((each) => (called.get(each.group) || each.group || _("no group")) + (r.charged_to.length > 1 ? " " + bytes(each.bytes) : ""))), "text"],
      [_("what frees it"), (r) => r.frees, "text"]]],
    [_("Page cache by file system"), pageCache.file_systems, [[_("mounted at"), (r) => r.mounted_at || _("not mounted"), "text"], [_("kind"), (r) => r.kind, "word"], [_("source"), (r) => r.source, "text"],
      [_("cached"), (r) => r.cached_bytes, "bytes"], [_("share"), (r) => r.cached_bytes, "share"], [_("small files"), (r) => r.small_files, "number"], [_("in small files"), (r) => r.small_bytes, "bytes"]]],
    [_("Held by the kernel for somebody"), (data.invisible || {}).owners, [[_("kind"), (r) => r.kind, "word"], [_("detail"), (r) => r.detail, "text"], [_("bytes"), (r) => r.bytes, "bytes"],
      [_("out of the residual"), (r) => r.uncounted_bytes, "bytes"], [_("held by"), (r) => some(list(r.held_by)) || _("nobody in sight"), "text"], [_("overlap rule"), (r) => r.overlap, "text"]]],
    [_("Page allocations that were kept"), traced.keepers, [[_("bytes"), (r) => r.bytes, "bytes"], [_("allocations"), (r) => r.allocations, "number"], [_("counted as"), (r) => r.counted_as || _("nothing"), "word"],
      [_("for"), (r) => r.comm + " (" + r.pid + ")", "word"], [_("kernel stack, innermost first"), (r) => list(r.functions).join(" < ") || _("lost"), "text"]]],
    [_("GPUs: a pool of its own, not RAM"), data.gpus, [[_("GPU"), (r) => joined(" ", r.name, r.gpu), "text"], [_("used"), (r) => r.used_bytes, "bytes"], [_("total"), (r) => r.total_bytes, "bytes"], [_("by nobody named"), (r) => r.unnamed_bytes, "bytes"]]],
    [_("GPU memory by process"), data.vram, [[_("pid"), (r) => r.pid, "number"], [_("process"), (r) => r.name || _("not seen here"), "word"], [_("holds"), (r) => r.bytes, "bytes"], [_("GPU"), (r) => r.gpu, "text"],
      [_("container or unit"), (r) => r.container, "text"], [_("source"), (r) => r.source, "word"], [_("regions"), (r) => Object.entries(r.regions || {}).map(([name, size]) => name + " " + bytes(size)).join(", "), "text"]]],
    [_("Shared memory segments (SysV)"), data.shared_segments, [[_("key"), (r) => "0x" + (r.key >>> 0).toString(16), "word"], [_("id"), (r) => r.segment_id, "number"], [_("in memory"), (r) => r.resident_bytes, "bytes"], [_("size"), (r) => r.size_bytes, "bytes"],
      [_("attached"), (r) => r.attached, "number"], [_("made by pid"), (r) => r.creator_pid, "number"]]],
    [_("Gaps: what could not be read"), data.gaps, [[_("layer"), (r) => r.layer, "word"], [_("why"), (r) => r.missing, "word"], [_("source"), (r) => r.source, "text"], [_("detail"), (r) => r.detail, "text"], [_("times"), (r) => r.count, "number"]]],
    [_("Cost of this diagnosis"), list(data.layers), [[_("layer"), (r) => r.name, "word"], [_("milliseconds"), (r) => Math.round(1e4 * (data.durations_s || {})[r.name]) / 10, "number"], [_("rows"), (r) => r.rows, "number"],
      [_("finished"), (r) => r.finished ? _("yes") : _("no"), "word"]]],
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
    if (!rows.length && title !== _("Gaps: what could not be read")) return;
    const filter = el("input", {type: "search", placeholder: _("filter"), "aria-label": put(_("Filter {1}"), title)});
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
      count.textContent = put(_("{1} of {2}"), shown.length, rows.length) + (shown.length > SHOWN ? put(_(", the first {1} shown"), SHOWN) : "");
    }
    filter.addEventListener("input", fill);
    const heading = el("h2", {id: "t" + index}, title);
    at("tables").append(el("section", {"aria-labelledby": "t" + index}, el("div", {class: "bar"}, heading, count, filter),
      rows.length ? el("div", {class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "t" + index}, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body)) : el("p", {}, _("none"))));
    fill();
  });

  const cost = data.cost;
  at("cost").textContent = (cost ? put(_("The diagnosis itself took {1} s, {2} s of CPU and at most {3} of memory. "), cost.wall_s.toFixed(2), cost.cpu_s.toFixed(2), bytes(cost.peak_rss_bytes)) : "") +
    clean(data.coverage ? data.coverage.statement : "");
})();
