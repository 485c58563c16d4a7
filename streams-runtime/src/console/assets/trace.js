// One event's way through streams and groups: entries that carry an id, sought page by page, which can be stopped.

import { get } from "./api.js";
import { count, el, fill, link, row, search, table, time } from "./dom.js";

const ENTRIES = [["Time", "mid"], ["Stream", ""], ["Event", "mid"], ["Groups", "name"], ["Payload", "cut wide"]];
const RANGES = [["600", "last 10 minutes"], ["3600", "last hour"], ["86400", "last day"], ["604800", "last week"], ["", "everything"]];
// Others need the server, too.
const REST = 30;

export async function open(root, asked) {
  const input = el("input", { type: "search", class: "filter grow", placeholder: "Trace id, event id, or the value of a header such as a correlation id  ( / )", value: asked.id ?? "", "aria-label": "id", maxlength: 512 });
  const range = el("select", { "aria-label": "how far back" }, RANGES.map(([seconds, words]) => el("option", { value: seconds, selected: seconds === (asked.within === "all" ? "" : asked.within ?? "3600") }, words)));
  const [status, list] = [el("div", { class: "tools", "aria-live": "polite" }), el("div")];
  let turn = 0;
  const look = async () => {
    const mine = (turn += 1);
    const id = input.value.trim();
    history.replaceState(null, "", search({ page: "trace", id, within: range.value === "3600" ? "" : range.value === "" ? "all" : range.value }));
    fill(status);
    if (!id) {
      fill(list, el("div", { class: "card empty" }, "An entry carries the trace id of its publisher in its header traceparent, and its own event id. What a handler publishes has the same trace."));
      return;
    }
    let [found, seen, from] = [[], 0, null];
    try {
      for (;;) {
        const page = await get("trace", { id, within: range.value, from });
        if (mine !== turn) return;
        found = found.concat(page.found).slice(0, 1000);
        seen += page.seen;
        from = page.next;
        draw(found, from === null);
        if (from === null) {
          fill(status, el("span", { class: "quiet" }, `${count(found.length)} of ${count(seen)} entries carry it`));
          return;
        }
        fill(status, el("span", {}, `${count(found.length)} found, ${count(seen)} entries of ${count(page.done)} of ${count(page.streams)} streams looked at`), el("button", { type: "button", onclick: () => {
          turn += 1;
          fill(status, el("span", { class: "warn" }, `stopped: ${count(found.length)} of ${count(seen)} entries carry it, and others were not looked at`));
        } }, "Stop"));
        await new Promise((passed) => setTimeout(passed, REST));
        if (mine !== turn) return;
      }
    } catch (error) {
      if (mine === turn) fill(status, el("span", { class: "bad" }, error.message));
    }
  };
  const draw = (found, ended) => {
    found.sort((a, b) => a.time - b.time || (a.id < b.id ? -1 : 1));
    fill(list, table(ENTRIES, found.map((entry) => row(ENTRIES, [
      time(entry.time),
      [link({ page: "stream", stream: entry.stream, entry: `${entry.partition}/${entry.id}` }, entry.stream), el("span", { class: "why whole" }, `${entry.partition}/${entry.id}`), el("span", { class: "why narrow" }, time(entry.time))],
      entry.event === null ? "–" : `${entry.event}@${entry.version}`,
      entry.groups.length === 0 ? "no group has begun here" : entry.groups.map((group) => el("div", {}, link({ page: "group", stream: entry.stream, group: group.group }, group.group), ` ${group.is}`)),
      el("span", { class: "mono clamp" }, entry.text ?? "no payload"),
    ])), ended ? "No entry of this time carries it. Entries may have been trimmed; or look further back." : "Looking ..."),
    found.length > 0 ? el("p", { class: "quiet" }, "An event that a group gave up is settled, too: its dead letter is with the group.") : null);
  };
  input.addEventListener("keydown", (event) => event.key === "Enter" && look());
  range.addEventListener("change", look);
  fill(root, el("div", { class: "head" }, el("h1", {}, "Trace")), el("div", { class: "tools" }, input, range, el("button", { type: "button", class: "main", onclick: look }, "Find")), status, list);
  look();
  return { leave: () => { turn += 1; } };
}
