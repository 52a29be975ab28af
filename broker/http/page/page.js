"use strict";
/* The page's script. All that comes from the broker is somebody's text: it is only ever put into the page as text. */

const SVG = "http://www.w3.org/2000/svg";
const ACTIONS = { running: ["pause", "cancel"], queued: ["pause", "cancel"], open: ["pause", "cancel"], paused: ["resume", "cancel"], done: [] };
const FIRST_JOBS = 12;
const page = { token: sessionStorage.getItem("assay-key") || "", mayChange: false, job: null, all: false, jobs: [], looks: [] };
const $ = (id) => document.getElementById(id);

/* ---- making elements ---- */

function fill(e, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "onclick") e.addEventListener("click", value);
    else if (name === "width") e.style.width = value;
    else if (value !== undefined && value !== false) e.setAttribute(name, value === true ? "" : String(value));
  }
  e.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
  return e;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/* ---- numbers for people ---- */

const whole = (n) => Math.round(n).toLocaleString("en");
function short(n) {
  if (n === null || n === undefined) return "";
  for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) if (Math.abs(n) >= unit) return (n / (name === "k" ? 1e3 : unit)).toFixed(n >= 100 * (name === "k" ? 1e3 : unit) ? 0 : 1) + name;
  return Math.abs(n) >= 100 || Number.isInteger(n) ? whole(n) : String(+n.toPrecision(2));
}
function bytes(n) {
  if (!(n >= 0)) return "not known";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let k = 0;
  while (n >= 1024 && k < units.length - 1) { n /= 1024; k++; }
  return (k === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)) + " " + units[k];
}
function time(s) {
  if (s === null || s === undefined) return "";
  if (s < 1) return s <= 0 ? "0 s" : "<1 s";
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const k = parts.findIndex(([unit]) => s >= unit), [unit, name] = parts[k], next = parts[k + 1];
  const rest = next ? Math.floor((s % unit) / next[0]) : 0;
  return Math.floor(s / unit) + " " + name + (rest ? " " + rest + " " + next[1] : "");
}
const percent = (part, all) => (all > 0 ? (100 * part) / all : 0);
const share = (part, all) => (all > 0 ? percent(part, all).toFixed(percent(part, all) < 10 ? 1 : 0) + "%" : "none");
const score = (v) => String(+v.toPrecision(4));
const clock = (ms, withSeconds) => new Date(ms).toLocaleTimeString([], withSeconds ? {} : { hour: "2-digit", minute: "2-digit" });

/* ---- asking ---- */

function trouble(text) {
  $("trouble").hidden = !text;
  $("trouble").textContent = text;
}

async function ask(path, method) {
  const headers = page.token ? { Authorization: "Bearer " + page.token } : {};
  const reply = await fetch(path, { method: method || "GET", headers, cache: "no-store", signal: AbortSignal.timeout(10000) });
  const body = await reply.json().catch(() => ({}));
  $("key").hidden = reply.status !== 401;
  $("forget").hidden = !page.token || reply.status === 401;
  if (!reply.ok) throw new Error(reply.status === 401 ? (page.token ? "This key is not known." : "This server asks for an API key.") : (body.error && body.error.message) || "HTTP " + reply.status);
  return body;
}

/* Asks again and again while the page is seen, never twice at once. */
function repeat(ms, look) {
  const one = { running: false };
  one.now = async () => {
    if (one.running || document.hidden) return;
    one.running = true;
    try {
      await look();
      one.failed = null;
    } catch (e) {
      one.failed = e.name === "TypeError" || e.name === "TimeoutError" ? "assay-http does not answer." : e.message;
    }
    one.running = false;
    const failed = page.looks.find((other) => other.failed);
    trouble(failed ? failed.failed : "");
    if (failed) { $("state").textContent = "not known"; $("state").className = "state gone"; }
  };
  page.looks.push(one);
  setInterval(one.now, ms);
  one.now();
  return one;
}

/* ---- now ---- */

function figure(name, value, note) {
  return el("div", { class: "figure" }, el("span", {}, name), el("b", {}, value), note ? el("span", {}, note) : null);
}

