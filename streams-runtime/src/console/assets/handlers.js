// The handlers of the program that serves the console: options with their origin, durations, last failures. And the processes
// of every program, as their groups record them.

import { get } from "./api.js";
import { builds, count, el, fill, link, row, search, span, table, time } from "./dom.js";

const HANDLERS = [["Handler", "name"], ["Group", ""], ["Event", "mid"], ["Calls", "num mid"], ["Half within", "num mid"], ["99 % within", "num"], ["Failed", "num"], ["Last failure", "name wide"]];
const SETTINGS = [["Option", ""], ["Value", "name"], ["Said by", ""]];
const MEMBERS = [["Process", "name"], ["Group", "name"], ["Stream", "mid"], ["Silent for", "num"], ["Partitions", "mid"], ["Handles", "name wide"]];
const SECONDS = 5;

export async function open(root, asked) {
  const [program, members] = [el("div"), el("div")];
  const input = el("input", { type: "search", class: "filter", placeholder: "Filter by handler, process, group, stream or event  ( / )", value: asked.filter ?? "", "aria-label": "filter" });
  fill(root, el("div", { class: "head" }, el("h1", {}, "Handlers")), el("div", { class: "tools" }, el("div", { class: "grow" }, input)), program, members);
  let view = null;
  let opened = asked.handler ?? "";
  let left = false;
  let timer = null;
  const key = (handler) => [handler.stream, handler.group, handler.name].join("/");
  const keep = () => history.replaceState(null, "", search({ page: "handlers", filter: input.value.trim(), handler: opened }));
  const pick = (handler) => {
    opened = opened === key(handler) ? "" : key(handler);
    keep();
    draw();
  };
  const draw = () => {
    const wanted = input.value.trim().toLowerCase();
    const has = (...texts) => texts.some((text) => text.toLowerCase().includes(wanted));
    if (view.program === null) {
      fill(program, el("p", { class: "quiet" }, "This console runs beside the programs. Options, durations and failures are on the console that a program itself serves; below is what the programs record."));
    } else {
      const shown = view.program.handlers.filter((one) => has(one.name, one.group, one.stream, one.event));
      fill(program, el("h2", {}, "In this program", el("small", {}, view.program.name), el("small", {}, "since it was started")),
        table(HANDLERS, shown.flatMap((one) => [
          row(HANDLERS, [
            [el("span", { class: "mono" }, one.name), one.doc ? el("span", { class: "why clamp" }, one.doc.split("\n\n")[0]) : null],
            link({ page: "group", stream: one.stream, group: one.group }, one.group),
            link({ page: "shapes", stream: one.stream, event: one.event }, one.event),
            count(calls(one)), within(one, 0.5), within(one, 0.99), el("span", { class: one.failures > 0 ? "warn" : "" }, count(one.failures)),
            one.last_failure ? [time(one.last_failure.at), " ", one.last_failure.reason] : "–",
          ], { class: "pick", tabindex: 0, "aria-expanded": String(opened === key(one)), onclick: (event) => event.target.closest("a") || pick(one), onkeydown: (event) => event.key === "Enter" && event.target.tagName === "TR" && pick(one) }),
          opened === key(one) ? el("tr", { class: "inside" }, el("td", { colspan: HANDLERS.length }, details(one))) : null,
        ].filter(Boolean)), "No handler matches."));
    }
    const processes = view.members.filter((one) => has(one.process, one.group, one.stream, one.build));
    fill(members, el("h2", {}, "In all programs", view.more ? el("small", {}, `the first ${count(view.members.length)}`) : null),
      table(MEMBERS, processes.map((one) => row(MEMBERS, [
        one.process, link({ page: "group", stream: one.stream, group: one.group }, one.group), link({ page: "stream", stream: one.stream }, one.stream),
        one.silent === null ? "–" : el("span", { class: one.lives ? "" : "bad" }, span(one.silent)), one.partitions.join(", ") || "–", builds(one.build),
      ])), view.members.length === 0 ? "No process runs a group." : "No process matches."));
  };
  const look = async () => {
    clearTimeout(timer);
    if (left) return;
    if (!document.hidden) {
      view = await get("handlers");
      if (!left) draw();
    }
    timer = setTimeout(() => look().catch(() => {}), SECONDS * 1000);
  };
  input.addEventListener("input", () => {
    keep();
    draw();
  });
  await look();
  return {
    changed: look,
    leave: () => {
      left = true;
      clearTimeout(timer);
    },
  };
}

function calls(handler) {
  return handler.buckets.reduce((sum, [, number]) => sum + number, 0);
}

// The bound within which this share of the calls ended.
function within(handler, share) {
  const all = calls(handler);
  if (all === 0) return "–";
  let sum = 0;
  for (const [bound, number] of handler.buckets) {
    sum += number;
    if (sum >= share * all) return bound === null ? "over 30 s" : seconds(bound);
  }
  return "–";
}

function seconds(bound) {
  return bound < 0.001 ? `${Math.round(bound * 1e6)} µs` : bound < 1 ? `${bound * 1000} ms` : `${bound} s`;
}

function details(handler) {
  const all = calls(handler);
  const most = Math.max(1, ...handler.buckets.map(([, number]) => number));
  const used = handler.buckets.map(([, number], index) => (number > 0 ? index : -1)).filter((index) => index >= 0);
  const bars = used.length === 0 ? [] : handler.buckets.slice(used[0], used[used.length - 1] + 1).map(([bound, number]) => {
    const bar = el("span", { class: "bar" });
    bar.style.width = `${(100 * number) / most}%`;
    return [el("dt", {}, bound === null ? "longer" : `to ${seconds(bound)}`), el("dd", { class: "barline" }, el("span", { class: "barroom" }, number > 0 ? bar : null), el("small", {}, count(number)))];
  });
  return [
    handler.doc ? handler.doc.split("\n\n").map((part) => el("p", {}, part)) : null,
    el("p", { class: "quiet" }, `${handler.place}, takes ${handler.event} of ${handler.stream}`),
    handler.last_failure ? el("div", { class: "note bad" }, el("b", {}, "Last failure "), time(handler.last_failure.at), " at entry ", handler.last_failure.entry, el("p", {}, handler.last_failure.reason)) : null,
    el("div", { class: "halves" },
      el("div", {}, el("h2", {}, "Duration of a call", el("small", {}, all === 0 ? "" : `${span((1000 * handler.seconds) / all)} on average`)), bars.length === 0 ? el("p", { class: "quiet" }, "It was not called yet.") : el("dl", {}, bars)),
      el("div", {}, el("h2", {}, "Options"), table(SETTINGS, handler.settings.map((one) => row(SETTINGS, [one.name, one.value, one.origin === "default" ? el("span", { class: "quiet" }, "default") : one.origin])), ""))),
  ];
}
