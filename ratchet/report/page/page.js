"use strict";
// Draws the page from its data. Whatever comes from the ledger is put in as text, never as HTML.

const style = (verdict) => data.palette.verdicts[verdict] || data.palette.failed; // ratchet/report/palette.py
const lineColor = (i) => (i % data.palette.lines.length ? data.palette.lines[i % data.palette.lines.length] : variable("--accent")); // its first on dark, too
const MEASURES = { // what experiments can be drawn over: name with unit, value, on a log axis or not, what `frontier` calls it and its unit
  params: ["parameters", (e) => e.params, true, "params_m", 1e6],
  trunk: ["parameters but tables", (e) => e.params - e.lookup, true, "trunk_m", 1e6],
  lookup: ["parameters in tables", (e) => e.lookup, true, "lookup_m", 1e6],
  memory: ["peak memory (GB)", (e) => e.measures?.memory_gb, false, "memory_gb", 1],
  file: ["file (MB)", (e) => e.measures?.file_mb, true, "file_mb", 1],
  packed: ["packed file (MB)", (e) => e.measures?.packed_mb, true, "packed_mb", 1],
  user: ["decoded tokens/s of a user", (e) => e.measures?.user_tps, true, "user_tps", 1],
  batch: ["decoded tokens/s of a batch", (e) => e.measures?.batch_tps, true, "batch_tps", 1],
  rate: ["training tokens/s", (e) => e.rate, true, "train_tps", 1],
  token: ["FLOPs of a token of training", (e) => e.flops_per_token, true, "flops", 1],
  flops: ["training FLOPs", (e) => e.tokens * e.flops_per_token, true],
  train: ["training seconds", (e) => e.train, false],
  joules: ["joules of the device", (e) => e.joules, false, "joules", 1],
  bpb: ["val_bpb", (e) => e.mean, false, "val_bpb", 1],
};
const LOG = { type: "log", nticks: 6, exponentformat: "SI" };
const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
const $ = (selector, root = document) => root.querySelector(selector);
let data, campaign, open = null, drawing = 0, most = 200, ticked = new Set(), order = ["n", -1];

// ---------------------------------------------------------------------------------------------------
// Text

const escape = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const known = (x) => typeof x === "number" && isFinite(x);
const fixed = (x, digits = 4) => (known(x) ? x.toFixed(digits) : "");
const signed = (x, digits = 4) => (known(x) ? (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits) : "");
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 }); // slow to make
const short = (x) => (known(x) ? COMPACT.format(x) : "");
const clip = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
const interval = (e) => (known(e?.gain) ? `${signed(e.gain)} ± ${fixed((e.high - e.low) / 2)}` : "");
const gain = (e) => (e.gain_words !== undefined ? e.gain_words : e.selected && interval(e) ? `(${interval(e)}, selected)` : interval(e) + (e.with?.length ? `, with ${e.with.join(", ")}` : ""));
const title = (e) => (e.members.length ? `trial of ${e.members.map(({ n, idea }) => `${n} ${idea}`).join("; ")}` : e.idea || e.role);
const minutes = (time) => time.slice(5, 16).replace("T", " ");

function wrap(text, width = 60, lines = 4) {
  const out = [""];
  for (const word of clip(text, width * lines).split(/\s+/)) {
    if (out.at(-1).length + word.length > width) out.push("");
    out[out.length - 1] += word + " ";
  }
  return out;
}

// lines as plotly shows them, the first one bold
const hover = (lines) => lines.filter(Boolean).map((line, i) => (i ? escape(line) : `<b>${escape(line)}</b>`)).join("<br>");

function make(tag, facts = {}, ...children) {
  const { data: dataset, ...rest } = facts, node = Object.assign(document.createElement(tag), rest);
  Object.assign(node.dataset, dataset);
  node.append(...children);
  return node;
}

// an experiment in some lines
function told(e) {
  return [
    `${e.n} ${e.verdict}  ${fixed(e.mean)}${e.half ? " ± " + fixed(e.half) : ""} bpb`,
    ...wrap(title(e)), gain(e) && `gain ${gain(e)} (95 %)`,
    known(e.size) && `${signed(e.size, 0)} tokens of code`,
    [e.commit, e.by && clip(e.by, 40)].filter(Boolean).join("  "),
    ...figures(e),
  ];
}

function figures(e) {
  return [
    known(e.params) && `${short(e.params - e.lookup)} parameters, ${short(e.lookup)} in tables`,
    known(e.rate) && `${short(e.rate)} tokens/s, MFU ${fixed(e.mfu_percent, 1)} %, ${short(e.steps)} steps`,
    known(e.peak_memory_mb) && `${fixed(e.peak_memory_mb / 1024, 2)} GB, ${fixed(e.train, 1)} s`,
  ];
}

// what else there is to tell, for the explorer
function more(e, width = 70) {
  const probes = Object.keys(e.probes || {}).join(", ");
  return [
    known(e.measures?.file_mb) && `files of ${short(1e6 * e.measures.file_mb)}B`, ...wrap(e.architecture || "", width, 3),
    `seeds ${e.seeds.slice(0, 6).join(", ")}`, probes && `probes ${probes}`,
    `isolation ${e.isolation || ""}, ${campaign.device}`,
  ];
}

// ---------------------------------------------------------------------------------------------------
// Charts

let colors = {}; // of the theme, asked for once: an answer makes the browser lay out the whole page
const variable = (name) => (colors[name] ??= getComputedStyle(document.documentElement).getPropertyValue(name).trim());

function layout(x, y, more = {}) {
  const axis = { gridcolor: variable("--line"), linecolor: variable("--line"), zeroline: false, automargin: true };
  return {
    uirevision: [x, y, data.campaigns.indexOf(campaign)].join(), // what was zoomed or hidden stays so
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls the page
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    font: { color: variable("--text"), size: 12, family: "system-ui, sans-serif" },
    margin: { l: 62, r: 18, t: 18, b: 60 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: narrow() ? 11 : 12 } },
    modebar: { orientation: "v", bgcolor: "rgba(0,0,0,0)", color: variable("--dim"), activecolor: variable("--accent") },
    hoverlabel: { align: "left", bgcolor: variable("--panel"), font: { color: variable("--text") } },
    xaxis: { ...axis, title: { text: x } }, yaxis: { ...axis, title: { text: y } }, ...more,
  };
}

const narrow = () => innerWidth < 600;
const onPaper = () => document.body.classList.contains("paper");

function draw(node, traces, facts) {
  const clicks = node.dataset.drawn;
  node.dataset.drawn = "yes";
  if (!window.Plotly) document.head.append(make("script", { textContent: $("#plotly").textContent })); // slow: not before the words
  const paper = onPaper(); // where nothing tells plotly of another width
  Plotly.react(node, traces, { ...facts, autosize: !paper, width: paper ? node.clientWidth : undefined }, CONFIG);
  if (!clicks) node.on("plotly_click", ({ points: [point] }) => known(point.customdata) && show(point.customdata));
}