function bar(name, value, part) {
  return el("div", {}, el("div", { class: "head" }, el("span", {}, name), el("span", {}, value)),
    el("div", { class: "track" }, el("i", { width: Math.min(100, Math.max(0, part)) + "%" })));
}

function pairs(list, target) {
  $(target).replaceChildren(...list.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

/* Earlier looks, up to a minute of them: rates are what changed since. A broker that was started anew begins again. */
const earlier = [];
function since(info) {
  if (earlier.length && earlier[0].started_ms !== info.started_ms) earlier.length = 0;
  if (!earlier.length || earlier[earlier.length - 1].now_ms !== info.now_ms) earlier.push(info);
  while (earlier.length > 1 && info.now_ms - earlier[0].now_ms > 60000) earlier.shift();
  return earlier[0];
}

const rankName = (w) => w.model + " " + w.group + "." + w.rank;
function busy(w, before) {
  const was = before.workers.find((o) => o.group === w.group && o.rank === w.rank && o.incarnation === w.incarnation);
  const up = was ? w.up_us - was.up_us : 0;
  return up > 0 ? percent(w.busy_us - was.busy_us, up) : 0;
}

function showInfo(all) {
  const info = all.info, before = since(info), c = info.counters, s = (info.now_ms - before.now_ms) / 1000;
  page.mayChange = all.may_change;
  $("state").textContent = info.state;
  $("state").className = "state " + info.state;
  $("models").textContent = info.models.map((m) => m.name).join(", ") + " · " + info.version + (info.failure ? " · " + info.failure : "") + (info.unwritten ? " · " + info.unwritten : "");
  const rate = s > 0 ? (c.rows_done - before.counters.rows_done) / s : 0, tokens = s > 0 ? (c.tokens - before.counters.tokens) / s : 0;
  const shares = info.workers.map((w) => busy(w, before)), up = info.workers.filter((w) => w.state === "ready").length;
  $("figures").replaceChildren(
    figure("Rows waiting", short(info.unfinished_rows), short(info.unfinished_jobs) + (info.unfinished_jobs === 1 ? " job" : " jobs")),
    figure("Queue age", time(info.longest_wait_ms / 1000), "longest wait for a turn"),
    figure("Rows/s", short(rate), short(tokens) + " tokens/s"),
    figure("Ranks ready", up + " of " + info.workers.length, "busy " + Math.round(shares.reduce((a, b) => a + b, 0) / Math.max(1, shares.length)) + "%"),
    figure("Disk free", bytes(info.disk_free_bytes), "database " + bytes(info.db_bytes)));
  $("ranks").replaceChildren(...info.workers.map((w, k) => bar(rankName(w) + " · " + w.device + (w.state === "ready" ? "" : " · " + w.state), Math.round(shares[k]) + "%", shares[k])));
  const reused = info.workers.filter((w) => w.rank === 0).reduce((n, w) => n + w.reused, 0);
  $("saved").replaceChildren(
    bar("Tokens shared in a batch", share(c.tokens_shared, c.tokens), percent(c.tokens_shared, c.tokens)),
    bar("Tokens from the KV cache", share(reused, c.tokens), percent(reused, c.tokens)),
    bar("Rows copied from equal ones", share(c.rows_copied, c.rows_done), percent(c.rows_copied, c.rows_done)),
    bar("Rows from the score cache", share(c.rows_cached, c.rows_done), percent(c.rows_cached, c.rows_done)));
  pairs([["Rows", whole(info.unfinished_rows)], ["Jobs", whole(info.unfinished_jobs)], ["Longest wait", time(info.longest_wait_ms / 1000)],
    ["Tokens", bytes(info.queued_bytes) + " of " + bytes(info.limits.max_queued_bytes)],
    ["HTTP requests", all.http.running + " with the broker, " + all.http.waiting + " not yet"], ["Longest tick lately", info.recent_tick_ms + " ms"]], "queue");
  pairs([["Disk free", bytes(info.disk_free_bytes)], ["Database", bytes(info.db_bytes)], ["Write-ahead log", bytes(info.wal_bytes)], ["Memory of assayd", bytes(info.memory_bytes)],
    ["of its workers", bytes(info.workers.reduce((n, w) => n + w.memory_bytes, 0))], ["KV caches", bytes(info.workers.reduce((n, w) => n + w.kv_bytes, 0))], ["of assay-http", bytes(all.http.memory_bytes)]], "room");
}

/* ---- jobs ---- */

async function change(job, action, button) {
  if (action === "cancel" && !confirm("Cancel job " + job.key + "? It cannot be undone.")) return;
  button.disabled = true;
  try {
    await ask("/api/jobs/" + job.job + "/" + action, "POST");
    await Promise.all([jobsLook.now(), infoLook.now()]);
  } catch (e) {
    alert(e.message);
    button.disabled = false;
  }
}

function buttons(job) {
  if (!page.mayChange) return [];
  const names = [...(ACTIONS[job.state] || [])];
  if (job.failed > 0 && job.state !== "cancelled") names.push("retry");
  return names.map((name) => {
    const button = el("button", { class: name === "cancel" ? "danger" : "", "aria-label": name + " job " + job.key }, name);
    button.addEventListener("click", () => change(job, name, button));
    return button;
  });
}

function jobRow(job) {
  const all = job.total === null ? job.accepted : job.total, part = percent(job.done, all), over = job.state === "done";
  const number = (name, value, bad) => el("td", { class: "n" + (bad ? " bad" : ""), "data-name": name }, value);
  return el("tr", {},
    el("td", {}, el("button", { class: "name", onclick: () => openJob(job) }, job.key), el("small", {}, job.model || "")),
    el("td", {}, el("span", { class: "state " + job.state }, job.state), job.reason ? el("small", {}, job.reason) : null),
    el("td", { class: "progress" }, whole(job.done) + " of " + whole(all) + (job.total === null ? " so far" : ""),
      el("div", { class: "track", role: "progressbar", "aria-valuenow": Math.round(part), "aria-label": "rows of " + job.key }, el("i", { class: over ? "over" : "", width: part + "%" }))),
    number("rows/s", job.rate > 0 ? short(job.rate) : ""),
    number("left", job.eta_s === null ? "" : time(job.eta_s)),
    number("failed", job.failed > 0 ? whole(job.failed) : "", true),
    number("priority", job.priority === 0 ? "" : job.priority),
    el("td", { class: "actions" }, ...buttons(job)));
}

function showJobs() {
  const shown = page.all ? page.jobs : page.jobs.slice(0, FIRST_JOBS);
  $("jobs").hidden = page.jobs.length === 0;
  $("jobs-none").hidden = page.jobs.length > 0;
  $("more").hidden = page.jobs.length <= FIRST_JOBS;
  $("more").textContent = page.all ? "Show fewer" : "Show all " + page.jobs.length;
  const focused = document.activeElement && document.activeElement.getAttribute("aria-label");
  const body = $("jobs").tBodies[0];
  body.replaceChildren(...shown.map(jobRow));
  if (focused) for (const button of body.querySelectorAll("button")) if (button.getAttribute("aria-label") === focused) button.focus();
}

/* Those that are unfinished first, the newest first among them and among the others. */
function takeJobs(reply) {
  const found = new Map();
  for (const state of ["running", "queued", "open", "paused", "newest"]) for (const job of reply[state] || []) found.set(job.job, job);
  const rest = (job) => (job.state === "done" || job.state === "cancelled" ? 1 : 0);
  page.jobs = [...found.values()].sort((a, b) => rest(a) - rest(b) || b.job - a.job);
  showJobs();
  const wanted = /^#job=(\d+)$/.exec(location.hash), job = wanted && found.get(Number(wanted[1]));
  if (job && !page.job) openJob(job);
}

/* ---- one job ---- */

function openJob(job) {
  page.job = job;
  history.replaceState(null, "", "#job=" + job.job);
  $("job").hidden = false;
  $("job-name").textContent = job.key;
  for (const id of ["histogram", "mean"]) $(id).replaceChildren();
  for (const pre of document.querySelectorAll("pre")) {
    pre.dataset.sql = pre.dataset.sql || pre.textContent;
    pre.textContent = pre.dataset.sql.replaceAll(":job", String(job.job));
  }
  jobLook.now();
  $("job").scrollIntoView({ block: "nearest" });
}

function histogram(values) {
  const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b)), n = high > low ? Math.min(30, Math.max(8, Math.round(Math.sqrt(values.length)))) : 1;
  const bins = new Array(n).fill(0), width = (high - low) / n || 1;
  for (const v of values) bins[Math.min(n - 1, Math.floor((v - low) / width))]++;
  return bins.map((count, k) => ({ from: low + k * width, to: high > low ? low + (k + 1) * width : low, count }));
}

