// The frame of the console: which page the URL means, the keys, the state of the connection, and running jobs.

import { act, get, signIn, signOut, store, watch } from "./api.js";
import { count, el, fill, toast } from "./dom.js";
import * as group from "./group.js";
import * as handlers from "./handlers.js";
import * as letters from "./letters.js";
import * as overview from "./overview.js";
import * as publish from "./publish.js";
import * as server from "./server.js";
import * as shapes from "./shapes.js";
import * as stream from "./stream.js";
import * as trace from "./trace.js";

const PAGES = { overview, stream, group, letters, shapes, publish, handlers, trace, server };
const root = document.getElementById("page");
let page = null;
let looked = 0;

function parameters() {
  return Object.fromEntries(new URLSearchParams(location.search));
}

async function show() {
  const asked = parameters();
  const name = Object.hasOwn(PAGES, asked.page ?? "") ? asked.page : "overview";
  for (const item of document.querySelectorAll("nav a")) {
    if (item.dataset.page === name) item.setAttribute("aria-current", "page");
    else item.removeAttribute("aria-current");
  }
  page?.leave?.();
  page = null;
  const turn = (looked += 1);
  document.title = [asked.group, asked.stream, asked.event, name === "overview" ? null : name, "streams"].filter(Boolean).join(" · ");
  try {
    const opened = await PAGES[name].open(root, asked);
    if (turn === looked) page = opened;
    else opened?.leave?.();
    if (store.overview) page?.told?.(store.overview);
  } catch (error) {
    if (turn === looked) fill(root, el("div", { class: "note bad" }, error.message), el("p", {}, el("a", { href: "?" }, "To the overview")));
  }
}

// Goes to a page of the console without loading it anew.
export function go(search, replace = false) {
  history[replace ? "replaceState" : "pushState"](null, "", search);
  return show();
}

document.addEventListener("go", (event) => go(event.detail.search, event.detail.replace));
document.addEventListener("refresh", show);
window.addEventListener("popstate", show);
document.addEventListener("click", (event) => {
  const target = event.target.closest("a");
  if (!target || !target.getAttribute("href").startsWith("?") || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  go(target.getAttribute("href")).then(() => window.scrollTo(0, 0));
});

let before = "";
document.addEventListener("keydown", (event) => {
  if (event.metaKey || event.ctrlKey || event.altKey || document.getElementById("dialog").open) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const keys = before + event.key;
  before = event.key === "g" ? "g" : "";
  if (event.key === "/") {
    event.preventDefault();
    document.querySelector("input[type=search]")?.focus();
  } else if (event.key === "Escape") {
    document.querySelector(".side .close")?.click();
  } else if (event.key === "?") {
    toast("/ filter · g o overview · g d dead letters · g e events · g h handlers · g t trace · g s server · Esc close");
  } else {
    const where = { go: "?", gd: "?page=letters", ge: "?page=shapes", gh: "?page=handlers", gt: "?page=trace", gs: "?page=server" }[keys];
    if (where) go(where);
  }
});

const live = document.getElementById("live");
function connected(words) {
  live.className = words === null ? "on" : "off";
  live.title = words ?? "the server answers";
}

function signs() {
  const button = document.getElementById("sign");
  button.hidden = store.about === null;
  if (store.about?.read_only) {
    button.disabled = true;
    button.textContent = "read-only";
    button.title = "no act is allowed here; a program allows acts where STREAMS_CONSOLE_TOKEN is set";
  } else {
    button.textContent = store.signed ? "Sign out" : "Sign in";
  }
}
document.getElementById("sign").addEventListener("click", () => (store.signed ? signOut() : signIn()));
document.addEventListener("signed", signs);

// Jobs are asked for while one runs, and once after an act.
let asking = false;
const seen = new Set();
async function jobs() {
  if (asking) return;
  asking = true;
  const place = document.getElementById("jobs");
  try {
    for (;;) {
      const list = (await get("jobs")).jobs;
      const running = list.filter((job) => job.state === "running" || job.state === "waiting");
      for (const job of list.filter((job) => !running.includes(job) && !seen.has(job.job))) {
        seen.add(job.job);
        const done = job.kind === "replay" ? "sent to be handled again" : "discarded";
        toast(`${count(job.done)} ${done}` + (job.state === "done" ? "" : `, then ${job.state}${job.why ? ": " + job.why : ""}`));
        page?.changed?.();
      }
      fill(place, running.map((job) => el("div", { class: "job" },
        el("div", {}, el("b", {}, `${job.kind} ${job.what}`), el("span", { class: "why" },
          `${job.group} on ${job.stream}: ${count(job.done)} done, ${count(job.seen)} of ${count(Math.max(job.of, job.seen))} looked at`, job.why ? ` · waiting: ${job.why}` : ""),
          el("progress", { max: Math.max(job.of, job.seen, 1), value: job.seen })),
        el("button", { type: "button", onclick: () => act("stop", { job: job.job }).catch((error) => toast(error.message)) }, "Stop"))));
      if (running.length === 0) break;
      await new Promise((passed) => setTimeout(passed, 700));
    }
  } catch (error) {
    fill(place);
    toast(error.message);
  } finally {
    asking = false;
  }
}
document.addEventListener("jobs", jobs);

async function begin() {
  show();
  watch((overview) => {
    connected(null);
    page?.told?.(overview);
  }, connected);
  try {
    store.about = await get("about");
    document.getElementById("where").textContent = [store.about.server, store.about.namespace, store.about.redact.length > 0 ? `hidden: ${store.about.redact.join(", ")}` : null].filter(Boolean).join(" · ");
    const band = document.getElementById("band");
    band.hidden = !store.about.production;
    band.textContent = store.about.production ?? "";
    signs();
    document.dispatchEvent(new Event("signed"));
    for (const job of (await get("jobs")).jobs) if (job.state !== "running" && job.state !== "waiting") seen.add(job.job);
    jobs();
  } catch (error) {
    connected(error.message);
  }
}
begin();