// one trace for each verdict, so that the legend names them
function byVerdict(found, place, facts) {
  const verdicts = [...new Set(found.map((e) => e.mark))].sort();
  return verdicts.map((verdict) => {
    const own = found.filter((e) => e.mark === verdict), { color, symbol } = style(verdict);
    return {
      uid: verdict, mode: "markers", name: escape(verdict), hoverinfo: "text", text: own.map((e) => hover(told(e))), customdata: own.map((e) => e.n),
      marker: { color, symbol, size: { out: 7, discard: 7, keep: 14 }[verdict] || 10, line: { width: 0.5, color: variable("--back") } },
      ...place(own), ...facts,
    };
  });
}

const scored = () => campaign.experiments.filter((e) => known(e.mean) && ["try", "trial", "calibrate"].includes(e.role));

const LINES = { // what the line of the progress chart is: of campaigns that go by points, and of older ones
  bar: "Every experiment. The line is the bar: the champion's level by its own runs alone, the band its 95 % interval. " +
    "A star is a trial that was kept, of one idea or of several together; a hit's mark is where its search put it: selected, no claim.",
  champion: "Every experiment. The line is the champion, its bars 95 % intervals of its mean, the band ± 1 sigma: what two seeds of one source differ by.",
};

function drawProgress() {
  const ofGoal = campaign.goal_bar.length > 0, value = (e) => (ofGoal ? e.figure : e.mean); // the goal's own unit, where that isn't val_bpb
  const found = scored().filter((e) => known(value(e))), bar = ofGoal ? campaign.goal_bar : campaign.bar;
  const steps = bar.length ? bar : campaign.champions, kind = bar.length ? "bar" : "champion";
  const accent = variable("--accent"), traces = [], words = campaign.claim.words;
  if (steps.length && known(campaign.sigma)) {
    const last = found.at(-1).ended, x = steps.map((c) => c.time), y = steps.map((c) => c.mean);
    const line = { shape: "hv", color: accent, width: 2 }, ends = (ys) => [...ys, ys.at(-1)];
    const half = (c) => (kind === "bar" ? c.half : campaign.sigma);
    const edge = (sign) => ends(steps.map((c) => (ofGoal ? (sign > 0 ? c.high : c.low) : c.mean + sign * half(c)))), skip = { hoverinfo: "skip", showlegend: false };
    const times = [...x, last > x.at(-1) ? last : x.at(-1)];
    traces.push(
      { x: times, y: edge(1), mode: "lines", line: { ...line, width: 0 }, ...skip },
      { x: times, y: edge(-1), mode: "lines", line: { ...line, width: 0 }, ...skip, fill: "tonexty",
        fillcolor: variable("--band"), name: kind === "bar" ? "its 95 % interval" : "± 1 sigma", showlegend: true },
      { x: times, y: ends(y), mode: "lines", line, name: kind, hoverinfo: "skip" },
    );
    if (kind === "champion") traces.push({ x, y, mode: "markers", marker: { color: accent, size: 1 }, ...skip, error_y: bars(steps, accent) });
  }
  traces.push(...byVerdict(found, (own) => ({ x: own.map((e) => e.ended), y: own.map(value) })));
  const axis = ofGoal ? campaign.goal_words : "val_bpb (lower is better)";
  const scale = { xaxis: { ...layout("UTC").xaxis, type: "date" }, ...(ofGoal ? { yaxis: { ...layout("", axis).yaxis, ...LOG } } : {}) };
  const note = words ? { annotations: [{ text: `<b>${wrap(words, narrow() ? 34 : 130, 8).map(escape).join("<br>")}</b>`, showarrow: false, align: "left",
    xref: "paper", yref: "paper", x: 0.01, y: 0.02, xanchor: "left", yanchor: "bottom", bgcolor: variable("--panel"), opacity: 0.85 }] } : {};
  $("#progress .note").textContent = `${LINES[kind]} Point at one for its idea, click it to open it below.`;
  draw($("#progress .chart"), traces, layout("", axis, { ...scale, ...(found.length ? note : empty()) }));
}

const bars = (rows, color) => ({ type: "data", array: rows.map((row) => row.half || 0), color, thickness: 1.2, width: 3 });
const empty = (text = "no experiment with a score yet") => ({ xaxis: { visible: false }, yaxis: { visible: false },
  annotations: [{ text: wrap(text, 34).join("<br>"), showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }] });

function drawExplorer() {
  const node = $("#explorer .chart"), paper = onPaper(), turned = node.layout?.scene?.camera;
  if (node.dataset.drawn && node.dataset.paper !== String(paper)) { // a scene would keep the size and colours of the screen
    Plotly.purge(node);
    delete node.dataset.drawn;
  }
  node.dataset.paper = paper;
  const axes = ["x", "y", "z"], chosen = axes.map((_, i) => MEASURES[$("#explorer").querySelectorAll("select")[i].value]);
  const found = scored().filter((e) => chosen.every(([, value]) => known(value(e)))), scores = found.map((e) => e.mean);
  const names = chosen.map(([, , , name]) => name), best = Object.fromEntries((names.every(Boolean) ? frontier(campaign.points, names) : []).map((p) => [p.n, p]));
  const error = (own, i) => ({ type: "data", array: own.map((e) => best[e.n]?.halves[names[i]] * chosen[i][4] || NaN), thickness: 1.5, width: 4, color: variable("--dim") });
  const verdicts = [...new Set(found.map((e) => e.mark))].sort();
  const traces = verdicts.map((verdict, index) => {
    const own = found.filter((e) => e.mark === verdict);
    return {
      uid: verdict, type: "scatter3d", mode: "markers", name: escape(verdict), legendgroup: verdict, showlegend: false,
      hoverinfo: "text", text: own.map((e) => hover([...told(e), ...more(e)])),
      customdata: own.map((e) => e.n), ...Object.fromEntries(axes.flatMap((axis, i) => [[axis, own.map(chosen[i][1])], [`error_${axis}`, error(own, i)]])),
      marker: {
        symbol: style(verdict).symbol_3d, size: own.map((e) => (best[e.n] ? 8 : 4.5)), color: own.map((e) => e.mean), colorscale: "Viridis", reversescale: true,
        cmin: Math.min(...scores), cmax: Math.max(...scores), showscale: index === 0, opacity: 0.92, line: { width: 1, color: variable("--dim") },
        colorbar: { title: { text: "val_bpb" }, thickness: 12, len: 0.8, ...(narrow() ? { orientation: "h", y: -0.12, nticks: 5 } : {}) },
      },
    };
  });
  traces.push(...verdicts.map((verdict) => legendMark("scatter3d", verdict, style(verdict).symbol_3d)));
  const ghosts = ghosts3d(axes, chosen), all = axes.map((axis, i) => [...found.map(chosen[i][1]), ...ghosts.flatMap((trace) => trace[axis])]);
  traces.push(...ghosts, ...(found.length ? walls(axes, chosen, all) : []));
  const look = { gridcolor: variable("--line"), color: variable("--text"), backgroundcolor: "rgba(0,0,0,0)" };
  const away = narrow() ? 2.2 : 1.55;
  const camera = turned || { eye: { x: away, y: away, z: 0.7 }, center: { x: 0, y: 0, z: -0.12 } };
  const scene = { dragmode: "turntable", aspectmode: "cube", camera, uirevision: "kept" };
  axes.forEach((axis, i) => (scene[axis + "axis"] = { ...look, title: { text: named(chosen[i]), font: { size: narrow() ? 11 : 14 } }, ...(chosen[i][2] ? ticks(all[i]) : { type: "linear" }) }));
  draw(node, traces, layout("", "", { scene, margin: { l: 0, r: 0, t: 30, b: 0 }, ...(found.length ? {} : empty()) }));
  if (paper) node._fullLayout.scene?._scene?.glplot.redraw(); // now: no frame comes before it is printed
}

