// A stream: its figures, its groups, and its entries by time, each whole at a click.

import { get, latest, points, store } from "./api.js";
import { bytes, count, dump, el, fill, link, pretty, rate, row, search, span, state, table, tile, time, toast } from "./dom.js";

const GROUPS = [["State", ""], ["Group", "name"], ["Lag", "num"], ["Oldest", "num mid"], ["Dead", "num"]];
const ENTRIES = [["Time", ""], ["Event", ""], ["Partition", "num wide"], ["Payload", "cut"], ["Size", "num mid"]];
const TAIL = 1000;

export async function open(root, asked) {
  const stream = asked.stream;
  const view = await get("stream", { stream });
  const [tiles, groups, list, side, more] = [el("div", { class: "tiles" }), el("div"), el("div"), el("div"), el("div", { class: "tools" })];
  const split = el("div", { class: "split" }, list);
  const acts = el("div", { class: "acts" });
  const offer = () => fill(acts, link({ page: "shapes", filter: stream }, "Its events", { class: "button" }),
    store.about?.read_only === false ? link({ page: "publish", stream }, "Publish a test event", { class: "button" }) : null);
  const state0 = { partition: asked.partition ?? "", match: asked.match ?? "", oldest: asked.oldest === "1", at: asked.at ?? "", entry: asked.entry ?? "", tail: false };
  let rows = [];
  let next = null;
  let timer = null;
  let left = false;

  const partitions = el("select", { "aria-label": "partition" }, view.partitions <= 8 ? el("option", { value: "" }, "all partitions") : null,
    view.parts.map((part) => el("option", { value: part.index, selected: String(part.index) === state0.partition }, `partition ${part.index}`)));
  const match = el("input", { type: "search", class: "filter grow", placeholder: "Filter: event, id, header, payload  ( / )", value: state0.match, "aria-label": "filter" });
  const order = el("select", { "aria-label": "order" }, el("option", { value: "" }, "newest first"), el("option", { value: "1", selected: state0.oldest }, "oldest first"));
  const at = el("input", { type: "datetime-local", step: "1", "aria-label": "from this time on", title: "from this time on, in the order chosen", value: state0.at });
  const tail = el("input", { type: "checkbox" });

  fill(root,
    el("div", { class: "head" }, el("h1", {}, el("span", { class: "crumb" }, "Stream "), stream), view.refused ? el("span", { class: "bad" }, view.refused) : null, acts),
    tiles, el("h2", {}, "Groups"), groups, el("h2", {}, "Entries"),
    el("div", { class: "tools" }, match, view.partitions > 1 ? partitions : null, order, at, el("label", { class: "check" }, tail, "Live")),
    split, more);

  const figures = (view) => {
    fill(tiles, tile(count(view.length), "entries"), tile(rate(latest(points(stream))), "come in"), tile(bytes(view.bytes), "memory"),
      tile(count(view.partitions), view.partitions === 1 ? "partition" : "partitions"),
      tile(view.first ? time(view.first) : "–", "first entry"), tile(view.last ? time(view.last) : "–", "last entry"));
    fill(groups, table(GROUPS, view.groups.map((group) => row(GROUPS, [
      state(group.condition), link({ page: "group", stream, group: group.name }, group.name), count(group.lag),
      group.age > 0 ? span(group.age) : "–",
      group.dead > 0 ? link({ page: "letters", stream, group: group.name }, count(group.dead)) : "–",
    ])), "No group reads this stream."));
  };

  const key = (entry) => `${entry.partition}/${entry.id}`;
  const draw = () => {
    fill(list, table(ENTRIES, rows.map((entry) => row(ENTRIES, [
      time(entry.time), entry.event === null ? "–" : `${entry.event}@${entry.version}`, entry.partition,
      el("span", { class: "mono clamp" }, entry.text ?? "no payload"), bytes(entry.bytes),
    ], { class: "pick", tabindex: 0, "aria-selected": String(key(entry) === state0.entry), onclick: () => pick(key(entry)), onkeydown: (event) => event.key === "Enter" && pick(key(entry)) })),
    state0.match ? "No entry that was looked at matches." : "No entries."));
    fill(more, next === null || state0.tail ? null : el("button", { type: "button", onclick: () => load(true) }, state0.oldest ? "Newer entries" : "Older entries"));
  };

  const keep = () => history.replaceState(null, "", search({ page: "stream", stream, partition: state0.partition, match: state0.match, oldest: state0.oldest ? "1" : "", at: state0.at, entry: state0.entry }));

  const load = async (further = false) => {
    const start = state0.at && !further ? `${new Date(state0.at).getTime()}-0` : null;
    try {
      const page = await get("entries", { stream, partition: state0.partition, match: state0.match, oldest: state0.oldest, from: further ? next : start });
      rows = further ? rows.concat(page.entries) : page.entries;
      // A list that goes on for ever would fill the browser.
      if (rows.length > 2000) rows = rows.slice(-2000);
      next = page.next;
      draw();
      if (state0.match && next !== null) more.append(el("span", { class: "quiet" }, `${count(page.seen)} entries looked at`));
    } catch (error) {
      fill(list, el("div", { class: "note bad" }, error.message));
    }
  };

  const follow = async () => {
    if (left || !state0.tail) return;
    if (!document.hidden) {
      try {
        const page = await get("entries", { stream, partition: state0.partition, match: state0.match });
        const known = new Set(rows.map(key));
        const fresh = page.entries.filter((entry) => !known.has(key(entry)));
        const skipped = fresh.length === page.entries.length && known.size > 0 && fresh.length > 0;
        rows = fresh.concat(rows).slice(0, 500);
        draw();
        if (skipped) more.append(el("span", { class: "warn" }, "More entries come than are shown: some are skipped."));
      } catch (error) {
        toast(error.message);
      }
    }
    timer = setTimeout(follow, TAIL);
  };

  const close = () => {
    state0.entry = "";
    keep();
    side.remove();
    split.classList.remove("open");
    draw();
  };
  const pick = async (place) => {
    state0.entry = place;
    keep();
    draw();
    const [partition, id] = place.includes("/") ? place.split("/") : ["0", place];
    side.className = "side";
    split.append(side);
    split.classList.add("open");
    try {
      fill(side, details(await get("entry", { stream, partition, id }), close));
      side.scrollIntoView({ block: "nearest" });
    } catch (error) {
      fill(side, el("button", { class: "close", type: "button", onclick: close }, "Close"), el("p", { class: "bad" }, error.message));
    }
  };

  const changed = () => {
    Object.assign(state0, { partition: partitions.value, match: match.value.trim(), oldest: order.value === "1", at: at.value });
    if (view.partitions === 1) state0.partition = "";
    keep();
    load();
  };
  let typed = null;
  match.addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(changed, 300);
  });
  for (const field of [partitions, order, at]) field.addEventListener("change", changed);
  tail.addEventListener("change", () => {
    state0.tail = tail.checked;
    order.disabled = at.disabled = tail.checked;
    if (tail.checked) Object.assign(state0, { oldest: false, at: "" });
    clearTimeout(timer);
    load().then(follow);
  });

  offer();
  document.addEventListener("signed", offer);
  figures(view);
  await load();
  if (state0.entry) await pick(state0.entry);
  return {
    told: (overview) => {
      const now = overview.streams.find((one) => one.name === stream);
      if (now) figures(now);
    },
    leave: () => {
      left = true;
      document.removeEventListener("signed", offer);
      clearTimeout(timer);
      clearTimeout(typed);
    },
  };
}

