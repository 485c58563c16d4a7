// The facts of the server, and the findings about it and its streams, which are those of the tool's doctor.

import { get } from "./api.js";
import { bytes, count, el, fill, row, span, table, tile, time } from "./dom.js";

const FINDINGS = [["", "dot"], ["About", "mid"], ["Found", "name"], ["Meaning", "name mid"], ["Fix", "name mid"]];
const TONES = { ok: "good", warning: "warn", critical: "bad" };

export async function open(root) {
  const view = await get("server");
  const facts = view.facts;
  const number = (name) => (facts[name] === undefined ? null : Number(facts[name]));
  const version = facts.valkey_version ? `Valkey ${facts.valkey_version}` : facts.redis_version ? `Redis ${facts.redis_version}` : "–";
  const [used, limit] = [number("used_memory"), number("maxmemory")];
  const worst = view.findings[0]?.verdict ?? "ok";
  const pairs = [
    ["Address", view.server], ["Role", facts.role], ["Mode", facts.redis_mode], ["Up for", number("uptime_in_seconds") === null ? null : span(number("uptime_in_seconds") * 1000)],
    ["Eviction policy", facts.maxmemory_policy], ["Evicted keys", facts.evicted_keys], ["Memory at its peak", number("used_memory_peak") === null ? null : bytes(number("used_memory_peak"))],
    ["Fragmentation", facts.mem_fragmentation_ratio], ["Last snapshot", number("rdb_last_save_time") ? time(number("rdb_last_save_time") * 1000) : null], ["Changes since", facts.rdb_changes_since_last_save],
    ["Clients that wait", facts.blocked_clients], ["Rejected connections", facts.rejected_connections], ["Replicas", facts.connected_slaves],
  ].filter(([, value]) => value !== undefined && value !== null);
  fill(root,
    el("div", { class: "head" }, el("h1", {}, "Server"), el("span", { class: "quiet" }, view.server)),
    el("div", { class: "tiles" },
      tile(worst, "the worst finding", TONES[worst]), tile(version, "version"), tile(limit ? `${bytes(used)} of ${bytes(limit)}` : bytes(used), limit ? "memory" : "memory, no limit"),
      tile(count(number("instantaneous_ops_per_sec")), "commands per second"), tile(count(number("connected_clients")), "clients"),
      tile((view.round_trip / 1000).toFixed(1) + " ms", "round trip")),
    el("h2", {}, "Findings"),
    table(FINDINGS, view.findings.map((one) => row(FINDINGS, [
      el("span", { class: `state ${TONES[one.verdict]}` }, one.verdict), one.about,
      [el("span", { class: "why narrow" }, el("span", { class: `state ${TONES[one.verdict]}` }, one.verdict), ` ${one.about}`), one.found,
        one.fix ? [el("span", { class: "why narrow" }, one.meaning), el("span", { class: "why narrow" }, "fix: ", one.fix)] : null],
      one.meaning, one.fix || "–",
    ])), "Nothing is known of the server."),
    el("p", { class: "quiet" }, "streams doctor also looks at the rights of the server's user."),
    pairs.length === 0 ? null : [el("h2", {}, "Facts"), el("div", { class: "card chartbox" }, el("dl", {}, pairs.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])))]);
}