// a verdict's mark in the legend, in the colour of the text, where points have that of a measure
const legendMark = (type, verdict, symbol) => ({ uid: `${verdict} in the legend`, type, mode: "markers", name: escape(verdict), legendgroup: verdict,
  x: [null], y: [null], ...(type === "scatter3d" ? { z: [null] } : {}), marker: { symbol, size: 6, color: variable("--text") } });

// the points of earlier campaigns, where their measures are shown
function ghosts3d(axes, chosen) {
  const ghosts = shadows().filter((p) => chosen.every(([, , , name]) => known(p.values[name])));
  const places = axes.map((axis, i) => [axis, ghosts.map((p) => p.values[chosen[i][3]] * chosen[i][4])]);
  return ghosts.length ? [{ uid: "earlier", type: "scatter3d", mode: "markers", name: "earlier campaigns", ...Object.fromEntries(places), hoverinfo: "text",
    text: ghosts.map((p) => hover(toldPoint(p, Object.keys(MEASURES).filter((key) => chosen.includes(MEASURES[key]) || key === "bpb")))),
    marker: { color: variable("--dim"), size: 3, opacity: 0.5 } }] : [];
}

// a translucent wall for each limit of the campaign on an axis that is shown, as far as the values on all axes reach
function walls(axes, chosen, values) {
  const spans = values.map((some) => [Math.min(...some), Math.max(...some)]);
  return chosen.flatMap(([, , , name, unit], at) => {
    const limit = campaign.limits[name];
    if (!limit) return [];
    const [u, v] = [0, 1, 2].filter((i) => i !== at), corners = [[0, 0], [1, 0], [1, 1], [0, 1]], plane = {};
    plane[axes[at]] = corners.map(() => limit.value * unit);
    plane[axes[u]] = corners.map(([a]) => spans[u][a]);
    plane[axes[v]] = corners.map(([, b]) => spans[v][b]);
    return [{ uid: `limit of ${name}`, type: "mesh3d", ...plane, i: [0, 0], j: [1, 2], k: [2, 3], color: lineColor(1), opacity: 0.2,
      name: `limit: ${escape(limit.words)}`, showlegend: true, hoverinfo: "name" }];
  });
}

// the cells of a grid, all there before one is drawn, as each takes its size from the others
function cells(grid, keys) {
  for (const node of [...grid.children]) if (!keys.includes(node.dataset.key)) node.remove();
  return Object.fromEntries(keys.map((key) =>
    [key, $(`[data-key="${key}"]`, grid) || grid.appendChild(make("div", { className: "cell", data: { key } }))]));
}

// the points that no other one beats in measures, as ratchet/report/frontier.py finds them
function frontier(points, names) {
  const cost = (p, name) => (data.speeds.includes(name) ? -p.values[name] : p.values[name]);
  const beats = (a, b) => names.every((name) => cost(a, name) <= cost(b, name)) && names.some((name) => cost(a, name) < cost(b, name));
  const all = points.filter((p) => names.every((name) => known(p.values[name])));
  return all.filter((p) => !all.some((other) => (p.is_selected || !other.is_selected) && beats(other, p)));
}

// of earlier campaigns in the same arena, but for sources that this one has measured itself
function shadows() {
  const own = new Set(campaign.points.map((p) => p.source));
  const latest = new Map(campaign.earlier.flatMap((at) => data.campaigns[at].points.map((p) => [p.source, p])));
  return [...latest.values()].filter((p) => !own.has(p.source));
}

// a point in some lines, with the measures that are drawn
function toldPoint(p, keys, verdict = "of an earlier campaign") {
  return [
    `${p.n} ${verdict}${p.is_champion ? ", the champion" : ""}`, ...wrap(p.idea),
    ...keys.map((key) => {
      const [name, , , measure, unit] = MEASURES[key], half = p.halves[measure], number = (x) => (key === "bpb" ? fixed(x) : short(x * unit));
      return `${name}: ${number(p.values[measure])}${half ? ` ± ${number(half)} (95 %)` : ""}`;
    }),
    `${p.runs} run${p.runs === 1 ? "" : "s"}${p.is_selected ? ", selected: they chose it" : " that nobody selected"}`,
  ];
}

const measured = (key, points) => points.some((p) => known(p.values[MEASURES[key][3]]));

