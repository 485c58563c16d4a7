// Every group, trouble first, and every stream.

import { latest, points, since, store } from "./api.js";
import { ORDER, bytes, clock, count, el, fill, line, link, rate, row, search, span, state, table, tile } from "./dom.js";

const GROUPS = (since) => [
  ["State", "dot"], ["Group", "name"], ["Stream", "mid"], [`Lag${since}`, "mid"], ["Lag", "num"], ["Oldest", "num mid"],
  ["In", "num wide"], ["Settled", "num wide"], ["Retrying", "num wide"], ["Dead", "num"], ["Processes", "num wide"],
];
const STREAMS = (since) => [
  ["Stream", "name"], [`In${since}`, "mid"], ["In", "num"], ["Entries", "num"], ["Memory", "num mid"], ["Partitions", "num wide"],
  ["Groups", "num mid"], ["Last entry", "num mid"],
];

export function open(root, asked) {
  const input = el("input", { type: "search", placeholder: "Filter by name or state  ( / )", value: asked.filter ?? "", "aria-label": "filter" });
  const [tiles, groups, streams] = [el("div", { class: "tiles" }), el("div"), el("div")];
  fill(root, tiles, el("div", { class: "tools" }, el("div", { class: "grow" }, input)), groups, el("h2", {}, "Streams"), streams);
  input.className = "filter";

  const draw = (overview) => {
    const all = overview.streams.flatMap((stream) => stream.groups.map((group) => ({ ...group, stream: stream.name })));
    const worst = all.reduce((most, group) => Math.max(most, group.lag ?? 0), 0);
    const oldest = all.reduce((most, group) => Math.max(most, group.age), 0);
    const dead = all.reduce((sum, group) => sum + group.dead, 0);
    const bad = all.filter((group) => group.condition === "halted" || group.condition === "unattended").length;
    const into = overview.streams.map((stream) => latest(points(stream.name)));
    const known = into.filter((value) => value !== null);
    fill(tiles,
      tile(count(bad), "groups stand still", bad > 0 ? "bad" : ""),
      tile(count(worst), "worst lag, entries"),
      tile(span(oldest), "oldest not settled"),
      tile(count(dead), "dead letters", dead > 0 ? "warn" : ""),
      tile(known.length === 0 ? "–" : rate(known.reduce((sum, value) => sum + value, 0)), "come in"),
      tile(count(overview.streams.length), "streams, " + count(all.length) + " groups"));

    const wanted = input.value.trim().toLowerCase();
    const has = (...texts) => texts.some((text) => (text ?? "").toLowerCase().includes(wanted));
    const rank = (group) => ORDER.indexOf(group.condition);
    const shown = all.filter((group) => has(group.name, group.stream, group.condition))
      .sort((a, b) => rank(a) - rank(b) || (b.lag ?? 0) - (a.lag ?? 0) || a.name.localeCompare(b.name));
    const begun = since();
    const words = begun === null ? "" : ` since ${clock(begun)}`;
    const columns = GROUPS(words);
    fill(groups, table(columns, shown.map((group) => {
      const where = { page: "group", stream: group.stream, group: group.name };
      const lag = points(group.stream, group.name, "lag");
      return row(columns, [
        state(group.condition),
        [link(where, group.name), el("span", { class: "why narrow" }, state(group.condition), ` on ${group.stream}`), group.why ? el("span", { class: "why clamp" }, group.why) : null],
        link({ page: "stream", stream: group.stream }, group.stream),
        line(lag, "spark", `lag of ${group.name}${words}`),
        count(group.lag), group.age > 0 ? span(group.age) : "–",
        rate(latest(points(group.stream))), rate(latest(points(group.stream, group.name, "done"))),
        group.retrying > 0 ? count(group.retrying) : "–",
        [group.dead > 0 ? link({ page: "letters", stream: group.stream, group: group.name }, count(group.dead)) : "–", group.replays > 0 ? el("span", { class: "quiet" }, ` and ${count(group.replays)} to be replayed`) : null],
        group.mode === "foreign" ? "–" : `${group.living} of ${group.members}`,
      ]);
    }), all.length === 0 ? "No program runs a group yet." : "No group has this name or state."));

    const named = overview.streams.filter((stream) => has(stream.name, ...stream.groups.map((group) => group.name)));
    const others = STREAMS(words);
    fill(streams, table(others, named.map((stream) => row(others, [
      [link({ page: "stream", stream: stream.name }, stream.name), stream.refused ? el("span", { class: "why bad" }, stream.refused) : null],
      line(points(stream.name), "spark", `entries per second that came to ${stream.name}`),
      rate(latest(points(stream.name))), count(stream.length), bytes(stream.bytes), count(stream.partitions),
      count(stream.groups.length), stream.last === null ? "–" : span(Math.max(0, overview.at - stream.last)) + " ago",
    ])), overview.streams.length === 0 ? "No program has declared a stream here." : "No stream has this name."));
  };

  input.addEventListener("input", () => {
    history.replaceState(null, "", search({ filter: input.value.trim() }));
    if (store.overview) draw(store.overview);
  });
  if (store.overview === null) fill(groups, el("div", { class: "card empty" }, "Looking at the server ..."));
  return { told: draw };
}