// Everything of an entry; dead letters show theirs in the same way.
export function details(entry, close, about = []) {
  const views = {
    Decoded: () => (entry.json === null
      ? [el("p", { class: "quiet" }, entry.bytes > 0 ? "The payload is no MessagePack, or too large to be shown whole." : "There is no payload."), el("pre", { class: "mono" }, entry.text ?? "")]
      : el("pre", { class: "mono" }, pretty(entry.json))),
    Raw: () => [el("dl", { class: "mono" }, entry.fields.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])), entry.fields_left_out ? el("p", { class: "quiet" }, `${count(entry.fields_left_out)} more fields`) : null],
    Hex: () => [entry.hex === "" && entry.bytes > 0 ? el("p", { class: "quiet" }, "The bytes are hidden, because fields are hidden here.") : el("pre", { class: "mono" }, dump(entry.hex)), entry.hex_left_out ? el("p", { class: "quiet" }, `${count(entry.hex_left_out)} more bytes`) : null],
  };
  const body = el("div");
  const tabs = el("div", { class: "tabs", role: "tablist" });
  const choose = (name) => {
    fill(tabs, Object.keys(views).map((view) => el("button", { type: "button", role: "tab", "aria-selected": String(view === name), onclick: () => choose(view) }, view)));
    fill(body, views[name]());
  };
  choose("Decoded");
  const facts = [
    ["Event", entry.event === null ? "–" : `${entry.event}@${entry.version}`],
    ["Event id", entry.event_id ? link({ page: "trace", id: entry.event_id }, entry.event_id, { title: "trace it" }) : "–"],
    ...(entry.trace ? [["Trace", link({ page: "trace", id: entry.trace }, entry.trace, { title: "trace it" })]] : []),
    ["Entry", `${entry.entry ?? entry.id} on ${entry.key}`],
    ["Size", bytes(entry.bytes)],
    ...entry.headers.map(([name, value]) => [name, /correlation|causation|request/i.test(name) ? link({ page: "trace", id: value }, value, { title: "trace it" }) : value]),
  ];
  const list = (pairs) => el("dl", {}, pairs.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  const groups = entry.groups ?? [];
  return [
    el("p", { class: "top" }, el("b", {}, time(entry.time)), el("button", { class: "close", type: "button", onclick: close }, "Close")), about, list(facts), tabs, body,
    groups.length > 0 ? [el("h2", {}, "Groups"), list(groups.map((group) => [group.group, group.is]))] : null,
  ];
}