function showScores(reply) {
  const rows = reply.scores.sort((a, b) => a[0] - b[0]), values = rows.map((row) => row[2]);
  const sampled = new Set(rows.map((row) => row[0])).size + reply.others;
  if (values.length === 0) {
    $("histogram").replaceChildren();
    $("mean").replaceChildren();
    $("scores-of").textContent = reply.done > 0 ? "No row of those looked at has a score of one number." : "No rows are finished yet.";
    return;
  }
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const bins = histogram(values);
  bars($("histogram"), bins.map((b) => ({ value: b.count, title: score(b.from) + " to " + score(b.to) + ": " + b.count })), { left: score(bins[0].from), right: score(bins[bins.length - 1].to), most: Math.max(...bins.map((b) => b.count)) });
  $("scores-of").textContent = "Mean " + score(mean) + (reply.done > sampled ? "; a sample of " + whole(sampled) + " of " + whole(reply.done) + " finished rows." : "; all " + whole(reply.done) + " finished rows.");
  const byTime = rows[rows.length - 1][1] - rows[0][1] > 2000, x = byTime ? 1 : 0;
  const first = rows[0][x], last = rows[rows.length - 1][x], n = Math.max(1, Math.min(24, Math.floor(values.length / 8)));
  const parts = Array.from({ length: n }, () => []);
  for (const row of rows) parts[Math.min(n - 1, Math.floor(((row[x] - first) / (last - first || 1)) * n))].push(row[2]);
  const points = parts.map((part, k) => ({ x: (k + 0.5) / n, part })).filter((p) => p.part.length).map((p) => ({ x: p.x, y: p.part.reduce((a, b) => a + b, 0) / p.part.length, n: p.part.length }));
  lines($("mean"), points, byTime ? { left: clock(first, true), right: clock(last, true) } : { left: "first row", right: "last row" });
}

