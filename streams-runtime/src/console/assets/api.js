// The way to the server: data, acts with the token, and the overview that is pushed while the page is seen.

import { ask, el, toast } from "./dom.js";

// The console may stand at any path: the page's own says which.
const BASE = new URL("api/", document.baseURI.split("?")[0]);
// As many looks as the console itself keeps.
const KEPT = 150;

export const store = { about: null, overview: null, history: new Map(), signed: sessionStorage.getItem("token") !== null };

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function read(response) {
  const value = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, value.error ?? `the server answers ${response.status}`);
  return value;
}

export async function get(path, parameters = {}) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "" && value !== false) url.searchParams.set(name, value);
  }
  return read(await fetch(url, { cache: "no-store" }));
}

// An act. Without a token it asks for one first.
export async function act(path, body) {
  if (!store.signed && !(await signIn())) return null;
  const send = () => fetch(new URL(path, BASE), {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: "Bearer " + sessionStorage.getItem("token") },
    body: JSON.stringify({ by: localStorage.getItem("by") ?? "", ...body }),
  });
  let response = await send();
  if (response.status === 401) {
    signOut();
    if (!(await signIn())) return null;
    response = await send();
  }
  return read(response);
}

export async function signIn() {
  const values = await ask({
    title: "Sign in to act",
    body: [el("p", { class: "quiet" }, "The token is kept in this tab until it is closed. The name stands in the audit stream.")],
    yes: "Sign in",
    fields: [
      { name: "token", label: "Token (STREAMS_CONSOLE_TOKEN)", type: "password", required: true },
      { name: "by", label: "Your name", value: localStorage.getItem("by") ?? "", maxlength: 64 },
    ],
  });
  if (values === null) return false;
  try {
    await read(await fetch(new URL("token", BASE), {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: "Bearer " + values.token.trim() },
      body: "{}",
    }));
  } catch (error) {
    toast(error.message);
    return false;
  }
  sessionStorage.setItem("token", values.token.trim());
  localStorage.setItem("by", values.by.trim());
  store.signed = true;
  document.dispatchEvent(new Event("signed"));
  return true;
}

export function signOut() {
  sessionStorage.removeItem("token");
  store.signed = false;
  document.dispatchEvent(new Event("signed"));
}

let source = null;

// The looks that were made before this page was opened.
async function recall() {
  const { series } = await get("history");
  for (const [key, samples] of Object.entries(series)) {
    const points = samples.map(([at, first, second]) => (key.includes("\n") ? { at, lag: first, done: second } : { at, added: first }));
    const since = store.history.get(key) ?? [];
    const fresh = since.filter((point) => points.length === 0 || point.at > points[points.length - 1].at);
    store.history.set(key, points.concat(fresh).slice(-KEPT));
  }
}

// Listens while the page is seen: a hidden tab costs the server nothing.
export function watch(told, troubled) {
  const listen = () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (source === null) {
      source = new EventSource(new URL("events", BASE));
      source.addEventListener("overview", (event) => {
        const overview = JSON.parse(event.data);
        if (store.overview === null || overview.at > store.overview.at) {
          store.overview = overview;
          remember(overview);
        }
        told(overview);
      });
      source.addEventListener("trouble", (event) => troubled(JSON.parse(event.data).error));
      source.onerror = () => {
        troubled("the console does not answer");
        if (source?.readyState === EventSource.CLOSED) {
          source = null;
          setTimeout(listen, 5000);
        }
      };
    }
  };
  document.addEventListener("visibilitychange", listen);
  // Charts without the past are better than no page.
  recall().catch(() => {}).finally(listen);
}

function remember(overview) {
  const keep = (key, point) => {
    const points = store.history.get(key) ?? [];
    points.push(point);
    if (points.length > KEPT) points.shift();
    store.history.set(key, points);
  };
  for (const stream of overview.streams) {
    keep(stream.name, { at: overview.at, added: stream.added });
    for (const group of stream.groups) {
      const done = group.lag === null ? null : stream.added - group.lag;
      keep(stream.name + "\n" + group.name, { at: overview.at, lag: group.lag, done });
    }
  }
}

// [time, value] points: of a stream how much came per second, of a group its lag or how much it settled per second.
export function points(stream, group, figure) {
  const looks = store.history.get(group === undefined ? stream : stream + "\n" + group) ?? [];
  if (figure === "lag") return looks.map((look) => [look.at, look.lag]);
  const name = group === undefined ? "added" : "done";
  return looks.slice(1).map((look, index) => {
    const [before, seconds] = [looks[index], (look.at - looks[index].at) / 1000];
    const known = look[name] !== null && before[name] !== null && seconds > 0;
    return [look.at, known ? Math.max(0, (look[name] - before[name]) / seconds) : null];
  });
}

// The time of the first look at anything, or null.
export function since() {
  let first = null;
  for (const looks of store.history.values()) if (looks.length > 0 && (first === null || looks[0].at < first)) first = looks[0].at;
  return first;
}

export function latest(series) {
  return series.length === 0 ? null : series[series.length - 1][1];
}
