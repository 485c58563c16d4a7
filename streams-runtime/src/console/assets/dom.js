// Elements made of data, always as text; figures as people read them; small charts; questions.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  add(made, children);
  return made;
}

export function add(parent, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : String(child));
  }
  return parent;
}

export function fill(parent, ...children) {
  parent.replaceChildren();
  return add(parent, children);
}

// A link within the console; only parameters with a value stand in it.
export function link(parameters, text, attributes = {}) {
  return el("a", { href: search(parameters), ...attributes }, text);
}

export function search(parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "" && value !== false) query.set(name, value);
  }
  return "?" + query.toString();
}

export function count(number) {
  return number === null || number === undefined ? "–" : Math.round(number).toLocaleString("en");
}

export function rate(number) {
  if (number === null || number === undefined || Number.isNaN(number)) return "–";
  if (number > 0 && number < 10) return number.toFixed(1) + "/s";
  return count(number) + "/s";
}

export function span(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return ms <= 0 ? "0" : Math.round(ms) + " ms";
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return (ms < 10000 ? (ms / 1000).toFixed(1) : seconds) + " s";
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let rest = seconds;
  const shown = [];
  for (const [unit, size] of parts) {
    const whole = Math.floor(rest / size);
    rest -= whole * size;
    if (whole > 0 || shown.length > 0) shown.push(whole + " " + unit);
    if (shown.length === 2) break;
  }
  return shown.join(" ");
}

export function bytes(number) {
  if (number === null || number === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return (unit === 0 || number >= 100 ? Math.round(number) : number.toFixed(1)) + " " + units[unit];
}

export function time(ms) {
  if (!ms) return "–";
  const date = new Date(ms);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const clock = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, "0")}`;
  return el("time", { datetime: date.toISOString(), title: date.toISOString() }, day === today() ? clock : day + " " + clock);
}

// The events of a build, as its processes record them: takes=Trade@1 ignores=Order.
export function builds(text) {
  return text ? text.replace(/(\w+)=/g, "$1 ") : "–";
}

// Hours and minutes of a moment, for the beginning of a chart.
export function clock(ms) {
  const date = new Date(ms);
  return `${String(date.getHours()).padStart(2, "0")}:${String(date.getMinutes()).padStart(2, "0")}`;
}

function today() {
  const date = new Date();
  return `${date.getFullYear()}-${String(date.getMonth() + 1).padStart(2, "0")}-${String(date.getDate()).padStart(2, "0")}`;
}

const TONES = { halted: "bad", unattended: "bad", retrying: "warn", paused: "warn", running: "good", foreign: "quiet" };

export function state(condition) {
  return el("span", { class: "state " + (TONES[condition] ?? "quiet") }, condition);
}

export const ORDER = ["halted", "unattended", "retrying", "paused", "running", "foreign"];

// A table of columns [heading, class] and rows of cells; a cell may be [content, class].
export function table(columns, rows, empty) {
  if (rows.length === 0) return el("div", { class: "card empty" }, empty);
  const head = columns.map(([heading, kind]) => el("th", { class: kind, scope: "col" }, heading));
  return el("div", { class: "card scroll" }, el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows)));
}

export function row(columns, cells, attributes = {}) {
  return el("tr", attributes, cells.map((cell, index) => el("td", { class: columns[index][1] }, cell)));
}

export function tile(figure, words, tone) {
  return el("div", { class: "tile" }, el("b", { class: tone }, figure), el("span", {}, words));
}

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// A line through [time, value] points, as wide as the picture.
export function line(points, kind, title) {
  const [width, height] = [100, 24];
  const picture = svg("svg", { class: kind, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img" });
  const label = svg("title", {});
  label.textContent = title;
  picture.append(label);
  const known = points.filter(([, value]) => value !== null && value !== undefined);
  if (known.length < 2) return picture;
  const [first, last] = [known[0][0], known[known.length - 1][0]];
  const most = Math.max(1, ...known.map(([, value]) => value));
  const place = ([at, value]) => {
    const x = ((at - first) / Math.max(1, last - first)) * width;
    const y = height - 1.5 - (value / most) * (height - 3);
    return `${x.toFixed(2)} ${y.toFixed(2)}`;
  };
  const path = "M" + known.map(place).join("L");
  picture.append(svg("path", { class: "area", d: `${path}L${width} ${height}L0 ${height}Z` }), svg("path", { d: path }));
  return picture;
}

// JSON over several lines. The text stays as it came, because numbers may be larger than JavaScript's.
export function pretty(json) {
  let [out, depth, quoted] = ["", 0, false];
  const indent = () => "\n" + "  ".repeat(depth);
  for (let at = 0; at < json.length; at += 1) {
    const character = json[at];
    if (quoted) {
      out += character;
      if (character === "\\") out += json[(at += 1)];
      else if (character === '"') quoted = false;
    } else if (character === '"') {
      quoted = true;
      out += character;
    } else if (character === "{" || character === "[") {
      const end = character === "{" ? "}" : "]";
      if (json[at + 1] === end) {
        out += character + end;
        at += 1;
      } else {
        depth += 1;
        out += character + indent();
      }
    } else if (character === "}" || character === "]") {
      depth -= 1;
      out += indent() + character;
    } else if (character === ",") {
      out += character + indent();
      if (json[at + 1] === " ") at += 1;
    } else if (character === ":") {
      out += ": ";
      if (json[at + 1] === " ") at += 1;
    } else {
      out += character;
    }
  }
  return out;
}

// Sixteen bytes per line, with their places and what of them is text.
export function dump(hex) {
  const lines = [];
  for (let at = 0; at < hex.length; at += 32) {
    const part = hex.slice(at, at + 32).match(/../g) ?? [];
    const text = part.map((digits) => {
      const code = parseInt(digits, 16);
      return code >= 32 && code < 127 ? String.fromCharCode(code) : "·";
    });
    lines.push((at / 2).toString(16).padStart(6, "0") + "  " + part.join(" ").padEnd(48) + " " + text.join(""));
  }
  return lines.join("\n");
}

export function toast(words) {
  const said = el("p", {}, words);
  document.getElementById("toast").append(said);
  setTimeout(() => said.remove(), 6000);
}

// Asks in a dialog; answers the values of its fields, or null.
export function ask({ title, body = [], yes, danger = false, fields = [] }) {
  const dialog = document.getElementById("dialog");
  return new Promise((answered) => {
    const inputs = fields.map(({ name, label, ...attributes }) => {
      const input = el("input", { name, autocomplete: "off", type: "text", ...attributes });
      return el("label", {}, el("span", {}, label), input);
    });
    const button = el("button", { class: "main" + (danger ? " danger" : ""), type: "submit", value: "yes" }, yes);
    const form = el("form", { method: "dialog" }, el("h2", {}, title), body, inputs,
      el("div", { class: "row" }, el("button", { type: "submit", value: "no", formnovalidate: true }, "Cancel"), button));
    fill(dialog, form);
    dialog.onclose = () => {
      const values = Object.fromEntries(new FormData(form));
      answered(dialog.returnValue === "yes" ? values : null);
    };
    dialog.returnValue = "no";
    dialog.showModal();
    (form.querySelector("input") ?? form.querySelector("button")).focus();
  });
}
