// The events of every stream as programs have recorded them: documentation, shapes, who publishes and who reads them.

import { get, store } from "./api.js";
import { el, fill, link, pretty, row, search, table, time } from "./dom.js";

const EVENTS = [["Event", "name"], ["Stream", "mid"], ["Published by", "name mid"], ["Read by groups", "name"]];
const PROGRAMS = [["Program", "name"], ["", ""], ["Said at", "mid"], ["Declared", "name mid"]];

export async function open(root, asked) {
  return asked.event ? one(root, asked) : list(root, asked);
}

async function list(root, asked) {
  const input = el("input", { type: "search", class: "filter", placeholder: "Filter by event, stream, program or group  ( / )", value: asked.filter ?? "", "aria-label": "filter" });
  const body = el("div");
  fill(root, el("div", { class: "head" }, el("h1", {}, "Events"), el("span", { class: "quiet" }, "as programs have recorded them")),
    el("div", { class: "tools" }, el("div", { class: "grow" }, input)), body);
  let rows = [];
  let left = false;
  const draw = () => {
    const wanted = input.value.trim().toLowerCase();
    const has = (event) => [event.name, event.stream, event.doc ?? "", ...event.publishers, ...event.groups].some((text) => text.toLowerCase().includes(wanted));
    fill(body, table(EVENTS, rows.filter(has).map((event) => row(EVENTS, [
      [link({ page: "shapes", stream: event.stream, event: event.name }, event.name), event.differs ? el("span", { class: "why warn" }, "programs have different shapes of it") : null,
        event.doc ? el("span", { class: "why clamp" }, event.doc.split("\n\n")[0]) : null, el("span", { class: "why narrow" }, `on ${event.stream}`)],
      link({ page: "stream", stream: event.stream }, event.stream),
      event.publishers.join(", ") || "–", groups(event),
    ])), rows.length === 0 ? "No program has recorded an event here." : "No event matches."));
  };
  input.addEventListener("input", () => {
    history.replaceState(null, "", search({ page: "shapes", filter: input.value.trim() }));
    draw();
  });
  for (let after = ""; after !== null && !left; ) {
    const page = await get("shapes", { after });
    rows = rows.concat(page.events);
    after = page.next;
    draw();
  }
  return { leave: () => { left = true; } };
}

function groups(event) {
  if (event.groups.length === 0) return "–";
  return event.groups.map((group, index) => [index > 0 ? ", " : "", link({ page: "group", stream: event.stream, group }, group)]);
}

async function one(root, asked) {
  const { stream } = asked;
  const event = await get("shape", { stream, event: asked.event });
  const acts = el("div", { class: "acts" });
  const others = event.versions.filter((version) => version !== event.version);
  const facts = [
    ["Stream", link({ page: "stream", stream }, stream)],
    ["Published by", event.publishers.join(", ") || "no program so far"],
    ["Read by groups", groups(event)],
    ["Key", event.key === null ? "not recorded" : event.key || "none"],
    ["Other versions", others.length === 0 ? "none" : others.map((version) => [link({ page: "shapes", stream, event: `${event.event}@${version}` }, `@${version}`), " "])],
  ];
  fill(root,
    el("div", { class: "head" }, el("h1", {}, el("span", { class: "crumb" }, "Event "), event.name), acts),
    event.doc ? event.doc.split("\n\n").map((part) => el("p", {}, part)) : el("p", { class: "quiet" }, "Its publishers have recorded no documentation of it."),
    event.differs ? el("div", { class: "note warn" }, "Programs have different shapes of this version. Let them agree, or give one of them another version.") : null,
    el("div", { class: "card chartbox" }, el("dl", {}, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]))),
    event.shapes.map((shape) => [
      el("h2", {}, event.shapes.length > 1 ? `Shape ${shape.fingerprint}` : "Shape", el("small", {}, shape.layout === "array" ? "fields are in an array, in this order" : "")),
      shape.schema === null ? el("p", { class: "quiet" }, "The shape is too long to be recorded.") : [fields(shape.schema), el("details", {}, el("summary", {}, "JSON Schema"), el("pre", { class: "mono" }, pretty(shape.schema_text)))],
      el("h2", {}, "Programs"),
      table(PROGRAMS, shape.programs.map((program) => row(PROGRAMS, [program.by, program.publishes ? "publishes" : "knows", time(Date.parse(program.at)), `${program.type} at ${program.place}`])), ""),
    ]));
  const draw = () => fill(acts, store.about?.read_only === false ? el("a", { class: "button main", href: search({ page: "publish", stream, event: event.name }) }, "Try it") : null);
  draw();
  document.addEventListener("signed", draw);
  return { leave: () => document.removeEventListener("signed", draw) };
}

const FIELDS = [["Field", ""], ["Type", "name"], ["", ""]];

function fields(schema) {
  const properties = Object.entries(schema.properties ?? {});
  if (properties.length === 0) return null;
  const required = new Set(schema.required ?? []);
  return table(FIELDS, properties.map(([name, property]) => row(FIELDS, [
    el("span", { class: "mono" }, name), [kind(schema, property), property.description ? el("span", { class: "why" }, property.description) : null], required.has(name) ? "" : "optional",
  ])), "");
}

// The schema that a reference leads to.
export function resolved(root, schema) {
  const direct = schema.allOf?.length === 1 ? { ...schema.allOf[0], description: schema.description } : schema;
  const name = direct.$ref?.startsWith("#/$defs/") ? direct.$ref.slice("#/$defs/".length) : null;
  return name !== null && root.$defs?.[name] ? root.$defs[name] : direct;
}

// Whether null is allowed, and the schema of all else.
export function without_null(schema) {
  if (Array.isArray(schema.type)) {
    const types = schema.type.filter((type) => type !== "null");
    return [types.length < schema.type.length, { ...schema, type: types.length === 1 ? types[0] : types }];
  }
  for (const words of ["anyOf", "oneOf"]) {
    const some = schema[words]?.filter((one) => one.type !== "null");
    if (some && some.length === 1 && some.length < schema[words].length) return [true, some[0]];
  }
  return [schema.type === "null", schema];
}

// The type of a field in a few words.
export function kind(root, property) {
  const [nullable, inner] = without_null(property);
  const schema = resolved(root, inner);
  const named = inner.$ref?.split("/").pop();
  let words = schema.type ?? (schema.oneOf ? "one of several forms" : "any value");
  if (schema.contentEncoding === "base64") words = "bytes, as hexadecimal digits";
  else if (schema.enum) words = `one of ${schema.enum.map((value) => JSON.stringify(value)).join(", ")}`;
  else if (schema.type === "integer" && schema.maximum !== undefined) words = `integer, ${bits(schema)}`;
  else if (schema.type === "array") words = `array of ${schema.items ? kind(root, schema.items) : "several types"}`;
  else if (schema.format) words = `${words}, ${schema.format}`;
  if (named && named !== "#") words = `${named}: ${words}`;
  return words + (nullable ? ", or null" : "");
}

// JavaScript's numbers end at 2^53, so the largest bounds come rounded.
function bits(schema) {
  const size = Math.ceil(Math.log2(schema.maximum));
  const [signed, width] = [schema.minimum < 0, schema.minimum < 0 ? size + 1 : size];
  return `${signed ? "i" : "u"}${width}`;
}
