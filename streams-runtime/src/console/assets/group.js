// A group: lag over time, partitions and owners, processes, retries, and the acts of an operator.

import { act, get, latest, points, store } from "./api.js";
import { ask, builds, clock, count, el, fill, line, link, rate, row, span, state, table, tile, time, toast } from "./dom.js";

const PLACES = [
  ["Partition", "num"], ["Owner", "name"], ["Lag", "num"], ["Oldest", "num mid"], ["Checkpoint", "mono mid"], ["Epoch", "num wide"],
  ["In flight", "num wide"], ["Waiting", "num wide"], ["Dead", "num mid"], ["Replays", "num wide"],
];
const MEMBERS = [["Process", "name"], ["Silent for", "num"], ["Lease", "num mid"], ["Partitions", ""], ["Handles", "name wide"]];
const RETRIES = [["Entry", "mono"], ["Partition", "num"], ["Failed attempts", "num"], ["Latest error", "name"]];

export async function open(root, asked) {
  const { stream, group } = asked;
  const [head, notes, tiles, charts, body] = [el("div", { class: "head" }), el("div"), el("div", { class: "tiles" }), el("div", { class: "charts" }), el("div")];
  fill(root, head, notes, tiles, charts, body);
  let view = null;
  let looking = false;
  let left = false;

  const done = async (doing, words) => {
    try {
      const answer = await doing();
      if (answer !== null) {
        toast(words);
        await look();
      }
    } catch (error) {
      toast(error.message);
    }
  };

  const pause = async () => {
    const values = await ask({
      title: `Pause ${group}?`,
      body: [el("p", {}, "Every process stops handing out events within about a second, until somebody resumes the group. Publishers go on, and lag grows. Retention by age also trims what a paused group has not read.")],
      yes: "Pause", fields: [{ name: "why", label: "Why", maxlength: 200, required: true }],
    });
    if (values) done(() => act("pause", { stream, group, why: values.why }), `${group} is paused`);
  };
  const resume = async () => {
    const facts = [["Wait to be handled", count(view.row.lag)], ["Oldest of them", view.row.age > 0 ? span(view.row.age) : "–"], ["Dead letters, which stay", count(view.row.dead)]];
    const words = view.paused ? "The group goes on where it is." : "The group goes on where it is. A cause that is still there halts it again, and nothing is lost by that.";
    const body = [el("dl", {}, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, el("b", {}, value))])), el("p", {}, words)];
    if (await ask({ title: `Resume ${group}?`, body, yes: "Resume" })) done(() => act("resume", { stream, group }), `${group} is resumed`);
  };
  const reset = async () => {
    const values = await ask({
      title: `Where shall ${group} go on from?`,
      body: [el("p", { class: "quiet" }, "earliest, latest, an entry id, an age such as -10m, or a time such as 2026-01-02T03:04:05Z. Nothing is done before you have seen what it means.")],
      yes: "Show what it means", fields: [{ name: "to", label: "To", required: true, value: "-10m" }],
    });
    if (!values) return;
    try {
      const to = values.to.trim();
      const plan = (await get("reset", { stream, group, to })).plan;
      const sum = (name) => plan.reduce((total, part) => total + part[name], 0);
      const figure = (name) => count(sum(name)) + (plan.some((part) => part.more && part[name] > 0) ? " or more" : "");
      const facts = [["Come again", figure("again")], ["Never handled", figure("passed_over")], ["Partitions", count(plan.length)]];
      const yes = await ask({
        title: `Reset ${group} to ${to}?`,
        body: [el("dl", {}, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, el("b", {}, value))])),
          el("p", { class: "quiet" }, "Owners lose their leases. Events in flight are not committed, and may be handled again.")],
        yes: "Reset", danger: true,
      });
      if (yes) done(() => act("reset", { stream, group, to }), `${group} goes on from ${to}`);
    } catch (error) {
      toast(error.message);
    }
  };
  const remove = async () => {
    const row = view.row;
    const facts = [["Processes that run it", count(row.living)], ["Dead letters", count(row.dead)], ["Not settled", count(row.lag)], ["Partitions", count(view.places.length)]];
    const force = row.living > 0 || row.dead > 0 || view.mode === "foreign";
    const values = await ask({
      title: `Remove ${group} from ${stream}?`,
      body: [el("dl", {}, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, el("b", {}, value))])),
        el("p", {}, force ? "Its checkpoint and its dead letters are lost, and a process that runs it halts." : "Its checkpoint is lost. A program that names the group again begins anew.")],
      yes: force ? "Remove by force" : "Remove", danger: true,
      fields: [{ name: "name", label: `Type the group's name, ${group}`, required: true }],
    });
    if (values === null) return;
    if (values.name.trim() !== group) {
      toast(`Nothing is removed: \`${values.name}\` is not \`${group}\``);
      return;
    }
    try {
      if (await act("remove", { stream, group, force })) {
        toast(`${group} is removed`);
        document.dispatchEvent(new CustomEvent("go", { detail: { search: "?" } }));
      }
    } catch (error) {
      toast(error.message);
    }
  };

  const may = () => store.about?.read_only === false;
  const letters = (words) => link({ page: "letters", stream, group }, words);
  const errors = (words) => link({ page: "handlers", filter: group }, words);
  const buttons = () => {
    if (!may()) return null;
    const paused = view.paused !== null;
    const stands = paused || view.row.condition === "halted";
    return el("div", { class: "acts" },
      stands ? el("button", { type: "button", class: "main", onclick: resume }, "Resume") : null,
      paused || view.mode === "foreign" ? null : el("button", { type: "button", onclick: pause }, "Pause"),
      view.mode === "foreign" ? null : el("button", { type: "button", onclick: reset }, "Reset"),
      el("button", { type: "button", class: "danger", onclick: remove }, "Remove"));
  };

  const draw = () => {
    fill(head, el("h1", {}, el("span", { class: "crumb" }, "Group "), group, el("span", { class: "crumb" }, " on "), link({ page: "stream", stream }, stream)),
      state(view.row.condition), el("span", { class: "quiet" }, view.mode === "queue" ? "work queue" : view.mode), buttons());
    const halted = view.places.filter((place) => place.halted);
    fill(notes,
      halted.slice(0, 8).map((place) => el("div", { class: "note bad" }, el("b", {}, `Partition ${place.partition} is halted since `), time(place.halted.at), ` (${place.halted.kind}), says ${place.halted.by}`, el("p", {}, place.halted.reason))),
      halted.length > 0 ? el("p", {}, view.row.dead > 0 ? [letters(`Why: its ${count(view.row.dead)} dead letters`), " · "] : null, errors("Last failure of its handlers"), may() ? " · Resume lets it go on, once the cause is mended." : "") : null,
      halted.length > 8 ? el("p", { class: "quiet" }, `${count(halted.length - 8)} more partitions are halted`) : null,
      view.paused ? el("div", { class: "note warn" }, el("b", {}, "Paused"), " since ", time(view.paused.at), view.paused.by ? ` by ${view.paused.by}` : "", view.paused.why ? `: ${view.paused.why}` : "") : null,
      view.places.filter((place) => place.needs).map((place) => el("div", { class: "note warn" }, `Partition ${place.partition} waits for a build that handles ${place.needs}`)),
      view.row.condition === "unattended" ? el("div", { class: "note bad" }, el("b", {}, "No process runs this group."), " Start a program that has it, or remove the group if nobody needs it.") : null);
    const settled = points(stream, group, "done");
    fill(tiles, tile(count(view.row.lag), "lag, entries"), tile(view.row.age > 0 ? span(view.row.age) : "–", "oldest not settled"),
      tile(rate(latest(settled)), "settled"), tile(rate(latest(points(stream))), "come in"),
      tile(count(view.row.retrying), "retrying", view.row.retrying > 0 ? "warn" : ""),
      tile(view.row.dead > 0 ? letters(count(view.row.dead)) : "0", "dead letters", view.row.dead > 0 ? "warn" : ""),
      view.row.replays > 0 ? tile(count(view.row.replays), "wait to be replayed", "warn") : null);
    const lag = points(stream, group, "lag");
    const most = (series) => Math.max(0, ...series.map(([, value]) => value ?? 0));
    const begun = lag.length > 0 ? ` since ${clock(lag[0][0])}` : "";
    fill(charts,
      el("div", { class: "card chartbox" }, el("p", {}, el("span", {}, "Lag" + begun), el("span", {}, `most ${count(most(lag))}`)), line(lag, "chart", `lag${begun}`)),
      el("div", { class: "card chartbox" }, el("p", {}, el("span", {}, "Settled per second" + begun), el("span", {}, `most ${rate(most(settled))}`)), line(settled, "chart", `settled per second${begun}`)));
    const failed = view.places.flatMap((place) => Object.entries(place.failed).map(([id, attempts]) => ({ id, attempts, partition: place.partition, error: place.error?.entry === id ? place.error : null })));
    // A work queue keeps its latest error alone.
    failed.push(...view.places.filter((place) => place.error && view.mode === "queue").map((place) => ({ id: place.error.entry, attempts: place.error.attempts, partition: place.partition, error: place.error })));
    fill(body,
      el("h2", {}, "Partitions"),
      table(PLACES, view.places.map((place) => row(PLACES, [
        place.partition, [place.owner ?? (view.mode === "ordered" ? "nobody" : "–"), place.halted ? el("span", { class: "why bad" }, "halted") : null],
        count(place.lag), place.age > 0 ? span(place.age) : "–", place.checkpoint, String(place.epoch), count(place.in_flight), count(place.waiting),
        count(place.dead), count(place.replays),
      ])), "The group has no state on any partition."),
      el("h2", {}, "Processes"),
      table(MEMBERS, view.members.map((member) => row(MEMBERS, [
        member.name,
        member.silent === null ? "–" : el("span", { class: member.silent > member.lease ? "bad" : member.silent > 0.4 * member.lease ? "warn" : "" }, span(member.silent)),
        span(member.lease), member.partitions.join(", ") || "–", builds(member.build),
      ])), view.mode === "foreign" ? "Processes of other programs cannot be seen." : "No process runs this group."),
      failed.length > 0 ? [el("h2", {}, "Retrying", el("small", {}, errors("last failure of its handlers"))), table(RETRIES, failed.slice(0, 100).map((event) => row(RETRIES, [
        link({ page: "stream", stream, entry: `${event.partition}/${event.id}` }, event.id), event.partition, count(event.attempts), event.error ? [event.error.text, el("span", { class: "quiet" }, " at ", time(event.error.at))] : "–",
      ])), "")] : null);
  };

  const look = async () => {
    if (looking || left) return;
    looking = true;
    try {
      view = await get("group", { stream, group });
      if (!left) draw();
    } finally {
      looking = false;
    }
  };
  await look();
  const signed = () => view && draw();
  document.addEventListener("signed", signed);
  return {
    told: () => look().catch((error) => toast(error.message)),
    changed: () => look().catch((error) => toast(error.message)),
    leave: () => {
      left = true;
      document.removeEventListener("signed", signed);
    },
  };
}
