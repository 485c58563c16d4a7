// A form for one event, made of its recorded shape. The console checks it before it asks, and again before it publishes.

import { act, get, store } from "./api.js";
import { ask, bytes, count, el, fill, link, toast } from "./dom.js";
import { kind, resolved, without_null } from "./shapes.js";

export async function open(root, asked) {
  const { stream } = asked;
  const events = (await get("shapes", { stream })).events;
  const head = el("div", { class: "head" }, el("h1", {}, el("span", { class: "crumb" }, "Publish to "), link({ page: "stream", stream }, stream)));
  if (events.length === 0) {
    fill(root, head, el("div", { class: "note warn" }, "No program has recorded an event of this stream, so nothing can be checked."));
    return null;
  }
  // The newest version of the one that is asked for, or of the first.
  const names = events.map((event) => event.name);
  const newest = (name) => names.filter((one) => one.split("@")[0] === name).pop();
  const chosen = names.includes(asked.event) ? asked.event : newest(asked.event) ?? newest(names[0].split("@")[0]);
  const event = await get("shape", { stream, event: chosen });
  const schema = event.shapes[0]?.schema ?? null;
  const form = schema === null ? null : formOf(schema);
  let raw = form === null;
  const text = el("textarea", { class: "mono", rows: 12, spellcheck: "false", "aria-label": "the event as JSON" });
  const place = el("div");
  const problem = el("div", { "aria-live": "polite" });
  const result = el("div", { "aria-live": "polite" });
  const choice = el("select", { "aria-label": "event", onchange: () => document.dispatchEvent(new CustomEvent("go", { detail: { search: "?" + new URLSearchParams({ page: "publish", stream, event: choice.value }) } })) },
    names.map((name) => el("option", { value: name, selected: name === chosen }, name)));
  const input = (placeholder, attributes) => el("input", { type: "text", autocomplete: "off", placeholder, ...attributes });
  const needsKey = event.partitions > 1;
  const field = el("select", {},
    event.key === null ? el("option", { value: "" }, "which field is the key?") : el("option", { value: "" }, event.key ? `key: ${event.key}` : "no key: any partition"),
    Object.keys(schema?.properties ?? {}).filter((name) => name !== event.key).map((name) => el("option", { value: name }, `key: ${name}`)),
    el("option", { value: "\n" }, "key: another text"));
  const key = input("the key", { hidden: true, "aria-label": "the text of the key" });
  field.addEventListener("change", () => { key.hidden = field.value !== "\n"; });
  const id = input("a new one", { maxlength: 128 });
  const headers = input("none; such as tenant=a, source=test", {});
  const tabs = el("div", { class: "tabs", role: "tablist" });
  const send = el("button", { type: "submit", class: "main" }, "Check and publish");

  const draw = () => {
    if (form !== null) {
      fill(tabs, [["Fields", false], ["JSON", true]].map(([name, is]) => el("button", { type: "button", role: "tab", "aria-selected": String(raw === is), onclick: () => change(is) }, name)));
    }
    fill(place, raw ? text : form.root);
    const may = store.about?.read_only === false;
    send.hidden = !may;
    if (!may && store.about) fill(problem, el("div", { class: "note" }, "This console is read-only, so nothing can be published here."));
  };
  const change = (is) => {
    if (is === raw) return;
    if (is) text.value = form.json();
    else if (!form.take(text.value)) {
      fill(problem, el("div", { class: "note warn" }, "The JSON cannot stand in the fields: it is none, or its numbers are larger than a browser's."));
      return;
    }
    raw = is;
    fill(problem);
    draw();
  };
  if (form === null) text.value = "{}";

  const submit = async (submitted) => {
    submitted.preventDefault();
    fill(problem);
    const pairs = headers.value.split(",").map((pair) => pair.trim()).filter(Boolean);
    const body = {
      stream, event: chosen, json: raw ? text.value : form.json(), id: id.value.trim(),
      key: needsKey && field.value === "\n" ? key.value : null, key_field: needsKey && field.value !== "\n" ? field.value : null,
      headers: pairs.map((pair) => [pair.split("=")[0].trim(), pair.split("=").slice(1).join("=").trim()]),
    };
    send.disabled = true;
    try {
      const plan = await act("publish", { ...body, plan: true });
      if (plan === null) return;
      const facts = [["Event", plan.event], ["Stream", stream], ...(plan.partitions > 1 ? [["Partition", plan.partition]] : []), ["Payload", bytes(plan.bytes)],
        ["Handled by", event.groups.join(", ") || "no group that is known"]];
      const yes = await ask({
        title: `Publish 1 ${plan.event} to ${stream}?`,
        body: [el("dl", {}, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, el("b", {}, value))])),
          el("p", {}, "It fits the recorded shape. Every group of the stream handles it as any other event, and it cannot be taken back.")],
        yes: "Publish",
      });
      if (!yes) return;
      const done = await act("publish", body);
      if (done === null) return;
      const entry = `${done.partition}/${done.id}`;
      fill(result, el("div", { class: "note good" }, el("b", {}, `Published as entry ${entry}. `), link({ page: "stream", stream, entry }, "Look at it"), ", or at ", link({ page: "trace", id: done.event_id }, "its way"), "."));
      toast(`${done.event} is published`);
    } catch (error) {
      fill(problem, el("div", { class: "note bad" }, error.message));
    } finally {
      send.disabled = false;
    }
  };
  fill(root, head,
    el("form", { class: "publish", onsubmit: submit },
      el("div", { class: "tools" }, choice, event.publishers.length === 0 ? el("span", { class: "quiet" }, "no program has published it yet") : el("span", { class: "quiet" }, `as ${event.publishers.join(", ")} does`), link({ page: "shapes", stream, event: chosen }, "its documentation")),
      event.doc ? el("p", {}, event.doc.split("\n\n")[0]) : null,
      tabs, place,
      el("div", { class: "fields beside" },
        needsKey ? el("label", {}, el("span", {}, "Key, which chooses the partition"), field, key) : null,
        el("label", {}, el("span", {}, "Event id"), id), el("label", {}, el("span", {}, "Headers"), headers)),
      problem, el("div", { class: "tools" }, send, el("span", { class: "quiet" }, `${count(event.partitions)} ${event.partitions === 1 ? "partition" : "partitions"}; nothing is published before you have seen what it means`)), result));
  draw();
  document.addEventListener("signed", draw);
  return { leave: () => document.removeEventListener("signed", draw) };
}