// points over two measures, and a third one as their colour
function drawFront(node, keys, showlegend) {
  const drawn = keys.map((key) => MEASURES[key]), names = drawn.map(([, , , name]) => name);
  const has = (p) => names.every((name) => known(p.values[name])), value = (p, i) => p.values[names[i]] * drawn[i][4];
  const own = campaign.points.filter(has), best = frontier(own, names), isBest = new Set(best), ghosts = shadows().filter(has);
  // what was tried with others was kept with them, not by itself: its own source is a hit
  const ends = Object.fromEntries(campaign.experiments.map((e) => [e.n, e.with?.length ? e.mark : e.verdict])), verdict = (p) => ends[p.n];
  const error = (some, i) => ({ type: "data", array: some.map((p) => (isBest.has(p) && p.halves[names[i]] * drawn[i][4]) || NaN), thickness: 1, width: 2 });
  const colored = keys.length > 2, verdicts = [...new Set(own.map(verdict))].sort();
  const traces = verdicts.map((name) => {
    const some = own.filter((p) => verdict(p) === name).sort((a, b) => isBest.has(b) - isBest.has(a)), { color, symbol } = style(name);
    return {
      uid: name, mode: "markers", name: escape(name), legendgroup: name, showlegend: !colored, x: some.map((p) => value(p, 0)), y: some.map((p) => value(p, 1)), customdata: some.map((p) => p.n),
      hoverinfo: "text", text: some.map((p) => hover(toldPoint(p, keys, name))), error_x: { ...error(some, 0), color }, error_y: { ...error(some, 1), color },
      marker: { color, symbol: some.map((p) => symbol.replace("-open", "") + (p.is_selected ? "-open" : "")), size: some.map((p) => (isBest.has(p) ? 12 : 6)), opacity: some.map((p) => (isBest.has(p) ? 1 : 0.65)),
        line: { width: some.map((p) => (p.is_selected ? 1.6 : 0)) },
        ...(colored ? { color: some.map((p) => value(p, 2)), coloraxis: "coloraxis" } : {}) },
    };
  });
  if (colored) traces.push(...verdicts.map((name) => legendMark("scatter", name, style(name).symbol)));
  if (ghosts.length) traces.unshift({ uid: "earlier", mode: "markers", name: "earlier campaigns", x: ghosts.map((p) => value(p, 0)), y: ghosts.map((p) => value(p, 1)),
    hoverinfo: "text", text: ghosts.map((p) => hover(toldPoint(p, keys))), marker: { color: variable("--dim"), size: 4, opacity: 0.6 } });
  if (keys.length === 2) {
    const line = best.filter((p) => !p.is_selected).sort((a, b) => a.values[names[0]] - b.values[names[0]]);
    traces.unshift({ uid: "frontier", mode: "lines", name: "frontier", x: line.map((p) => value(p, 0)), y: line.map((p) => value(p, 1)), hoverinfo: "skip",
      line: { color: variable("--accent"), dash: "dot" } });
  }
  traces.push(...bounds(names.slice(0, 2), drawn, own.map((p) => [value(p, 0), value(p, 1)])));
  const axis = (i) => ({ ...layout(aim(drawn[i]), "").xaxis, ...(drawn[i][2] ? ticks([...own, ...ghosts].map((p) => value(p, i))) : {}) });
  const bar = { colorscale: [[0, lineColor(0)], [1, lineColor(1)]], // seen on light and dark
    colorbar: narrow() ? { thickness: 8, nticks: 5 } : { title: { text: drawn[2]?.[0], side: "right" }, thickness: 12 } };
  draw(node, traces, layout(drawn[0][0], drawn[1][0], { xaxis: axis(0), yaxis: axis(1), showlegend, coloraxis: bar,
    ...(own.length ? {} : empty("no experiment has been measured for these")) }));
}

// a logarithmic axis whose ticks have whole numbers: 5M, 10M, 20M instead of 5, 10M, 2
function ticks(values) {
  const low = Math.min(...values), decades = Math.log10(Math.max(...values) / low);
  return { type: "log", dtick: decades > (narrow() ? 2 : 4) ? 1 : decades > 0.6 || decades < 0.1 ? "D2" : "D1", tickformat: low < 1 ? ".2~r" : "~s" };
}

// a measure's name, and which way is better
const aim = (drawn) => (narrow() ? named(drawn) : `${named(drawn)}: ${data.speeds.includes(drawn[3]) ? "more" : "less"} is better`);

// the goal of the campaign, where it is another one than val_bpb; undefined else
const goalKey = () => Object.keys(MEASURES).find((key) => key !== "bpb" && MEASURES[key][3] && MEASURES[key][3] === campaign.goal);
const named = (drawn) => (drawn === MEASURES[goalKey()] ? `★ ${drawn[0]}${narrow() ? "" : ", the goal"}` : drawn[0]);

// a line for each limit of the campaign on an axis that is shown
function bounds(names, drawn, places) {
  return names.flatMap((name, at) => {
    const limit = campaign.limits[name], others = places.map((place) => place[1 - at]), ends = [Math.min(...others), Math.max(...others)];
    if (!limit || !places.length) return [];
    const here = ends.map(() => limit.value * drawn[at][4]);
    return [{ uid: `limit of ${name}`, mode: "lines", name: `limit: ${escape(limit.words)}`, x: at ? ends : here, y: at ? here : ends, hoverinfo: "name",
      line: { color: lineColor(1), width: 2, dash: "dash" } }];
  });
}

function drawFrontier() {
  const points = [...campaign.points, ...shadows()], selects = [...$("#frontier").querySelectorAll("select")];
  const options = Object.keys(MEASURES).filter((key) => measured(key, points)).map((key) => [key, MEASURES[key][0]]);
  selects.forEach((select, i) => fill(select, [...(i < 2 ? [] : [["", "nothing"]]), ...options], select.value || [goalKey() || "params", "bpb", ""][i]));
  const keys = [...new Set(selects.map((select) => select.value).filter(Boolean))];
  if (keys.length > 1 && selects[0].value !== selects[1].value) drawFront($("#frontier .chart"), keys, true);
  else draw($("#frontier .chart"), [], layout("", "", empty("choose two measures")));
  const few = ["user", "memory", "file", "rate", "token"].filter((key) => measured(key, points)).slice(0, 4);
  for (const [key, node] of Object.entries(cells($("#frontier .grid"), few))) drawFront(node, [key, "bpb"], false);
}

function drawCurves() {
  const over = $("#curves select").value, ends = campaign.champions, first = ends[0]?.n, last = ends.at(-1)?.n;
  const chosen = campaign.experiments.filter((e) => e.curve.length && (ticked.has(e.n) || e.n === first || e.n === last));
  const traces = chosen.map((e, i) => {
    const value = { seconds: (p) => p[0], tokens: (p) => p[1], flops: (p) => p[1] * (e.flops_per_token || NaN) }[over];
    const name = e.n === last ? `${e.n} champion` : e.n === first ? `${e.n} baseline` : `${e.n} ${clip(e.idea, 30)}`;
    return {
      uid: `n${e.n}`, mode: "lines", name: escape(name), x: e.curve.map(value), y: e.curve.map((p) => p[2]), customdata: e.curve.map(() => e.n),
      line: { color: lineColor(i), width: 1.6 }, hovertemplate: "%{y:.3f}",
    };
  });
  const name = { seconds: "seconds of training", tokens: "tokens", flops: "training FLOPs" }[over];
  draw($("#curves .chart"), traces, layout(name, "training loss (nats per token)", { showlegend: true, ...(chosen.length ? {} : empty("no curves: they lie in runs/, where the runs were made")) }));
}

function logs(x, y) {
  const plain = layout(x, y);
  return { ...plain, xaxis: { ...plain.xaxis, ...LOG }, yaxis: { ...plain.yaxis, ...LOG }, showlegend: true };
}
const tagged = (rows, color) => ({ color, size: 8, symbol: rows.map((row) => (row.tag === "modelled" ? "circle-open" : "circle")) });

