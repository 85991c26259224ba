// Draws every `figure.chart` from the table behind it. The table is what is true, and what screen readers get: values are
// shown in the words of its cells, so that no digit of an amount is lost on the way through a number.
(function () {
  "use strict";

  const HEIGHT = 230;
  const COLOURS = 9;
  const KEPT = "gateway-colours";
  const KEPT_MAX = 200;
  const LINE_MIN = 4; // of fewer points a line says less than bars
  const BARS_MAX = 62; // more rows than this are drawn as areas, where there is no room for a bar each
  const NANO = 1e9;
  const THIN_SPACE = "\u202f";
  const CHAR_WIDTH = 7; // of the axes' font, rather more than less
  const LABEL_CHARS_MAX = 18;
  const RIGHT_PADDING = 12;
  const LEFT_PADDING = 30; // what the figures of the other axis take at least
  const DATE = /^(\d{4})-(\d\d)(?:-(\d\d))?$/;
  const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const CATEGORIES_MAX = 12; // so many bars are all named, cut as short as they must be
  const WHOLE_STEPS = Array.from({ length: 18 }, (_, i) => [1, 2, 5].map((step) => step * 10 ** i)).flat();
  const drawn = new Map(); // figure -> { plot, observer }

  // Reading

  function readTable(figure) {
    const elsewhere = figure.dataset.table;
    const table = elsewhere ? document.getElementById(elsewhere) : figure.querySelector("table");
    if (!table) return null;
    const last = table.classList.contains("totals") ? -1 : undefined;
    const names = [...table.tHead.rows[0].cells].slice(1, last).map((cell) => cell.textContent.trim());
    const rows = [...table.tBodies[0].rows];
    const cells = rows.map((row) => [...row.cells].slice(1));
    return {
      names,
      labels: rows.map((row) => row.cells[0].textContent.trim()),
      values: names.map((_, i) => cells.map((row) => asNumber(row[i] && row[i].dataset.value))),
      words: names.map((_, i) => cells.map((row) => (row[i] ? row[i].textContent.trim() : "–"))),
    };
  }

  function asNumber(text) {
    if (text === undefined || text === "") return null;
    const value = Number(text);
    return Number.isFinite(value) ? value : null;
  }

  // Colours

  const probe = document.createElement("span");

  // As it is in the light or the dark that holds now: a canvas takes no colour that depends on it.
  function property(name) {
    if (!probe.isConnected) {
      probe.hidden = true;
      document.body.append(probe);
    }
    probe.style.color = "var(" + name + ")";
    return getComputedStyle(probe).color;
  }

  function isOther(name) {
    return /^others?( \(\d+\))?$/i.test(name);
  }

  // What a chart itself is about has its colours in their order. What is stacked is known by name (models, creators, ...), and
  // has the same colour on every page, whoever is the largest: the one its name leads to, or the next one that is free.
  function colours(names, isByName) {
    const shown = names.filter((name) => !isOther(name)).slice(0, COLOURS);
    const taken = isByName ? slotsByName(shown) : new Map(shown.map((name, i) => [name, i]));
    return names.map((name) => property(taken.has(name) ? "--series-" + (taken.get(name) + 1) : "--series-other"));
  }

  function slotsByName(names) {
    const known = recalled();
    const found = new Map();
    const free = new Set(Array.from({ length: COLOURS }, (_, i) => i));
    const late = [];
    for (const name of names) {
      const slot = known[hashOf(name)];
      if (free.delete(slot)) found.set(name, slot);
      else late.push(name);
    }
    // In the order of the alphabet, since the order of amounts is another one every day.
    for (const name of late.sort()) {
      const hash = hashOf(name);
      const slot = nextFree(hash % COLOURS, free, new Set(Object.values(known)));
      free.delete(slot);
      found.set(name, slot);
      if (!(hash in known)) known[hash] = slot;
    }
    recall(known);
    return found;
  }

  // One that nothing else has had so far, if there is any.
  function nextFree(first, free, had) {
    const inTurn = Array.from({ length: COLOURS }, (_, i) => (first + i) % COLOURS).filter((slot) => free.has(slot));
    return inTurn.find((slot) => !had.has(slot)) ?? inTurn[0];
  }

  // Which name has which colour is kept as long as the tab is open, by the names' hashes: no name is left in the browser.

  function recalled() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(KEPT)) || {};
      return Object.keys(kept).length > KEPT_MAX ? {} : kept;
    } catch {
      return {};
    }
  }

  function recall(known) {
    try {
      sessionStorage.setItem(KEPT, JSON.stringify(known));
    } catch {
      // Then the hashes alone decide.
    }
  }

  function hashOf(name) {
    let hash = 2166136261; // FNV-1a
    for (const char of name) hash = Math.imul(hash ^ char.codePointAt(0), 16777619);
    return (hash ^ (hash >>> 15)) >>> 0;
  }

  // Figures on the axis: as many digits as the step between two of them has, so that each says exactly where it stands.

  function digitsOf(step) {
    for (let digits = 0; digits < 12; digits += 1) {
      const scaled = step * 10 ** digits;
      if (scaled >= 1 && Math.abs(scaled - Math.round(scaled)) < 1e-6) return digits;
    }
    return 12;
  }

  function compact(value, step, space) {
    for (const [size, sign] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (step >= size / 2) return value === 0 ? "0" : (value / size).toFixed(digitsOf(step / size)) + sign;
    }
    const digits = digitsOf(step);
    const words = value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
    return words.replaceAll(",", space);
  }

  function dollars(value, step) {
    const sign = value < 0 ? "-$" : "$";
    if (step >= 1) return sign + compact(Math.abs(value), step, ",");
    const digits = Math.max(2, digitsOf(step));
    return sign + Math.abs(value).toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  }

  function axisWords(unit, value, step) {
    if (unit === "nano_usd") return dollars(value / NANO, step / NANO);
    if (unit === "percent") return compact(value, step, THIN_SPACE) + " %";
    if (unit === "ms" && step >= 500) return compact(value / 1000, step / 1000, THIN_SPACE) + " s";
    return compact(value, step, THIN_SPACE) + (unit === "ms" ? " ms" : "");
  }

  // What is handed to uPlot. Rows stand at 0, 1, 2, ...; bars of several series stand side by side, in a slot of their own.

  function layout(kind, table) {
    const count = table.labels.length;
    const isStacked = kind === "stacked";
    const isBeside = kind === "bars" || (kind === "line" && count < LINE_MIN);
    const isBars = isBeside || (isStacked && count <= BARS_MAX);
    const slots = isBeside ? table.names.length : 1;
    const pitch = slots > 1 ? slots + 1 : 1;
    let values = table.values;
    if (isStacked) values = cumulated(values, count);
    if (pitch > 1) {
      values = values.map((series, i) => {
        const spread = new Array(count * pitch).fill(null);
        series.forEach((value, row) => (spread[row * pitch + i] = value));
        return spread;
      });
    }
    const xs = Array.from({ length: count * pitch }, (_, i) => i);
    return {
      isStacked,
      isBars,
      xs,
      values,
      middle: (row) => row * pitch + (slots - 1) / 2,
      rowAt: (index) => Math.min(count - 1, Math.floor(index / pitch)),
      range: isBars ? [-0.6, count * pitch - (pitch > 1 ? 1 : 0) - 0.4] : [0, Math.max(1, count - 1)],
    };
  }

  function cumulated(series, count) {
    const sums = new Array(count).fill(0);
    return series.map((values) => values.map((value, row) => (sums[row] += value || 0)));
  }

  function options(figure, table, plan, shades, width) {
    const unit = figure.dataset.unit;
    const muted = property("--muted");
    const line = property("--line");
    const font = "12px system-ui, sans-serif";
    const bars = uPlot.paths.bars({ size: [0.72, 56], radius: 0.08 });
    const leans = mustLean(table, plan, width);
    const order = table.names.map((_, i) => i);
    if (plan.isStacked) order.reverse(); // the highest sum first, so that those below it are painted over it
    return {
      order,
      settings: {
        width,
        height: HEIGHT,
        padding: [10, RIGHT_PADDING, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { show: !plan.isBars } },
        scales: {
          x: { time: false, range: () => plan.range },
          y: { range: (_, low, high) => heights(low, high) },
        },
        axes: [
          {
            font, stroke: muted, gap: 6,
            grid: { show: false }, ticks: { show: false },
            size: leans ? 26 + Math.ceil(0.62 * CHAR_WIDTH * longestOf(table)) : 28,
            rotate: leans ? 40 : 0,
            splits: (plot) => ticks(plot, table, plan, leans),
            values: (_, splits) => splits.map((at) => axisLabel(table, plan.rowAt(Math.round(at)))),
          },
          {
            font, stroke: muted, gap: 6,
            grid: { stroke: line, width: 1 }, ticks: { show: false },
            incrs: unit === "percent" ? undefined : WHOLE_STEPS, // there is no half a call, and no half a nano-dollar
            values: (_, splits) => splits.map((value) => axisWords(unit, value, stepOf(splits))),
            size: (_, words) => 18 + CHAR_WIDTH * Math.max(0, ...(words || []).map((word) => word.length)),
          },
        ],
        series: [
          {},
          ...order.map((i) => ({
            label: table.names[i],
            stroke: shades[i],
            width: plan.isBars ? 0 : plan.isStacked ? 1 : 2,
            dash: !plan.isBars && !plan.isStacked && /^(forecast|budget)$/i.test(table.names[i]) ? [5, 4] : undefined,
            fill: plan.isBars || plan.isStacked ? shades[i] : undefined,
            paths: plan.isBars ? bars : undefined,
            points: { show: !plan.isBars && !plan.isStacked && table.labels.length < 3 },
          })),
        ],
        hooks: { setCursor: [(plot) => read(figure, table, plan, plot.cursor.idx)] },
      },
    };
  }

  function stepOf(splits) {
    return splits.length > 1 ? Math.abs(splits[1] - splits[0]) : 1;
  }

  function heights(low, high) {
    if (low === null || high === null || (low === 0 && high === 0)) return [0, 1];
    const padded = { pad: 0.08, soft: 0, mode: 1 };
    return uPlot.rangeNum(Math.min(0, low), Math.max(0, high), { min: padded, max: padded });
  }

  function widthOf(plot) {
    return plot.bbox.width / devicePixelRatio;
  }

  // Days are written short on the axis: the table has them in full.

  function isOverTime(table) {
    return table.labels.every((label) => DATE.test(label));
  }

  function axisLabel(table, row) {
    const label = table.labels[row];
    const day = DATE.exec(label);
    if (!day) return shortened(label, LABEL_CHARS_MAX);
    return day[3] ? Number(day[3]) + " " + MONTHS[day[2] - 1] : MONTHS[day[2] - 1] + " " + day[1].slice(2);
  }

  function longestOf(table) {
    return Math.max(1, ...table.labels.map((_, row) => axisLabel(table, row).length));
  }

  // A few bars by name are all named: where their names are too long to stand side by side, they lean.

  function namesAll(table, plan) {
    return plan.isBars && !plan.isStacked && table.labels.length <= CATEGORIES_MAX && !isOverTime(table);
  }

  function mustLean(table, plan, width) {
    return namesAll(table, plan) && CHAR_WIDTH * (longestOf(table) + 2) > (width - 60) / table.labels.length;
  }

  // Rows that are named below the axis: as many as have room, none of them cut off at an edge.
  function ticks(plot, table, plan, leans) {
    const width = widthOf(plot);
    const rows = table.labels.map((_, row) => row);
    if (leans || namesAll(table, plan)) return rows.map(plan.middle);
    const longest = CHAR_WIDTH * longestOf(table);
    const every = Math.max(1, Math.ceil(rows.length / Math.max(1, Math.floor(width / (longest + 18)))));
    const first = Math.floor((every - 1) / 2);
    const perRow = width / (plan.range[1] - plan.range[0]);
    return rows
      .filter((row) => row >= first && (row - first) % every === 0)
      .map(plan.middle)
      .filter((at) => (at - plan.range[0]) * perRow + longest / 2 <= width + RIGHT_PADDING)
      .filter((at) => (at - plan.range[0]) * perRow >= longest / 2 - LEFT_PADDING);
  }

  function shortened(label, chars) {
    return label.length > chars ? label.slice(0, chars - 1) + "…" : label;
  }

  // The legend: what is where, and at the place one points to how much

  function legend(figure, table, shades) {
    const list = document.createElement("ul");
    list.className = "legend";
    list.setAttribute("aria-hidden", "true"); // the table says it all
    table.names.forEach((name, i) => {
      const item = document.createElement("li");
      const words = document.createElement("bdi");
      const value = document.createElement("span");
      value.className = "value";
      words.textContent = name;
      item.append(swatch(shades[i]), words, value);
      list.append(item);
    });
    return list;
  }

  function swatch(colour) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    made.setAttribute("width", "10");
    made.setAttribute("height", "10");
    const square = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    square.setAttribute("width", "10");
    square.setAttribute("height", "10");
    square.setAttribute("rx", "2");
    square.setAttribute("fill", colour);
    made.append(square);
    return made;
  }

  function read(figure, table, plan, index) {
    const row = index === null || index === undefined ? null : plan.rowAt(index);
    const values = figure.querySelectorAll(".legend .value");
    values.forEach((place, i) => (place.textContent = row === null ? "" : table.words[i][row]));
    const reading = figure.querySelector(".reading");
    if (reading) reading.textContent = row === null ? "" : table.labels[row];
    return row;
  }

  function readAloud(figure, table, row) {
    const place = figure.querySelector(".aloud");
    if (!place) return;
    place.textContent = table.labels[row] + ": " + table.names.map((name, i) => name + " " + table.words[i][row]).join(", ");
  }

  function onKey(event, figure) {
    const { plot, table, plan } = drawn.get(figure) || {};
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (!plot || !(event.key in steps)) return;
    event.preventDefault();
    const last = table.labels.length - 1;
    const index = plot.cursor.idx;
    const from = index === null || index === undefined ? (steps[event.key] < 0 ? last + 1 : -1) : plan.rowAt(index);
    const row = Math.max(0, Math.min(last, from + steps[event.key]));
    plot.setCursor({ left: plot.valToPos(plan.middle(row), "x"), top: HEIGHT / 2 });
    readAloud(figure, table, row);
  }

  // Drawing

  function draw(figure) {
    const table = readTable(figure);
    const place = figure.querySelector(".plot");
    fold(figure);
    if (!table || !place) return;
    if (!window.uPlot) {
      place.hidden = true;
      return;
    }
    if (!table.values.some((series) => series.some(Boolean))) {
      place.textContent = "Nothing in this period.";
      place.classList.add("empty");
      return;
    }
    const shades = colours(table.names, figure.dataset.kind === "stacked" || "named" in figure.dataset);
    const plan = layout(figure.dataset.kind, table);
    const { order, settings } = options(figure, table, plan, shades, place.clientWidth);
    place.replaceChildren();
    const canvas = document.createElement("div");
    canvas.setAttribute("aria-hidden", "true");
    place.append(canvas);
    const plot = new uPlot(settings, [plan.xs, ...order.map((i) => plan.values[i])], canvas);
    dress(figure, place, table, shades);
    const known = drawn.get(figure);
    drawn.set(figure, { plot, table, plan, observer: known ? known.observer : watch(figure, place) });
    read(figure, table, plan, null);
  }

  function fold(figure) {
    const behind = figure.querySelector(".behind");
    if (!behind || behind.classList.contains("ready")) return;
    behind.open = !window.uPlot; // it stays where nothing can be drawn
    behind.classList.add("ready");
  }

  function dress(figure, place, table, shades) {
    for (const old of figure.querySelectorAll(":scope > .reading, :scope > .legend, :scope > .aloud")) old.remove();
    const reading = document.createElement("p");
    const aloud = document.createElement("p");
    reading.className = "reading";
    reading.setAttribute("aria-hidden", "true");
    aloud.className = "aloud unseen";
    aloud.setAttribute("role", "status");
    place.after(reading, legend(figure, table, shades), aloud);
    if (place.tabIndex === 0) return;
    place.tabIndex = 0;
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", figure.dataset.caption + ": chart. Left and right read its values; the table has all.");
    place.addEventListener("keydown", (event) => onKey(event, figure));
    place.addEventListener("blur", () => {
      const now = drawn.get(figure);
      if (now) now.plot.setCursor({ left: -10, top: -10 });
    });
  }

  function watch(figure, place) {
    const observer = new ResizeObserver(() => {
      const now = drawn.get(figure);
      if (now && place.clientWidth && place.clientWidth !== now.plot.width) {
        now.plot.setSize({ width: place.clientWidth, height: HEIGHT });
      }
    });
    observer.observe(place);
    return observer;
  }

  function forgetGone() {
    for (const [figure, { plot, observer }] of drawn) {
      if (figure.isConnected) continue;
      observer.disconnect();
      plot.destroy();
      drawn.delete(figure);
    }
  }

  function start(part) {
    forgetGone();
    const inside = part.querySelectorAll ? [...part.querySelectorAll("figure.chart")] : [];
    if (part.matches && part.matches("figure.chart")) inside.push(part);
    for (const figure of inside) if (!drawn.has(figure)) draw(figure);
  }

  function redraw() {
    for (const [figure, { plot }] of drawn) {
      plot.destroy();
      draw(figure);
    }
  }

  document.addEventListener("htmx:load", (event) => start(event.detail.elt));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new MutationObserver(redraw).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  start(document);
})();