function showFailed(reply) {
  const codes = new Map();
  for (const row of reply.rows) codes.set(row.code, [...(codes.get(row.code) || []), row]);
  $("failed").hidden = codes.size === 0;
  $("failed-none").hidden = codes.size > 0;
  $("failed").tBodies[0].replaceChildren(...[...codes].sort((a, b) => b[1].length - a[1].length).map(([code, rows]) => el("tr", {}, el("td", {}, code), el("td", { class: "n" }, whole(rows.length)),
    el("td", {}, el("ul", {}, ...rows.slice(0, 3).map((row) => el("li", {}, "row " + row.i + (row.id === null ? "" : " (" + row.id + ")") + ": " + row.message)))))));
  $("failed-of").textContent = reply.done ? "" : "Of the first " + whole(reply.rows.length) + " failed rows; there are more.";
}

/* ---- charts ---- */

function frame(target, most, least, labels) {
  const box = target.getBoundingClientRect(), w = Math.max(200, box.width), h = Math.max(80, box.height), left = 44, bottom = h - 18;
  const chart = svg("svg", { viewBox: "0 0 " + w + " " + h, role: "img", "aria-label": labels.name || "" });
  chart.append(svg("line", { class: "axis", x1: left, x2: w, y1: bottom, y2: bottom }), svg("line", { class: "axis", x1: left, x2: w, y1: 8, y2: 8 }),
    svg("text", { x: left - 5, y: 12, "text-anchor": "end" }, most), svg("text", { x: left - 5, y: bottom, "text-anchor": "end" }, least),
    svg("text", { x: left, y: h - 4 }, labels.left), svg("text", { x: w, y: h - 4, "text-anchor": "end" }, labels.right));
  target.replaceChildren(chart);
  return { chart, left, top: 8, width: w - left, height: bottom - 8 };
}