// what serve-bench and scaling have left; of the former what the campaign's groups name, and all
function drawServing() {
  const { scaling } = data, forecast = scaling?.decoding.length, group = decodingGroup();
  const shown = { frontier: group, training: scaling, bound: forecast, links: scaling };
  const cell = cells($("#serving .grid"), Object.keys(shown).filter((key) => shown[key]));
  if (group) drawDecoding(cell.frontier, group);
  if (scaling) drawTraining(cell.training, scaling.training), drawLinks(cell.links, scaling);
  if (forecast) drawBound(cell.bound, scaling.decoding);
  const lines = [...(group ? aboutDecoding(group) : []), ...(scaling ? aboutScaling(scaling) : [])];
  $("#to-serve").hidden = lines.length;
  facts($("#serving .facts"), Object.fromEntries(lines));
}

// the curves that are chosen to be drawn together, each with its name
function decodingGroup() {
  const picker = $("#models select"), everything = { title: "all that were measured", curves: data.decoding.map(({ run }, at) => ({ name: run, at })), missing: [] };
  const groups = [...campaign.decoding, ...(data.decoding.length ? [everything] : [])];
  fill(picker, groups.map(({ title }, i) => [String(i), title]), picker.value);
  $("#models").hidden = groups.length < 2;
  const group = groups[picker.value];
  return group && { ...group, curves: group.curves.map(({ name, at }) => ({ ...data.decoding[at], name })) };
}

function drawDecoding(node, { curves }) {
  const traces = curves.flatMap((curve, i) => curveTraces(curve, lineColor(i), i === 0, curves.length)), { limits, points } = curves.at(-1);
  if (limits.floor) traces.push({ mode: "lines", name: "launch floor, measured", x: [1 / limits.floor, 1 / limits.floor],
    y: [points[0].rate, Math.max(...points.map((p) => p.rate))], line: { color: variable("--dim"), dash: "dash" }, hoverinfo: "skip" });
  const plain = layout("output tokens/s of one user", "output tokens/s of the device"), values = (axis) => traces.flatMap((trace) => trace[axis]);
  draw(node, traces, { ...plain, xaxis: { ...plain.xaxis, ...ticks(values("x")) }, yaxis: { ...plain.yaxis, ...ticks(values("y")) }, showlegend: true });
}

// a model's points by rows of a batch, its frontier, its speed of light
function curveTraces({ name, points, frontier, light }, color, first, many) {
  const best = points.filter((p) => frontier.includes(p.rows)), spread = (p) => p.tpots.map((tpot) => 1 / tpot), group = { legendgroup: name };
  const text = points.map((p) => `<b>${escape(name)}, ${p.rows} row${p.rows === 1 ? "" : "s"}</b><br>${short(p.rate)} output tokens/s of the device<br>` +
    `${fixed(p.interactivity, 1)} of a user (${fixed(Math.min(...spread(p)), 1)} to ${fixed(Math.max(...spread(p)), 1)} in ${p.tpots.length} repeats), ` +
    `${fixed(p.interactivity_p99, 1)} in the slowest 1 % of gaps<br>first token after ${fixed(1e3 * p.ttft, 1)} ms<br>${fixed(100 * p.bound / p.tpot, 0)} % of the speed of light`);
  const error = { type: "data", symmetric: false, array: points.map((p) => Math.max(...spread(p)) - p.interactivity), arrayminus: points.map((p) => p.interactivity - Math.min(...spread(p))),
    color, thickness: 1, width: 2 };
  return [
    { ...group, mode: "markers+text", name: escape(name), x: points.map((p) => p.interactivity), y: points.map((p) => p.rate), error_x: error,
      text: points.map((p, i) => (narrow() && (i % 3 || many > 1) ? "" : String(p.rows))), textposition: "top right", textfont: { color }, hovertext: text, hoverinfo: "text",
      marker: { color, size: 8 } },
    { ...group, mode: "lines", name: "frontier", showlegend: first, x: best.map((p) => p.interactivity).reverse(), y: best.map((p) => p.rate).reverse(),
      line: { color, width: 1.5 }, hoverinfo: "skip" },
    { ...group, mode: "lines", name: "speed of light, modelled", showlegend: first, x: light.map((p) => p[0]), y: light.map((p) => p[1]),
      line: { color, width: 1.5, dash: "dot" }, hovertemplate: `${escape(name)}: %{y:.3s} tokens/s, %{x:.3s} of a user<extra>speed of light</extra>` },
  ];
}

function drawTraining(node, rows) {
  const line = (key, name, color) => {
    const own = rows.filter((row) => known(row[key]));
    return { mode: "lines+markers", name, x: own.map((r) => r.n), y: own.map((r) => 100 * r[key]), line: { color }, marker: tagged(own, color),
      text: own.map((r) => r.tag), hovertemplate: "%{x} devices: %{y:.1f} %, %{text}<extra></extra>" };
  };
  draw(node, [line("strong", "the same batch, split", lineColor(0)), line("weak", "a batch for each", lineColor(1))],
    logs("devices, data-parallel training", "efficiency (%)"));
}

function drawBound(node, rows) {
  const trace = { mode: "lines+markers", name: "at most", x: rows.map((r) => r.n), y: rows.map((r) => r.bound), line: { color: lineColor(2) },
    marker: tagged(rows, lineColor(2)), text: rows.map((r) => r.tag), hovertemplate: "%{x} devices: %{y:.3s} tokens/s, %{text}<extra></extra>" };
  draw(node, [trace], logs("devices, tensor-parallel decoding", "tokens/s of one user, at most"));
}

function drawLinks(node, { table, lines, tag }) {
  const traces = lines.flatMap(({ n }, i) => {
    const own = table.filter((row) => row.n === n), color = lineColor(i);
    return [
      { mode: "markers", name: `${n} devices, ${tag}`, x: own.map((r) => r.bytes), y: own.map((r) => 1e3 * r.seconds), marker: { color, size: 8 },
        hovertemplate: "%{x:.3s}B: %{y:.3f} ms<extra></extra>" },
      { mode: "lines", name: "ring model", x: own.map((r) => r.bytes), y: own.map((r) => 1e3 * r.ring), line: { color, dash: "dot" }, hoverinfo: "skip", showlegend: i === 0 },
    ];
  });
  draw(node, traces, logs("bytes of an all-reduce", "milliseconds"));
}