// A field per property. Numbers go as they were typed, because they may be larger than JavaScript's.
function formOf(schema) {
  const properties = Object.entries(schema.properties ?? {});
  if (schema.type !== "object" || properties.length === 0) return null;
  const required = new Set(schema.required ?? []);
  const fields = properties.map(([name, property]) => {
    const [nullable, inner] = without_null(property);
    const of = resolved(schema, inner);
    const optional = nullable || !required.has(name);
    let control;
    if (of.type === "boolean") control = select(["true", "false"], optional);
    else if (of.enum) control = select(of.enum.map((value) => JSON.stringify(value)), optional);
    else if (of.type === "string" || of.type === "integer" || of.type === "number") control = el("input", { type: "text", autocomplete: "off", inputmode: of.type === "string" ? "text" : "decimal", placeholder: optional ? "nothing" : "" });
    else control = el("textarea", { class: "mono", rows: 3, spellcheck: "false", placeholder: optional ? "nothing, or JSON" : "JSON" });
    const starts = control.tagName === "TEXTAREA" && !optional ? JSON.stringify(sample(schema, of, 0)) : null;
    if (starts !== null) control.value = starts;
    return { name, control, optional, is_text: of.type === "string" && !of.enum, is_number: of.type === "integer" || of.type === "number", label: kind(schema, property), doc: property.description };
  });
  const json = () => "{" + fields.filter(({ control, optional, is_text }) => control.value !== "" || (is_text && !optional)).map(({ name, control, is_text, is_number }) => {
    const value = control.value;
    const plain = is_number && /^-?\d+(\.\d+)?([eE][+-]?\d+)?$/.test(value.trim());
    return `${JSON.stringify(name)}: ${is_text || (is_number && !plain) ? JSON.stringify(value) : value.trim()}`;
  }).join(", ") + "}";
  const take = (text) => {
    let value;
    try {
      value = JSON.parse(text);
    } catch {
      return false;
    }
    if (value === null || typeof value !== "object" || Array.isArray(value)) return false;
    // Numbers that a browser would round stay in the text.
    if (/\d{16,}/.test(text)) return false;
    for (const { name, control, is_text } of fields) {
      const given = value[name];
      control.value = given === undefined || given === null ? "" : is_text && typeof given === "string" ? given : JSON.stringify(given);
    }
    return true;
  };
  const root = el("div", { class: "fields" }, fields.map(({ name, control, label, doc, optional }) => el("label", {}, el("span", {}, el("b", {}, name), " ", el("small", { class: "quiet" }, label + (optional ? ", optional" : ""))), control, doc ? el("small", { class: "quiet" }, doc) : null)));
  return { root, json, take };
}

function select(values, optional) {
  return el("select", {}, optional ? el("option", { value: "" }, "nothing") : null, values.map((value) => el("option", { value }, value)));
}

// A value of a shape, to begin with.
function sample(root, schema, depth) {
  const [nullable, inner] = without_null(schema);
  const of = resolved(root, inner);
  if (nullable || depth > 4) return null;
  if (of.const !== undefined) return of.const;
  if (of.enum) return of.enum[0];
  if (of.oneOf) return sample(root, of.oneOf[0], depth + 1);
  if (of.type === "object") {
    const named = (of.required ?? []).map((name) => [name, sample(root, of.properties?.[name] ?? {}, depth + 1)]);
    return Object.fromEntries(named);
  }
  if (of.type === "array") return of.prefixItems ? of.prefixItems.map((item) => sample(root, item, depth + 1)) : [];
  if (of.type === "boolean") return false;
  if (of.type === "integer" || of.type === "number") return 0;
  return of.type === "string" ? "" : null;
}
