// The dead letters of a group: why they are, a list, one of them whole, and what may be done with them.

import { act, get, store } from "./api.js";
import { ask, count, el, fill, link, pretty, row, search, state, table, time, toast } from "./dom.js";
import { details } from "./stream.js";

const GROUPS = [["Group", "name"], ["Stream", "name"], ["State", "mid"], ["Dead letters", "num"]];
const REASONS = [["Letters", "num"], ["", "barcell mid"], ["Cause", ""], ["Event", "mid"], ["Consumer", "wide"], ["Reason", "name"], ["Last", "wide"]];
const LETTERS = [["", ""], ["Given up", ""], ["Event", "mid"], ["Cause", ""], ["Reason", "name"], ["Attempts", "num wide"], ["Replayed", "num wide"]];

export async function open(root, asked) {
  if (!asked.stream || !asked.group) return choose(root);
  const { stream, group } = asked;
  const filter = { cause: asked.cause ?? "", consumer: asked.consumer, event: asked.event ?? "", reason: asked.reason ?? "" };
  let [rows, next, opened, left] = [[], null, asked.letter ?? "", false];
  let figures = null;
  const chosen = new Set();
  const [reasons, tools, list, side, more] = [el("div"), el("div", { class: "tools" }), el("div"), el("div"), el("div", { class: "tools" })];
  const split = el("div", { class: "split" }, list);
  const reason = el("input", { type: "search", class: "filter grow", placeholder: "Reason contains  ( / )", value: filter.reason, "aria-label": "reason contains" });
  const total = el("span", { class: "quiet" });
  fill(root,
    el("div", { class: "head" }, el("h1", {}, el("span", { class: "crumb" }, "Dead letters of "), link({ page: "group", stream, group }, group), el("span", { class: "crumb" }, " on "), link({ page: "stream", stream }, stream)), total),
    el("h2", {}, "Why"), reasons, el("h2", {}, "Letters"), tools, split, more);

  const asks = () => ({ stream, group, ...filter });
  const isFiltered = () => filter.cause || filter.event || filter.reason || filter.consumer !== undefined;
  const keep = () => history.replaceState(null, "", search({ page: "letters", ...asks(), letter: opened }));

  // How many letters match: without a condition all, which the server counts.
  const meant = () => (isFiltered() ? count(figures.matching) + (figures.more ? " or more" : "") : count(figures.total));

  const drawTools = () => {
    const word = (name, value) => value ? el("button", { type: "button", title: "remove this condition", onclick: () => change({ [name]: name === "consumer" ? undefined : "" }) }, `${name}: ${value} ×`) : null;
    const may = store.about?.read_only === false;
    const all = figures === null ? "" : meant();
    fill(tools, reason, word("cause", filter.cause), word("event", filter.event), word("consumer", filter.consumer),
      may && chosen.size > 0 ? [
        el("button", { type: "button", class: "main", onclick: () => settle("replay", { ids: [...chosen] }) }, `Replay ${count(chosen.size)}`),
        el("button", { type: "button", class: "danger", onclick: () => settle("discard", { ids: [...chosen] }) }, `Discard ${count(chosen.size)}`),
      ] : null,
      may && chosen.size === 0 && figures?.matching > 0 ? [
        el("button", { type: "button", onclick: () => settle("replay", {}) }, `Replay all ${all}`),
        el("button", { type: "button", class: "danger", onclick: () => settle("discard", {}) }, `Discard all ${all}`),
      ] : null);
  };

  // Why nothing is handled again for now.
  const waits = () => {
    const why = { halted: "The group is halted: nothing is handled again until it is resumed.", paused: "The group is paused: nothing is handled again until it is resumed.", unattended: "No process runs the group: nothing is handled again until one does." }[figures?.stands];
    return why ? el("div", { class: "note warn" }, why) : null;
  };

  const settle = async (kind, which) => {
    const conditions = Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
    const letters = which.ids ? count(which.ids.length) : meant();
    const facts = [["Letters", letters], ["Group", group], ["Stream", stream]];
    if (!which.ids) facts.push(...Object.entries(conditions));
    const words = kind === "replay"
      ? "The group alone handles these events again, after everything that followed them. Their attempts begin anew, and those that fail again come back here."
      : "They are removed for good. Nobody handles these events again.";
    const yes = await ask({
      title: kind === "replay" ? `Replay ${letters} dead letters?` : `Discard ${letters} dead letters?`,
      body: [el("dl", {}, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, el("b", {}, value))])), el("p", {}, words), kind === "replay" ? waits() : null],
      yes: kind === "replay" ? "Replay" : "Discard", danger: kind === "discard",
    });
    if (!yes) return;
    try {
      const answer = await act(kind, { stream, group, ...(which.ids ? which : { filter: conditions }) });
      if (answer === null) return;
      chosen.clear();
      close();
      document.dispatchEvent(new Event("jobs"));
    } catch (error) {
      toast(error.message);
    }
  };

  const drawReasons = () => {
    const most = Math.max(1, ...figures.rows.map((one) => one.count));
    fill(total, `${count(figures.total)} in all`, figures.waiting > 0 ? `, ${count(figures.waiting)} more ${figures.waiting === 1 ? "waits" : "wait"} to be handled again` : "", isFiltered() ? `, ${count(figures.matching)}${figures.more ? " or more" : ""} match` : "");
    fill(reasons, table(REASONS, figures.rows.slice(0, 12).map((one) => {
      const bar = el("span", { class: "bar" });
      bar.style.width = `${(100 * one.count) / most}%`;
      // The longest piece without numbers finds the others of this form.
      const piece = one.shape.split("#").sort((a, b) => b.length - a.length)[0].trim();
      return row(REASONS, [count(one.count), bar, one.cause, one.event || "–", one.consumer || "none", one.reason, time(one.last)],
        { class: "pick", tabindex: 0, title: "show these", onclick: () => change({ cause: one.cause, event: one.event, consumer: one.consumer, reason: piece }), onkeydown: (event) => event.key === "Enter" && event.target.click() });
    }), figures.total === 0 ? "This group has no dead letters." : "No letter matches."),
    figures.waiting > 0 ? waits() : null,
    figures.more ? el("p", { class: "quiet" }, `of the ${count(figures.seen)} oldest letters`) : null);
  };

  const draw = () => {
    fill(list, table(LETTERS, rows.map((letter) => {
      const box = el("input", { type: "checkbox", "aria-label": "choose", checked: chosen.has(letter.id), onclick: (event) => event.stopPropagation(), onchange: () => {
        if (box.checked) chosen.add(letter.id);
        else chosen.delete(letter.id);
        drawTools();
      } });
      return row(LETTERS, [
        box, time(letter.time), letter.event === null ? "–" : `${letter.event}@${letter.version}`, letter.cause, letter.reason,
        count(letter.attempts), letter.replays > 0 ? count(letter.replays) : "–",
      ], { class: "pick", tabindex: 0, "aria-selected": String(letter.id === opened), onclick: () => pick(letter.id), onkeydown: (event) => event.key === "Enter" && pick(letter.id) });
    }), isFiltered() ? "No letter matches." : "This group has no dead letters."));
    fill(more, next === null ? null : el("button", { type: "button", onclick: () => load(true) }, "More letters"));
  };

  const load = async (further = false) => {
    const page = await get("dead", { ...asks(), after: further ? next : null });
    if (left) return;
    rows = further ? rows.concat(page.letters) : page.letters;
    next = page.next;
    draw();
  };
  const look = async () => {
    try {
      [figures] = await Promise.all([get("dead/histogram", asks()), load()]);
      if (left) return;
      drawReasons();
      drawTools();
    } catch (error) {
      fill(list, el("div", { class: "note bad" }, error.message));
    }
  };
  const change = (conditions) => {
    Object.assign(filter, conditions);
    reason.value = filter.reason;
    chosen.clear();
    keep();
    look();
  };
  let typed = null;
  reason.addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(() => change({ reason: reason.value.trim() }), 300);
  });

  // The side's content while a letter is edited. The text goes to the server as it is, because its numbers may be larger than
  // JavaScript's.
  const edit = (letter) => {
    const text = el("textarea", { class: "mono", rows: 14, spellcheck: "false", "aria-label": "the payload as JSON" });
    text.value = letter.json === null ? "{}" : pretty(letter.json);
    const problem = el("div", { "aria-live": "polite" });
    const submit = async (submitted) => {
      submitted.preventDefault();
      fill(problem);
      const body = { stream, group, id: letter.id, json: text.value };
      try {
        const plan = await act("edit", { ...body, plan: true });
        if (plan === null) return;
        const checked = plan.checked === null ? "Its shape is not checked, because no program has recorded this version of the event." : `It fits ${plan.checked} as programs have recorded it.`;
        const facts = [["Letter", letter.id], ["Changes", plan.changed.join(", ")], ["Group", group], ["Stream", stream]];
        const yes = await ask({
          title: "Edit and replay this dead letter?",
          body: [el("dl", {}, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, el("b", {}, value))])),
            el("p", {}, `${checked} The group alone handles the event again, after everything that followed it. The stream keeps the entry as it was published.`), waits()],
          yes: "Edit and replay",
        });
        if (!yes || (await act("edit", body)) === null) return;
        toast("The letter waits to be handled again with its new payload");
        chosen.delete(letter.id);
        close();
        await look();
      } catch (error) {
        fill(problem, el("div", { class: "note bad" }, error.message));
      }
    };
    fill(side, el("button", { class: "close", type: "button", onclick: () => pick(letter.id) }, "Cancel"),
      el("form", { onsubmit: submit }, el("h2", {}, "Edit and replay"),
        el("p", { class: "quiet" }, letter.json === null ? "The payload is no MessagePack, so it is written anew." : "Bytes are hexadecimal digits; 64-bit integers are exact."),
        text, problem, el("div", { class: "tools" }, el("button", { type: "submit", class: "main" }, "Check and replay"))));
    text.focus();
  };

  const close = () => {
    opened = "";
    keep();
    side.remove();
    split.classList.remove("open");
    draw();
    drawTools();
  };
  const pick = async (id) => {
    opened = id;
    keep();
    draw();
    side.className = "side";
    split.append(side);
    split.classList.add("open");
    try {
      const letter = await get("dead/letter", { stream, group, id });
      const may = store.about?.read_only === false;
      fill(side, details(letter, close, [
        el("div", { class: "note bad" }, el("b", {}, letter.cause), letter.consumer ? ` in ${letter.consumer}` : "", ` after ${count(letter.attempts)} ${letter.attempts === 1 ? "attempt" : "attempts"}`, letter.edited ? ", with a payload that somebody has edited" : "", el("p", {}, letter.reason)),
        may ? el("div", { class: "tools" },
          el("button", { type: "button", class: "main", onclick: () => settle("replay", { ids: [id] }) }, "Replay"),
          letter.json !== null || !letter.is_large ? el("button", { type: "button", onclick: () => edit(letter) }, "Edit and replay") : null,
          el("button", { type: "button", class: "danger", onclick: () => settle("discard", { ids: [id] }) }, "Discard"),
          link({ page: "stream", stream, entry: `${letter.partition}/${letter.entry}` }, "in the stream")) : null,
      ]));
      side.scrollIntoView({ block: "nearest" });
    } catch (error) {
      fill(side, el("button", { class: "close", type: "button", onclick: close }, "Close"), el("p", { class: "bad" }, error.message));
    }
  };

  await look();
  if (opened) await pick(opened);
  const signed = () => drawTools();
  document.addEventListener("signed", signed);
  return {
    changed: look,
    leave: () => {
      left = true;
      clearTimeout(typed);
      document.removeEventListener("signed", signed);
    },
  };
}

// Without a group: those that have dead letters.
function choose(root) {
  const groups = el("div");
  fill(root, el("div", { class: "head" }, el("h1", {}, "Dead letters")), groups);
  if (store.overview === null) fill(groups, el("div", { class: "card empty" }, "Looking at the server ..."));
  return {
    told: (overview) => {
      const all = overview.streams.flatMap((stream) => stream.groups.filter((group) => group.dead + group.replays > 0).map((group) => ({ ...group, stream: stream.name })));
      all.sort((a, b) => b.dead - a.dead);
      fill(groups, table(GROUPS, all.map((group) => row(GROUPS, [
        link({ page: "letters", stream: group.stream, group: group.name }, group.name),
        link({ page: "stream", stream: group.stream }, group.stream), state(group.condition), [count(group.dead), group.replays > 0 ? el("span", { class: "quiet" }, ` and ${count(group.replays)} to be replayed`) : null],
      ])), "No group has dead letters."));
    },
  };
}