function aboutDecoding({ curves, missing }) {
  const how = (curve) => [curve.cached ? "with a KV cache" : "no KV cache: every token recomputes its row", curve.compiled ? "compiled" : "not compiled"];
  const most = (curve) => Math.max(...curve.points.map((p) => p.rate)), [first, ...others] = curves;
  return [
    ...curves.map((curve) => [curve.name, `decoding measured ${curve.time} on ${curve.device}, isolation ${curve.isolation}, model ${curve.run}: ${curve.prompt} tokens, then ${curve.new}, ` +
      `${how(curve).join(", ")}; output tokens only` + (curve.cached ? `; a token at the end of a full row takes ${fixed(1e3 * curve.against.cached, 2)} ms, without the cache ` +
      `${fixed(curve.against.recomputed / curve.against.cached, 1)} times as long` : "") + (curve.unrest ? `. Its ${curve.unrest}` : "")]),
    ...others.map((curve) => [`${curve.name} against ${first.name}`, `${fixed(curve.points[0].interactivity / first.points[0].interactivity, 2)} times the tokens/s of a single user, ` +
      `${fixed(most(curve) / most(first), 2)} times the most of the device`]),
    ...(missing.length ? [["not measured like these", `${missing.join(", ")}: uv run ratchet serve-bench baseline champion`]] : []),
    ["a sweep", "a point's figure is the rows of its batch. They begin and end together, so tokens/s of the device = rows x tokens/s of a user: no serving test with arrivals. The referee's clock sends each token and waits for the logits"],
    ["definitions", "TPOT = (t_end - t_first) / (G - 1), median of the repeats; bars: all repeats; of a user = 1 / TPOT; of the device = rows (G - 1) / (t_end - t_first)"],
    ["speed of light", `bytes from memory at ${fixed(first.limits.bandwidth / 1e9, 1)} GB/s or FLOPs at ${fixed(first.limits.peak_flops / 1e12, 2)} TFLOP/s, both measured there; what a step takes of them is told by the model's process`],
  ];
}

function aboutScaling({ source, tag, model, device, run, time }) {
  return [
    ["all-reduce", `${source} (${tag}; ${device}; ${time}); the ring model alpha(n) + 2 (n - 1) / n bytes / beta(n) is drawn over it, and is used beyond it`],
    ["forecasts", "modelled, on one device measured; a filled mark: from an all-reduce that was measured between so many"],
    ["training", `model ${run}: a step of ${fixed(model.step, 3)} s on one device (${model.device}), then an all-reduce of the trunk's gradients, ${short(model.gradients)}B; ` +
      "nothing overlaps. Real efficiency is lower: gradients of embeddings and tables, and Muon's updates, travel, too"],
    ["tensor parallel", `2 all-reduces in each of the model's layers (${model.layers}): 1 / (2 layers alpha(n) + compute / n)`],
  ];
}

// a layout over whole numbers
const counted = (found, most) => ((found.xaxis.dtick = Math.ceil((most || 1) / 10)), found);

function drawHonesty() {
  const base = campaign.experiments.filter((e) => e.verdict === "baseline").at(-1);
  const said = campaign.experiments.filter((e) => known(e.said) && e.own);
  const shown = { calibration: base, sigma: campaign.sigmas.length, said: said.length, audit: campaign.audit.length };
  const cell = cells($("#honesty .grid"), Object.keys(shown).filter((key) => shown[key]));
  const limits = Object.values(campaign.limits).map(({ words }) => words);
  const sigma = campaign.sigma, accent = variable("--accent"), dots = { mode: "markers", marker: { color: accent, size: 8 } };
  if (base) {
    const line = (y, dash) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: accent, width: 1, dash } });
    const own = campaign.sigmas[0]?.sigma; // as the calibration found it
    const shapes = known(own) ? [line(base.mean), line(base.mean - own, "dot"), line(base.mean + own, "dot")] : [];
    draw(cell.calibration, [{ ...dots, x: base.scores.map((_, i) => i + 1), y: base.scores, hovertemplate: "%{y:.4f}<extra></extra>" }],
      counted(layout("seed of the calibration (± its sigma)", "val_bpb", { shapes }), base.scores.length));
    if (cell.sigma) draw(cell.sigma, [{ ...dots, mode: "lines+markers", x: campaign.sigmas.map((s) => s.n), y: campaign.sigmas.map((s) => s.sigma),
      hovertemplate: "%{y:.5f}<extra></extra>" }],
      counted(layout("experiment", "sigma (bpb)", { yaxis: { ...layout("", "sigma (bpb)").yaxis, rangemode: "tozero" } }), campaign.sigmas.at(-1)?.n));
  }
  if (said.length) {
    const ends = [Math.min(...said.map((e) => e.said)), Math.max(...said.map((e) => e.said))];
    draw(cell.said, [{ mode: "lines", x: ends, y: ends, hoverinfo: "skip", line: { dash: "dot", color: variable("--dim") } },
      ...byVerdict(said, (own) => ({ x: own.map((e) => e.said), y: own.map((e) => e.own.gain),
        error_y: { type: "data", array: own.map((e) => (e.own.high - e.own.low) / 2), thickness: 0.7, width: 0 } }), { showlegend: false })],
      layout("gain that the agent expected (bpb)", "gain of its own runs (bpb, 95 %)", { showlegend: false }));
  }
  if (campaign.audit.length) {
    const rows = campaign.audit, half = (split) => ({ type: "data", array: rows.map((r) => (r[split].high - r[split].low) / 2), thickness: 0.7 });
    draw(cell.audit, [{ ...dots, x: rows.map((r) => r.val.gain), y: rows.map((r) => r.test.gain), text: rows.map((r) => escape(r.name)),
      hovertemplate: "%{text}<br>val %{x:.4f}, test %{y:.4f}<extra></extra>", error_x: half("val"), error_y: half("test") }],
      layout("audited gain on val (bpb)", "audited gain on test (bpb)"));
  }
  const levels = [...new Set(campaign.experiments.map((e) => e.isolation).filter(Boolean))];
  const covered = levels.filter((level) => data.cheats[level]).map((level) => {
    const { known, open } = data.cheats[level];
    return `${level}: of ${known} known cheats ${known - open.length} come to nothing, ${open.length} ${open.length === 1 ? "gets" : "get"} through${open.length ? ` (${open.join(", ")})` : ""}`;
  });
  facts($("#honesty .facts"), {
    sigma: known(sigma) ? `${fixed(sigma, 5)} bpb, ${campaign.df} degrees of freedom` : "unknown: nothing is calibrated",
    claim: campaign.claim.words || "nothing was kept, so there is no gain to be measured",
    ...(campaign.claim.null_keeps ? { luck: campaign.claim.null_keeps } : {}),
    isolation: `${levels.join(", ") || "nothing has run"}; docs/referee.md says what each level covers`,
    ...(covered.length ? { cheats: covered.join("; ") } : {}),
    ledger: `${data.lines} lines, ${data.problems.length ? data.problems.length + " problems" : "verified"}, head ${data.head || "none"}`,
    ...(goalKey() ? { goal: `${campaign.goal}, with val_bpb no worse; gains are ratios of ${campaign.goal}` } : {}),
    arena: `${campaign.arena} (${campaign.seal}), ${campaign.budget}`,
    ...(limits.length ? { limits: limits.join(", ") } : {}),
    device: [campaign.device, campaign.driver, `torch ${campaign.torch}`].filter(Boolean).join(", "),
  });
}