function bars(target, list, labels) {
  const most = Math.max(1e-9, ...list.map((one) => one.value)), f = frame(target, short(most), "0", labels), step = f.width / list.length;
  list.forEach((one, k) => {
    if (one.value <= 0) return;
    const h = Math.max(1, (one.value / most) * f.height);
    f.chart.append(svg("rect", { class: "bar", x: f.left + k * step, y: f.top + f.height - h, height: h }, svg("title", {}, one.title)));
    f.chart.lastChild.setAttribute("width", Math.max(0.8, step - (step > 4 ? 1 : 0)));
  });
}

function lines(target, points, labels) {
  let low = Math.min(...points.map((p) => p.y)), high = Math.max(...points.map((p) => p.y));
  if (high === low) { high += 0.5; low -= 0.5; }
  const f = frame(target, score(high), score(low), labels);
  const at = (p) => [f.left + p.x * f.width, f.top + f.height - ((p.y - low) / (high - low)) * f.height];
  f.chart.append(svg("polyline", { class: "line", points: points.map((p) => at(p).join(",")).join(" ") }));
  for (const p of points) f.chart.append(svg("circle", { class: "dot", cx: at(p)[0], cy: at(p)[1], r: 3 }, svg("title", {}, score(p.y) + ", of " + p.n + " scores")));
}

function showThroughput(reply) {
  const span = 10, n = (24 * 60) / span, end = Math.floor(reply.now_ms / 60000 / span) * span + span, list = Array.from({ length: n }, (_, k) => ({ value: 0, rows: 0, tokens: 0, from: (end - (n - k) * span) * 60000 }));
  let rows = 0, tokens = 0;
  for (const [ms, r, t] of reply.minutes) {
    const k = Math.floor((ms / 60000 - (end - n * span)) / span);
    if (k < 0 || k >= n) continue;
    list[k].rows += r;
    list[k].tokens += t;
    list[k].value = list[k].rows / span;
    rows += r;
    tokens += t;
  }
  for (const one of list) one.title = clock(one.from) + ": " + whole(one.rows / span) + " rows a minute, " + short(one.tokens / span) + " tokens";
  bars($("throughput"), list, { left: clock(list[0].from), right: "now", name: "rows a minute over 24 hours" });
  $("throughput-of").textContent = "Rows a minute; " + short(rows) + " rows and " + short(tokens) + " tokens in all.";
}

/* ---- all ---- */

let infoLook, jobsLook, jobLook;

function begin() {
  for (const button of document.querySelectorAll("button.sql")) button.addEventListener("click", () => {
    const pre = $(button.getAttribute("aria-controls"));
    pre.hidden = !pre.hidden;
    button.setAttribute("aria-expanded", String(!pre.hidden));
  });
  $("key").addEventListener("submit", (event) => {
    event.preventDefault();
    page.token = $("token").value.trim();
    $("token").value = "";
    sessionStorage.setItem("assay-key", page.token);
    for (const look of page.looks) look.now();
  });
  $("forget").addEventListener("click", () => {
    sessionStorage.removeItem("assay-key");
    location.reload();
  });
  $("more").addEventListener("click", () => { page.all = !page.all; showJobs(); });
  $("job-close").addEventListener("click", () => {
    page.job = null;
    history.replaceState(null, "", location.pathname);
    $("job").hidden = true;
  });
  infoLook = repeat(2000, async () => showInfo(await ask("/api/overview.json")));
  jobsLook = repeat(2000, async () => takeJobs(await ask("/api/jobs.json")));
  repeat(30000, async () => showThroughput(await ask("/api/throughput.json")));
  jobLook = repeat(5000, async () => {
    const job = page.job;
    if (!job) return;
    const [scores, failed] = await Promise.all([ask("/api/jobs/" + job.job + "/scores.json"), ask("/api/jobs/" + job.job + "/failed.json")]);
    if (page.job !== job) return;
    showScores(scores);
    showFailed(failed);
  });
  document.addEventListener("visibilitychange", () => { for (const look of page.looks) look.now(); });
}
begin();
