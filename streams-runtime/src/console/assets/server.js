// What the server says of itself, and what of it means trouble for streams.

import { get } from "./api.js";
import { bytes, count, el, fill, span, tile, time } from "./dom.js";

export async function open(root) {
  const view = await get("server");
  const facts = view.facts ?? {};
  const number = (name) => (facts[name] === undefined ? null : Number(facts[name]));
  const valkey = facts.valkey_version;
  const version = valkey ? `Valkey ${valkey}` : facts.redis_version ? `Redis ${facts.redis_version}` : "–";
  const policy = facts.maxmemory_policy ?? "–";
  const [used, limit] = [number("used_memory"), number("maxmemory")];
  const log = facts.aof_enabled === "1";
  const notes = [];
  if (view.refused) notes.push(["warn", view.refused]);
  if (policy.startsWith("allkeys-")) notes.push(["bad", `The eviction policy is ${policy}: a full server evicts whole streams, read or not. Set maxmemory-policy to noeviction.`]);
  if (limit && used / limit > 0.85) notes.push(["warn", "The memory is nearly full. A full server refuses publishes; shorten retention, or raise maxmemory."]);
  if (view.facts?.aof_enabled === "0") notes.push(["warn", "There is no append-only file: a restart goes back to the last snapshot, and groups then report a cut history and halt. Set appendonly to yes."]);
  if (facts.role === "slave") notes.push(["bad", "The server is a replica, which takes no writes."]);
  if ((facts.aof_last_write_status ?? "ok") !== "ok" || (facts.rdb_last_bgsave_status ?? "ok") !== "ok") notes.push(["bad", "The server cannot write to its disk."]);
  if (view.clock_apart > 2000) notes.push(["warn", `The server's clock is ${span(view.clock_apart)} apart from this program's. Ages and times go by the server's.`]);
  const pairs = [
    ["Address", view.server], ["Role", facts.role], ["Mode", facts.redis_mode], ["Up for", number("uptime_in_seconds") === null ? null : span(number("uptime_in_seconds") * 1000)],
    ["Eviction policy", policy], ["Evicted keys", facts.evicted_keys], ["Memory at its peak", number("used_memory_peak") === null ? null : bytes(number("used_memory_peak"))],
    ["Fragmentation", facts.mem_fragmentation_ratio], ["Append-only file", view.facts?.aof_enabled === undefined ? null : log ? "yes" : "no"],
    ["Last snapshot", number("rdb_last_save_time") ? time(number("rdb_last_save_time") * 1000) : null], ["Changes since", facts.rdb_changes_since_last_save],
    ["Clients that wait", facts.blocked_clients], ["Rejected connections", facts.rejected_connections], ["Replicas", facts.connected_slaves], ["Clocks apart", span(view.clock_apart)],
  ];
  fill(root,
    el("div", { class: "head" }, el("h1", {}, "Server"), el("span", { class: "quiet" }, view.server)),
    notes.map(([tone, words]) => el("div", { class: `note ${tone}` }, words)),
    el("div", { class: "tiles" },
      tile(version, "version"), tile(limit ? `${bytes(used)} of ${bytes(limit)}` : bytes(used), limit ? "memory" : "memory, no limit"),
      tile(policy, "eviction policy", policy.startsWith("allkeys-") ? "bad" : ""), tile(log ? "append-only file" : facts.aof_enabled === "0" ? "snapshots" : "–", "persistence"),
      tile(count(number("instantaneous_ops_per_sec")), "commands per second"), tile(count(number("connected_clients")), "clients"),
      tile((view.round_trip / 1000).toFixed(1) + " ms", "round trip")),
    el("h2", {}, "Facts"),
    el("div", { class: "card chartbox" }, el("dl", {}, pairs.filter(([, value]) => value !== undefined && value !== null).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]))),
    el("p", { class: "quiet" }, "streams doctor judges these and the rights of the server's user, and names the fix."));
}