function facts(list, found) {
  list.replaceChildren(...Object.entries(found).flatMap(([key, value]) => [make("dt", { textContent: key }), make("dd", { textContent: value })]));
}

// ---------------------------------------------------------------------------------------------------
// Words and the table

function drawSummary() {
  const tried = campaign.experiments.filter((e) => e.role === "try"), kept = tried.filter((e) => e.verdict === "keep").length;
  const champion = campaign.champions.at(-1), { words, null_keeps, val, ratio } = campaign.claim;
  const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
  let text = `${count(tried.length, "experiment")} on ${campaign.arena} (${campaign.budget} a run, ${campaign.device}): `;
  if (!champion) text += "there is no baseline yet, so nothing can be compared.";
  else if (!kept) text += "nothing was kept so far, the baseline is the champion.";
  else text += [`${kept} kept`, words, null_keeps].filter(Boolean).map((part) => part[0].toUpperCase() + part.slice(1) + ".").join(" ");
  $("#sentence").textContent = data.campaigns.length ? text : "The ledger is empty: begin with uv run ratchet calibrate.";
  const sigmas = campaign.sigma && val ? `, ${fixed(val.gain / campaign.sigma, 1)} sigma` : "";
  const numbers = [
    ["champion, val_bpb", fixed(champion?.mean) || "–", champion ? `± ${fixed(champion.half)} (95 %), ${count(champion.runs, "run")}` : ""],
    ratio ? [`claim: ${campaign.goal} of the baseline's`, ratio, words] : ["claim: gain on the baseline", signed(val?.gain) || "–", val ? `± ${fixed((val.high - val.low) / 2)} (95 %)${sigmas}, fresh runs in turns` : words],
    ["experiments", String(tried.length), `${kept} kept`],
    ["hours of the device", fixed(campaign.hours, 2), data.nights.calls ? `last night: ${count(data.nights.calls, "call")} of the agent${data.nights.cost ? `, ${fixed(data.nights.cost, 2)} dollars` : ""}` : ""],
  ];
  $("#numbers").replaceChildren(...numbers.map(([name, value, more]) =>
    make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }, make("small", { textContent: more })))));
  const warnings = [...campaign.warnings, ...data.problems.map((problem) => `the ledger: ${problem}`)];
  $("#warnings").replaceChildren(...warnings.slice(0, 12).map((text) => make("li", { textContent: text })));
  $("#made").textContent = made();
}

const made = () => (LIVE ? `live, ${data.made}` : data.made);

// a cell of the table; ratchet/report/columns.py says which there are
function cellOf(e, i) {
  const { kind } = data.columns[i], { text } = e.cells[i];
  if (kind === "mark") return make("span", { className: "mark", textContent: text, style: `--mark: ${style(e.verdict).color}` });
  return make("bdi", { textContent: text });
}

function rows() {
  const words = $("#experiments input").value.toLowerCase(), [verdict, by] = ["#by-verdict", "#by-agent"].map((id) => $(id).value);
  const [key, sign] = order, column = data.columns.findIndex(({ name }) => name === key), value = (e) => e.cells[column].value;
  const missing = (x) => x === null || x === undefined;
  return campaign.experiments
    .filter((e) => (!verdict || e.verdict === verdict) && (!by || e.by === by))
    .filter((e) => !words || [e.n, title(e), e.reason, e.commit, e.by, e.verdict].join(" ").toLowerCase().includes(words))
    .sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      return missing(x) - missing(y) || (x < y ? -sign : x > y ? sign : a.n - b.n);
    });
}

function drawTable() {
  const head = make("tr", {}, make("th", { textContent: "curve" }), ...data.columns.map(({ name, kind }) => {
    const sorted = order[0] === name, button = make("button", { type: "button", textContent: name + (sorted ? (order[1] > 0 ? " ↑" : " ↓") : "") });
    button.onclick = () => ((order = [name, sorted ? -order[1] : 1]), drawTable(), $(`th[data-name="${name}"] button`).focus());
    const cell = make("th", { className: kind, data: { name } }, button);
    cell.setAttribute("aria-sort", sorted ? (order[1] > 0 ? "ascending" : "descending") : "none");
    return cell;
  }));
  const found = rows(), shown = $("#experiments tr.details"), focused = document.activeElement.id;
  if (found.findIndex((e) => e.n === open) >= most) most = Infinity;
  const some = onPaper() ? found : found.slice(0, most);
  $("#experiments thead").replaceChildren(head);
  $("#experiments tbody").replaceChildren(...some.flatMap((e) => (e.n === open ? [row(e), details(e, shown)] : [row(e)])));
  if (/^e\d+$/.test(focused)) $(`#${focused}`)?.focus({ preventScroll: true });
  $("#count").textContent = `${found.length} of ${campaign.experiments.length}`;
  $("#rest").hidden = some.length === found.length;
  $("#rest").textContent = `show all ${found.length}`;
}

function row(e) {
  const tick = make("input", { type: "checkbox", checked: ticked.has(e.n), disabled: !e.curve.length, ariaLabel: `curve of experiment ${e.n}` });
  tick.onclick = (event) => (event.stopPropagation(), ticked.has(e.n) ? ticked.delete(e.n) : ticked.add(e.n), drawCurves());
  const node = make("tr", { className: e.n === open ? "row open" : "row", tabIndex: 0, id: `e${e.n}` }, make("td", {}, tick),
    ...data.columns.map(({ name, kind }, i) => make("td", { className: kind, data: { name } }, cellOf(e, i))));
  node.setAttribute("aria-expanded", e.n === open);
  node.onclick = () => ((open = e.n === open ? null : e.n), drawTable(), $(`#e${e.n}`)?.focus());
  node.onkeydown = (event) => event.target === node && ["Enter", " "].includes(event.key) && (event.preventDefault(), node.onclick());
  return node;
}

// shown: the details on the page, which stay, with what is unfolded in them, when they are the same
function details(e, shown) {
  const { half, cells, ...rest } = e; // these hang on other experiments, too, and aren't shown here
  const stamp = JSON.stringify(rest), list = make("dl", { className: "facts" });
  if (shown?.stamp === stamp) return shown;
  const said = known(e.said) ? { expected: `${signed(e.said)} bpb` } : {}, near = e.near ? { like: `experiment ${e.near}` } : {};
  facts(list, {
    ...(e.idea ? { idea: title(e) } : {}), reason: e.reason, ...search(e), ...said, ...near, commit: e.commit, seeds: e.seeds.join(", "),
    ...(e.scores.length ? { scores: e.scores.map((s) => fixed(s)).join(", ") } : {}),
    ...(e.disturbed ? { disturbed: `${e.disturbed} of its ${e.runs} runs, by other programs: they count for nothing and were made again, each with its seed` } : {}),
    ...Object.fromEntries((e.compared || []).map((row, i) => [`${i % e.arms.length + 1}. ${row.name}, ${row.split}`,
      fixed(row.mean) + (known(row.gain) ? `, gain on ${e.arms[0]} ${interval(row)}` : "")])),
    figures: [...figures(e), ...more(e, 1000)].filter(Boolean).map((line) => line.trim()).join("; "),
    ...Object.fromEntries(Object.entries(e.probes || {}).map(([name, seen]) => [`probe ${name}`, seen])),
  });
  const parts = [list];
  if (e.diff) parts.push(make("details", { open: true }, make("summary", { textContent: "what it changed" }), diff(e.diff)));
  if (e.tail) parts.push(make("details", {}, make("summary", { textContent: "last lines of its log" }), make("pre", { textContent: e.tail })));
  return make("tr", { className: "details", stamp }, make("td", { colSpan: data.columns.length + 1 }, ...parts));
}

// what its search and its trial say of a try, or a trial of its members
function search(e) {
  const lines = {}, sigmas = (e.sigmas || []).map((gain) => signed(gain, 1) || "∞").join(", ");
  if (gain(e)) lines.gain = `${gain(e)} ${e.gain_words ? `of ${campaign.goal}` : "bpb"} (95 %)${e.selected ? ": the runs that chose it, no claim" : ""}`;
  if (sigmas) lines["over the bar"] = `${sigmas} sigma${known(e.points) ? `, ${fixed(e.points, 2)} points: selected, no claim` : ""}`;
  return lines;
}

function diff(text) {
  const kind = (line) => (line.startsWith("@@") ? "place" : line.startsWith("+") ? "plus" : line.startsWith("-") ? "minus" : "");
  const lines = text.split("\n"), begin = lines.findIndex((line) => line.startsWith("@@")); // before it: names of files
  return make("pre", {}, ...lines.slice(Math.max(begin, 0)).map((line) => make("span", { className: kind(line), textContent: line || " " })));
}

function show(n) {
  if (!campaign.experiments.some((e) => e.n === n)) return; // a point of the campaign before
  open = n;
  for (const id of ["#experiments input", "#by-verdict", "#by-agent"]) $(id).value = "";
  drawTable();
  $(`#e${n}`).scrollIntoView({ block: "center", behavior: "smooth" });
  $(`#e${n}`).focus({ preventScroll: true });
}

// ---------------------------------------------------------------------------------------------------
// The page

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, name]) => make("option", { value, textContent: name })));
  select.value = options.some(([value]) => value === chosen) ? chosen : options[0]?.[0];
}

function choices() {
  const unique = (key) => [...new Set(campaign.experiments.map((e) => e[key]).filter(Boolean))].sort();
  for (const [id, key] of [["#by-verdict", "verdict"], ["#by-agent", "by"]])
    fill($(id), [["", "all"], ...unique(key).map((value) => [value, clip(value, 40)])], $(id).value);
  const picker = $("#campaigns select"), names = data.campaigns.map((c, i) => [i, `${c.arena}, ${c.budget}, ${c.device}, since ${minutes(c.experiments[0].time)}`]);
  $("#campaigns").hidden = names.length < 2;
  fill(picker, names, data.campaigns.indexOf(campaign));
}

const NOTHING = { goal: "", goal_bar: [], decoding: [], limits: {}, experiments: [], champions: [], bar: [], points: [], earlier: [], claim: {}, sigmas: [], audit: [], warnings: [], hours: 0, arena: "", budget: "", device: "", torch: "", seal: "" };

// top to bottom; a breath after each part lets the reader see it and scroll while the next one is drawn
async function drawAll(atOnce = false) {
  const own = ++drawing, parts = [drawProgress, drawExplorer, drawFrontier, drawCurves, drawServing, drawHonesty, drawTable];
  document.body.classList.toggle("empty", campaign === NOTHING); // style.css hides what would have nothing in it
  drawSummary(), choices();
  for (const part of campaign === NOTHING ? [drawServing, drawTable] : parts) {
    if (!atOnce) await breath();
    if (own !== drawing) return; // there is something newer to draw
    try { part(); } catch (error) { console.error(error); } // one chart that fails takes no other along
  }
  document.body.dataset.drawn = own;
}

const breath = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  return JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text());
}

async function load(packed, chosen) {
  data = await unpack(packed);
  campaign = data.campaigns[chosen] || data.campaigns[data.latest] || NOTHING;
  if (!drawing && goalKey()) $("#explorer").querySelectorAll("select")[2].value = goalKey();
  await drawAll(); // all of it, before there is news
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  colors = {};
  $("#theme").textContent = name === "dark" ? "Light" : "Dark";
}

async function news(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(answer.statusText);
  return answer.text();
}

async function listen() { // of `ratchet watch`: asks whether the ledger has changed, then for the data
  let seen = LIVE;
  for (;;) {
    try {
      const stamp = await news("stamp");
      const at = data.campaigns.indexOf(campaign); // the latest is followed to the next one
      if (stamp !== seen) await load(await news("data"), at === data.latest ? undefined : at);
      seen = stamp;
      $("#made").textContent = made();
    } catch { $("#made").textContent = "not live any more"; }
    await new Promise((done) => setTimeout(done, 1000));
  }
}

let before; // printing: the theme of the screen
onbeforeprint = () => ((before = document.documentElement.dataset.theme), document.body.classList.add("paper"), theme("light"), drawAll(true));
onafterprint = () => (document.body.classList.remove("paper"), theme(before), drawAll(true));

theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
$("#theme").onclick = () => (theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"), drawAll());
["params", "memory", "rate"].forEach((value, i) => {
  const select = $("#explorer").querySelectorAll("select")[i];
  fill(select, Object.entries(MEASURES).map(([key, [name]]) => [key, name]), value);
  select.onchange = drawExplorer;
});
for (const select of $("#frontier").querySelectorAll("select")) select.onchange = drawFrontier;
fill($("#curves select"), [["seconds", "seconds"], ["tokens", "tokens"], ["flops", "FLOPs"]], "seconds");
$("#curves select").onchange = drawCurves;
$("#models select").onchange = drawServing;
for (const id of ["#by-verdict", "#by-agent"]) $(id).onchange = drawTable;
$("#experiments input").oninput = drawTable;
$("#rest").onclick = () => {
  const next = rows()[most].n;
  most = Infinity;
  drawTable(), $(`#e${next}`).focus();
};
$("#campaigns select").onchange = (event) => ((campaign = data.campaigns[event.target.value]), (open = null), ticked.clear(), drawAll());
load(PACKED).then(() => LIVE && listen());
